package feed

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func woken(t *Ticket) bool {
	select {
	case <-t.C():
		return true
	default:
		return false
	}
}

func TestWake(t *testing.T) {
	f := New()
	a, b, ab := f.Ticket("a"), f.Ticket("b"), f.Ticket("a", "b")
	f.Wake("c")
	f.Wake("a")
	if !woken(a) || woken(b) || !woken(ab) {
		t.Errorf("woken: %v %v %v", woken(a), woken(b), woken(ab))
	}
	f.Wake("a", "b", "b")
	if !woken(b) {
		t.Error("b was not woken")
	}
	for _, x := range []*Ticket{a, b, ab} {
		x.Close()
		x.Close()
	}
	if f.Waiting() != 0 {
		t.Errorf("%d keys are left", f.Waiting())
	}
}

func TestCloseForgets(t *testing.T) {
	f := New()
	a, b := f.Ticket("k", "l"), f.Ticket("k")
	if f.Waiting() != 2 {
		t.Errorf("%d keys", f.Waiting())
	}
	a.Close()
	if f.Waiting() != 1 {
		t.Errorf("%d keys after one was given up", f.Waiting())
	}
	f.Wake("k", "l")
	if woken(a) || !woken(b) {
		t.Error("a ticket that was given up is woken, or the other is not")
	}
}

func TestSameKeyTwice(t *testing.T) {
	f := New()
	a := f.Ticket("k", "k")
	f.Wake("k", "k")
	if !woken(a) || f.Waiting() != 0 {
		t.Error("a ticket with a repeated key")
	}
}

func TestWait(t *testing.T) {
	f := New()
	a := f.Ticket("k")
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := a.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	f.Wake("k")
	if err := a.Wait(context.Background()); err != nil {
		t.Errorf("%v", err)
	}
}

// TestNothingIsMissed: who takes the ticket before looking sees every change.
func TestNothingIsMissed(t *testing.T) {
	const changes = 2000
	f := New()
	var value atomic.Int64
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				ticket := f.Ticket("k", "other")
				if value.Load() == changes {
					ticket.Close()
					return
				}
				if ticket.Wait(t.Context()) != nil {
					t.Error("a reader waits for ever")
					return
				}
			}
		})
	}
	for range changes {
		value.Add(1)
		f.Wake("k")
	}
	readers.Wait()
	if f.Waiting() != 0 {
		t.Errorf("%d keys are left", f.Waiting())
	}
}

// TestModel compares with the obvious model: a ticket is woken if one of its keys
// was woken between its birth and its close.
func TestModel(t *testing.T) {
	type modelled struct {
		t      *Ticket
		keys   []string
		closed bool
		woken  bool
	}
	rapid.Check(t, func(t *rapid.T) {
		f := New()
		var all []*modelled
		key := rapid.StringMatching(`[a-d]`)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				keys := rapid.SliceOfN(key, 0, 3).Draw(t, "keys")
				all = append(all, &modelled{t: f.Ticket(keys...), keys: keys})
			case 1:
				k := key.Draw(t, "wake")
				f.Wake(k)
				for _, m := range all {
					for _, mk := range m.keys {
						m.woken = m.woken || mk == k && !m.closed
					}
				}
			case 2:
				if len(all) > 0 {
					m := rapid.SampledFrom(all).Draw(t, "close")
					m.t.Close()
					m.closed = true
				}
			}
			waiting := map[string]bool{}
			for i, m := range all {
				if woken(m.t) != m.woken {
					t.Fatalf("ticket %d with %v: woken is %v", i, m.keys, !m.woken)
				}
				for _, k := range m.keys {
					waiting[k] = waiting[k] || !m.woken && !m.closed
				}
			}
			n := 0
			for _, w := range waiting {
				if w {
					n++
				}
			}
			if f.Waiting() != n {
				t.Fatalf("%d keys, want %d", f.Waiting(), n)
			}
		}
	})
}

func BenchmarkTicket(b *testing.B) {
	f := New()
	b.ReportAllocs()
	for b.Loop() {
		f.Ticket("u:@alice:example").Close()
	}
}

// BenchmarkWake wakes a group of 50 among 2,000 who wait.
func BenchmarkWake(b *testing.B) {
	f := New()
	keys := make([]string, 2000)
	for i := range keys {
		keys[i] = "u:@user" + strconv.Itoa(i) + ":example"
	}
	for _, k := range keys {
		f.Ticket(k)
	}
	group := keys[:50]
	b.ReportAllocs()
	for b.Loop() {
		f.Wake(group...)
		for _, k := range group {
			f.Ticket(k)
		}
	}
}
