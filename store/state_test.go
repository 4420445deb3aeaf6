package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// fakeHash stands for an event that nobody needs to read.
func fakeHash(n int) (h hash) {
	h[0], h[1], h[2], h[31] = byte(n>>16), byte(n>>8), byte(n), 1
	return h
}

type stateModel struct {
	id StateID
	m  map[room.Key]hash
}

func drawChanges(t *rapid.T, keys, most int) []entry {
	m := map[room.Key]hash{}
	for range rapid.IntRange(1, most).Draw(t, "changes") {
		n := rapid.IntRange(0, keys-1).Draw(t, "place")
		k := room.Key{Type: fmt.Sprint("type", n%3), StateKey: fmt.Sprint("@key", n/3)}
		m[k] = none
		if !rapid.Bool().Draw(t, "empty") {
			m[k] = fakeHash(rapid.IntRange(1, 1000).Draw(t, "event"))
		}
	}
	var out []entry
	for k, h := range m {
		out = append(out, entry{k, h})
	}
	slices.SortFunc(out, compareEntries)
	return out
}

func with(m map[room.Key]hash, all []entry) map[room.Key]hash {
	m = maps.Clone(m)
	for _, e := range all {
		if e.id == none {
			delete(m, e.key)
		} else {
			m[e.key] = e.id
		}
	}
	return m
}

// States against plain maps: lines, branches, whole states, emptied places.
func TestStateModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{InMemory: true})
		if err != nil {
			rt.Fatal(err)
		}
		models := []stateModel{{0, map[room.Key]hash{}}}
		keys := rapid.SampledFrom([]int{2, 8, 40}).Draw(rt, "places")
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			err := s.Update(context.Background(), func(tx *Tx) error {
				all := drawChanges(rt, keys, 3)
				from := models[len(models)-1]
				kind := rapid.IntRange(0, 9).Draw(rt, "kind")
				if kind == 0 { // a branch
					from = rapid.SampledFrom(models).Draw(rt, "from")
				}
				if kind == 1 { // a whole state
					all = slices.DeleteFunc(drawChanges(rt, keys, 20), func(e entry) bool { return e.id == none })
					c, err := tx.wholeState(all)
					models = append(models, stateModel{c.id(), with(nil, nil)})
					models[len(models)-1].m = with(map[room.Key]hash{}, all)
					return err
				}
				c, err := tx.chain(from.id)
				if err != nil {
					return err
				}
				l, err := tx.newLayer(c, all)
				if err != nil {
					return err
				}
				models = append(models, stateModel{l.id, with(from.m, all)})
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
		for pass := range 2 {
			if pass == 1 { // again from the rows
				s.layers = newCache[StateID, *layer](50)
			}
			if err := s.View(func(tx *Tx) error { return compareStates(rt, tx, models) }); err != nil {
				rt.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func compareStates(t *rapid.T, tx *Tx, models []stateModel) error {
	for i, m := range models {
		st, err := tx.State(m.id)
		if err != nil {
			return err
		}
		if max := bits.Len64(st.chain.height()) + 1; len(st.chain) > max {
			t.Fatalf("state at height %d is read from %d layers", st.chain.height(), len(st.chain))
		}
		snap, err := st.Snapshot()
		if err != nil {
			return err
		}
		if len(snap) != len(m.m) {
			t.Fatalf("state %d has %d places, want %d", m.id, len(snap), len(m.m))
		}
		var before room.Key
		n := 0
		err = st.Each("", func(k room.Key, id event.ID) error {
			if n++; n > 1 && compareKeys(before, k) >= 0 {
				t.Fatalf("order: %v, %v", before, k)
			}
			before = k
			if id != m.m[k].event() || snap[k] != id {
				t.Fatalf("state %d at %v: %s", m.id, k, id)
			}
			return nil
		})
		if err != nil || n != len(m.m) {
			t.Fatalf("Each gave %d of %d places: %v", n, len(m.m), err)
		}
		for k, h := range m.m {
			if id, ok, err := st.Get(k); !ok || id != h.event() || err != nil {
				t.Fatalf("state %d, Get(%v): %s, %t, %v", m.id, k, id, ok, err)
			}
		}
		if _, ok, _ := st.Get(room.Key{Type: "type0", StateKey: "none"}); ok {
			t.Fatal("found what is not there")
		}
		n = 0
		if err := st.Each("type1", func(k room.Key, _ event.ID) error {
			if k.Type != "type1" {
				t.Fatalf("Each of one type gave %v", k)
			}
			n++
			return nil
		}); err != nil {
			return err
		}
		for k := range m.m {
			if k.Type == "type1" {
				n--
			}
		}
		if n != 0 {
			t.Fatalf("Each of one type differs by %d", n)
		}
		other := models[(i*7+3)%len(models)]
		if err := compareChanges(t, tx, m, other); err != nil {
			return err
		}
		if i > 0 {
			if err := compareChanges(t, tx, models[i-1], m); err != nil {
				return err
			}
		}
	}
	return nil
}

func compareChanges(t *rapid.T, tx *Tx, from, to stateModel) error {
	got := maps.Clone(from.m)
	n := 0
	err := tx.Changed(from.id, to.id, func(k room.Key, was, now event.ID) error {
		n++
		if (was == "") != (from.m[k] == none) || (was != "" && was != from.m[k].event()) || was == now {
			t.Fatalf("change of %v from %q to %q, was %v", k, was, now, from.m[k])
		}
		delete(got, k)
		if now != "" {
			got[k], _ = eventHash(now)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !maps.Equal(got, to.m) {
		t.Fatalf("from %d to %d: %d changes do not lead there", from.id, to.id, n)
	}
	return nil
}

// The rows of a line of n changes hold O(n log n) places.
func TestStateSize(t *testing.T) {
	s := mustOpen(t, Options{})
	const n = 2048
	var all int
	update(t, s, func(tx *Tx) error {
		var c chain
		for i := range n {
			l, err := tx.newLayer(c, []entry{{room.Key{Type: "m.room.member", StateKey: fmt.Sprint("@", i)}, fakeHash(i)}})
			if err != nil {
				return err
			}
			all += len(l.entries)
			if c, err = tx.above(l); err != nil {
				return err
			}
		}
		return nil
	})
	if limit := n * (bits.Len(n) + 1); all > limit {
		t.Errorf("%d changes are stored as %d places, more than %d", n, all, limit)
	}
}

func TestEntriesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []entry
		for i, k := range rapid.SliceOf(rapid.String()).Draw(t, "keys") {
			all = append(all, entry{room.Key{Type: rapid.SampledFrom([]string{"", "a", "m.room.member"}).Draw(t, "type"), StateKey: k}, fakeHash(i)})
		}
		for i := range rapid.IntRange(0, 2000).Draw(t, "many") {
			all = append(all, entry{room.Key{Type: "m.room.member", StateKey: fmt.Sprintf("@user%d:example.org", i)}, none})
		}
		var got []entry
		for _, c := range encodeEntries(all) {
			if len(c) > chunkBytes+10_000 {
				t.Fatalf("a part of %d bytes", len(c))
			}
			var err error
			if got, err = decodeEntries(got, c); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, all) {
			t.Fatal("differs")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{1, 1, 'a', 1, 'b', 0})
	f.Add(encodeEntries([]entry{{room.Key{Type: "t", StateKey: "k"}, fakeHash(1)}})[0])
	f.Add((&vertex{room: fakeHash(1), prevs: []hash{fakeHash(2)}}).encode())
	f.Add((&roomRow{heads: []head{{id: fakeHash(1)}}, leaves: []hash{fakeHash(2)}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		// Damaged rows give errors, never panics.
		if all, err := decodeEntries(nil, b); err == nil && len(all) > len(b) {
			t.Errorf("%d places from %d bytes", len(all), len(b))
		}
		if v, err := decodeVertex(b); err == nil {
			if w, err := decodeVertex(v.encode()); err != nil || len(w.prevs) != len(v.prevs) {
				t.Errorf("%v, %v", w, err)
			}
		}
		if r, err := decodeRoom(b); err == nil {
			if q, err := decodeRoom(r.encode()); err != nil || len(q.heads) != len(r.heads) {
				t.Errorf("%v, %v", q, err)
			}
		}
		if m, err := decodeMembership("@u:x", fakeHash(1), b); err == nil && m == nil {
			t.Error("no row")
		}
		if _, err := decodeTotals(b); err != nil && !errors.Is(err, errCorrupt) {
			t.Error(err)
		}
	})
}

func TestPutState(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	update(t, s, func(tx *Tx) error {
		if _, err := tx.PutState(room.Snapshot{{Type: "a"}: fakeHash(1).event()}); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown event: %v", err)
		}
		st, err := tx.PutState(room.Snapshot{{Type: "m.room.create"}: w.room.Create()})
		if err != nil {
			return err
		}
		e, err := st.StateEvent("m.room.create", "")
		if err != nil || e.ID() != w.room.Create() {
			t.Errorf("%v, %v", e, err)
		}
		if e, err := st.StateEvent("m.room.name", ""); e != nil || err != nil {
			t.Errorf("%v, %v", e, err)
		}
		return err
	})
}

func TestStateHash(t *testing.T) {
	s := mustOpen(t, Options{})
	update(t, s, func(tx *Tx) error {
		// The same state by different ways has the same hash.
		all := []entry{{room.Key{Type: "a", StateKey: "1"}, fakeHash(1)}, {room.Key{Type: "b", StateKey: ""}, fakeHash(2)}}
		whole, err := tx.wholeState(all)
		if err != nil {
			return err
		}
		l, err := tx.newLayer(nil, all[1:])
		if err != nil {
			return err
		}
		l, err = tx.newLayer(chain{l}, all[:1])
		if err != nil {
			return err
		}
		c, err := tx.above(l)
		if err != nil {
			return err
		}
		a, _ := (&State{tx, whole}).Hash()
		b, _ := (&State{tx, c}).Hash()
		e, _ := (&State{tx, nil}).Hash()
		if a != b || a == e {
			t.Errorf("%x, %x, %x", a, b, e)
		}
		return nil
	})
}
