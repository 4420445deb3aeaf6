package room_test

import (
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

var graphs = flag.Int("graphs", 3000, "generated rooms that state resolution is compared on")

// rooms is how many: fewer under the race detector, which makes them slow.
func rooms() int {
	if raceEnabled {
		return *graphs / 5
	}
	return *graphs
}

// The fast implementation and the literal reading of the specification agree on
// rooms full of conflict, honest or not, and so does the one for differences.
func TestResolveAgreesWithLiteralReading(t *testing.T) {
	conflicts, walked := 0, 0
	for seed := range rooms() {
		g := newGenerator(t, uint64(seed))
		g.lies = seed%2 == 1
		g.room(12 + g.r.IntN(30))
		if seed%4 == 3 { // what this node rejected others have cited
			for range 3 {
				g.rejected[g.order[1+g.r.IntN(len(g.order)-1)]] = true
			}
		}
		l := newLiteral(g.dag)
		for range 3 {
			forks := g.forks()
			want := l.resolve(forks)
			got, err := room.Resolve(g.create, forks, g.get)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d: resolved\n%s\n\nthe specification wants\n%s", seed, text(got), text(want))
			}
			byDifference, touched := resolveDifferences(t, g, forks)
			if !maps.Equal(byDifference, want) {
				t.Fatalf("seed %d: resolved differences\n%s\n\nthe specification wants\n%s", seed, text(byDifference), text(want))
			}
			if _, conflicted := unconflictedAndConflicted(forks); len(conflicted) > 0 {
				conflicts++
			}
			if touched {
				walked++
			}
		}
	}
	t.Logf("%d resolutions had conflicts, %d needed the auth chain of the whole state", conflicts, walked)
	if conflicts < rooms() {
		t.Errorf("only %d conflicts in %d rooms", conflicts, rooms())
	}
	if rooms() >= 500 && walked == 0 {
		t.Error("no resolution needed the auth chain of the whole state: the generator is too tame")
	}
}

// More forks than bits in a word resolve like two.
func TestResolveManyForks(t *testing.T) {
	for seed := range uint64(rooms() / 15) {
		g := newGenerator(t, seed)
		g.lies = true
		g.room(30)
		l := newLiteral(g.dag)
		two := g.forks()
		if len(two) < 2 {
			continue
		}
		for _, n := range []int{65, 129} {
			var forks []room.Snapshot
			for range n - 1 {
				forks = append(forks, two[0])
			}
			forks = append(forks, two[1]) // the last fork alone is another
			got, err := room.Resolve(g.create, forks, g.get)
			if err != nil {
				t.Fatal(err)
			}
			if want := l.resolve(forks); !maps.Equal(got, want) {
				t.Fatalf("seed %d, %d forks: resolved\n%s\n\nthe specification wants\n%s", seed, n, text(got), text(want))
			}
		}
	}
}

// resolveDifferences resolves with the differing places only and reports whether
// the others were looked at one by one.
func resolveDifferences(t *testing.T, g *generator, forks []room.Snapshot) (result room.Snapshot, walked bool) {
	short := make([]room.Snapshot, len(forks))
	differ := map[room.Key]bool{}
	for _, a := range forks {
		for k, id := range a {
			for _, b := range forks {
				differ[k] = differ[k] || b[k] != id
			}
		}
	}
	for i, s := range forks {
		short[i] = room.Snapshot{}
		for k, id := range s {
			if differ[k] {
				short[i][k] = id
			}
		}
	}
	base := forks[len(forks)-1]
	changed, err := room.ResolveConflicts(g.create, short, room.Common{
		Get: func(k room.Key) (event.ID, bool, error) { id, ok := base[k]; return id, ok, nil },
		Each: func(_ string, fn func(room.Key, event.ID) error) error {
			for k, id := range base {
				if err := fn(k, id); err != nil {
					return err
				}
				walked = true
			}
			return nil
		},
	}, g.get)
	if err != nil {
		t.Fatal(err)
	}
	result = maps.Clone(base)
	maps.DeleteFunc(result, func(k room.Key, _ event.ID) bool { return differ[k] })
	maps.Copy(result, changed)
	return result, walked
}

// The rules and their literal reading agree on every event against every state.
func TestRulesAgreeWithLiteralReading(t *testing.T) {
	allowed, refused := 0, 0
	for seed := range rooms() / 10 {
		g := newGenerator(t, uint64(seed))
		g.room(30)
		l := newLiteral(g.dag)
		for _, e := range g.events {
			for range 5 {
				s := g.after[g.order[g.r.IntN(len(g.order))]]
				err := room.Authorize(e, g.create, g.state(s))
				want := l.allowed(e, s)
				if (err == nil) != (want == nil) {
					t.Fatalf("seed %d, %s %s by %s: %v, literally %v\n%s", seed, e.Type, e.Content, e.Sender, err, want, text(s))
				}
				if err == nil {
					allowed++
				} else {
					refused++
				}
			}
		}
	}
	if allowed == 0 || refused == 0 {
		t.Errorf("%d allowed, %d refused", allowed, refused)
	}
}

// Nodes that get the same events in different orders, apart for a while or not,
// judge them alike, hold the same state after each, and resolve the same state.
func TestArrivalOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		g := newGenerator(t, rapid.Uint64().Draw(rt, "room"))
		g.room(rapid.IntRange(10, 35).Draw(rt, "events"))
		want := g.before(g.heads())
		for range 3 {
			other := replayed(t, g.dag, rapid.Uint64().Draw(rt, "order"))
			for id := range g.events {
				if other.rejected[id] != g.rejected[id] {
					rt.Fatalf("%s: rejected %v here, %v there", label(id), g.rejected[id], other.rejected[id])
				}
				if !maps.Equal(other.after[id], g.after[id]) {
					rt.Fatalf("after %s:\n%s\n\nthere:\n%s", label(id), text(g.after[id]), text(other.after[id]))
				}
			}
			heads := other.heads()
			rand.New(rand.NewPCG(1, uint64(len(heads)))).Shuffle(len(heads), func(i, j int) { heads[i], heads[j] = heads[j], heads[i] })
			if got := other.before(heads); !maps.Equal(got, want) {
				rt.Fatalf("resolved\n%s\n\nthere:\n%s", text(want), text(got))
			}
		}
	})
}

// replayed adds the events of a room to a new one in another order that has
// prev_events and auth_events first.
func replayed(tb testing.TB, d *dag, seed uint64) *dag {
	r := rand.New(rand.NewPCG(seed, 1))
	other := newDAG(tb)
	waiting := append([]event.ID{}, d.order...)
	r.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
	for len(waiting) > 0 {
		var later []event.ID
		for _, id := range waiting {
			ready := true
			for _, p := range append(append([]event.ID{}, d.events[id].Prev...), d.events[id].Auth...) {
				_, ok := other.events[p]
				ready = ready && ok
			}
			if ready {
				other.add(d.events[id], nil)
			} else {
				later = append(later, id)
			}
		}
		waiting = later
	}
	return other
}

func TestResolveWithoutConflict(t *testing.T) {
	d := newDAG(t)
	get := func(id event.ID) (room.Found, error) { t.Errorf("asked for %s", id); return d.get(id) }
	a := room.Snapshot{{Type: "x"}: labelID("x"), {Type: "y", StateKey: "1"}: labelID("y")}
	for name, forks := range map[string][]room.Snapshot{"one": {a}, "equal": {a, maps.Clone(a), maps.Clone(a)}} {
		got, err := room.Resolve(nil, forks, get)
		if err != nil || !maps.Equal(got, a) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := room.Resolve(nil, nil, get); err != nil || got == nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
}

// Events that cannot be found, a missing create event and auth events in a circle
// are errors, not results.
func TestResolveFails(t *testing.T) {
	g := newGenerator(t, 1)
	g.room(20)
	two := []room.Snapshot{g.after[g.order[3]], g.after[g.order[2]]}
	if _, err := room.Resolve(nil, two, g.get); err == nil {
		t.Error("resolved without create event")
	}
	missing := g.order[1]
	for name, get := range map[string]room.Lookup{
		"error": func(id event.ID) (room.Found, error) {
			if id == missing {
				return room.Found{}, errBroken
			}
			return g.get(id)
		},
		"nothing": func(id event.ID) (room.Found, error) {
			if id == missing {
				return room.Found{}, nil
			}
			return g.get(id)
		},
		"circle": func(id event.ID) (room.Found, error) {
			f, err := g.get(id)
			if id == missing {
				e := *f.Event
				e.Auth = []event.ID{g.order[3], missing}
				f.Event = &e
			}
			return f, err
		},
	} {
		if s, err := room.Resolve(g.create, two, get); err == nil {
			t.Errorf("%s: resolved %v", name, s)
		}
	}
}

// A look-up that fails at any moment fails the resolution: nothing is decided on
// part of the graph.
func TestResolveFailsWithAnyLookup(t *testing.T) {
	for seed := range uint64(20) {
		g := newGenerator(t, seed)
		g.lies = true
		g.room(30)
		forks := g.forks()
		for fails := 0; ; fails++ {
			n := 0
			s, err := room.Resolve(g.create, forks, func(id event.ID) (room.Found, error) {
				if n++; n > fails {
					return room.Found{}, errBroken
				}
				return g.get(id)
			})
			if n <= fails {
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				break
			}
			if !errors.Is(err, errBroken) {
				t.Fatalf("seed %d: look-up %d failed, resolved %v, %v", seed, fails, s, err)
			}
		}
	}
}

// A common state that cannot be read fails the resolution too.
func TestResolveConflictsFails(t *testing.T) {
	asked, walked := 0, 0
	for seed := range uint64(400) {
		g := newGenerator(t, seed)
		g.lies = true
		g.room(30)
		forks := g.forks()
		base := forks[0]
		get, each := false, false
		common := room.Common{
			Get: func(k room.Key) (event.ID, bool, error) {
				get = true
				return "", false, errBroken
			},
		}
		_, err := room.ResolveConflicts(g.create, forks, common, g.get)
		if errors.Is(err, errBroken) != get {
			t.Fatalf("seed %d: asked for a place %v, error %v", seed, get, err)
		}
		common = room.Common{
			Get:  func(k room.Key) (event.ID, bool, error) { id, ok := base[k]; return id, ok, nil },
			Each: func(string, func(room.Key, event.ID) error) error { each = true; return errBroken },
		}
		_, err = room.ResolveConflicts(g.create, forks, common, g.get)
		if errors.Is(err, errBroken) != each {
			t.Fatalf("seed %d: asked for all places %v, error %v", seed, each, err)
		}
		if get {
			asked++
		}
		if each {
			walked++
		}
	}
	if asked == 0 || walked == 0 {
		t.Errorf("%d resolutions asked for a place, %d for all", asked, walked)
	}
	if got, err := room.ResolveConflicts(nil, []room.Snapshot{{}, {}}, room.Common{}, nil); err != nil || len(got) != 0 {
		t.Errorf("nothing in conflict: %v, %v", got, err)
	}
}
