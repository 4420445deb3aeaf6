// Package feed wakes those who wait for something to change. It carries no
// data: who is woken looks for himself, and takes the ticket before looking.
package feed

import (
	"context"
	"sync"
)

// Feed wakes waiters by key. The zero value is not ready; use New.
type Feed struct {
	mu      sync.Mutex                      // guards waiting
	waiting map[string]map[*Ticket]struct{} // by key; empty sets are removed
}

// New returns a feed.
func New() *Feed { return &Feed{waiting: map[string]map[*Ticket]struct{}{}} }

// Ticket is one waiter's registration. It is woken at most once.
type Ticket struct {
	feed *Feed
	keys []string
	ch   chan struct{} // closed by the wake-up
	done bool          // guarded by feed.mu
}

// Ticket registers for wake-ups of any of the keys from now on. Take it before
// looking; Close it when done.
func (f *Feed) Ticket(keys ...string) *Ticket {
	t := &Ticket{feed: f, keys: keys, ch: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		set := f.waiting[k]
		if set == nil {
			set = map[*Ticket]struct{}{}
			f.waiting[k] = set
		}
		set[t] = struct{}{}
	}
	return t
}

// Wake wakes everyone who waits for one of the keys.
func (f *Feed) Wake(keys ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		for t := range f.waiting[k] {
			f.drop(t)
			close(t.ch)
		}
	}
}

// Waiting returns the number of distinct keys somebody waits for.
func (f *Feed) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

// drop removes t from every key. f.mu must be held and t not be done.
func (f *Feed) drop(t *Ticket) {
	t.done = true
	for _, k := range t.keys {
		delete(f.waiting[k], t)
		if len(f.waiting[k]) == 0 {
			delete(f.waiting, k)
		}
	}
}

// C is closed by the wake-up.
func (t *Ticket) C() <-chan struct{} { return t.ch }

// Wait returns nil after the wake-up and ctx's error if that ends first.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close gives the ticket up. It may be called more than once.
func (t *Ticket) Close() {
	t.feed.mu.Lock()
	defer t.feed.mu.Unlock()
	if !t.done {
		t.feed.drop(t)
	}
}
