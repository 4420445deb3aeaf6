package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/tokenim/tokenim/node/event"
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
	// Server is the name of this node: the users of this server are the local
	// ones, whose memberships are kept.
	Server event.Server
	// MinFree is the free space in bytes below which writes are refused with
	// ErrDiskFull. 0 means 256 MiB, a negative value switches the check off.
	MinFree int64
}

// Store is an open data directory.
type Store struct {
	db     *badger.DB
	path   string   // of Badger's files, empty in memory
	lock   *dirLock // nil in memory
	log    *slog.Logger
	server event.Server
	disk   *diskGuard

	maxBytes, maxRows int64 // of one Badger transaction

	mu     sync.Mutex // guards closed and the start of calls against Close
	closed bool
	calls  sync.WaitGroup // running View
	// updates are running calls of Update; Close waits for them while the
	// writer still answers.
	updates sync.WaitGroup

	requests      chan *request
	writerDone    chan struct{}
	committerDone chan struct{}
	stopGC        chan struct{}
	gcDone        chan struct{}
	nextTs        uint64 // of the next commit; the committer's alone
	readers       *readers
	position      atomic.Uint64
	nextState     atomic.Uint64 // last state id given out; never reused while open
	failed        atomic.Pointer[error]
	failure1      sync.Once
	failedC       chan struct{}
	failCommit    func() error // tests: fails a commit

	rows   *rowCache
	scans  *scanCache
	events *eventCache
	layers *cache[StateID, *layer]
	memo   *cache[hash, *layer] // resolutions, also those not stored
}

// Sizes of the caches: bytes of events, places of states, places of resolutions.
const (
	eventCacheBytes  = 16 << 20
	layerCachePlaces = 128 << 10
	memoCachePlaces  = 16 << 10
)

// Open opens or creates the store. Errors wrap ErrLocked (the text names the
// pid of the other process) and ErrNewerSchema; neither changes anything.
func Open(o Options) (*Store, error) {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		log: log, server: o.Server, disk: newDiskGuard(o),
		requests:   make(chan *request, 64),
		writerDone: make(chan struct{}), committerDone: make(chan struct{}),
		stopGC: make(chan struct{}), gcDone: make(chan struct{}), failedC: make(chan struct{}),
		events: newEventCache(eventCacheBytes),
		layers: newCache[StateID, *layer](layerCachePlaces),
		memo:   newCache[hash, *layer](memoCachePlaces),
	}
	if !o.InMemory {
		var err error
		if s.lock, s.path, err = prepareDir(o.Dir); err != nil {
			return nil, err
		}
	}
	db, err := badger.OpenManaged(badgerOptions(s.path, o.InMemory, log))
	if err != nil {
		s.lock.release()
		return nil, openError(o.Dir, err)
	}
	s.db = db
	if err := s.start(); err != nil {
		return nil, errors.Join(err, db.Close(), s.lock.release())
	}
	return s, nil
}

func badgerOptions(path string, inMemory bool, log *slog.Logger) badger.Options {
	o := badger.DefaultOptions(path).
		WithInMemory(inMemory).
		WithLogger(badgerLog{log}).
		WithSyncWrites(true).
		WithDetectConflicts(false). // one writer
		WithMetricsEnabled(false).
		WithMemTableSize(16 << 20).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithBlockCacheSize(16 << 20).
		WithIndexCacheSize(16 << 20).
		WithValueLogFileSize(32 << 20).
		WithValueThreshold(128 << 10). // larger than any event: all in the tree, compressed
		WithCompression(options.ZSTD).
		WithZSTDCompressionLevel(1).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnBlockRead)
	if inMemory {
		// A value beyond the threshold is refused in memory.
		o = o.WithValueThreshold(1 << 20).WithCompression(options.None).WithBlockCacheSize(0).WithIndexCacheSize(0)
	}
	return o
}

// start reads what the store needs to know and starts its goroutines.
func (s *Store) start() error {
	s.nextTs = s.db.MaxVersion() + 1
	s.readers = newReaders(s.db.MaxVersion())
	s.rows = newRowCache(rowCacheBytes, s.db.MaxVersion())
	s.scans = newScanCache(scanCacheBytes, s.db.MaxVersion())
	// Leave room for what Badger adds to a transaction.
	s.maxBytes, s.maxRows = s.db.MaxBatchSize()*9/10, s.db.MaxBatchCount()*9/10
	if err := s.readStart(); err != nil {
		return err
	}
	w := &writer{s: s, current: newBatch(), toCommit: make(chan *batch), done: make(chan error, 1)}
	w.refresh()
	go w.run()
	go w.commits()
	go s.collect()
	return nil
}

// readStart checks or writes the schema row and reads the counters.
func (s *Store) readStart() error {
	tx := s.newView()
	defer tx.end()
	v, err := tx.get(key0(kindSchema))
	switch {
	case errors.Is(err, ErrNotFound):
		w := newWrites()
		w.put(string(key0(kindSchema)), write{value: encodeNumber(schemaVersion)})
		if err := s.commit(w); err != nil {
			return fmt.Errorf("write the schema version: %w", err)
		}
		return nil
	case err != nil:
		return err
	}
	version, err := decodeNumber(v, "schema")
	if err != nil {
		return err
	}
	if version > schemaVersion {
		return newerSchema("", version)
	}
	p, err := tx.Position()
	if err != nil {
		return err
	}
	s.position.Store(uint64(p))
	last, err := tx.get(key0(kindLastState))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := decodeNumber(last, "last state")
	s.nextState.Store(n)
	return err
}

// begin starts a call unless the store is closed.
func (s *Store) begin(calls *sync.WaitGroup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	calls.Add(1)
	return nil
}

// Close waits for running calls and for the writer, and closes the files. In
// tests (testing.Testing) it runs Check first and returns its error. Closing
// again does nothing. It must not be called by a function given to View or Update.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.updates.Wait()
	close(s.requests)
	<-s.writerDone
	<-s.committerDone
	s.calls.Wait()
	var err error
	if testing.Testing() && s.failure() == nil {
		if err = s.check(context.Background()); err != nil {
			err = fmt.Errorf("check on close: %w", err)
		}
	}
	close(s.stopGC)
	<-s.gcDone
	return errors.Join(err, s.db.Close(), s.lock.release())
}

// View runs fn on a consistent snapshot. fn must not write. It never waits for
// the writer.
func (s *Store) View(fn func(*Tx) error) error {
	if err := s.begin(&s.calls); err != nil {
		return err
	}
	defer s.calls.Done()
	tx := s.newView()
	defer tx.end()
	return fn(tx)
}

// newView opens a transaction for reading; end closes it.
func (s *Store) newView() *Tx {
	tx := &Tx{s: s, kept: s.rows, scans: s.scans, epoch: s.events.now()} // the epoch before the snapshot
	tx.readTs = s.readers.enter()
	tx.snap = s.db.NewTransactionAt(tx.readTs, false)
	return tx
}

func (tx *Tx) end() {
	tx.snap.Discard()
	tx.s.readers.leave(tx.readTs)
}

// Position returns the position of the last durable change.
func (s *Store) Position() Position { return Position(s.position.Load()) }

// Size returns the bytes that the database takes on disk, 0 in memory.
func (s *Store) Size() int64 {
	if s.path == "" {
		return 0
	}
	var sum int64
	// Badger removes files meanwhile: what cannot be looked at is not counted.
	_ = filepath.WalkDir(s.path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += diskBytes(info)
		}
		return nil
	})
	return sum
}

// Failed is closed when a commit failed. The store then takes no more writes
// (ErrFailed) and the process should end and start again (reliability B29).
func (s *Store) Failed() <-chan struct{} { return s.failedC }

func (s *Store) fail(err error) {
	s.failure1.Do(func() {
		err = fmt.Errorf("%w: %w", ErrFailed, err)
		s.failed.Store(&err)
		s.log.Error("commit failed; the store takes no more writes", "error", err)
		close(s.failedC)
	})
}

func (s *Store) failure() error {
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// Periods of the collector.
const (
	gcEvery    = 10 * time.Minute
	scrubEvery = 24 * time.Hour
)

// collect is the goroutine that lets Badger give back space of its value log,
// and looks for damage on disk once a day (reliability B27).
func (s *Store) collect() {
	defer close(s.gcDone)
	gc, scrub := time.NewTicker(gcEvery), time.NewTicker(scrubEvery)
	defer gc.Stop()
	defer scrub.Stop()
	for {
		select {
		case <-s.stopGC:
			return
		case <-gc.C:
			s.collectLog()
		case <-scrub.C:
			if err := s.scrub(); err != nil {
				s.log.Error("the database is damaged", "error", err)
			}
		}
	}
}

// collectLog rewrites files of the value log until none is worth it.
func (s *Store) collectLog() {
	for s.db.RunValueLogGC(0.5) == nil {
		select {
		case <-s.stopGC:
			return
		default:
		}
	}
}

// badgerLog passes Badger's log on; its routine reports are for debugging.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.log.Error("badger", "text", fmt.Sprintf(f, a...)) }
func (l badgerLog) Warningf(f string, a ...any) { l.log.Warn("badger", "text", fmt.Sprintf(f, a...)) }
func (l badgerLog) Infof(string, ...any)        {}
func (l badgerLog) Debugf(string, ...any)       {}
