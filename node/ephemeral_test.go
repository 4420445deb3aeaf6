package node

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
)

const (
	typRoom = event.RoomID("!a")
	typUser = event.UserID("@u:x")
)

func TestTypingExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ty := newTyping()
		var mu sync.Mutex
		var woken []time.Duration
		start := time.Now()
		ty.wake = func(event.RoomID) {
			mu.Lock()
			defer mu.Unlock()
			woken = append(woken, time.Since(start))
		}
		ctx, stop := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { ty.run(ctx) })
		ty.set(typRoom, typUser, 30*time.Second)
		synctest.Wait()
		ty.set(typRoom, "@v:x", 10*time.Second) // an earlier deadline than the one run waits for
		time.Sleep(5 * time.Second)
		if ty.set(typRoom, typUser, 30*time.Second) {
			t.Error("a prolonged notice counts as a change")
		}
		time.Sleep(time.Minute)
		stop()
		done.Wait()
		if want := []time.Duration{10 * time.Second, 35 * time.Second}; !slices.Equal(woken, want) {
			t.Errorf("woken after %v, want %v", woken, want)
		}
	})
}

func TestTypingForgets(t *testing.T) {
	ty := newTyping()
	now := time.Now()
	ty.now = func() time.Time { return now }
	ty.set(typRoom, typUser, time.Second)
	var next Token
	rooms := []event.RoomID{typRoom}
	ty.changes(rooms, Token{}, &next)
	now = now.Add(time.Second)
	if ch, _ := ty.expire(); !slices.Equal(ch, rooms) {
		t.Fatalf("expired: %v", ch)
	}
	now = now.Add(typingForget)
	ty.expire()
	if len(ty.rooms) != 0 {
		t.Fatal("an empty list is kept")
	}
	// A client that believes that somebody is typing is told the truth.
	var after Token
	lists := ty.changes(rooms, next, &after)
	if l, ok := lists[typRoom]; !ok || len(l) != 0 || after.epoch != 0 {
		t.Fatalf("%v, %+v", lists, after)
	}
}

// TestTypingAcrossRestart: a token of another run makes the client learn who is
// typing now, whatever it was told then.
func TestTypingAcrossRestart(t *testing.T) {
	before, after := newTyping(), newTyping()
	after.epoch = before.epoch + 1
	before.set(typRoom, typUser, time.Minute)
	var told Token
	before.changes([]event.RoomID{typRoom}, Token{}, &told)
	if told.epoch != before.epoch {
		t.Fatal("the token does not say that somebody is typing")
	}
	var next Token
	lists := after.changes([]event.RoomID{typRoom}, told, &next)
	if l, ok := lists[typRoom]; !ok || len(l) != 0 {
		t.Fatalf("%v", lists)
	}
	if next.epoch != 0 {
		t.Error("nobody is typing, but the token says so")
	}
}

// TestTypingModel: a client that follows the changes always knows who is typing.
func TestTypingModel(t *testing.T) {
	rooms := []event.RoomID{"!a", "!b", "!c"}
	users := []event.UserID{"@a:x", "@b:x"}
	rapid.Check(t, func(t *rapid.T) {
		ty := newTyping()
		now := time.Now()
		ty.now = func() time.Time { return now }
		known := map[event.RoomID][]event.UserID{}
		var tok Token
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				ty.set(rapid.SampledFrom(rooms).Draw(t, "room"), rapid.SampledFrom(users).Draw(t, "user"),
					time.Duration(rapid.IntRange(0, 40).Draw(t, "ttl"))*time.Second)
			case 1:
				now = now.Add(time.Duration(rapid.IntRange(1, 1000).Draw(t, "pass")) * time.Second)
				ty.expire()
			case 2: // a restart
				if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
					epoch := ty.epoch
					ty = newTyping()
					ty.epoch = epoch + 1
					ty.now = func() time.Time { return now }
				}
			}
			if rapid.Bool().Draw(t, "sync") {
				var next Token
				for r, l := range ty.changes(rooms, tok, &next) {
					known[r] = l
				}
				tok = next
				for _, r := range rooms {
					var want []event.UserID
					if e := ty.rooms[r]; e != nil {
						want = e.users()
					}
					if !slices.Equal(known[r], want) {
						t.Fatalf("%s: the client knows %v, typing are %v", r, known[r], want)
					}
				}
			}
		}
	})
}

func TestTypingAnnounce(t *testing.T) {
	ty := newTyping()
	now := time.Now()
	ty.now = func() time.Time { return now }
	step := func(is bool, want bool, what string) {
		t.Helper()
		d := time.Duration(0)
		if is {
			d = 30 * time.Second
		}
		ty.set(typRoom, typUser, d)
		if got := ty.announce(typRoom, typUser, is); got != want {
			t.Errorf("%s: announce = %v", what, got)
		}
	}
	step(false, false, "an end without a beginning")
	step(true, true, "the first notice")
	step(true, false, "again at once")
	now = now.Add(typingEvery)
	step(true, true, "again after 5 s")
	step(false, true, "the end")
	step(false, false, "the end again")
}

func TestEDUWindow(t *testing.T) {
	w := eduWindow{seen: map[eduSource]*eduBits{}}
	step := func(seq uint64, want bool) {
		t.Helper()
		if got := w.fresh("x", "typing", seq); got != want {
			t.Errorf("%d: fresh = %v", seq, got)
		}
	}
	step(5000, true)
	step(5000, false)
	step(4999, true) // out of order
	step(4999, false)
	step(5000-eduWindowSize, false) // too old
	step(5001-eduWindowSize, true)
	step(5000+3*eduWindowSize, true)
	step(5000+3*eduWindowSize-1, true) // marks of the former window are gone
	step(5000+3*eduWindowSize-1, false)
	if !w.fresh("y", "typing", 5000) || !w.fresh("x", "receipt", 5000) {
		t.Error("origins and kinds share a window")
	}
	for i, kind := range []string{"a", "b", "c"} {
		if !w.fresh("x", kind, uint64(i)+1) {
			t.Error("an unknown kind")
		}
	}
	if len(w.seen) != 4 {
		t.Errorf("%d windows", len(w.seen))
	}
}

// TestEDUWindowNeverTwice: no number passes twice, and none within the window is lost.
func TestEDUWindowNeverTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := eduWindow{seen: map[eduSource]*eduBits{}}
		passed := map[uint64]bool{}
		var top uint64
		for _, seq := range rapid.SliceOfN(rapid.Uint64Range(1, 4*eduWindowSize), 1, 200).Draw(t, "numbers") {
			got := w.fresh("x", "k", seq)
			if got && passed[seq] {
				t.Fatalf("%d passed twice", seq)
			}
			if !got && !passed[seq] && seq+eduWindowSize > top {
				t.Fatalf("%d was lost, the largest is %d", seq, top)
			}
			passed[seq] = passed[seq] || got
			top = max(top, seq)
		}
	})
}
