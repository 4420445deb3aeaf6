package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// evil is a server that speaks the protocol by hand.
type evil struct {
	*world
	name event.Server
	key  event.SigningKey
	call func(method string, body []byte) ([]byte, error)
	out  interface {
		Call(ctx context.Context, to event.Server, method string, body []byte) ([]byte, error)
		Inject(to event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error
		Refused(from event.Server) int
	}
}

func (e *evil) HandleGossip(context.Context, event.Server, event.RoomID, [][]byte, []event.ID) error {
	return errNothingNew
}
func (e *evil) HandleEphemeral(context.Context, event.Server, event.RoomID, []byte) error {
	return errNothingNew
}
func (e *evil) HandleCall(_ context.Context, _ event.Server, method string, body []byte) ([]byte, error) {
	if e.call == nil {
		return nil, refuse(codeUnsupported, "nothing")
	}
	return e.call(method, body)
}
func (e *evil) HandlePeer(event.Server, bool)         {}
func (e *evil) HandleLoss(event.RoomID)               {}
func (e *evil) LoadRecords() ([][]byte, error)        { return nil, nil }
func (e *evil) SaveRecord(event.Server, []byte) error { return nil }
func (e *evil) sign(b event.Body) *event.Event        { return signed(e.t, b, e.key) }

func signed(t testing.TB, b event.Body, key event.SigningKey) *event.Event {
	t.Helper()
	if b.Prev == nil {
		b.Prev = []event.ID{}
	}
	if b.Auth == nil {
		b.Auth = []event.ID{}
	}
	e, err := event.Sign(b, key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// addEvil starts an evil server, connected to all.
func (w *world) addEvil(s event.Server) *evil {
	e := &evil{world: w, name: s, key: testKey(s)}
	p := w.net.Add(s, e.key)
	e.out = p
	ctx, cancel := context.WithCancel(ctx0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx, e)
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	w.wait("a connection", func() error {
		for _, x := range p.Peers() {
			if x.State != "connected" {
				return errors.New(x.State)
			}
		}
		return nil
	})
	return e
}

// facts is a room as the evil server makes it up: real events, signed by it.
type facts struct {
	create, member, rules *event.Event
}

func (e *evil) room() facts {
	none, me := "", "@eve:"+string(e.name)
	b := event.Body{Sender: event.UserID(me), Time: time.Now().UnixMilli(), Depth: 1}
	b.Type, b.StateKey, b.Content = typeCreate, &none, json.RawMessage(fmt.Sprintf(`{"room_version":"12","n":%d}`, rand.Int32()))
	create := e.sign(b)
	b.Room = create.ID().Room()
	b.Type, b.StateKey, b.Content = typeMember, &me, json.RawMessage(`{"membership":"join"}`)
	b.Prev = []event.ID{create.ID()}
	member := e.sign(b)
	b.Type, b.StateKey, b.Content = typeJoinRules, &none, json.RawMessage(`{"join_rule":"public"}`)
	b.Prev, b.Auth = []event.ID{member.ID()}, []event.ID{member.ID()}
	return facts{create, member, e.sign(b)}
}

func (f facts) template() template {
	return template{
		Version: roomVersion, Create: f.create.JSON(), Prev: []event.ID{f.rules.ID()}, Auth: pdus{f.rules.JSON()}, Depth: 4,
	}
}

func (f facts) answer(join json.RawMessage) joinAnswer {
	return joinAnswer{
		Event: join, State: []event.ID{f.create.ID(), f.member.ID(), f.rules.ID()}, Auth: []event.ID{},
		Events: pdus{f.create.JSON(), f.member.JSON(), f.rules.JSON()},
	}
}

// An evil resident cannot have anything signed but a join of the user who wants to
// join, into the room that was asked for (invariant I4).
func TestTemplateAttacks(t *testing.T) {
	w := newWorld(t, 20, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	e := w.addEvil("evil")
	f, other := e.room(), e.room()
	home := a.create(alice, CreateRequest{}) // a room of acme's own, to be signed into
	good := f.template()
	attacks := map[string]func(*template){
		"the create event of another room": func(t *template) { t.Create = other.create.JSON() },
		"no create event":                  func(t *template) { t.Create = nil },
		"a member event as create event":   func(t *template) { t.Create = f.member.JSON() },
		"another room version":             func(t *template) { t.Version = "11" },
		"no prev_events":                   func(t *template) { t.Prev = nil },
		"too many prev_events": func(t *template) {
			for range event.MaxPrev + 1 {
				t.Prev = append(t.Prev, f.member.ID())
			}
		},
		"prev_events that are no ids": func(t *template) { t.Prev = []event.ID{"$x"} },
		"an auth event of another room": func(t *template) {
			t.Auth = pdus{other.rules.JSON()}
		},
		"an auth event at a place of its own": func(t *template) { t.Auth = pdus{f.create.JSON()} },
		"an auth event twice":                 func(t *template) { t.Auth = pdus{f.rules.JSON(), f.rules.JSON()} },
		"an auth event that is not signed": func(t *template) {
			t.Auth = pdus{json.RawMessage(strings.Replace(string(f.rules.JSON()), "evil\":{\"ed25519", "evil2\":{\"ed25519", 1))}
		},
		"an authorising user of another server": func(t *template) { t.Via = "@x:acme" },
	}
	for name, attack := range attacks {
		var sent []byte
		e.call = func(method string, body []byte) ([]byte, error) {
			if method == CallMakeJoin {
				bad := good
				bad.Prev, bad.Auth = slices.Clone(good.Prev), slices.Clone(good.Auth)
				attack(&bad)
				return json.Marshal(bad)
			}
			sent = body
			return nil, refuse(codeForbidden, "no")
		}
		if err := a.Join(ctx0, alice, f.create.Room, []event.Server{"evil"}, nil); err == nil {
			t.Errorf("%s: joined", name)
		}
		if sent != nil {
			t.Errorf("%s: signed %s", name, sent)
		}
	}

	// What is not a fact of the template is ignored: a whole event in its place.
	e.call = func(method string, body []byte) ([]byte, error) {
		if method != CallMakeJoin && method != CallSendJoin {
			return nil, refuse(codeNotFound, "no")
		}
		if method == CallSendJoin {
			var req sendJoinRequest
			if err := json.Unmarshal(body, &req); err != nil {
				return nil, err
			}
			got, err := event.Parse(req.Event)
			if err != nil {
				t.Error(err)
				return nil, err
			}
			if got.Type != typeMember || !got.Is(typeMember, string(alice)) || got.Sender != alice || got.Membership() != join ||
				got.Room != f.create.Room || got.Depth != maxDepth {
				t.Errorf("signed %s", req.Event)
			}
			if string(got.Content) != `{"displayname":"alice","membership":"join"}` {
				t.Errorf("content %s", got.Content)
			}
			return json.Marshal(f.answer(req.Event))
		}
		raw, err := json.Marshal(good)
		text := strings.Replace(string(raw), "{", `{"event":{"type":"m.room.power_levels","sender":"@alice:acme","content":{"users":{"@eve:evil":100}}},`+
			`"type":"m.room.power_levels","room_id":"`+string(home)+`","content":{"membership":"ban"},`, 1)
		return []byte(strings.Replace(text, `"depth":4`, `"depth":9223372036854775807`, 1)), err
	}
	w.must(a.Join(ctx0, alice, f.create.Room, []event.Server{"evil"}, nil))
	if got := a.membership(f.create.Room, alice); got != join {
		t.Error(got)
	}
}

// An evil resident cannot make up a state.
func TestStateAttacks(t *testing.T) {
	w := newWorld(t, 21, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	e := w.addEvil("evil")
	f, other := e.room(), e.room()
	none := ""
	forged := e.sign(event.Body{
		Room: f.create.Room, Type: typeName, StateKey: &none, Sender: "@someone:evil", Content: json.RawMessage(`{"name":"x"}`),
		Prev: []event.ID{f.rules.ID()}, Auth: []event.ID{f.rules.ID()}, Depth: 9,
	})
	foreign := signed(t, event.Body{ // signed by evil for acme
		Room: f.create.Room, Type: typeName, StateKey: &none, Sender: "@alice:acme", Content: json.RawMessage(`{"name":"x"}`),
		Prev: []event.ID{f.rules.ID()}, Depth: 9,
	}, e.key)
	attacks := map[string]func(*joinAnswer){
		"nothing":                      func(j *joinAnswer) { *j = joinAnswer{} },
		"no create event":              func(j *joinAnswer) { j.State = j.State[1:] },
		"an event that is not there":   func(j *joinAnswer) { j.Events = j.Events[:2] },
		"an event that is not allowed": func(j *joinAnswer) { j.State, j.Events = append(j.State, forged.ID()), append(j.Events, forged.JSON()) },
		"an event that nobody signed": func(j *joinAnswer) {
			j.State, j.Events = append(j.State, foreign.ID()), append(j.Events, foreign.JSON())
		},
		"an event of another room": func(j *joinAnswer) {
			j.State, j.Events = append(j.State, other.rules.ID()), append(j.Events, other.rules.JSON())
		},
		"an event twice":   func(j *joinAnswer) { j.State = append(j.State, j.State[2]) },
		"what is no event": func(j *joinAnswer) { j.Events = append(j.Events, json.RawMessage(`[]`)) },
		"a state in which nobody may join": func(j *joinAnswer) {
			j.State, j.Events = j.State[:2], j.Events[:2]
		},
		"another join": func(j *joinAnswer) { j.Event = f.member.JSON() },
		"a join with a changed content": func(j *joinAnswer) {
			j.Event = json.RawMessage(strings.Replace(string(j.Event), "alice\",\"membership", "alicia\",\"membership", 1))
		},
	}
	for name, attack := range attacks {
		e.call = func(method string, body []byte) ([]byte, error) {
			switch method {
			case CallMakeJoin:
				return json.Marshal(f.template())
			case CallSendJoin:
				var req sendJoinRequest
				if err := json.Unmarshal(body, &req); err != nil {
					return nil, err
				}
				j := f.answer(req.Event)
				attack(&j)
				return json.Marshal(j)
			}
			return nil, refuse(codeNotFound, "no")
		}
		if err := a.Join(ctx0, alice, f.create.Room, []event.Server{"evil"}, nil); err == nil {
			t.Errorf("%s: joined", name)
		}
		if _, err := a.picture(f.create.Room); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: the room is there: %v", name, err)
		}
	}
}

// What a hostile peer gossips or hands over changes nothing.
func TestForgedEventsChangeNothing(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 22)
	e := w.addEvil("evil")
	w.agree(r, acme, birch)
	before, err := a.picture(r)
	w.must(err)
	prev, err := a.draftFor(alice, r, "m.room.message", message("x"))
	w.must(err)
	body := func(change func(*event.Body)) event.Body {
		x := prev.Body
		x.Prev, x.Auth = slices.Clone(x.Prev), slices.Clone(x.Auth)
		change(&x)
		return x
	}
	raw := func(x *event.Event) []byte { return x.JSON() }
	frames := map[string][]byte{
		"no JSON":         []byte(`{`),
		"no event":        []byte(`{}`),
		"an array":        []byte(`[1,2]`),
		"nothing":         nil,
		"deep":            []byte(strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000)),
		"oversized":       []byte(strings.Replace(string(raw(prev)), `{"body":"x"`, `{"body":"`+strings.Repeat("x", event.MaxSize)+`"`, 1)),
		"forged sender":   raw(signed(t, body(func(x *event.Body) { x.Sender = bob }), e.key)),
		"not signed":      raw(signed(t, body(func(x *event.Body) {}), e.key)),
		"changed content": []byte(strings.Replace(string(raw(prev)), `"body":"x"`, `"body":"y"`, 1)),
		"another room":    raw(signed(t, body(func(x *event.Body) { x.Room = e.room().create.Room }), testKey(acme))),
		"a stranger":      raw(e.sign(body(func(x *event.Body) { x.Sender = "@eve:evil" }))),
		"a create event":  raw(e.room().create),
	}
	for name, frame := range frames {
		verdict := b.HandleGossip(ctx0, acme, r, [][]byte{frame}, nil)
		if verdict == nil && name != "a stranger" {
			t.Errorf("%s: handed on", name)
		}
		if wantInvalid := name != "a stranger"; wantInvalid && !errors.Is(verdict, event.ErrInvalid) {
			t.Errorf("%s: %v", name, verdict)
		}
		if name == "a stranger" && errors.Is(verdict, event.ErrInvalid) {
			t.Errorf("%s: %v; an honest node can hand it on", name, verdict)
		}
		if _, err := b.HandleCall(ctx0, "evil", CallSend, mustJSON(t, map[string]any{"room_id": r, "events": []any{map[string]any{}}})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// From a server that is not in the room nothing gets through at all.
	if err := e.out.Inject(birch, r, [][]byte{raw(prev)}, nil); err != nil {
		t.Log(err)
	}
	w.wait("the queue", func() error {
		if b.inbox.has(prev.ID()) {
			return errors.New("not served")
		}
		return nil
	})
	one := a.say(alice, r, "still here")
	b.has(one)
	w.agree(r, acme, birch)
	after, err := b.picture(r)
	w.must(err)
	if len(after.ids) != countAbove(t, a, b, r) {
		t.Errorf("birch holds %d events", len(after.ids))
	}
	if after.state != before.state {
		t.Error("the state changed")
	}
	// And it learns nothing.
	for _, call := range []struct {
		method string
		body   any
	}{
		{CallHeads, headsRequest{Rooms: []heads{{Room: r}}}},
		{CallMissing, missingRequest{Room: r, Want: []event.ID{one}}},
		{CallState, stateRequest{Room: r, Event: one, For: []event.ID{one}}},
		{CallEvents, eventsRequest{Room: r, Events: []event.ID{one}, For: []event.ID{one}}},
	} {
		answer, err := e.out.Call(ctx0, acme, call.method, mustJSON(t, call.body))
		if strings.Contains(string(answer), string(one)) || err == nil && call.method != CallHeads {
			t.Errorf("%s: %s, %v", call.method, answer, err)
		}
	}
}

// countAbove counts the events that birch has to hold: those of acme that are no
// ancestors of where birch's graph begins.
func countAbove(t testing.TB, a, b *member, r event.RoomID) (n int) {
	t.Helper()
	var roots []event.ID
	b.world.must(b.store.View(func(tx *store.Tx) (err error) {
		roots, err = findRoots(tx, r)
		return err
	}))
	a.world.must(a.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		ids, _, err := tx.Missing(r, rm.Leaves, roots, 1<<30)
		n = len(ids) + len(roots)
		return err
	}))
	return n
}

// draftFor makes an event without committing it.
func (m *member) draftFor(u event.UserID, r event.RoomID, typ string, content json.RawMessage) (e *event.Event, err error) {
	err = m.store.View(func(tx *store.Tx) (err error) {
		e, err = m.draft(tx, r, u, typ, nil, content)
		return err
	})
	return e, err
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A server signs no invite but one of its own user, by the user's inviter's server,
// with the create event of the room.
func TestInviteAttacks(t *testing.T) {
	w := newWorld(t, 23, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	e := w.addEvil("evil")
	f, other := e.room(), e.room()
	good := event.Body{
		Room: f.create.Room, Type: typeMember, StateKey: (*string)(&alice), Sender: "@eve:evil",
		Content: json.RawMessage(`{"membership":"invite"}`), Prev: []event.ID{f.rules.ID()}, Auth: []event.ID{f.member.ID(), f.rules.ID()}, Depth: 4,
	}
	state := pdus{f.create.JSON(), f.rules.JSON()}
	nobody, theirs := "@nobody:acme", "@x:evil"
	attacks := map[string]struct {
		code   string
		change func(*event.Body, *inviteRequest)
	}{
		"a ban":                    {codeInvalid, func(b *event.Body, _ *inviteRequest) { b.Content = json.RawMessage(`{"membership":"ban"}`) }},
		"a join":                   {codeInvalid, func(b *event.Body, _ *inviteRequest) { b.Content = json.RawMessage(`{"membership":"join"}`) }},
		"power levels":             {codeInvalid, func(b *event.Body, _ *inviteRequest) { b.Type = typePowerLevels }},
		"a message":                {codeInvalid, func(b *event.Body, _ *inviteRequest) { b.StateKey = nil }},
		"a user of another server": {codeInvalid, func(b *event.Body, _ *inviteRequest) { b.StateKey = &theirs }},
		"no such user":             {codeNotFound, func(b *event.Body, _ *inviteRequest) { b.StateKey = &nobody }},
		"a sender of another":      {codeForbidden, func(b *event.Body, _ *inviteRequest) { b.Sender = "@bob:birch" }},
		"a local sender":           {codeForbidden, func(b *event.Body, _ *inviteRequest) { b.Sender = "@bob:acme" }},
		"no create event":          {codeMissing, func(_ *event.Body, q *inviteRequest) { q.State = q.State[1:] }},
		"another create event":     {codeInvalid, func(_ *event.Body, q *inviteRequest) { q.State = pdus{other.create.JSON()} }},
		"another room version":     {codeVersion, func(_ *event.Body, q *inviteRequest) { q.Version = "11" }},
		"what is no event":         {codeInvalid, func(_ *event.Body, q *inviteRequest) { q.State = append(q.State, json.RawMessage(`{}`)) }},
		"too much state":           {codeTooLarge, func(_ *event.Body, q *inviteRequest) { q.State = slices.Repeat(q.State, 11) }},
	}
	for name, x := range attacks {
		b, req := good, inviteRequest{Version: roomVersion, State: slices.Clone(state)}
		x.change(&b, &req)
		req.Event = signed(t, b, e.key).JSON()
		answer, err := e.out.Call(ctx0, acme, CallInvite, mustJSON(t, req))
		if !isCode(err, x.code) || answer != nil {
			t.Errorf("%s: %s, %v", name, answer, err)
		}
	}
	if row := a.row(f.create.Room, alice); row.Membership != "" {
		t.Errorf("row %+v", row)
	}
	req := inviteRequest{Version: roomVersion, State: state, Event: signed(t, good, e.key).JSON()}
	for range 2 { // twice the same
		raw, err := e.out.Call(ctx0, acme, CallInvite, mustJSON(t, req))
		w.must(err)
		var answer eventAnswer
		w.must(json.Unmarshal(raw, &answer))
		back, err := event.Parse(answer.Event)
		w.must(err)
		if len(back.Keys(acme)) != 1 {
			t.Errorf("not signed: %s", answer.Event)
		}
	}
	if row := a.row(f.create.Room, alice); row.Membership != invite {
		t.Errorf("row %+v", row)
	}
}

// One bad event in a page costs itself and what stands on it, nothing else.
func TestPoisonInPage(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 24)
	w.agree(r, acme, birch)
	w.net.Unlink(acme, birch)
	page, good := pdus{}, []event.ID{}
	for i := range 20 {
		id := a.say(alice, r, fmt.Sprint(i))
		good = append(good, id)
		events, err := a.load(r, []event.ID{id}, 1, maxPage)
		w.must(err)
		page = append(page, events.events[0].JSON())
	}
	first, err := event.Parse(page[0])
	w.must(err)
	bad := first.Body // on the same ground, by somebody who may not
	bad.Sender, bad.Content = "@mallory:acme", message("bad")
	rejected := signed(t, bad, testKey(acme))
	bad.Prev = []event.ID{rejected.ID()}
	bad.Sender = alice
	bad.Content = message("on a rejected one")
	fine := signed(t, bad, testKey(acme))
	bad.Content = message("signed by another")
	unsigned := signed(t, bad, testKey("evil"))
	bad.Prev = []event.ID{unsigned.ID()}
	orphan := signed(t, bad, testKey(acme))
	mixed := pdus{json.RawMessage(`{}`), rejected.JSON(), unsigned.JSON(), orphan.JSON()}
	mixed = append(append(mixed, page...), json.RawMessage(`nonsense`), fine.JSON())
	fresh, err := b.ingest(ctx0, source{peer: acme, room: r}, mixed, nil)
	w.must(err)
	if fresh != len(page)+1 {
		t.Errorf("%d new events, not %d", fresh, len(page)+1)
	}
	for _, id := range append(good, fine.ID()) {
		if st, err := b.status(id); err != nil || st != store.Accepted {
			t.Errorf("%s: %v, %v", id, st, err)
		}
	}
	if st, err := b.status(rejected.ID()); err != nil || st != store.Rejected {
		t.Errorf("status %v, %v", st, err)
	}
	for _, id := range []event.ID{unsigned.ID(), orphan.ID()} {
		if _, err := b.status(id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s was taken: %v", id, err)
		}
	}
	w.net.Link(acme, birch)
	b.say(bob, r, "fine")
	w.wait("agreement", func() error { return same(a, b, r) })
}

// A state that a resident hands over is held in memory only up to a bound.
func TestJoinBundleBound(t *testing.T) {
	w := newWorld(t, 61, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	for i := range 40 { // more than the first answer of the handshake holds
		a.set(alice, r, "im.example.big", strconv.Itoa(i), `{"x":"`+strings.Repeat("x", 50_000)+`"}`)
	}
	for _, limit := range []int{10_000, 1_500_000} { // over by the first answer, and by a later page
		b.bundleBytes = limit
		if err := b.Join(ctx0, bob, r, []event.Server{acme}, nil); err == nil {
			t.Errorf("joined with a state above %d bytes", limit)
		}
		w.must(b.store.View(func(tx *store.Tx) error {
			if _, err := tx.Room(r); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the room is held: %v", err)
			}
			return nil
		}))
	}
	b.bundleBytes = bundleBytes
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch)
}
