package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// What a message is worth to the mesh (protocol C12.6).
func TestGossipVerdicts(t *testing.T) {
	w, a, b, alice, _, r := pair(t, 40)
	w.agree(r, acme, birch)
	w.net.Unlink(acme, birch)
	var raws [][]byte
	for range 3 {
		e, err := a.draftFor(alice, r, "m.room.message", message("x"))
		w.must(err)
		w.must(a.update(ctx0, func(tx *store.Tx, fx *effects) error {
			_, err := a.commit(tx, fx, e, how{ApplyOptions: store.ApplyOptions{Local: true}})
			return err
		}))
		raws = append(raws, e.JSON())
	}
	if err := b.HandleGossip(ctx0, acme, r, raws[:1], nil); err != nil {
		t.Errorf("a new event: %v", err)
	}
	if err := b.HandleGossip(ctx0, acme, r, raws[:1], nil); err == nil || errors.Is(err, event.ErrInvalid) {
		t.Errorf("a known event: %v", err)
	}
	if err := b.HandleGossip(ctx0, acme, r, raws[:2], nil); err != nil {
		t.Errorf("a known and a new event: %v", err)
	}
	if err := b.HandleGossip(ctx0, acme, r, [][]byte{[]byte("{}"), raws[2]}, nil); !errors.Is(err, event.ErrInvalid) {
		t.Errorf("a bad and a new event: %v", err)
	}
	last, err := event.Parse(raws[2])
	w.must(err)
	b.has(last.ID()) // the good one of a bad message was taken
	if err := b.HandleGossip(ctx0, acme, "!"+r[1:10]+"x", raws, nil); err == nil || errors.Is(err, event.ErrInvalid) {
		t.Errorf("an unknown room: %v", err)
	}
	if err := b.HandleGossip(ctx0, acme, r, slices.Repeat(raws[:1], maxGossip+1), nil); !errors.Is(err, event.ErrInvalid) {
		t.Errorf("too many events: %v", err)
	}
	// An event of tomorrow is taken but not handed on (protocol C12.7).
	body := last.Body
	body.Time += 2 * time.Hour.Milliseconds()
	future := signed(t, body, testKey(acme))
	if err := b.HandleGossip(ctx0, acme, r, [][]byte{future.JSON()}, nil); err == nil || errors.Is(err, event.ErrInvalid) {
		t.Errorf("an event of tomorrow: %v", err)
	}
	b.has(future.ID())
}

// A full queue is no verdict, and loses nothing.
func TestFullQueue(t *testing.T) {
	w, a, b, alice, _, r := pair(t, 41)
	w.agree(r, acme, birch)
	var events []arrival
	body, err := a.draftFor(alice, r, "m.room.message", message("x"))
	w.must(err)
	for i := range maxQueue + 1 {
		x := body.Body
		x.Time += int64(i)
		events = append(events, arrival{Event: signed(t, x, testKey(acme)), from: acme})
	}
	lonely := newInbox(b.Node) // nobody serves it
	w.must(lonely.put(r, events[:maxQueue]))
	w.must(lonely.put(r, events[:1])) // known
	if err := lonely.put(r, events[maxQueue:]); !errors.Is(err, errFull) {
		t.Errorf("put: %v", err)
	}
}

// Events that overtake each other, are repeated and lost arrive.
func TestReordering(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 42)
	w.net.SetFaults(simnet.Faults{MaxDelay: 10 * time.Millisecond, Repeat: 0.3, Loss: 0.05})
	var x, y event.ID
	for range 200 {
		x, y = a.say(alice, r, "a"), b.say(bob, r, "b")
	}
	b.has(x)
	a.has(y)
	w.agree(r, acme, birch)
}

// Heads that a peer names and that never come are asked for.
func TestNamedHeadsAreFetched(t *testing.T) {
	w := newWorld(t, 43)
	w.every = time.Hour // nothing else finds them
	a, b := w.add(acme), w.add(birch)
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch)
	w.net.SetFaults(simnet.Faults{Loss: 1})
	id := a.say(alice, r, "lost")
	w.net.SetFaults(simnet.Faults{})
	if err := b.HandleGossip(ctx0, acme, r, nil, []event.ID{id}); err == nil {
		t.Error("a message without events was handed on")
	}
	b.has(id)
}

// A server whose records are not known: its events wait until the sender has
// been asked for them.
func TestUnknownKeyIsAskedFor(t *testing.T) {
	w := newWorld(t, 44, acme)
	w.every = time.Hour
	a := w.nodes[acme]
	alice := a.user("alice")
	w.net.Unlink(birch, cedar) // so that birch hears of cedar through acme alone
	b, c := w.add(birch), w.addOn(cedar, memoryStore(t, cedar))
	bob, carol := b.user("bob"), c.user("carol")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	b.kill()
	w.wait("a join", func() error { return c.Join(ctx0, carol, r, []event.Server{acme}, nil) })
	id := c.say(carol, r, "hello")
	a.has(id)
	w.net.Unlink(acme, birch)
	b.start() // its network forgets what it knew of cedar
	w.wait("a forgetful network", func() error {
		if _, err := b.peer.Key(cedar, "ed25519:test", time.Now().UnixMilli()); err == nil {
			return errors.New("the key of cedar is known")
		}
		return nil
	})
	w.net.Link(acme, birch)
	b.has(id)
	w.agree(r, acme, birch, cedar)
	late := c.say(carol, r, "and again")
	b.has(late)
}

// An event that refers to what was before the join is ordinary.
func TestPrevBelowTheHorizon(t *testing.T) {
	w := newWorld(t, 45, acme, birch, cedar)
	a, b, c := w.nodes[acme], w.nodes[birch], w.nodes[cedar]
	alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(c.Join(ctx0, carol, r, []event.Server{acme}, nil))
	w.agree(r, acme, cedar)
	w.net.Partition([]event.Server{acme, birch}, []event.Server{cedar})
	fork := c.say(carol, r, "concurrent with the join") // on what is below birch's horizon
	for range 5 {
		a.say(alice, r, "before the join")
	}
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	one := b.say(bob, r, "hello")
	w.net.Heal()
	b.has(fork)
	c.has(one)
	w.agree(r, acme, birch, cedar)
	b.kill()
	b.start()
	two := c.say(carol, r, "on both")
	b.has(two)
	w.agree(r, acme, birch, cedar)
}

// More leaves than one exchange carries.
func TestManyLeaves(t *testing.T) {
	w := newWorld(t, 46)
	w.every = time.Hour // one comparison must do
	a, b := w.add(acme), w.add(birch)
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch)
	w.net.Unlink(acme, birch)
	ground, err := a.draftFor(alice, r, "m.room.message", message("x"))
	w.must(err)
	w.must(a.update(ctx0, func(tx *store.Tx, fx *effects) error {
		for i := range 3*maxLeaves + 7 {
			x := ground.Body
			x.Time += int64(i)
			if _, err := a.commit(tx, fx, signed(t, x, testKey(acme)), how{}); err != nil {
				return err
			}
		}
		return nil
	}))
	w.net.Link(acme, birch)
	w.agree(r, acme, birch)
	last := b.say(bob, r, "with ten of them")
	a.has(last)
	w.agree(r, acme, birch)

	// Nobody speaks: the two join them, each when it is its turn.
	w.merge, w.every = 0, 50*time.Millisecond
	for _, m := range []*member{a, b} {
		m.kill()
		m.start()
	}
	a.say(alice, r, "the last word")
	w.wait("few heads", func() error {
		for _, m := range []*member{a, b} {
			if p, err := m.picture(r); err != nil || len(p.heads) > manyHeads {
				return fmt.Errorf("%s: %d heads, %w", m.name, len(p.heads), err)
			}
		}
		return same(a, b, r)
	})
}

// The end of Run ends everything, and what is called afterwards fails cleanly.
func TestAfterTheEnd(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 47)
	w.agree(r, acme, birch)
	b.kill()
	if b.Ready() {
		t.Error("ready after the end")
	}
	w.must(b.store.Close())
	if _, err := b.Send(ctx0, SendRequest{User: bob, Room: r, Type: "m.room.message", Content: message("x")}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if err := b.HandleGossip(ctx0, acme, r, [][]byte{[]byte("{}")}, nil); err == nil {
		t.Error("gossip was taken")
	}
	if _, err := b.HandleCall(ctx0, acme, CallHeads, []byte(`{"rooms":[{"room_id":"`+string(r)+`"}]}`)); err == nil {
		t.Error("a call was answered")
	}
	b.HandlePeer(acme, true)
	b.HandleLoss("")
	if err := b.Run(context.Background()); err == nil {
		t.Error("ran twice")
	}
	a.say(alice, r, "alone")
}
