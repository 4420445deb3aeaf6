package store

import (
	"context"
	"errors"
	"log/slog"
)

// Errors of the store.
var (
	ErrNotFound = errors.New("not found")
	// ErrLocked says that another process has the directory open.
	ErrLocked = errors.New("data directory is in use")
	// ErrNewerSchema says that a newer version of the program wrote the directory.
	ErrNewerSchema = errors.New("data directory was written by a newer version")
	// ErrClosed is returned by calls after Close.
	ErrClosed = errors.New("store is closed")
	// ErrDiskFull refuses writes before the disk is full (reliability B26).
	ErrDiskFull = errors.New("disk is almost full")
)

// Position is this node's order of everything that clients are shown: events,
// receipts, account data, membership. It rises by one; it is never sent to peers.
type Position uint64

// Options say how to open a store.
type Options struct {
	Dir      string // directory, created if missing; unused in memory
	InMemory bool
	Logger   *slog.Logger // nil discards
}

// Store is an open data directory.
type Store struct{}

// Open opens or creates the store. Errors wrap ErrLocked (the text names the
// pid of the other process) and ErrNewerSchema; neither changes anything.
func Open(o Options) (*Store, error) { panic("stub") }

// Close waits for the writer and closes the files. In tests (testing.Testing)
// it runs Check first and returns its error.
func (s *Store) Close() error { panic("stub") }

// View runs fn on a consistent snapshot. fn must not write.
func (s *Store) View(fn func(*Tx) error) error { panic("stub") }

// Update runs fn on the writer and returns after the synced commit, or fn's
// error. fn may be run more than once and must have no effects besides tx.
// A function that fails before it wrote costs the others nothing.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error { panic("stub") }

// Position returns the position of the last durable change.
func (s *Store) Position() Position { panic("stub") }

// Size returns the bytes on disk.
func (s *Store) Size() int64 { panic("stub") }

// Check verifies the invariants (its doc comment lists them).
func (s *Store) Check(ctx context.Context) error { panic("stub") }

// Tx is a transaction: a snapshot, and in Update the writes made on it.
type Tx struct{}
