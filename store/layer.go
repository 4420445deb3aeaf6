package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/tokenim/tokenim/node/room"
)

// A state is a chain of layers. Every state has a height: that of the state it
// was made from plus one. The layer of height k holds all changes since the
// state at height k minus the lowest set bit of k, which is its parent. So a
// state is read from at most log2(k)+1 layers, and a chain of n changes costs
// O(n log n) places in all; no layer is a copy of the whole unless the state
// was given as a whole (height 0).
//
//	height   1  2  3  4  5  6  7  8
//	parent   0  0  2  0  4  4  6  0
type layer struct {
	id      StateID
	height  uint64 // 0: a whole state without parent
	parent  StateID
	entries []entry // sorted by place
	loose   bool    // a resolution: perhaps not stored yet
}

// entry is a change of one place. A zero id empties it.
type entry struct {
	key room.Key
	id  hash
}

// none is the id of an empty place.
var none hash

func compareKeys(a, b room.Key) int {
	if c := cmp.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return cmp.Compare(a.StateKey, b.StateKey)
}

func compareEntries(a, b entry) int { return compareKeys(a.key, b.key) }

// find returns the change of a place.
func (l *layer) find(k room.Key) (hash, bool) {
	i, ok := slices.BinarySearchFunc(l.entries, k, func(e entry, k room.Key) int { return compareKeys(e.key, k) })
	if !ok {
		return none, false
	}
	return l.entries[i].id, true
}

// ofType returns the changes of the places of a type; all if it is empty.
func (l *layer) ofType(typ string) []entry {
	if typ == "" {
		return l.entries
	}
	lo := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].key.Type >= typ })
	hi := lo + sort.Search(len(l.entries)-lo, func(i int) bool { return l.entries[lo+i].key.Type > typ })
	return l.entries[lo:hi]
}

// merge lays newer changes over older ones. It may return one of them.
func merge(newer, older []entry) []entry {
	if len(older) == 0 {
		return newer
	}
	if len(newer) == 0 {
		return older
	}
	out := make([]entry, 0, len(newer)+len(older))
	for len(newer) > 0 && len(older) > 0 {
		switch c := compareEntries(newer[0], older[0]); {
		case c < 0:
			out, newer = append(out, newer[0]), newer[1:]
		case c > 0:
			out, older = append(out, older[0]), older[1:]
		default:
			out, newer, older = append(out, newer[0]), newer[1:], older[1:]
		}
	}
	return append(append(out, newer...), older...)
}

// chain is the layers of a state, the newest first; the empty state has none.
type chain []*layer

func (c chain) id() StateID {
	if len(c) == 0 {
		return 0
	}
	return c[0].id
}

func (c chain) height() uint64 {
	if len(c) == 0 {
		return 0
	}
	return c[0].height
}

// find returns the event at a place, none if it is empty.
func (c chain) find(k room.Key) hash {
	for _, l := range c {
		if h, ok := l.find(k); ok {
			return h
		}
	}
	return none
}

// entries returns the places of a type (all if empty) with their last change,
// which may be that the place was emptied.
func (c chain) entries(typ string) []entry {
	var all []entry
	for _, l := range c {
		all = merge(all, l.ofType(typ))
	}
	return all
}

// chain loads the layers of a state.
func (tx *Tx) chain(id StateID) (chain, error) {
	var c chain
	for id != 0 {
		l, err := tx.layer(id)
		if err != nil {
			return nil, err
		}
		c = append(c, l)
		if l.height == 0 {
			break
		}
		id = l.parent
	}
	return c, nil
}

// layer loads one layer.
func (tx *Tx) layer(id StateID) (*layer, error) {
	if l, ok := tx.s.layers.get(id); ok {
		return l, nil
	}
	v, err := tx.get(keyNumber(kindLayer, uint64(id)))
	if err != nil {
		return nil, err
	}
	d := decoder{b: v}
	l := &layer{id: id, height: d.number(), parent: StateID(d.number())}
	chunks := d.number()
	if err := d.end("state"); err != nil {
		return nil, err
	}
	for i := range int(chunks) {
		v, err := tx.get(keyChunk(id, i))
		if errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("%w: state %d lacks part %d", errCorrupt, id, i)
		}
		if err != nil {
			return nil, err
		}
		if l.entries, err = decodeEntries(l.entries, v); err != nil {
			return nil, err
		}
	}
	return tx.s.layers.add(id, l, layerCost(l)), nil
}

func layerCost(l *layer) int64 { return int64(len(l.entries)) + 4 }

// chunkBytes is about the size of the parts that a layer is stored in: small
// enough for the tree's blocks and for a Badger transaction.
const chunkBytes = 32 << 10

// newLayer makes and stores the layer of the state that differs from c by
// changes, which are sorted.
func (tx *Tx) newLayer(c chain, changes []entry) (*layer, error) {
	if tx.own == nil {
		return nil, errReadOnly
	}
	l, err := tx.stackLayer(c, changes)
	if err != nil {
		return nil, err
	}
	l.id = StateID(tx.s.nextState.Add(1))
	return tx.s.layers.add(l.id, l, layerCost(l)), tx.storeLayer(l)
}

// stackLayer puts a layer on a chain. It has no id yet.
func (tx *Tx) stackLayer(c chain, changes []entry) (*layer, error) {
	l := &layer{height: c.height() + 1, entries: changes}
	below := l.height & (l.height - 1)
	rest := c
	for len(rest) > 0 && rest[0].height > below {
		l.entries = merge(l.entries, rest[0].entries)
		rest = rest[1:]
	}
	l.parent = rest.id()
	if rest.height() != below {
		return nil, fmt.Errorf("%w: state %d has no ancestor at height %d", errCorrupt, c.id(), below)
	}
	if len(rest) == 0 { // nothing below: an emptied place is simply not there
		l.entries = slices.DeleteFunc(slices.Clone(l.entries), func(e entry) bool { return e.id == none })
	}
	return l, nil
}

// storeLayer writes the rows of a layer. Ids are never given out twice while
// the store is open, and the largest one is written with them, so rows that
// became durable without the rest of their function are never mistaken.
func (tx *Tx) storeLayer(l *layer) error {
	chunks := encodeEntries(l.entries)
	var e encoder
	e.number(l.height)
	e.number(uint64(l.parent))
	e.number(uint64(len(chunks)))
	if err := tx.put(keyNumber(kindLayer, uint64(l.id)), e.b, true); err != nil {
		return err
	}
	for i, c := range chunks {
		if err := tx.put(keyChunk(l.id, i), c, true); err != nil {
			return err
		}
	}
	return tx.put(key0(kindLastState), encodeNumber(tx.s.nextState.Load()), true)
}

// encodeEntries writes places: the type (empty: as before), the state key, and
// the id behind a 1, or 0 for an emptied place.
func encodeEntries(entries []entry) [][]byte {
	var chunks [][]byte
	var e encoder
	typ := ""
	for _, en := range entries {
		if len(e.b) > chunkBytes {
			chunks, e, typ = append(chunks, e.b), encoder{}, ""
		}
		if first := len(e.b) == 0; first || en.key.Type != typ {
			typ = en.key.Type
			e.byte(1)
			e.text(typ)
		} else {
			e.byte(0)
		}
		e.text(en.key.StateKey)
		e.bool(en.id != none)
		if en.id != none {
			e.hash(en.id)
		}
	}
	if len(e.b) > 0 {
		chunks = append(chunks, e.b)
	}
	return chunks
}

func decodeEntries(entries []entry, v []byte) ([]entry, error) {
	text := string(v) // one allocation for all the names
	d := decoder{b: v}
	name := func() string {
		n := d.number()
		at := len(text) - len(d.b)
		if d.take(n) == nil && n > 0 {
			return ""
		}
		return text[at : at+int(n)]
	}
	typ := ""
	entries = slices.Grow(entries, bytes.Count(v, []byte{'@'}))
	for len(d.b) > 0 && !d.bad {
		if d.byte() == 1 {
			typ = name()
		}
		en := entry{key: room.Key{Type: typ, StateKey: name()}}
		if d.bool() {
			en.id = d.hash()
		}
		entries = append(entries, en)
	}
	return entries, d.end("state part")
}
