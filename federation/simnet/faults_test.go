package simnet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

const room = event.RoomID("!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")

// world is a Net with running peers that all are members of room. Inside
// testing/synctest, settle waits until nothing is under way.
type world struct {
	t     *testing.T
	net   *Net
	peers map[event.Server]*Peer
	recs  map[event.Server]*nettest.Recorder
	wg    sync.WaitGroup
}

func newWorld(t *testing.T, seed uint64, names ...event.Server) *world {
	t.Helper()
	w := &world{t: t, net: New(seed), peers: map[event.Server]*Peer{}, recs: map[event.Server]*nettest.Recorder{}}
	for _, s := range names {
		w.start(s, &nettest.Recorder{})
	}
	w.members(names...)
	synctest.Wait()
	return w
}

func (w *world) start(s event.Server, r *nettest.Recorder) *Peer {
	p := w.net.Add(s, key(s))
	w.peers[s], w.recs[s] = p, r
	w.wg.Go(func() {
		if err := p.Run(context.Background(), r); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	return p
}

func (w *world) members(names ...event.Server) {
	for _, s := range names {
		w.peers[s].SetRoom(room, []byte("salt"), names)
	}
}

func (w *world) publish(s event.Server, text string) {
	w.t.Helper()
	if err := w.peers[s].Publish(w.t.Context(), room, [][]byte{[]byte(text)}, nil); err != nil {
		w.t.Fatal(err)
	}
}

// settle waits for all frames and calls that are under way. Time is the
// bubble's: a minute passes when there is nothing else to do.
func (w *world) settle() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

func (w *world) close() {
	for _, p := range w.peers {
		p.Stop()
	}
	w.wg.Wait()
}

// texts lists the events that a node got, in order.
func (w *world) texts(s event.Server) []string {
	var texts []string
	for _, g := range w.recs[s].Gossip() {
		for _, pdu := range g.PDUs {
			texts = append(texts, string(pdu))
		}
	}
	return texts
}

// bubble runs f under testing/synctest with a world of peers.
func bubble(t *testing.T, names []event.Server, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, names...)
		defer w.close()
		f(t, w)
	})
}

var abc = []event.Server{"a", "b", "c"}

// transcript publishes on a bad network and tells what each node got.
func transcript(t *testing.T, seed uint64) (out string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, abc...)
		defer w.close()
		w.net.SetFaults(Faults{Loss: 0.3, Repeat: 0.3, MinDelay: time.Millisecond, MaxDelay: 500 * time.Millisecond})
		for i := range 60 {
			w.publish(abc[i%3], fmt.Sprintf("%d", i))
			time.Sleep(50 * time.Millisecond)
		}
		w.settle()
		for _, s := range abc {
			out += fmt.Sprintf("%s: %v\n", s, w.texts(s))
		}
	})
	return out
}

func TestSameSeedSameFaults(t *testing.T) {
	one, again, other := transcript(t, 1), transcript(t, 1), transcript(t, 2)
	if one != again {
		t.Errorf("seed 1 gave\n%sand then\n%s", one, again)
	}
	if one == other {
		t.Errorf("seeds 1 and 2 both gave\n%s", one)
	}
}

func TestFaults(t *testing.T) {
	const sent = 1000
	// send publishes from a to b alone and returns what arrived.
	send := func(t *testing.T, w *world, f Faults) []string {
		w.net.SetFaults(f)
		for i := range sent {
			w.publish("a", fmt.Sprintf("%04d", i))
			time.Sleep(time.Millisecond)
		}
		w.settle()
		return w.texts("b")
	}
	between := func(t *testing.T, what string, n, low, high int) {
		t.Helper()
		if n < low || n > high {
			t.Errorf("%s: %d, not %d to %d", what, n, low, high)
		}
	}
	ab := []event.Server{"a", "b"}
	t.Run("none", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			got := send(t, w, Faults{})
			if len(got) != sent || !slices.IsSorted(got) {
				t.Errorf("a perfect network delivered %d of %d, sorted: %v", len(got), sent, slices.IsSorted(got))
			}
			if n := len(w.recs["b"].Losses()); n != 0 {
				t.Errorf("%d losses were reported", n)
			}
		})
	})
	t.Run("loss", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			got := send(t, w, Faults{Loss: 0.3})
			between(t, "delivered", len(got), 600, 800)
			between(t, "losses noticed", len(w.recs["b"].Losses()), 0, 0)
		})
	})
	t.Run("noticed loss", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			got := send(t, w, Faults{Loss: 0.3, NoticeLoss: true})
			if n := len(w.recs["b"].Losses()); n != sent-len(got) {
				t.Errorf("%d of %d lost frames were reported", n, sent-len(got))
			}
			if n := len(w.recs["a"].Losses()); n != 0 {
				t.Errorf("%d losses were reported to the sender", n)
			}
			if w.recs["b"].Losses()[0] != room {
				t.Errorf("loss reported for %s", w.recs["b"].Losses()[0])
			}
		})
	})
	t.Run("dead", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			if got := send(t, w, Faults{Loss: 1}); len(got) != 0 {
				t.Errorf("%d frames arrived", len(got))
			}
			if got, err := w.peers["a"].Call(t.Context(), "b", "heads", []byte("x")); err != nil || string(got) != "x" {
				t.Errorf("Call = %q, %v: calls do not depend on gossip", got, err)
			}
		})
	})
	t.Run("repeat", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			got := send(t, w, Faults{Repeat: 0.3})
			between(t, "delivered", len(got), 1200, 1400)
			slices.Sort(got)
			if n := len(slices.Compact(got)); n != sent {
				t.Errorf("%d of %d arrived", n, sent)
			}
		})
	})
	t.Run("reordering", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			got := send(t, w, Faults{MinDelay: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond})
			if slices.IsSorted(got) {
				t.Error("nothing was overtaken")
			}
			slices.Sort(got)
			if n := len(slices.Compact(got)); n != sent {
				t.Errorf("%d of %d arrived", n, sent)
			}
		})
	})
	t.Run("delay", func(t *testing.T) {
		bubble(t, ab, func(t *testing.T, w *world) {
			w.net.SetFaults(Faults{MinDelay: 3 * time.Second})
			w.publish("a", "x")
			time.Sleep(3*time.Second - time.Nanosecond)
			synctest.Wait()
			if got := w.texts("b"); len(got) != 0 {
				t.Error("arrived too early")
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if got := w.texts("b"); len(got) != 1 {
				t.Error("did not arrive in time")
			}
			start := time.Now()
			if _, err := w.peers["a"].Call(t.Context(), "b", "heads", nil); err != nil || time.Since(start) != 6*time.Second {
				t.Errorf("Call took %v, not there and back, %v", time.Since(start), err)
			}
		})
	})
}

func TestCallLoss(t *testing.T) {
	bubble(t, []event.Server{"a", "b"}, func(t *testing.T, w *world) {
		handled := 0
		w.recs["b"].Answer = func(_ context.Context, _ event.Server, _ string, body []byte) ([]byte, error) {
			handled++ // calls come one after the other here
			return body, nil
		}
		w.net.SetFaults(Faults{CallLoss: 0.5, MaxDelay: time.Millisecond})
		failed := 0
		for range 1000 {
			body, err := w.peers["a"].Call(t.Context(), "b", "send", []byte("x"))
			if err != nil {
				failed++
				if !errors.Is(err, event.ErrUnreachable) || body != nil {
					t.Fatalf("Call = %q, %v", body, err)
				}
			}
			synctest.Wait()
		}
		if failed < 430 || failed > 570 {
			t.Errorf("%d of 1000 calls failed", failed)
		}
		// Half of those that failed did their work.
		if lost := 1000 - handled; lost < 190 || lost > 310 {
			t.Errorf("%d of 1000 requests were lost, %d calls failed", lost, failed)
		}
	})
}

func TestPartition(t *testing.T) {
	names := []event.Server{"a", "b", "c", "d", "e"}
	bubble(t, names, func(t *testing.T, w *world) {
		reach := func(want string) {
			t.Helper()
			var got []string
			for _, x := range names {
				for _, y := range names {
					_, err := w.peers[x].Call(t.Context(), y, "heads", nil)
					if err == nil && x < y {
						got = append(got, string(x+y))
					}
					if err != nil && !errors.Is(err, event.ErrUnreachable) {
						t.Errorf("Call: %v", err)
					}
				}
			}
			if s := strings.Join(got, " "); s != want {
				t.Errorf("can reach each other: %s; want %s", s, want)
			}
		}
		reach("ab ac ad ae bc bd be cd ce de")
		w.net.Partition([]event.Server{"a", "b"}, []event.Server{"c"})
		reach("ab de")
		w.publish("a", "left")
		w.publish("d", "right")
		w.settle()
		for s, want := range map[event.Server]string{"a": "[]", "b": "[left]", "c": "[]", "d": "[]", "e": "[right]"} {
			if got := fmt.Sprint(w.texts(s)); got != want {
				t.Errorf("%s got %s, want %s", s, got, want)
			}
		}
		w.net.Unlink("a", "b")
		reach("de")
		w.net.Heal()
		reach("ac ad ae bc bd be cd ce de")
		w.net.Link("a", "b")
		reach("ab ac ad ae bc bd be cd ce de")
		synctest.Wait()
		if got := fmt.Sprint(w.recs["a"].Changes("b"), w.recs["a"].Changes("c"), w.recs["d"].Changes("e")); got != "[true false true] [true false true] [true]" {
			t.Errorf("reported: %s", got)
		}
		w.publish("a", "healed")
		w.settle()
		for _, s := range names[1:] {
			if got := w.texts(s); !slices.Contains(got, "healed") || slices.Contains(got, "left") && s != "b" {
				t.Errorf("%s got %v: what was lost stays lost", s, got)
			}
		}
	})
}

// A cut loses what is on its way, and breaks calls off.
func TestCutWhileUnderWay(t *testing.T) {
	bubble(t, []event.Server{"a", "b"}, func(t *testing.T, w *world) {
		w.net.SetFaults(Faults{MinDelay: time.Second, NoticeLoss: true})
		w.publish("a", "x")
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err = w.peers["a"].Call(t.Context(), "b", "heads", nil)
		}()
		synctest.Wait()
		w.net.Unlink("a", "b")
		<-done
		if !errors.Is(err, event.ErrUnreachable) {
			t.Errorf("Call = %v", err)
		}
		w.settle()
		if got := w.texts("b"); len(got) != 0 {
			t.Errorf("b got %v", got)
		}
		if n := len(w.recs["b"].Losses()); n != 1 {
			t.Errorf("%d losses were reported", n)
		}
	})
}

func TestStopAndNextLife(t *testing.T) {
	bubble(t, abc, func(t *testing.T, w *world) {
		first := w.peers["b"]
		w.net.SetFaults(Faults{MinDelay: time.Second})
		w.publish("a", "under way")
		first.Stop()
		synctest.Wait()
		if w.recs["a"].Connected("b") {
			t.Error("a was not told that b is gone")
		}
		if err := first.Publish(t.Context(), room, nil, nil); !errors.Is(err, event.ErrUnreachable) {
			t.Errorf("Publish after the end: %v", err)
		}
		if _, err := first.Call(t.Context(), "a", "heads", nil); !errors.Is(err, event.ErrUnreachable) {
			t.Errorf("Call after the end: %v", err)
		}
		if err := first.Run(t.Context(), &nettest.Recorder{}); err == nil {
			t.Error("Run after the end started again")
		}
		r := w.recs["b"]
		w.start("b", r)
		synctest.Wait()
		w.publish("a", "not a member yet")
		w.settle()
		if got := w.texts("b"); len(got) != 0 {
			t.Errorf("the next life remembers its rooms: it got %v", got)
		}
		w.members(abc...)
		w.publish("a", "welcome")
		w.settle()
		if got := w.texts("b"); !slices.Equal(got, []string{"welcome"}) {
			t.Errorf("b got %v", got)
		}
		if !w.recs["a"].Connected("b") || !r.Connected("a") {
			t.Error("the next life is not connected")
		}
		// The old life has no part in the new one.
		first.SetRoom(room, []byte("salt"), nil)
		first.Stop()
		w.publish("a", "still here")
		w.settle()
		if got := w.texts("b"); !slices.Contains(got, "still here") {
			t.Errorf("b got %v", got)
		}
	})
}

func TestAddTwicePanics(t *testing.T) {
	bubble(t, []event.Server{"a"}, func(t *testing.T, w *world) {
		defer func() {
			if recover() == nil {
				t.Error("Add of a running node did not panic")
			}
		}()
		w.net.Add("a", key("a"))
	})
}

func TestInject(t *testing.T) {
	bubble(t, abc, func(t *testing.T, w *world) {
		w.recs["b"].Verdict = func(g nettest.Gossip) error {
			if strings.HasPrefix(string(g.EDU), "bad") || len(g.PDUs) > 0 && strings.HasPrefix(string(g.PDUs[0]), "bad") {
				return fmt.Errorf("%w: bad", event.ErrInvalid)
			}
			return nil
		}
		inject := func(text string) {
			t.Helper()
			if err := w.peers["c"].Inject("b", room, [][]byte{[]byte(text)}, nil); err != nil {
				t.Fatal(err)
			}
			w.settle()
		}
		// c knows nothing of the room, which no correct node would publish to.
		w.peers["c"].SetRoom(room, nil, nil)
		inject("bad " + strings.Repeat("x", 1<<20))
		inject("good")
		if err := w.peers["c"].InjectEphemeral("b", room, []byte("bad")); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if n := w.peers["b"].Refused("c"); n != 2 {
			t.Errorf("%d frames of c were refused", n)
		}
		if got := w.texts("a"); !slices.Equal(got, []string{"good"}) {
			t.Errorf("handed on: %.50q", got)
		}
		// Who is no member is not heard.
		w.net.SetFaults(Faults{NoticeLoss: true})
		w.members("a", "b")
		inject("outsider")
		if got := w.texts("b"); slices.Contains(got, "outsider") {
			t.Error("a frame from a server that is no member was taken")
		}
		if n := len(w.recs["b"].Losses()); n != 1 {
			t.Errorf("%d losses were reported for it", n)
		}
		w.net.Unlink("b", "c")
		if err := w.peers["c"].Inject("b", room, nil, nil); !errors.Is(err, event.ErrUnreachable) {
			t.Errorf("Inject without a connection: %v", err)
		}
	})
}

// A frame that is seen again after two minutes is news.
func TestSeenFor(t *testing.T) {
	bubble(t, []event.Server{"a", "b"}, func(t *testing.T, w *world) {
		f := newFrame(room, "salt", [][]byte{[]byte("x")}, nil, nil)
		send := func(want int) {
			t.Helper()
			w.net.mu.Lock()
			w.net.transmit("a", w.peers["b"], f)
			w.net.mu.Unlock()
			synctest.Wait()
			if got := len(w.texts("b")); got != want {
				t.Errorf("arrived %d times, want %d", got, want)
			}
		}
		send(1)
		time.Sleep(seenFor - time.Nanosecond)
		send(1)
		time.Sleep(time.Nanosecond)
		send(2)
	})
}

// Records of connected peers never run out; those of others do.
func TestRecordsRunOut(t *testing.T) {
	bubble(t, abc, func(t *testing.T, w *world) {
		w.net.Unlink("a", "b")
		time.Sleep(recordLife + time.Second)
		now := time.Now().UnixMilli()
		if _, err := w.peers["a"].Key("b", "ed25519:1", now); !errors.Is(err, event.ErrUnknownKey) {
			t.Errorf("Key of a record that has run out: %v", err)
		}
		if _, err := w.peers["a"].Key("b", "ed25519:1", now-recordLife.Milliseconds()); err != nil {
			t.Errorf("Key for a time that the record covers: %v", err)
		}
		if _, err := w.peers["a"].Key("c", "ed25519:1", now); err != nil {
			t.Errorf("Key of a connected peer: %v", err)
		}
		if _, err := w.peers["c"].Key("b", "ed25519:1", now); err != nil {
			t.Errorf("Key of a connected peer: %v", err)
		}
		w.peers["a"].Learn(w.peers["c"].Records([]event.Server{"b"}))
		if _, err := w.peers["a"].Key("b", "ed25519:1", now); err != nil {
			t.Errorf("Key of a newer record, learned from another node: %v", err)
		}
	})
}

// A handler that fails to load its records ends Run.
type broken struct{ nettest.Recorder }

func (*broken) LoadRecords() ([][]byte, error) { return nil, errors.New("disk on fire") }

func TestLoadRecordsFails(t *testing.T) {
	p := New(1).Add("a", key("a"))
	if err := p.Run(t.Context(), &broken{}); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("Run = %v", err)
	}
}

func BenchmarkGossip(b *testing.B) {
	net := New(1)
	var names []event.Server
	var peers []*Peer
	var wg sync.WaitGroup
	got := make(chan struct{}, 1024)
	for i := range 10 {
		names = append(names, name(i))
	}
	for _, s := range names {
		p := net.Add(s, key(s))
		p.SetRoom(room, nil, names)
		peers = append(peers, p)
		wg.Go(func() {
			if err := p.Run(context.Background(), &nettest.Recorder{Verdict: func(nettest.Gossip) error {
				got <- struct{}{}
				return nil
			}}); err != nil {
				b.Error(err)
			}
		})
	}
	nettest.Wait(b, "all links", func() bool {
		for _, p := range peers {
			for _, peer := range p.Peers() {
				if peer.State != "connected" {
					return false
				}
			}
		}
		return true
	})
	i := 0
	for b.Loop() {
		i++
		if err := peers[i%10].Publish(b.Context(), room, [][]byte{fmt.Appendf(nil, "%d", i)}, nil); err != nil {
			b.Fatal(err)
		}
		for range 9 {
			<-got
		}
	}
	for _, p := range peers {
		p.Stop()
	}
	wg.Wait()
}
