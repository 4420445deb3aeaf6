package store

import (
	"bytes"
	"errors"
	"fmt"
	"sort"

	"github.com/dgraph-io/badger/v4"

	"github.com/tokenim/tokenim/node/event"
)

// errReadOnly says that a function given to View tried to write.
var errReadOnly = errors.New("store: write in a View")

// write is a change to one key.
type write struct {
	value []byte // nil: the key is deleted
	// early says that the row may become durable before the rest of its
	// function: nothing refers to it yet, or its loss does no harm.
	early bool
}

// writes are changes that are not in Badger yet.
type writes struct {
	rows  map[string]write
	bytes int64 // size of all rows in Badger's counting
	early int64 // bytes of these that are early
}

func newWrites() *writes { return &writes{rows: map[string]write{}} }

// rowOverhead is more than what Badger adds to a key and value.
const rowOverhead = 24

func rowSize(key string, w write) int64 {
	return int64(len(key) + len(w.value) + rowOverhead)
}

func (w *writes) put(key string, v write) {
	if old, ok := w.rows[key]; ok {
		w.bytes -= rowSize(key, old)
		if old.early {
			w.early -= rowSize(key, old)
		}
	}
	w.rows[key] = v
	w.bytes += rowSize(key, v)
	if v.early {
		w.early += rowSize(key, v)
	}
}

// Tx is a transaction: a snapshot, and in Update the writes made on it.
type Tx struct {
	s     *Store
	snap  *badger.Txn
	own   *writes   // of this function; nil in a View
	under []*writes // of functions before it that are not in snap, newest first

	readTs   uint64     // timestamp of snap
	kept     *rowCache  // nil: every row comes from Badger
	scans    *scanCache // nil in Update and where every row comes from Badger
	epoch    uint64     // of the event cache when the snapshot was taken
	totalsOf *totals
	dirty    bool          // totalsOf differs from the row
	redacted []hash        // events whose stored form this function changed
	stale    map[hash]bool // events whose form changed after snap was taken
	broken   error         // a call failed in the middle: the function must not commit
}

// markStale keeps an event out of the cache until its new form is durable.
func (tx *Tx) markStale(h hash) {
	if tx.stale == nil {
		tx.stale = map[hash]bool{}
	}
	tx.stale[h] = true
}

// get returns the value of a key, or ErrNotFound. The caller must not change it.
func (tx *Tx) get(key []byte) ([]byte, error) {
	if tx.own != nil {
		if w, ok := tx.own.rows[string(key)]; ok {
			return found(w.value)
		}
		for _, u := range tx.under {
			if w, ok := u.rows[string(key)]; ok {
				return found(w.value)
			}
		}
	}
	keep := tx.kept != nil && isKept(key[0])
	if keep {
		if v, ok := tx.kept.find(key, tx.readTs); ok {
			return found(v)
		}
	}
	v, err := tx.read(key)
	if err != nil {
		return nil, err
	}
	if keep {
		tx.kept.keep(key, v, int64(len(v)), tx.readTs)
	}
	return found(v)
}

// read returns the value of a key in the snapshot, nil if it is not there.
func (tx *Tx) read(key []byte) ([]byte, error) {
	item, err := tx.snap.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v, err := item.ValueCopy(nil)
	if v == nil && err == nil {
		v = []byte{} // there, and empty
	}
	return v, err
}

func found(v []byte) ([]byte, error) {
	if v == nil {
		return nil, ErrNotFound
	}
	return v, nil
}

func (tx *Tx) has(key []byte) (bool, error) {
	_, err := tx.get(key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Bounds of a row. maxKey is far above every name that is valid; Badger takes
// no larger values in memory.
const (
	maxKey   = 2048
	maxValue = 1 << 20
)

func (tx *Tx) put(key, value []byte, early bool) error {
	if tx.own == nil {
		return errReadOnly
	}
	if len(key) > maxKey {
		return fmt.Errorf("%w: a name is too long (%d bytes)", event.ErrInvalid, len(key))
	}
	if len(value) > maxValue {
		return fmt.Errorf("%w: a row of %d bytes", ErrTooBig, len(value))
	}
	if value == nil {
		value = []byte{}
	}
	tx.own.put(string(key), write{value: value, early: early})
	return nil
}

func (tx *Tx) set(key, value []byte) error { return tx.put(key, value, false) }

func (tx *Tx) delete(key []byte) error {
	if tx.own == nil {
		return errReadOnly
	}
	tx.own.put(string(key), write{})
	return nil
}

// errStop ends an iteration without an error.
var errStop = errors.New("stop")

// each calls fn for the keys with a prefix in ascending order, from start if
// that is set. fn may return errStop. Keys and values are valid during the call.
func (tx *Tx) each(prefix, start []byte, fn func(key, value []byte) error) error {
	return tx.iterate(prefix, start, false, fn)
}

// eachBack is each in descending order; start is the largest key wanted.
func (tx *Tx) eachBack(prefix, start []byte, fn func(key, value []byte) error) error {
	return tx.iterate(prefix, start, true, fn)
}

func (tx *Tx) iterate(prefix, start []byte, back bool, fn func(key, value []byte) error) error {
	before := func(a, b []byte) bool {
		if back {
			a, b = b, a
		}
		return bytes.Compare(a, b) < 0
	}
	if start == nil {
		start = prefix
	}
	pending := tx.pending(prefix, start, back)
	it := tx.snap.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: back})
	defer it.Close()
	emit := func(key, value []byte) (bool, error) {
		err := fn(key, value)
		if errors.Is(err, errStop) {
			return false, nil
		}
		return err == nil, err
	}
	for it.Seek(start); it.Valid(); it.Next() {
		item := it.Item()
		key := item.Key()
		for len(pending) > 0 && before(pending[0].key, key) {
			if w := pending[0]; w.value != nil {
				if more, err := emit(w.key, w.value); !more {
					return err
				}
			}
			pending = pending[1:]
		}
		var value []byte
		if len(pending) > 0 && bytes.Equal(pending[0].key, key) {
			value = pending[0].value
			pending = pending[1:]
			if value == nil {
				continue
			}
		} else {
			var err error
			if value, err = item.ValueCopy(nil); err != nil {
				return err
			}
		}
		if more, err := emit(key, value); !more {
			return err
		}
	}
	for _, w := range pending {
		if w.value == nil {
			continue
		}
		if more, err := emit(w.key, w.value); !more {
			return err
		}
	}
	return nil
}

type pendingRow struct{ key, value []byte }

// pending returns the writes that are not in the snapshot, in iteration order.
func (tx *Tx) pending(prefix, start []byte, back bool) []pendingRow {
	if tx.own == nil {
		return nil
	}
	var rows []pendingRow
	seen := map[string]bool{}
	for _, w := range append([]*writes{tx.own}, tx.under...) {
		for k, v := range w.rows {
			key := []byte(k)
			if seen[k] || !bytes.HasPrefix(key, prefix) {
				continue
			}
			seen[k] = true
			if c := bytes.Compare(key, start); c == 0 || (c > 0) != back {
				rows = append(rows, pendingRow{key, v.value})
			}
		}
	}
	sort.Slice(rows, func(i, j int) bool {
		return (bytes.Compare(rows[i].key, rows[j].key) < 0) != back
	})
	return rows
}

// totals are the numbers that many changes move: one row for all of them, read
// once and written once in a function.
type totals struct {
	position Position
	counts   Counts
}

func (tx *Tx) totals() (*totals, error) {
	if tx.totalsOf != nil {
		return tx.totalsOf, nil
	}
	v, err := tx.get(key0(kindTotals))
	if errors.Is(err, ErrNotFound) {
		tx.totalsOf = &totals{}
		return tx.totalsOf, nil
	}
	if err != nil {
		return nil, err
	}
	t, err := decodeTotals(v)
	if err != nil {
		return nil, err
	}
	tx.totalsOf = t
	return t, nil
}

// changeTotals is totals for a caller that changes them.
func (tx *Tx) changeTotals() (*totals, error) {
	if tx.own == nil {
		return nil, errReadOnly
	}
	t, err := tx.totals()
	if err == nil {
		tx.dirty = true
	}
	return t, err
}

// flush writes what the function left in memory.
func (tx *Tx) flush() error {
	if !tx.dirty {
		return nil
	}
	return tx.set(key0(kindTotals), tx.totalsOf.encode())
}

func (t *totals) encode() []byte {
	var e encoder
	e.number(uint64(t.position))
	e.number(uint64(t.counts.Users))
	e.number(uint64(t.counts.LocalEvents))
	e.number(uint64(t.counts.RemoteEvents))
	e.number(uint64(t.counts.Rooms))
	e.number(uint64(t.counts.Federated))
	return e.b
}

func decodeTotals(v []byte) (*totals, error) {
	d := decoder{b: v}
	t := &totals{position: Position(d.number())}
	t.counts = Counts{
		Users:        int(d.number()),
		LocalEvents:  int64(d.number()),
		RemoteEvents: int64(d.number()),
		Rooms:        int(d.number()),
		Federated:    int(d.number()),
	}
	return t, d.end("totals")
}

// Counts are totals kept as they change.
type Counts struct {
	Users        int   // accounts not deactivated
	LocalEvents  int64 // accepted events made by this node
	RemoteEvents int64 // accepted events of others
	Rooms        int   // rooms held here
	Federated    int   // of these, with joined users of other servers
}

// Counts returns the totals.
func (tx *Tx) Counts() (Counts, error) {
	t, err := tx.totals()
	if err != nil {
		return Counts{}, err
	}
	return t.counts, nil
}

// Position returns the newest position the transaction sees.
func (tx *Tx) Position() (Position, error) {
	t, err := tx.totals()
	if err != nil {
		return 0, err
	}
	return t.position, nil
}

// NextPosition takes the next position, for changes other than events.
func (tx *Tx) NextPosition() (Position, error) {
	t, err := tx.changeTotals()
	if err != nil {
		return 0, err
	}
	t.position++
	return t.position, nil
}
