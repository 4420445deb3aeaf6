package store

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// A batch is sealed at this size: it bounds the memory of one commit and keeps
// well below Badger's own limits.
const (
	maxBatchBytes = 1 << 20
	maxBatchRows  = 1000
)

// ErrFailed says that a commit failed. What is on disk is unknown then, so the
// store takes no more writes; only a restart helps (reliability B29).
var ErrFailed = errors.New("store failed and takes no more writes until a restart")

// ErrTooBig says that one function wrote more than fits into a transaction.
var ErrTooBig = errors.New("too many changes at once")

// The states of a request.
const (
	reqWaiting int32 = iota
	reqStarted
	reqCancelled
)

// request is one call of Update.
type request struct {
	fn    func(*Tx) error
	state atomic.Int32 // reqWaiting to one of the others, once
	done  chan struct{}

	// Written by the writer before done is closed.
	err      error
	panicked any
}

// batch is what shares a commit.
type batch struct {
	writes   *writes
	requests []*request // answered after the commit
	redacted []hash
	position Position // newest position in it, 0 if it has none
}

func newBatch() *batch { return &batch{writes: newWrites()} }

func (b *batch) empty() bool { return len(b.requests) == 0 }

func (b *batch) full() bool {
	return b.writes.bytes >= maxBatchBytes || len(b.writes.rows) >= maxBatchRows
}

// writer runs the functions. It is used by one goroutine, run; a second one,
// commits, carries out its commits so that functions can run meanwhile.
type writer struct {
	s        *Store
	snap     *badger.Txn // at the last commit that is done
	snapTs   uint64
	current  *batch // collects
	inflight *batch // is being committed, nil if none
	toCommit chan *batch
	done     chan error // result of the commit of inflight
	running  bool       // false when run ended as it should
}

// Update runs fn on the writer and returns after the synced commit, or fn's
// error. fn must have no effects besides tx and must not call the store.
// A function that fails leaves nothing and costs the others nothing. A ctx that
// ends before fn started withdraws it; later it has no effect. A panic of fn is
// raised in the caller. Errors besides those of fn: ErrClosed, ErrDiskFull,
// ErrTooBig, ErrFailed.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := s.begin(&s.updates); err != nil {
		return err
	}
	defer s.updates.Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.disk.check(); err != nil {
		return err
	}
	r := &request{fn: fn, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(reqWaiting, reqCancelled) {
			return ctx.Err()
		}
		<-r.done
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

// run is the writer goroutine. It ends when requests is closed and answered.
func (w *writer) run() {
	w.running = true
	defer func() {
		if w.running { // a function ended the goroutine (runtime.Goexit)
			go w.run()
			return
		}
		w.snap.Discard()
		w.s.readers.leave(w.snapTs)
		close(w.toCommit)
		close(w.s.writerDone)
	}()
	requests := w.s.requests
	for {
		switch {
		case w.inflight == nil && w.current.empty():
			if requests == nil {
				w.running = false
				return
			}
			r, ok := <-requests
			if !ok {
				requests = nil
				continue
			}
			w.take(r)
		case w.inflight == nil:
			if w.drain(&requests) {
				w.commit()
			}
		case requests != nil && !w.current.full():
			select {
			case r, ok := <-requests:
				if !ok {
					requests = nil
					continue
				}
				w.take(r)
			case err := <-w.done:
				w.committed(err)
			}
		default:
			w.committed(<-w.done)
		}
	}
}

// drain takes one waiting request; true says that there is none or no room.
func (w *writer) drain(requests *chan *request) bool {
	if *requests == nil || w.current.full() {
		return true
	}
	select {
	case r, ok := <-*requests:
		if !ok {
			*requests = nil
			return true
		}
		w.take(r)
		return false
	default:
		return true
	}
}

// take runs a request and adds what it wrote to the current batch. Every
// request waits for the commit of what it may have read, also one that wrote
// nothing: its answer must not be ahead of the disk.
func (w *writer) take(r *request) {
	if !r.state.CompareAndSwap(reqWaiting, reqStarted) {
		close(r.done)
		return
	}
	if err := w.s.failure(); err != nil {
		r.answer(err)
		return
	}
	defer func() { // in a deferred function: fn may end the goroutine
		if w.inflight == nil && len(w.current.writes.rows) == 0 && w.current.empty() {
			close(r.done) // nothing it could have read is on the way
			return
		}
		w.current.requests = append(w.current.requests, r)
	}()
	tx := w.tx()
	if r.err = w.call(r, tx); r.err != nil || r.panicked != nil {
		return
	}
	if r.err = w.limits(tx.own); r.err != nil {
		return
	}
	if len(tx.own.rows) == 0 {
		return
	}
	rows, size := len(tx.own.rows)+len(w.current.writes.rows), tx.own.bytes+w.current.writes.bytes
	if len(w.current.writes.rows) > 0 && (rows > maxBatchRows || size > maxBatchBytes) {
		if w.inflight != nil {
			w.committed(<-w.done)
		}
		w.commit()
	}
	if r.err = w.s.failure(); r.err != nil {
		return // what it read is lost
	}
	w.merge(tx)
}

func (w *writer) merge(tx *Tx) {
	b := w.current
	if len(b.writes.rows) == 0 {
		b.writes = tx.own
	} else {
		for k, v := range tx.own.rows {
			b.writes.put(k, v)
		}
	}
	b.redacted = append(b.redacted, tx.redacted...)
	if tx.dirty {
		b.position = tx.totalsOf.position
	}
}

// tx returns a transaction on top of everything taken so far.
func (w *writer) tx() *Tx {
	tx := &Tx{s: w.s, snap: w.snap, readTs: w.snapTs, kept: w.s.rows, own: newWrites(), epoch: w.s.events.now()}
	for _, b := range []*batch{w.current, w.inflight} {
		if b == nil || len(b.writes.rows) == 0 {
			continue
		}
		tx.under = append(tx.under, b.writes)
		for _, h := range b.redacted {
			tx.markStale(h)
		}
	}
	return tx
}

// call runs the function. A panic is kept for the caller of Update.
func (w *writer) call(r *request, tx *Tx) (err error) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			r.panicked = fmt.Errorf("panic in a function given to Update: %v\n%s", v, debug.Stack())
		} else if !returned {
			r.err = errors.New("a function given to Update ended its goroutine")
		}
	}()
	err = r.fn(tx)
	if err == nil {
		err = tx.broken
	}
	if err == nil {
		err = tx.flush()
	}
	returned = true
	return err
}

// limits refuses what cannot be committed at once. Early rows do not count.
func (w *writer) limits(own *writes) error {
	if own.bytes < maxBatchBytes && len(own.rows) < maxBatchRows {
		return nil
	}
	rows, size := int64(len(own.rows)), own.bytes
	if size > w.s.maxBytes || rows > w.s.maxRows {
		size -= own.early
		for _, v := range own.rows {
			if v.early {
				rows--
			}
		}
	}
	if size > w.s.maxBytes || rows > w.s.maxRows {
		return fmt.Errorf("%w: %d rows, %d bytes", ErrTooBig, rows, size)
	}
	return nil
}

// commit hands the current batch to the committer; there is none in flight.
func (w *writer) commit() {
	w.inflight = w.current
	w.current = newBatch()
	w.toCommit <- w.inflight
}

// committed ends the commit in flight and answers.
func (w *writer) committed(err error) {
	b := w.inflight
	w.inflight = nil
	if err != nil {
		w.s.fail(err)
	} else {
		w.refresh()
		w.s.events.purge(b.redacted)
		if b.position > 0 {
			w.s.position.Store(uint64(b.position))
		}
	}
	for _, r := range b.requests {
		if err != nil {
			r.err = w.s.failure()
		}
		close(r.done)
	}
	if err != nil { // the functions after it have read what is lost
		for _, r := range w.current.requests {
			r.err = w.s.failure()
			close(r.done)
		}
		w.current = newBatch()
	}
}

// refresh moves the writer's snapshot to the last commit.
func (w *writer) refresh() {
	ts := w.s.readers.enter()
	if w.snap != nil {
		w.snap.Discard()
		w.s.readers.leave(w.snapTs)
	}
	w.snapTs = ts
	w.snap = w.s.db.NewTransactionAt(ts, false)
}

func (r *request) answer(err error) {
	r.err = err
	close(r.done)
}

// commits is the committer goroutine. It ends when the writer does.
func (w *writer) commits() {
	defer close(w.s.committerDone)
	for b := range w.toCommit {
		w.done <- w.s.commit(b.writes)
	}
}

// commit makes rows durable in one Badger transaction. Rows too many for one go
// in several, those that are early first.
func (s *Store) commit(w *writes) error {
	if len(w.rows) == 0 {
		return nil
	}
	split := w.bytes > s.maxBytes || int64(len(w.rows)) > s.maxRows
	if split {
		if err := s.commitEarly(w); err != nil {
			return err
		}
	}
	txn := s.db.NewTransactionAt(s.nextTs, true)
	defer txn.Discard()
	for k, v := range w.rows {
		if split && v.early {
			continue
		}
		if err := putRow(txn, k, v); err != nil {
			return err
		}
	}
	return s.commitTxn(txn, w)
}

func (s *Store) commitEarly(w *writes) error {
	txn := s.db.NewTransactionAt(s.nextTs, true)
	defer func() { txn.Discard() }()
	var rows, size int64
	for k, v := range w.rows {
		if !v.early {
			continue
		}
		if rows+1 > s.maxRows || size+rowSize(k, v) > s.maxBytes {
			if err := s.commitTxn(txn, nil); err != nil {
				return err
			}
			txn = s.db.NewTransactionAt(s.nextTs, true)
			rows, size = 0, 0
		}
		if err := putRow(txn, k, v); err != nil {
			return err
		}
		rows, size = rows+1, size+rowSize(k, v)
	}
	return s.commitTxn(txn, nil)
}

func putRow(txn *badger.Txn, key string, w write) error {
	if w.value == nil {
		return txn.Delete([]byte(key))
	}
	return txn.Set([]byte(key), w.value)
}

// commitTxn commits at the next timestamp. done are all rows if these are the
// last ones of them: then new readers see them.
func (s *Store) commitTxn(txn *badger.Txn, done *writes) error {
	if s.failCommit != nil {
		if err := s.failCommit(); err != nil {
			return err
		}
	}
	ts := s.nextTs
	s.nextTs++
	if err := txn.CommitAt(ts, nil); err != nil {
		return err
	}
	if done != nil {
		s.rows.committed(done, ts)
		s.scans.committed(done, ts)
		s.db.SetDiscardTs(s.readers.advance(ts))
	}
	return nil
}
