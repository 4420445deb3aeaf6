package store

import (
	"fmt"
	"sync"
	"time"
)

// defaultMinFree is what must stay free: Badger dies and cannot reopen on a
// full disk, and needs room for a compaction.
const defaultMinFree = 256 << 20

// diskGuard refuses writes while the disk is almost full. It looks at most once
// a second.
type diskGuard struct {
	dir     string
	minFree uint64 // 0: no check

	mu      sync.Mutex // guards all below
	checked time.Time
	err     error
}

func newDiskGuard(o Options) *diskGuard {
	g := &diskGuard{dir: o.Dir}
	switch {
	case o.InMemory || o.MinFree < 0:
	case o.MinFree == 0:
		g.minFree = defaultMinFree
	default:
		g.minFree = uint64(o.MinFree)
	}
	return g
}

// check returns ErrDiskFull while there is too little space.
func (g *diskGuard) check() error {
	if g.minFree == 0 {
		return nil
	}
	g.mu.Lock()
	if time.Since(g.checked) < time.Second {
		defer g.mu.Unlock()
		return g.err
	}
	g.checked = time.Now() // others use the last answer meanwhile
	g.mu.Unlock()
	var err error
	if free, ok := freeBytes(g.dir); ok && free < g.minFree {
		err = fmt.Errorf("%w: %d MiB are free in %s, %d MiB are needed; free some space",
			ErrDiskFull, free>>20, g.dir, g.minFree>>20)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
	return err
}
