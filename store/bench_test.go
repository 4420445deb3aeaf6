package store

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// BenchmarkApply commits signed messages in a line, as fast as they come: the
// store's part of sending.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			s := mustOpen(b, Options{Dir: b.TempDir()})
			rooms := make([]*world, n)
			evs := make([][]*event.Event, n)
			for i := range rooms {
				rooms[i] = newWorld(b, s)
				heads := rooms[i].roomNow().Heads
				for range b.N/n + 1 {
					e := rooms[i].message(heads, 1)
					heads = []event.ID{e.ID()}
					evs[i] = append(evs[i], e)
				}
			}
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for i := range rooms {
				wg.Go(func() {
					for _, e := range evs[i] {
						err := s.Update(context.Background(), func(tx *Tx) error {
							st, err := tx.StateAt(rooms[i].room, e.Prev)
							if err != nil {
								return err
							}
							_, err = tx.Apply(e, room.Accepted, st, ApplyOptions{Local: true})
							return err
						})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// joins signs n joins, each on top of the one before.
func (w *world) joins(b testing.TB, n int) []*event.Event {
	b.Helper()
	heads := w.roomNow().Heads
	evs := make([]*event.Event, n)
	for i := range evs {
		u := user(fmt.Sprintf("user%06d", i), []event.Server{home, other, faraway}[i%3])
		key := string(u)
		w.clock++
		evs[i] = w.sign(event.Body{
			Room: w.room, Type: typeMember, StateKey: &key, Sender: u, Content: []byte(`{"membership":"join"}`),
			Prev: heads, Auth: []event.ID{}, Depth: 1, Time: w.clock,
		})
		heads = []event.ID{evs[i].ID()}
	}
	return evs
}

// BenchmarkJoinStorm lets 10,000 users join one room, one after another. The
// time per join must not grow with the room.
func BenchmarkJoinStorm(b *testing.B) {
	const n = 10_000
	for range b.N {
		b.StopTimer()
		s := mustOpen(b, Options{Dir: b.TempDir()})
		w := newWorld(b, s)
		evs := w.joins(b, n)
		b.StartTimer()
		w.applyAll(b, evs, 100)
		b.StopTimer()
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "us/join")
		b.ReportMetric(float64(s.Size())/n, "disk-B/join")
		if r := w.roomNow(); r.Joined != n+1 {
			b.Fatalf("%d joined", r.Joined)
		}
	}
}

func (w *world) applyAll(b testing.TB, evs []*event.Event, group int) {
	b.Helper()
	for len(evs) > 0 {
		some := evs[:min(group, len(evs))]
		evs = evs[len(some):]
		err := w.s.Update(context.Background(), func(tx *Tx) error {
			for _, e := range some {
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
			b.Fatal(err)
		}
	}
}

// BenchmarkStateAt asks for states in a room of 10,000 members.
func BenchmarkStateAt(b *testing.B) {
	s := mustOpen(b, Options{Dir: b.TempDir()})
	w := newWorld(b, s)
	w.applyAll(b, w.joins(b, 10_000), 500)
	r := w.roomNow()
	member := user("user005000", faraway)
	run := func(name string, fn func(tx *Tx) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if err := s.View(fn); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("head", func(tx *Tx) error {
		_, err := tx.StateAt(w.room, r.Heads)
		return err
	})
	run("head and one place", func(tx *Tx) error {
		st, err := tx.StateAt(w.room, r.Heads)
		if err != nil {
			return err
		}
		e, err := st.StateEvent(typeMember, string(member))
		if err == nil && e == nil {
			b.Fatal("no such member")
		}
		return err
	})
	run("all places", func(tx *Tx) error {
		st, err := tx.StateAt(w.room, r.Heads)
		if err != nil {
			return err
		}
		return st.Each("", func(room.Key, event.ID) error { return nil })
	})
	run("from disk", func(tx *Tx) error {
		s.layers = newCache[StateID, *layer](layerCachePlaces)
		_, err := tx.StateAt(w.room, r.Heads)
		return err
	})
	key := "fork"
	one := w.add(r.Heads, w.admin, "x.type", &key, `{}`)
	two := w.add(r.Heads, w.admin, "y.type", &key, `{}`)
	run("two forks resolved anew", func(tx *Tx) error {
		in, _ := roomHash(w.room)
		_, err := tx.resolveForks(in, []StateID{one.After, two.After})
		return err
	})
}

// BenchmarkTimeline reads the last 20 events, as /sync does.
func BenchmarkTimeline(b *testing.B) {
	s := mustOpen(b, Options{Dir: b.TempDir()})
	w := newWorld(b, s)
	w.fill(b, 2000)
	b.ReportAllocs()
	for b.Loop() {
		err := s.View(func(tx *Tx) error {
			p, err := tx.Position()
			if err != nil {
				return err
			}
			_, _, err = tx.TimelineBack(w.room, p, 20)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
