package node

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

const (
	acme  event.Server = "acme"
	birch event.Server = "birch"
	cedar event.Server = "cedar"
)

// pair makes two nodes with a user each and a public room of the first that both
// are in.
func pair(t testing.TB, seed uint64) (w *world, a, b *member, alice, bob event.UserID, r event.RoomID) {
	w = newWorld(t, seed, acme, birch)
	a, b = w.nodes[acme], w.nodes[birch]
	alice, bob = a.user("alice"), b.user("bob")
	r = a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	return w, a, b, alice, bob, r
}

func TestTwoServersShareARoom(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 1)
	a.becomes(r, bob, join)
	one := a.say(alice, r, "hello")
	b.has(one)
	two := b.say(bob, r, "hello too")
	a.has(two)
	w.agree(r, acme, birch)
	if err := b.Join(ctx0, bob, r, nil, nil); err != nil {
		t.Fatal("joining again:", err)
	}
	w.agree(r, acme, birch)
}

func TestThreeServers(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 2)
	c := w.add(cedar)
	carol := c.user("carol")
	w.must(c.Join(ctx0, carol, r, []event.Server{birch}, nil))
	for i, m := range []*member{a, b, c} {
		id := m.say([]event.UserID{alice, bob, carol}[i], r, "hello")
		for _, other := range []*member{a, b, c} {
			other.has(id)
		}
	}
	w.agree(r, acme, birch, cedar)
}

func TestJoinErrors(t *testing.T) {
	w := newWorld(t, 3, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	private := a.create(alice, CreateRequest{})
	if err := b.Join(ctx0, bob, private, nil, nil); !errors.Is(err, ErrUnknownRoom) {
		t.Errorf("without a server to ask: %v", err)
	}
	if err := b.Join(ctx0, bob, private, []event.Server{cedar}, nil); !errors.Is(err, ErrNoRoute) {
		t.Errorf("with a server that is not there: %v", err)
	}
	if err := b.Join(ctx0, bob, private, []event.Server{cedar, acme}, nil); !isCode(err, codeForbidden) {
		t.Errorf("without an invite: %v", err)
	}
	if err := b.Join(ctx0, bob, "!x", []event.Server{acme}, nil); !errors.Is(err, ErrBadRequest) {
		t.Errorf("a bad id: %v", err)
	}
	if err := b.Join(ctx0, alice, private, []event.Server{acme}, nil); !errors.Is(err, ErrForbidden) {
		t.Errorf("a user of another server: %v", err)
	}
	w.must(a.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(private)
		if err == nil && rm.Joined != 1 {
			t.Errorf("%d joined members", rm.Joined)
		}
		return err
	}))
}

func TestInvite(t *testing.T) {
	w := newWorld(t, 4, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Name: "Board"})
	if err := a.Invite(ctx0, alice, r, "@nobody:birch", nil); !isCode(err, codeNotFound) {
		t.Errorf("a user who is not there: %v", err)
	}
	if err := a.Invite(ctx0, alice, r, "@x:cedar", nil); !errors.Is(err, ErrNoRoute) {
		t.Errorf("a server that is not there: %v", err)
	}
	w.must(a.Invite(ctx0, alice, r, bob, map[string]json.RawMessage{"reason": quote("join us")}))
	row := b.row(r, bob)
	if row.Membership != invite || row.Sender != alice {
		t.Fatalf("row %+v", row)
	}
	var stripped []struct {
		Type    string
		Content json.RawMessage
	}
	w.must(json.Unmarshal(row.Stripped, &stripped))
	types := map[string]bool{}
	for _, s := range stripped {
		types[s.Type] = true
	}
	for _, typ := range []string{typeCreate, typeName, typeMember, typeJoinRules} {
		if !types[typ] {
			t.Errorf("no %s in the stripped state %s", typ, row.Stripped)
		}
	}
	invited := a.stateEvent(r, typeMember, string(bob))
	if invited.Membership() != invite || len(invited.Keys(birch)) != 1 || len(invited.Keys(acme)) != 1 {
		t.Errorf("the invite is not signed by both: %s", invited.JSON())
	}
	w.must(a.Invite(ctx0, alice, r, bob, nil)) // again
	if got := a.stateEvent(r, typeMember, string(bob)); got.ID() != invited.ID() {
		t.Error("a second invite replaced the first")
	}
	w.must(b.Join(ctx0, bob, r, nil, nil)) // the inviter's server is known
	a.becomes(r, bob, join)
	w.agree(r, acme, birch)
	if row := b.row(r, bob); row.Membership != join {
		t.Errorf("row %+v", row)
	}
	if err := a.Invite(ctx0, alice, r, bob, nil); !errors.Is(err, room.ErrForbidden) {
		t.Errorf("inviting a member: %v", err)
	}
}

func TestRejectInvite(t *testing.T) {
	w := newWorld(t, 5, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Invite: []event.UserID{bob}, IsDirect: true})
	w.wait("the invite", func() error {
		if row := b.row(r, bob); row.Membership != invite {
			return errors.New(row.Membership)
		}
		return nil
	})
	w.must(b.Leave(ctx0, bob, r, "no time"))
	if row := b.row(r, bob); row.Membership != leave {
		t.Errorf("row %+v", row)
	}
	a.becomes(r, bob, leave)
	if e := a.stateEvent(r, typeMember, string(bob)); e.Field("reason") != "no time" || e.Sender != bob {
		t.Errorf("leave %s", e.JSON())
	}
	w.must(b.Leave(ctx0, bob, r, "")) // again
	if err := b.Leave(ctx0, b.user("ben"), r, ""); !errors.Is(err, ErrForbidden) {
		t.Errorf("leaving what one was never in: %v", err)
	}
	w.must(b.Forget(ctx0, bob, r))
	if row := b.row(r, bob); !row.Forgotten {
		t.Error("not forgotten")
	}
}

func TestInviteIsTakenBack(t *testing.T) {
	w := newWorld(t, 6, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{})
	w.must(a.Invite(ctx0, alice, r, bob, nil))
	w.must(a.Kick(ctx0, alice, r, bob, "mistake"))
	w.wait("the end of the invite", func() error {
		if row := b.row(r, bob); row.Membership != leave {
			return errors.New(row.Membership)
		}
		return nil
	})
	if err := b.Join(ctx0, bob, r, []event.Server{acme}, nil); !isCode(err, codeForbidden) {
		t.Errorf("joining without an invite: %v", err)
	}
}

func TestKickBanAndReturn(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 7)
	if err := b.Kick(ctx0, bob, r, alice, ""); !errors.Is(err, room.ErrForbidden) {
		t.Errorf("kicking the creator: %v", err)
	}
	w.must(a.Kick(ctx0, alice, r, bob, "rude"))
	b.becomes(r, bob, leave)
	w.agree(r, acme, birch)
	if err := a.Kick(ctx0, alice, r, bob, ""); !errors.Is(err, ErrBadRequest) {
		t.Errorf("kicking who has gone: %v", err)
	}
	secret := a.say(alice, r, "among ourselves")
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil)) // the room is public
	a.becomes(r, bob, join)
	w.agree(r, acme, birch)
	b.has(secret) // the gap is filled, visibility decides who sees it
	w.must(a.Ban(ctx0, alice, r, bob, ""))
	b.becomes(r, bob, ban)
	if err := b.Join(ctx0, bob, r, []event.Server{acme}, nil); !isCode(err, codeForbidden) {
		t.Errorf("joining while banned: %v", err)
	}
	if err := b.Leave(ctx0, bob, r, ""); err == nil {
		t.Error("a banned user could leave")
	}
	if _, err := b.Send(ctx0, SendRequest{User: bob, Room: r, Type: "m.room.message", Content: message("x")}); !errors.Is(err, room.ErrForbidden) {
		t.Errorf("sending while banned: %v", err)
	}
	w.must(a.Ban(ctx0, alice, r, bob, "")) // again
	w.must(a.Unban(ctx0, alice, r, bob, ""))
	if err := a.Unban(ctx0, alice, r, bob, ""); !errors.Is(err, ErrForbidden) {
		t.Errorf("lifting a ban that is lifted: %v", err)
	}
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch)
}

func TestLeaveAndRejoin(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 8)
	b.say(bob, r, "bye")
	w.must(b.Leave(ctx0, bob, r, ""))
	a.becomes(r, bob, leave)
	for range 30 {
		a.say(alice, r, "alone")
	}
	a.set(alice, r, typeTopic, "", `{"topic":"new"}`)
	last := a.say(alice, r, "alone still")
	if _, err := b.status(last); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("who left still hears: %v", err)
	}
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	b.has(last)
	w.agree(r, acme, birch)
	b.say(bob, r, "back")
	w.agree(r, acme, birch)
}

// A server that is away while its user is kicked learns of it when it comes back.
func TestKickedWhileAway(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 9)
	w.agree(r, acme, birch)
	w.net.Partition([]event.Server{acme}, []event.Server{birch})
	before := a.say(alice, r, "before")
	w.must(a.Kick(ctx0, alice, r, bob, ""))
	after := a.say(alice, r, "after")
	a.kill() // what is kept in memory for birch is lost
	a.start()
	w.net.Heal()
	b.becomes(r, bob, leave)
	b.has(before) // an ancestor of the end of the membership
	if _, err := b.status(after); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an ex-member got what came later: %v", err)
	}
}

func TestRestrictedJoin(t *testing.T) {
	w := newWorld(t, 10, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob, ben := a.user("alice"), b.user("bob"), b.user("ben")
	space := a.create(alice, CreateRequest{Preset: "public_chat"})
	r := a.create(alice, CreateRequest{InitialState: []InitialState{{Type: typeJoinRules, Content: json.RawMessage(
		`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(space) + `"}]}`)}}})
	if err := b.Join(ctx0, bob, r, []event.Server{acme}, nil); !isCode(err, codeForbidden) {
		t.Errorf("without meeting the condition: %v", err)
	}
	w.must(b.Join(ctx0, bob, space, []event.Server{acme}, nil))
	a.becomes(space, bob, join)
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	a.becomes(r, bob, join)
	w.agree(r, acme, birch)
	e := b.stateEvent(r, typeMember, string(bob))
	if e.Field("join_authorised_via_users_server") != string(alice) || len(e.Keys(acme)) != 1 {
		t.Errorf("not authorised by acme: %s", e.JSON())
	}
	// birch has a resident now, who may not invite: acme must let others in.
	if err := b.Join(ctx0, ben, r, nil, nil); err == nil {
		t.Error("joined without meeting the condition")
	}
	w.must(b.Join(ctx0, ben, space, nil, nil))
	a.becomes(space, ben, join)
	w.must(b.Join(ctx0, ben, r, nil, nil))
	a.becomes(r, ben, join)
	w.agree(r, acme, birch)
}

func TestCatchUpAfterRestart(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 11)
	b.say(bob, r, "hello")
	w.agree(r, acme, birch)
	b.kill()
	var last event.ID
	for range 300 {
		last = a.say(alice, r, "while you were away")
	}
	b.start()
	b.has(last)
	w.agree(r, acme, birch)
	// What was committed and not published before a stop is published after it.
	w.net.Unlink(acme, birch)
	w.wait("the cut", func() error {
		if len(b.peers.choose([]event.Server{acme}, 1, true)) > 0 {
			return errors.New("still connected")
		}
		return nil
	})
	own := b.say(bob, r, "nobody hears me")
	b.kill()
	b.start()
	w.net.Link(acme, birch)
	a.has(own)
	w.agree(r, acme, birch)
}

func TestPartitionHeals(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 12)
	c := w.add(cedar)
	carol := c.user("carol")
	w.must(c.Join(ctx0, carol, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch, cedar)
	a.set(alice, r, typePowerLevels, "", `{"users":{"`+string(bob)+`":50},"state_default":50}`)
	w.agree(r, acme, birch, cedar)
	w.net.Partition([]event.Server{acme, cedar}, []event.Server{birch})
	a.set(alice, r, typeTopic, "", `{"topic":"a"}`)
	b.set(bob, r, typeTopic, "", `{"topic":"b"}`)
	b.set(bob, r, typeName, "", `{"name":"bob's"}`)
	w.must(b.Kick(ctx0, bob, r, carol, ""))
	a.set(alice, r, typePowerLevels, "", `{"users":{},"state_default":40}`)
	var x, y event.ID
	for range 20 {
		x, y = c.say(carol, r, "c"), b.say(bob, r, "b")
	}
	w.net.Heal()
	w.wait("events", func() error {
		_, err := a.status(y)
		_, err2 := b.status(x)
		return errors.Join(err, err2)
	})
	w.agree(r, acme, birch)
}

// A ban during a partition ends what the banned server says on its side.
func TestPartitionWithBan(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 14)
	c := w.add(cedar)
	carol := c.user("carol")
	w.must(c.Join(ctx0, carol, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch, cedar)
	w.net.Partition([]event.Server{acme, cedar}, []event.Server{birch})
	w.must(a.Ban(ctx0, alice, r, bob, ""))
	c.becomes(r, bob, ban)
	late := b.say(bob, r, "I am still here")
	x := c.say(carol, r, "he is gone")
	w.net.Heal()
	b.becomes(r, bob, ban)
	a.has(x)
	w.agree(r, acme, cedar)
	for _, m := range []*member{a, c} {
		if st, err := m.status(late); err == nil && st == store.Accepted {
			t.Errorf("%s shows what a banned user said", m.name)
		}
	}
	if _, err := b.status(x); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a banned server got what came after the ban: %v", err)
	}
}

func TestLossOfGossip(t *testing.T) {
	for _, loss := range []float64{0.3, 1} {
		w, a, b, alice, bob, r := pair(t, 13)
		w.net.SetFaults(simnet.Faults{Loss: loss, Repeat: 0.2, NoticeLoss: loss < 1})
		var x, y event.ID
		for range 100 {
			x, y = a.say(alice, r, "a"), b.say(bob, r, "b")
		}
		b.has(x)
		a.has(y)
		w.agree(r, acme, birch)
	}
}

// Redacted events travel with their redactions; a copy without content and
// without a redaction is a bad one.
func TestRedactedEventsTravel(t *testing.T) {
	w := newWorld(t, 15, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Preset: "public_chat", Name: "secret"})
	redact := func(id event.ID) {
		t.Helper()
		_, err := a.Send(ctx0, SendRequest{User: alice, Room: r, Type: typeRedaction, Content: marshalled(map[string]event.ID{"redacts": id})})
		w.must(err)
	}
	name := a.stateEvent(r, typeName, "").ID()
	redact(name)
	redact(a.stateEvent(r, typeMember, string(alice)).ID()) // an auth event of the join
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	w.agree(r, acme, birch)
	if e := b.stateEvent(r, typeName, ""); e.ID() != name || !e.Redacted() {
		t.Errorf("%s", e.JSON())
	}
	b.kill()
	id := a.say(alice, r, "to be redacted")
	whole, err := a.load(r, []event.ID{id}, 1, maxPage)
	w.must(err)
	redact(id)
	last := a.say(alice, r, "after it")
	b.start()
	b.has(last)
	if st, err := b.load(r, []event.ID{id}, 1, maxPage); err != nil || !st.events[0].Redacted() {
		t.Errorf("%v, %v", st, err)
	}
	w.agree(r, acme, birch)

	w.net.Unlink(acme, birch)
	next := a.say(alice, r, "whole")
	if whole, err = a.load(r, []event.ID{next}, 1, maxPage); err != nil {
		t.Fatal(err)
	}
	bare, err := whole.events[0].Redact()
	w.must(err)
	if fresh, err := b.ingest(ctx0, source{peer: acme, room: r}, pdus{bare.JSON()}, nil); fresh != 0 || err != nil {
		t.Errorf("a bad copy was taken: %d, %v", fresh, err)
	}
	if fresh, err := b.ingest(ctx0, source{peer: acme, room: r}, raws(whole.events), nil); fresh != 1 || err != nil {
		t.Errorf("the good one was not: %d, %v", fresh, err)
	}
}

// Membership events of one user follow each other in time even if the clock stands
// still or is set back: with equal times a fork could resolve to the older one.
func TestMembershipsFollowInTime(t *testing.T) {
	w := newWorld(t, 16)
	var now atomic.Int64 // the node's goroutines read the clock too
	now.Store(1_700_000_000_000)
	w.clock = func() time.Time { return time.UnixMilli(now.Load()) }
	a := w.add(acme)
	alice, ann := a.user("alice"), a.user("ann")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	last := int64(0)
	for i := range 6 {
		if i%2 == 0 {
			w.must(a.Join(ctx0, ann, r, nil, nil))
		} else {
			w.must(a.Leave(ctx0, ann, r, ""))
		}
		e := a.stateEvent(r, typeMember, string(ann))
		if e.Time <= last {
			t.Errorf("event %d has time %d after %d", i, e.Time, last)
		}
		last = e.Time
		if i == 3 {
			now.Add(-5000)
		}
	}
	if last > now.Load()+maxLead.Milliseconds() {
		t.Errorf("time %d is too far ahead", last)
	}
}
