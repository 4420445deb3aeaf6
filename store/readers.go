package store

import "sync"

// readers knows which snapshots are in use, so that Badger keeps their versions.
type readers struct {
	mu     sync.Mutex // guards all below
	last   uint64     // timestamp of the last commit
	active map[uint64]int
}

func newReaders(last uint64) *readers {
	r := &readers{last: last, active: map[uint64]int{}}
	return r
}

// enter returns the timestamp of the last commit and keeps its versions.
func (r *readers) enter() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active[r.last]++
	return r.last
}

func (r *readers) leave(ts uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active[ts]--; r.active[ts] == 0 {
		delete(r.active, ts)
	}
}

// advance makes a commit visible and returns the oldest timestamp in use.
func (r *readers) advance(ts uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = ts
	oldest := ts
	for a := range r.active {
		oldest = min(oldest, a)
	}
	return oldest
}
