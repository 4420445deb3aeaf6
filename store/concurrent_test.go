package store

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
)

// Writers and readers at once: every snapshot is consistent in itself.
func TestConcurrent(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		w := newWorld(t, s)
		writers.Go(func() {
			for n := range 40 {
				m := w.say(nil, w.admin, fmt.Sprint(n))
				w.send(w.admin, "m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, n))
				if n%5 == i {
					w.add(nil, w.admin, typeRedaction, nil, fmt.Sprintf(`{"redacts":%q}`, m.ID()))
				}
			}
		})
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.View(func(tx *Tx) error { return w.consistent(tx) }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

func (w *world) consistent(tx *Tx) error {
	r, err := tx.Room(w.room)
	if err != nil {
		return err
	}
	p, err := tx.Position()
	if err != nil {
		return err
	}
	evs, _, err := tx.Timeline(w.room, 0, p, 10_000)
	if err != nil {
		return err
	}
	if int64(len(evs)) != r.Events || evs[len(evs)-1].Position != r.Last || r.Last > p {
		return fmt.Errorf("%d events in the timeline, %d counted, last %d of %d", len(evs), r.Events, r.Last, p)
	}
	if last := evs[len(evs)-1].ID(); last != r.Heads[0] {
		return fmt.Errorf("head is %s, last event is %s", r.Heads[0], last)
	}
	st, err := tx.CurrentAt(w.room, p)
	if err != nil {
		return err
	}
	if st.ID() != r.State {
		return fmt.Errorf("current state %d, at the newest position %d", r.State, st.ID())
	}
	redacted := map[event.ID]bool{}
	for _, e := range evs {
		if e.Type == typeRedaction {
			redacted[e.Redacts()] = true
		}
	}
	for _, e := range evs {
		if redacted[e.ID()] != (e.RedactedBy != "") {
			return fmt.Errorf("event %s: redacted %t", e.ID(), e.RedactedBy != "")
		}
	}
	return nil
}

func TestCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCache[int, int](20)
		var order []int // newest last
		cost := map[int]int64{}
		touch := func(k int) {
			for i, o := range order {
				if o == k {
					order = append(order[:i:i], order[i+1:]...)
				}
			}
			order = append(order, k)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := rapid.IntRange(0, 15).Draw(t, "key")
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				v, ok := c.get(k)
				if _, want := cost[k]; ok != want || (ok && v != k*2) {
					t.Fatalf("get %d: %d, %t, want %t", k, v, ok, want)
				}
				if ok {
					touch(k)
				}
			case 1:
				n := rapid.Int64Range(1, 9).Draw(t, "cost")
				if c.add(k, k*2, n) != k*2 {
					t.Fatal("add returned another value")
				}
				if _, ok := cost[k]; !ok {
					cost[k] = n
				}
				touch(k)
			default:
				c.forget(k)
				if _, ok := cost[k]; ok {
					touch(k)
					order = order[:len(order)-1]
					delete(cost, k)
				}
			}
			sum := int64(0)
			for _, n := range cost {
				sum += n
			}
			for sum > 20 {
				sum -= cost[order[0]]
				delete(cost, order[0])
				order = order[1:]
			}
			if c.used != sum || len(c.byKey) != len(order) || c.order.Len() != len(order) {
				t.Fatalf("holds %d of cost %d, want %d of %d", len(c.byKey), c.used, len(order), sum)
			}
		}
	})
}

func TestSize(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	before := s.Size()
	update(t, s, func(tx *Tx) error { return tx.PutServerRecord("x", make([]byte, 1<<20)) })
	if now := s.Size(); before <= 0 || now < before+1<<20 {
		t.Errorf("%d bytes before, %d after a row of 1 MiB", before, now)
	}
	if n := mustOpen(t, Options{}).Size(); n != 0 {
		t.Errorf("%d bytes in memory", n)
	}
}
