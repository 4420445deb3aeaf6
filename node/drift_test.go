package node

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// A server that left a room with all its history and came back holds a gap like
// every other one that joins: what lies in it and is referred to later is fetched.
func TestCreatorComesBackToAGap(t *testing.T) {
	w := newWorld(t, 64, acme, birch, cedar)
	a, b, c := w.nodes[acme], w.nodes[birch], w.nodes[cedar]
	alice, bob, carol := a.user("alice"), b.user("bob"), c.user("carol")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(c.Join(ctx0, carol, r, []event.Server{acme}, nil))
	w.must(a.Leave(ctx0, alice, r, ""))
	c.becomes(r, alice, leave)
	c.say(carol, r, "while acme is away")
	w.must(b.Join(ctx0, bob, r, []event.Server{cedar}, nil)) // its graph begins in the gap
	w.agree(r, birch, cedar)
	w.net.Unlink(acme, cedar)
	w.net.Unlink(birch, cedar)
	late := c.say(carol, r, "at the same time as acme comes back")
	w.must(a.Join(ctx0, alice, r, []event.Server{birch}, nil))
	a.kill() // what it remembers of the gap must not come from memory alone
	a.start()
	w.net.Link(acme, cedar)
	w.net.Link(birch, cedar)
	a.has(late)
	back := a.say(alice, r, "back")
	b.has(back)
	c.has(back)
	w.agree(r, acme, birch, cedar)
}

// A peer that always has one more page is not followed for ever.
func TestEndlessPages(t *testing.T) {
	w, a, _, alice, _, r := pair(t, 65)
	e := w.addEvil("evil")
	c, err := a.load(r, []event.ID{a.say(alice, r, "known")}, 1, maxPage)
	w.must(err)
	page := mustJSON(t, missingAnswer{Events: slices.Repeat(raws(c.events), maxPageIDs), Rest: 1})
	calls := 0
	e.call = func(string, []byte) ([]byte, error) {
		calls++
		return page, nil
	}
	x := &wish{room: r, want: []event.ID{e.room().member.ID()}}
	for more := true; more && calls < 1000; {
		more, err = a.page(ctx0, "evil", x)
		w.must(err)
	}
	if limit := maxGap / maxPageIDs; calls > limit {
		t.Errorf("%d pages without anything new, more than %d", calls, limit)
	}
}

// Who is not in a room can hand over a leave of its own user, but have no more
// stored or fetched by it than any stranger.
func TestDirectLeaveOfAStranger(t *testing.T) {
	w, a, _, alice, _, r := pair(t, 66)
	e := w.addEvil("evil")
	var pages atomic.Int64
	e.call = func(method string, _ []byte) ([]byte, error) {
		if method != CallMissing {
			return nil, refuse(codeNotFound, "no")
		}
		pages.Add(1)
		return mustJSON(t, missingAnswer{Events: pdus{e.room().create.JSON()}, Rest: 1}), nil
	}
	ground, err := a.draftFor(alice, r, "m.room.message", message("x"))
	w.must(err)
	eve := "@eve:evil"
	body := ground.Body
	body.Type, body.StateKey, body.Sender, body.Content = typeMember, &eve, event.UserID(eve), json.RawMessage(`{"membership":"leave"}`)
	here := e.sign(body) // refused by the rules: eve was never there
	body.Prev = []event.ID{ground.ID()}
	nowhere := e.sign(body)
	for _, x := range []*event.Event{here, nowhere} {
		raw, err := e.out.Call(ctx0, acme, CallSend, mustJSON(t, sendRequest{Room: r, Events: pdus{x.JSON()}}))
		w.must(err)
		var answer sendAnswer
		w.must(json.Unmarshal(raw, &answer))
		if len(answer.Codes) != 1 || answer.Codes[0] == "" {
			t.Errorf("%s was taken: %v", x.ID(), answer.Codes)
		}
		if _, err := a.status(x.ID()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s is stored: %v", x.ID(), err)
		}
	}
	w.wait("the end of the fetch", func() error {
		a.peers.mu.Lock()
		defer a.peers.mu.Unlock()
		if p := a.peers.get("evil"); pages.Load() == 0 || p.busy {
			return errors.New("busy")
		}
		return nil
	})
	if n := pages.Load(); n > strangerPages {
		t.Errorf("%d pages were fetched, more than %d", n, strangerPages)
	}
}

// A parcel that a peer cannot take yet does not hold up those behind it.
func TestParcelThatIsNotTaken(t *testing.T) {
	w := newWorld(t, 67, acme)
	a := w.nodes[acme]
	e := w.addEvil("evil")
	var good atomic.Int64
	e.call = func(method string, body []byte) ([]byte, error) {
		if method != CallSend {
			return nil, refuse(codeNotFound, "no")
		}
		if strings.Contains(string(body), "poison") {
			return mustJSON(t, sendAnswer{Codes: []string{codeRetry}}), nil
		}
		good.Add(1)
		return mustJSON(t, sendAnswer{Codes: []string{""}}), nil
	}
	a.peers.send(parcel{to: "evil", method: CallSend, body: []byte(`"poison"`)})
	for i := range 3 {
		a.peers.send(parcel{to: "evil", method: CallSend, body: []byte(`"good"`)})
		w.wait("the delivery", func() error {
			if good.Load() != int64(i+1) {
				return errors.New("not delivered")
			}
			return nil
		})
	}
	a.peers.mu.Lock()
	defer a.peers.mu.Unlock()
	if k := len(a.peers.get("evil").parcels); k != 1 {
		t.Errorf("%d parcels wait, not the one that was not taken", k)
	}
}

// A member cannot cut a server that joined late off from the others by events that
// stand on a past it made up: the server that holds all of the past knows better.
func TestMadeUpPast(t *testing.T) {
	w, a, b, _, _, r := pair(t, 68)
	e := w.addEvil("evil")
	eve := event.UserID("@eve:evil")
	joined := e.join(acme, r, eve)
	b.becomes(r, eve, join)
	raw, err := e.out.Call(ctx0, acme, CallState, mustJSON(t, stateRequest{Room: r, Event: joined.ID()}))
	w.must(err)
	var state stateAnswer
	w.must(json.Unmarshal(raw, &state))
	state.State = append(state.State, joined.ID()) // the state after the join
	auth := []event.ID{b.stateEvent(r, typePowerLevels, "").ID(), joined.ID()}
	body := event.Body{
		Room: r, Type: "m.room.message", Sender: eve, Content: message("made up"), Auth: auth,
		Prev: []event.ID{e.room().member.ID()}, Depth: 3, Time: time.Now().UnixMilli(),
	}
	past := e.sign(body)
	body.Prev, body.Content = []event.ID{past.ID()}, message("on a made up past")
	edge := e.sign(body)
	e.call = func(method string, _ []byte) ([]byte, error) {
		if method != CallState {
			return nil, refuse(codeNotFound, "no")
		}
		x := state
		x.Event = past.JSON()
		return json.Marshal(x)
	}
	_, err = b.ingest(ctx0, source{peer: "evil", room: r}, pdus{edge.JSON()}, nil)
	w.must(err)
	if st, err := b.status(edge.ID()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("status %v, %v", st, err)
	}
	if _, err := a.status(edge.ID()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	w.agree(r, acme, birch)
}

// join makes a user of the evil server join a room, as the protocol has it.
func (e *evil) join(at event.Server, r event.RoomID, u event.UserID) *event.Event {
	e.t.Helper()
	raw, err := e.out.Call(ctx0, at, CallMakeJoin, mustJSON(e.t, makeJoinRequest{Room: r, User: u}))
	e.must(err)
	var x template
	e.must(json.Unmarshal(raw, &x))
	key := string(u)
	body := event.Body{
		Room: r, Type: typeMember, StateKey: &key, Sender: u, Content: json.RawMessage(`{"membership":"join"}`),
		Prev: x.Prev, Depth: x.Depth, Time: time.Now().UnixMilli(),
	}
	for _, a := range x.Auth {
		parsed, err := event.Parse(a)
		e.must(err)
		body.Auth = append(body.Auth, parsed.ID())
	}
	joined := e.sign(body)
	_, err = e.out.Call(ctx0, at, CallSendJoin, mustJSON(e.t, sendJoinRequest{Event: joined.JSON()}))
	e.must(err)
	return joined
}

// Whoever gets an event first cannot keep it from others by handing on a copy with
// a signature that names a key nobody knows.
func TestUnknownKeyDoesNotKeepGoodCopyOut(t *testing.T) {
	w, a, b, alice, _, r := pair(t, 69)
	w.agree(r, acme, birch)
	e := w.addEvil("evil")
	end := make(chan struct{})
	defer close(end)
	e.call = func(string, []byte) ([]byte, error) { // asked for the key, it does not answer
		<-end
		return nil, refuse(codeNotFound, "no")
	}
	good, err := a.draftFor(alice, r, "m.room.message", message("x"))
	w.must(err)
	bad := strings.Replace(string(good.JSON()), `"ed25519:test"`, `"ed25519:none"`, 1)
	if err := b.HandleGossip(ctx0, "evil", r, [][]byte{[]byte(bad)}, nil); err == nil || errors.Is(err, event.ErrInvalid) {
		t.Fatalf("a copy that cannot be checked: %v", err)
	}
	if err := b.HandleGossip(ctx0, acme, r, [][]byte{good.JSON()}, nil); err != nil {
		t.Fatalf("the good copy is not handed on: %v", err)
	}
	b.has(good.ID())
}
