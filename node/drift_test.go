package node

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// commitAll commits events as if a peer had sent them.
func (m *member) commitAll(events ...*event.Event) {
	m.world.t.Helper()
	for _, e := range events {
		m.world.must(m.update(ctx0, func(tx *store.Tx, fx *effects) error {
			_, err := m.commit(tx, fx, e, how{})
			return err
		}))
	}
}

// An event that its auth events refuse may be known before its place in the graph
// is. What stands on it is judged there as everywhere else.
func TestRefusedBeforeItsPlaceIsKnown(t *testing.T) {
	w, a, b, alice, _, r := pair(t, 60)
	w.agree(r, acme, birch)
	w.net.Unlink(acme, birch)
	prev, err := a.draftFor(alice, r, "m.room.message", message("ground"))
	w.must(err)
	body := prev.Body
	body.Prev, body.Sender, body.Content = []event.ID{prev.ID()}, "@mallory:acme", message("refused")
	refused := signed(t, body, testKey(acme))
	body.Prev, body.Sender, body.Content = []event.ID{refused.ID()}, alice, message("on a refused one")
	above := signed(t, body, testKey(acme))

	// birch hears of it as an auth event of something, before what it stands on.
	w.must(b.keep(ctx0, r, []received{{Event: refused}}))
	if st, err := b.status(refused.ID()); err != nil || st == store.Accepted {
		t.Fatalf("status %v, %v", st, err)
	}
	w.must(b.store.View(func(tx *store.Tx) error {
		f, err := tx.Lookup(refused.ID())
		if err == nil && !f.Rejected {
			t.Error("an auth event that was refused counts as allowed")
		}
		return err
	}))
	for _, m := range []*member{a, b} {
		m.commitAll(prev, refused, above)
		if st, err := m.status(refused.ID()); err != nil || st != store.Rejected {
			t.Errorf("%s: status %v, %v", m.name, st, err)
		}
		if st, err := m.status(above.ID()); err != nil || st != store.Accepted {
			t.Errorf("%s: what stands on it has status %v, %v", m.name, st, err)
		}
	}
	w.net.Link(acme, birch)
	w.agree(r, acme, birch)
}

// The room id covers the create event but not its signature. A resident that hands
// over a copy with a bad one is not believed: what a node keeps it hands on.
func TestJoinChecksTheCreateEvent(t *testing.T) {
	w := newWorld(t, 61, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	e := w.addEvil("evil")
	f := e.room()
	bad := f.template()
	var raw map[string]json.RawMessage
	w.must(json.Unmarshal(f.create.JSON(), &raw))
	raw["signatures"] = json.RawMessage(`{"evil":{"ed25519:test":"` + strings.Repeat("A", 86) + `"}}`)
	bad.Create = marshalled(raw)
	e.call = func(method string, body []byte) ([]byte, error) {
		switch method {
		case CallMakeJoin:
			return json.Marshal(bad)
		case CallSendJoin:
			var req sendJoinRequest
			if err := json.Unmarshal(body, &req); err != nil {
				return nil, err
			}
			return json.Marshal(f.answer(req.Event))
		}
		return nil, refuse(codeNotFound, "no")
	}
	if err := a.Join(ctx0, alice, f.create.Room, []event.Server{"evil"}, nil); err == nil {
		t.Error("joined with a create event that nobody signed")
	}
	if _, err := a.picture(f.create.Room); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the room is there: %v", err)
	}
}

// A state event that was redacted before a server joined can be handed on by that
// server, whose graph does not hold the redaction.
func TestJoinThroughWhoHoldsRedactedState(t *testing.T) {
	w := newWorld(t, 62, acme, birch, cedar)
	a, b, c := w.nodes[acme], w.nodes[birch], w.nodes[cedar]
	alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	topic := a.set(alice, r, typeTopic, "", `{"topic":"regretted"}`)
	_, err := a.Send(ctx0, SendRequest{User: alice, Room: r, Type: typeRedaction, Content: marshalled(map[string]any{"redacts": topic})})
	w.must(err)
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	a.kill()
	w.must(c.Join(ctx0, carol, r, []event.Server{birch}, nil))
	if e := c.stateEvent(r, typeTopic, ""); e == nil || string(e.Content) != "{}" {
		t.Errorf("topic %v", e)
	}
	c.say(carol, r, "here")
	w.agree(r, birch, cedar)
}

// An invite that the room does not know, because the inviter could not commit it,
// stands beside the graph. It can be rejected when the server is in the room for
// another user.
func TestRejectInviteBesideTheGraph(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 63)
	ben := b.user("ben")
	w.agree(r, acme, birch)
	w.must(b.Leave(ctx0, bob, r, ""))
	a.becomes(r, bob, leave)
	var e *event.Event
	var req inviteRequest
	w.must(a.store.View(func(tx *store.Tx) (err error) {
		if e, err = a.draftInvite(tx, alice, r, ben, nil); err == nil {
			req, err = a.inviteRequest(tx, e)
		}
		return err
	}))
	if _, err := b.HandleCall(ctx0, acme, CallInvite, mustJSON(t, req)); err != nil {
		t.Fatal(err)
	}
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	if row := b.row(r, ben); row.Membership != invite {
		t.Fatalf("row %+v", row)
	}
	w.must(b.Leave(ctx0, ben, r, ""))
	if row := b.row(r, ben); row.Membership != leave {
		t.Errorf("after the rejection: %s", row.Membership)
	}
}
