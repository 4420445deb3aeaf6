package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// State is a stored state of a room. It implements room.State and is valid
// while its transaction is.
type State struct {
	tx    *Tx
	chain chain
}

var _ room.State = (*State)(nil)

// ID names the state. A state that StateAt resolved in a View may have an id
// that nobody else knows: Apply takes such a state, other transactions do not
// find its id.
func (s *State) ID() StateID { return s.chain.id() }

// StateEvent implements room.State.
func (s *State) StateEvent(typ, key string) (*event.Event, error) {
	h := s.chain.find(room.Key{Type: typ, StateKey: key})
	if h == none {
		return nil, nil
	}
	return s.tx.event(h)
}

// Get returns the id of the event at a place.
func (s *State) Get(k room.Key) (event.ID, bool, error) {
	h := s.chain.find(k)
	if h == none {
		return "", false, nil
	}
	return h.event(), true, nil
}

// Each calls fn for every place, in the order of type and state key; typ
// restricts it to one type unless empty. An error of fn ends it and is returned.
func (s *State) Each(typ string, fn func(room.Key, event.ID) error) error {
	for _, e := range s.chain.entries(typ) {
		if e.id == none {
			continue
		}
		if err := fn(e.key, e.id.event()); err != nil {
			return err
		}
	}
	return nil
}

// Snapshot returns the whole state.
func (s *State) Snapshot() (room.Snapshot, error) { return s.chain.snapshot(), nil }

func (c chain) snapshot() room.Snapshot {
	all := c.entries("")
	snap := make(room.Snapshot, len(all))
	for _, e := range all {
		if e.id != none {
			snap[e.key] = e.id.event()
		}
	}
	return snap
}

// Hash is the state_hash of protocol C4.1: SHA-256 over type, 0, state key, 0,
// event id, newline of every place, sorted.
func (s *State) Hash() ([32]byte, error) {
	sum := sha256.New()
	var line []byte
	for _, e := range s.chain.entries("") {
		if e.id == none {
			continue
		}
		line = append(append(line[:0], e.key.Type...), 0)
		line = append(append(line, e.key.StateKey...), 0)
		line = append(append(line, e.id.event()...), '\n')
		sum.Write(line)
	}
	return [32]byte(sum.Sum(nil)), nil
}

// State loads a stored state, or ErrNotFound.
func (tx *Tx) State(id StateID) (*State, error) {
	c, err := tx.chain(id)
	if err != nil {
		return nil, err
	}
	return &State{tx, c}, nil
}

// StateAt returns the state after the given events, resolved by v2.1 if there
// are several. ErrNotFound if one is not in the graph. A resolution is computed
// once: its result is stored in Update and kept in memory in View. No ids give
// the empty state.
func (tx *Tx) StateAt(r event.RoomID, ids []event.ID) (*State, error) {
	in, ok := roomHash(r)
	if !ok {
		return nil, ErrNotFound
	}
	after := make([]StateID, 0, len(ids))
	for _, id := range ids {
		_, v, err := tx.inGraph(id)
		if err == nil && v.room != in {
			err = ErrNotFound
		}
		if err != nil {
			return nil, fmt.Errorf("state after %s: %w", id, err)
		}
		after = append(after, v.after)
	}
	c, err := tx.resolve(in, after)
	if err != nil {
		return nil, err
	}
	return &State{tx, c}, nil
}

// resolve returns the resolution of stored states.
func (tx *Tx) resolve(in hash, forks []StateID) (chain, error) {
	forks = slices.Clone(forks)
	slices.Sort(forks)
	forks = slices.Compact(forks)
	switch len(forks) {
	case 0:
		return nil, nil
	case 1:
		return tx.chain(forks[0])
	}
	name := in[:]
	for _, id := range forks {
		name = binary.BigEndian.AppendUint64(name, uint64(id))
	}
	memo := hash(sha256.Sum256(name))
	v, err := tx.get(keyHash(kindResolved, memo))
	if err == nil {
		id, err := decodeNumber(v, "resolution")
		if err != nil {
			return nil, err
		}
		return tx.chain(StateID(id))
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	l, ok := tx.s.memo.get(memo)
	if !ok {
		if l, err = tx.resolveForks(in, forks); err != nil {
			return nil, err
		}
		l = tx.s.memo.add(memo, l, layerCost(l))
	}
	if tx.own != nil {
		if err := tx.storeLoose(l); err != nil {
			return nil, err
		}
		if err := tx.set(keyHash(kindResolved, memo), encodeNumber(uint64(l.id))); err != nil {
			return nil, err
		}
	}
	return tx.above(l)
}

// above returns the chain that ends in l.
func (tx *Tx) above(l *layer) (chain, error) {
	if l.height == 0 {
		return chain{l}, nil
	}
	c, err := tx.chain(l.parent)
	return append(chain{l}, c...), err
}

// resolveForks computes a resolution as a change of the fork that differs least.
// Its layer is marked loose: who uses it in Update stores it.
func (tx *Tx) resolveForks(in hash, forks []StateID) (*layer, error) {
	create, err := tx.event(in)
	if err != nil {
		return nil, fmt.Errorf("create event of %s: %w", in.room(), err)
	}
	chains := make([]chain, len(forks))
	snaps := make([]room.Snapshot, len(forks))
	for i, id := range forks {
		if chains[i], err = tx.chain(id); err != nil {
			return nil, err
		}
		snaps[i] = chains[i].snapshot()
	}
	resolved, err := room.Resolve(create, snaps, tx.Lookup)
	if err != nil {
		return nil, fmt.Errorf("resolve the state of %s: %w", in.room(), err)
	}
	var best []entry
	at := -1
	for i := range chains {
		d, err := difference(snaps[i], resolved)
		if err != nil {
			return nil, err
		}
		if at < 0 || len(d) < len(best) {
			best, at = d, i
		}
	}
	if len(best) == 0 && len(chains[at]) > 0 {
		return chains[at][0], nil
	}
	l, err := tx.stackLayer(chains[at], best)
	if err != nil {
		return nil, err
	}
	l.id = StateID(tx.s.nextState.Add(1))
	l.loose = true
	return tx.s.layers.add(l.id, l, layerCost(l)), nil
}

// difference returns what makes to of from, sorted.
func difference(from, to room.Snapshot) ([]entry, error) {
	var out []entry
	for k := range from {
		if _, ok := to[k]; !ok {
			out = append(out, entry{key: k})
		}
	}
	for k, id := range to {
		if from[k] == id {
			continue
		}
		h, ok := eventHash(id)
		if !ok {
			return nil, badID(string(id))
		}
		out = append(out, entry{k, h})
	}
	slices.SortFunc(out, compareEntries)
	return out, nil
}

// storeLoose writes a layer that was computed without being stored, unless that
// has been done.
func (tx *Tx) storeLoose(l *layer) error {
	if !l.loose {
		return nil
	}
	ok, err := tx.has(keyNumber(kindLayer, uint64(l.id)))
	if err != nil || ok {
		return err
	}
	return tx.storeLayer(l)
}

// PutState stores a state given as a whole, as a join receives it. The events
// it names must be known (ErrNotFound). It takes the space of the whole state.
func (tx *Tx) PutState(s room.Snapshot) (*State, error) {
	all, err := difference(nil, s)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		ok, err := tx.has(keyHash(kindNode, e.id))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("state event %s: %w", e.id.event(), ErrNotFound)
		}
	}
	c, err := tx.wholeState(all)
	return &State{tx, c}, err
}

// wholeState stores a state without parent.
func (tx *Tx) wholeState(all []entry) (chain, error) {
	if tx.own == nil {
		return nil, errReadOnly
	}
	if len(all) == 0 {
		return nil, nil
	}
	l := &layer{id: StateID(tx.s.nextState.Add(1)), entries: all}
	l = tx.s.layers.add(l.id, l, layerCost(l))
	return chain{l}, tx.storeLayer(l)
}

// Changed calls fn for every place that differs between two states, in the
// order of type and state key; was and now are empty where the place is. Its
// cost follows the number of changes between states of one line.
func (tx *Tx) Changed(from, to StateID, fn func(k room.Key, was, now event.ID) error) error {
	a, err := tx.chain(from)
	if err != nil {
		return err
	}
	b, err := tx.chain(to)
	if err != nil {
		return err
	}
	for _, c := range changes(a, b) {
		var was, now event.ID
		if c.was != none {
			was = c.was.event()
		}
		if c.now != none {
			now = c.now.event()
		}
		if err := fn(c.key, was, now); err != nil {
			return err
		}
	}
	return nil
}

// change is a place that differs between two states.
type change struct {
	key      room.Key
	was, now hash
}

// changes returns the places that differ, sorted. Layers that both share are
// not looked through.
func changes(from, to chain) []change {
	i, j := len(from), len(to)
	for i > 0 && j > 0 && from[i-1].id == to[j-1].id {
		i, j = i-1, j-1
	}
	shared := from[i:]
	a, b := from[:i].entries(""), to[:j].entries("")
	var out []change
	add := func(k room.Key, was, now hash) {
		if was != now {
			out = append(out, change{k, was, now})
		}
	}
	for len(a) > 0 || len(b) > 0 {
		c := 0
		switch {
		case len(a) == 0:
			c = 1
		case len(b) == 0:
			c = -1
		default:
			c = compareEntries(a[0], b[0])
		}
		switch {
		case c < 0:
			add(a[0].key, a[0].id, shared.find(a[0].key))
			a = a[1:]
		case c > 0:
			add(b[0].key, shared.find(b[0].key), b[0].id)
			b = b[1:]
		default:
			add(a[0].key, a[0].id, b[0].id)
			a, b = a[1:], b[1:]
		}
	}
	return out
}
