package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// message signs a message with the given prev events. Nothing judges it.
func (w *world) message(prevs []event.ID, depth int64) *event.Event {
	w.t.Helper()
	w.clock++
	return w.sign(event.Body{
		Room: w.room, Type: "m.room.message", Sender: w.admin, Content: []byte(`{"body":"x"}`),
		Prev: prevs, Auth: []event.ID{}, Depth: depth, Time: w.clock,
	})
}

// dag is a room of events with arbitrary verdicts, and what they should lead to.
type dag struct {
	ids     []event.ID
	prevs   map[event.ID][]event.ID
	verdict map[event.ID]room.Verdict
}

// build lets rapid draw a graph on top of a new room and applies it.
func buildDAG(rt *rapid.T, w *world) *dag {
	base := w.roomNow().Heads[0]
	d := &dag{ids: []event.ID{base}, prevs: map[event.ID][]event.ID{}, verdict: map[event.ID]room.Verdict{base: room.Accepted}}
	for range rapid.IntRange(1, 25).Draw(rt, "events") {
		var prevs []event.ID
		for range rapid.IntRange(1, 3).Draw(rt, "prevs") {
			i := rapid.IntRange(max(0, len(d.ids)-6), len(d.ids)-1).Draw(rt, "prev")
			if !slices.Contains(prevs, d.ids[i]) {
				prevs = append(prevs, d.ids[i])
			}
		}
		v := rapid.SampledFrom([]room.Verdict{room.Accepted, room.Accepted, room.SoftFailed, room.Rejected}).Draw(rt, "verdict")
		e := w.message(prevs, 1)
		update(w.t, w.s, func(tx *Tx) error {
			st, err := tx.StateAt(w.room, prevs)
			if err != nil {
				return err
			}
			got, err := tx.Apply(e, v, st, ApplyOptions{})
			if err == nil && (got.Status == Accepted) != (got.Position > 0) {
				rt.Fatalf("%+v", got)
			}
			return err
		})
		d.ids, d.prevs[e.ID()], d.verdict[e.ID()] = append(d.ids, e.ID()), prevs, v
	}
	return d
}

// ancestors returns the events and all that they build on.
func (d *dag) ancestors(ids []event.ID) map[event.ID]bool {
	all := map[event.ID]bool{}
	var add func(id event.ID)
	add = func(id event.ID) {
		if _, ok := d.verdict[id]; !ok || all[id] {
			return
		}
		all[id] = true
		for _, p := range d.prevs[id] {
			add(p)
		}
	}
	for _, id := range ids {
		add(id)
	}
	return all
}

func (d *dag) extremities(children ...room.Verdict) []event.ID {
	var out []event.ID
	for _, id := range d.ids {
		if !slices.Contains(children, d.verdict[id]) {
			continue
		}
		referred := false
		for c, prevs := range d.prevs {
			referred = referred || (slices.Contains(prevs, id) && slices.Contains(children, d.verdict[c]))
		}
		if !referred {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func TestExtremitiesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{InMemory: true, Server: home})
		if err != nil {
			rt.Fatal(err)
		}
		w := newWorld(t, s)
		d := buildDAG(rt, w)
		r := w.roomNow()
		if want := d.extremities(room.Accepted); !slices.Equal(r.Heads, want) {
			rt.Errorf("heads %v, want %v", r.Heads, want)
		}
		if want := d.extremities(room.Accepted, room.SoftFailed); !slices.Equal(r.Leaves, want) {
			rt.Errorf("leaves %v, want %v", r.Leaves, want)
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestMissingModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{InMemory: true, Server: home})
		if err != nil {
			rt.Fatal(err)
		}
		w := newWorld(t, s)
		d := buildDAG(rt, w)
		for range 5 {
			draw := rapid.SliceOfN(rapid.SampledFrom(d.ids), 0, 4)
			want, have := draw.Draw(rt, "want"), draw.Draw(rt, "have")
			limit := rapid.IntRange(0, 30).Draw(rt, "limit")
			var got []event.ID
			var rest int
			view(t, s, func(tx *Tx) (err error) {
				got, rest, err = tx.Missing(w.room, append(want, fakeHash(9).event(), "$bad"), append(have, fakeHash(8).event()), limit)
				return err
			})
			theirs := d.ancestors(have)
			var all int
			for id := range d.ancestors(want) {
				if !theirs[id] && id != d.ids[0] {
					all++
				}
			}
			if !theirs[d.ids[0]] && len(want) > 0 {
				all += 3 // the first events of the room, not in the model
			}
			if len(got)+rest != all || len(got) != min(limit, all) {
				rt.Fatalf("%d and %d more, want %d", len(got), rest, all)
			}
			seen := map[event.ID]bool{}
			for _, id := range got {
				if theirs[id] || seen[id] {
					rt.Fatalf("%s is theirs or twice", id)
				}
				for _, p := range d.prevs[id] {
					if !theirs[p] && !seen[p] {
						rt.Fatalf("%s comes before its prev event %s", id, p)
					}
				}
				seen[id] = true
			}
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// Events whose past is added later, in every order: extremities must not depend
// on it and Missing must end and leave nothing out.
func TestLatePast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{InMemory: true, Server: home})
		if err != nil {
			rt.Fatal(err)
		}
		w := newWorld(t, s)
		base := w.roomNow().Heads[0]
		d := &dag{ids: []event.ID{base}, prevs: map[event.ID][]event.ID{}, verdict: map[event.ID]room.Verdict{base: room.Accepted}}
		evs := map[event.ID]*event.Event{}
		for i := range rapid.IntRange(1, 12).Draw(rt, "events") {
			prevs := []event.ID{d.ids[rapid.IntRange(0, i).Draw(rt, "prev")]}
			if p := d.ids[rapid.IntRange(0, i).Draw(rt, "prev")]; p != prevs[0] {
				prevs = append(prevs, p)
			}
			e := w.message(prevs, rapid.Int64Range(0, 1<<53-1).Draw(rt, "claimed depth"))
			evs[e.ID()] = e
			d.ids, d.prevs[e.ID()] = append(d.ids, e.ID()), prevs
			d.verdict[e.ID()] = rapid.SampledFrom([]room.Verdict{room.Accepted, room.Accepted, room.SoftFailed, room.Rejected}).Draw(rt, "verdict")
		}
		order := rapid.Permutation(d.ids[1:]).Draw(rt, "order")
		update(t, s, func(tx *Tx) error {
			st, err := tx.StateAt(w.room, []event.ID{base})
			if err != nil {
				return err
			}
			for _, id := range order {
				if _, err := tx.Apply(evs[id], d.verdict[id], st, ApplyOptions{Horizon: true}); err != nil {
					return err
				}
			}
			return nil
		})
		r := w.roomNow()
		if want := d.extremities(room.Accepted); !slices.Equal(r.Heads, want) {
			rt.Errorf("heads %v, want %v", r.Heads, want)
		}
		if want := d.extremities(room.Accepted, room.SoftFailed); !slices.Equal(r.Leaves, want) {
			rt.Errorf("leaves %v, want %v", r.Leaves, want)
		}
		have := []event.ID{base, rapid.SampledFrom(d.ids).Draw(rt, "have")}
		view(t, s, func(tx *Tx) error {
			got, rest, err := tx.Missing(w.room, d.ids, have, 1000)
			theirs := d.ancestors(have)
			for _, id := range d.ids {
				if !theirs[id] && !slices.Contains(got, id) {
					rt.Errorf("%s is left out", id)
				}
			}
			if n := len(got); n != len(slices.Compact(slices.Sorted(slices.Values(got)))) || rest != 0 {
				rt.Errorf("repeats among %d, rest %d", n, rest)
			}
			return err
		})
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestApplyRefusals(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	before := w.roomNow()
	orphan := w.message([]event.ID{fakeHash(1).event()}, 1)
	none := w.message([]event.ID{}, 1)
	update(t, s, func(tx *Tx) error {
		st, err := tx.State(before.State)
		if err != nil {
			return err
		}
		for _, e := range []*event.Event{orphan, none} {
			if _, err := tx.Apply(e, room.Accepted, st, ApplyOptions{}); !errors.Is(err, ErrNotFound) {
				t.Errorf("prev events missing: %v", err)
			}
		}
		// An outlier is not in the graph.
		if err := tx.PutOutlier(orphan); err != nil {
			return err
		}
		child := w.message([]event.ID{orphan.ID()}, 1)
		if _, err := tx.Apply(child, room.Accepted, st, ApplyOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("prev event is an outlier: %v", err)
		}
		if ok, err := tx.Has(orphan.ID()); ok || err != nil {
			t.Errorf("Has an outlier: %t, %v", ok, err)
		}
		if _, err := tx.StateAt(w.room, []event.ID{orphan.ID()}); !errors.Is(err, ErrNotFound) {
			t.Errorf("state at an outlier: %v", err)
		}
		e, err := tx.Event(orphan.ID())
		if err != nil || e.Status != Outlier {
			t.Errorf("%+v, %v", e, err)
		}
		return nil
	})
	if got := w.roomNow(); !slices.Equal(got.Heads, before.Heads) || got.Last != before.Last {
		t.Errorf("changed: %+v", got)
	}
	view(t, s, func(tx *Tx) error {
		if _, err := tx.Apply(orphan, room.Accepted, nil, ApplyOptions{}); !errors.Is(err, errReadOnly) {
			t.Errorf("in a view: %v", err)
		}
		for _, id := range []event.ID{"", "$x", "$" + event.ID(make([]byte, 43)), fakeHash(5).event()} {
			if _, err := tx.Event(id); !errors.Is(err, ErrNotFound) {
				t.Errorf("event %q: %v", id, err)
			}
			if _, err := tx.Lookup(id); !errors.Is(err, ErrNotFound) {
				t.Errorf("lookup %q: %v", id, err)
			}
		}
		if _, err := tx.Room("!x"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		return nil
	})
}

// A function that ignores an error of Apply must not commit half of it.
func TestApplyBroken(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	other := newWorld(t, s)
	heads := w.roomNow().Heads
	err := s.Update(t.Context(), func(tx *Tx) error {
		// A state whose parents are not there.
		st := &State{tx, chain{{id: 99, height: 5, parent: 98}}}
		key := ""
		e := w.sign(event.Body{Room: w.room, Type: "x", StateKey: &key, Sender: w.admin, Content: []byte(`{}`), Prev: heads, Auth: []event.ID{}, Depth: 9, Time: 1})
		if _, err := tx.Apply(e, room.Accepted, st, ApplyOptions{}); err == nil {
			t.Error("applied")
		}
		return nil
	})
	if !errors.Is(err, errCorrupt) {
		t.Errorf("got %v", err)
	}
	// prev events of another room are not there.
	update(t, s, func(tx *Tx) error {
		e := other.message(heads, 1)
		if _, err := tx.Apply(e, room.Accepted, &State{tx: tx}, ApplyOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if _, err := tx.StateAt(other.room, heads); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		return nil
	})
}

func TestApplyAgain(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	m := w.say(nil, w.admin, "once")
	before, p := w.roomNow(), s.Position()
	update(t, s, func(tx *Tx) error {
		st, err := tx.State(m.Before)
		if err != nil {
			return err
		}
		got, err := tx.Apply(m.Event, room.Rejected, st, ApplyOptions{})
		if err != nil || got.Position != m.Position || got.Status != Accepted || !got.Local {
			t.Errorf("%+v, %v", got, err)
		}
		return tx.PutOutlier(m.Event)
	})
	if got := w.roomNow(); s.Position() != p || fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("changed: %+v", got)
	}
}

func BenchmarkMissing(b *testing.B) {
	s := mustOpen(b, Options{Dir: b.TempDir()})
	w := newWorld(b, s)
	const n = 20_000
	ids := w.fill(b, n)
	have := ids[len(ids)-100 : len(ids)-99]
	for _, c := range []struct {
		name string
		want []event.ID
		have []event.ID
	}{
		{"last100", ids[len(ids)-1:], have},
		{fmt.Sprintf("all%d", n), ids[len(ids)-1:], nil},
		{"nothing", ids[:1], ids[len(ids)-1:]},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				err := s.View(func(tx *Tx) error {
					_, _, err := tx.Missing(w.room, c.want, c.have, 100)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill adds n messages in a line with some forks, and returns their ids.
func (w *world) fill(t testing.TB, n int) []event.ID {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var ids []event.ID
	heads := w.roomNow().Heads
	for len(ids) < n {
		var evs []*event.Event
		for len(evs) < 500 {
			e := w.message(heads, 1)
			evs = append(evs, e)
			ids = append(ids, e.ID())
			if rng.IntN(10) == 0 && len(ids) > 2 {
				heads = []event.ID{e.ID(), ids[len(ids)-2]}
			} else {
				heads = []event.ID{e.ID()}
			}
		}
		err := w.s.Update(context.Background(), func(tx *Tx) error {
			for _, e := range evs {
				st, err := tx.StateAt(w.room, e.Prev)
				if err != nil {
					return err
				}
				if _, err := tx.Apply(e, room.Accepted, st, ApplyOptions{}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return ids
}
