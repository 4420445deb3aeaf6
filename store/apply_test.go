package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

const (
	faraway = event.Server("faraway.example")
	other   = event.Server("other.example")
)

func TestApply(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	bob := user("bob", other)
	w.join(bob)
	m := w.say(nil, bob, "hello")
	r := w.roomNow()
	if r.Joined != 2 || !slices.Equal(r.Heads, []event.ID{m.ID()}) || !slices.Equal(r.Leaves, r.Heads) || r.Events != 5 || r.Last != 5 || r.Depth != 5 {
		t.Fatalf("%+v", r)
	}
	if m.Status != Accepted || m.Before != m.After || m.Position != 5 || m.Local || m.Depth != 5 {
		t.Fatalf("%+v", m)
	}
	view(t, s, func(tx *Tx) error {
		c, err := tx.Counts()
		if want := (Counts{LocalEvents: 3, RemoteEvents: 2, Rooms: 1, Federated: 1}); c != want {
			t.Errorf("counts %+v, want %+v", c, want)
		}
		if err != nil {
			return err
		}
		rooms, err := tx.Rooms()
		if !slices.Equal(rooms, []event.RoomID{w.room}) {
			t.Errorf("rooms %v", rooms)
		}
		if err != nil {
			return err
		}
		if last, err := tx.Last(w.room); last != 5 || err != nil {
			t.Errorf("last %d, %v", last, err)
		}
		if e, err := tx.Body(m.ID()); err != nil || e.Field("body") != "hello" {
			t.Errorf("%v, %v", e, err)
		}
		own, err := tx.LocalEvents(1, 10)
		if len(own) != 2 || own[0].Position != 2 || own[0].Room != w.room {
			t.Errorf("own events %+v", own)
		}
		return err
	})
}

func TestMembers(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	alice, bob, carol := user("alice", home), user("bob", other), user("carol", faraway)
	expect := func(step string, u event.UserID, membership string, joined, invited int, servers map[event.Server]int) {
		t.Helper()
		r := w.roomNow()
		if r.Joined != joined || r.Invited != invited {
			t.Errorf("%s: %d joined, %d invited", step, r.Joined, r.Invited)
		}
		view(t, s, func(tx *Tx) error {
			got, err := tx.Servers(w.room)
			if !maps.Equal(got, servers) {
				t.Errorf("%s: servers %v", step, got)
			}
			if err != nil {
				return err
			}
			m, err := tx.Membership(u, w.room)
			if u.Server() != home {
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %+v for a user of elsewhere, %v", step, m, err)
				}
				return nil
			}
			if m.Membership != membership || m.Position != r.Last {
				t.Errorf("%s: %+v", step, m)
			}
			if err != nil {
				return err
			}
			all, err := tx.LocalMembers(w.room, membership)
			if !slices.Contains(all, u) {
				t.Errorf("%s: %v with membership %s", step, all, membership)
			}
			return err
		})
	}
	w.join(alice)
	expect("join", alice, "join", 2, 0, map[event.Server]int{home: 2})
	w.join(bob)
	expect("join of another server", bob, "", 3, 0, map[event.Server]int{home: 2, other: 1})
	w.send(w.admin, typeMember, string(carol), `{"membership":"invite"}`)
	expect("invite", carol, "", 3, 1, map[event.Server]int{home: 2, other: 1})
	w.send(alice, typeMember, string(alice), `{"membership":"leave"}`)
	expect("leave", alice, "leave", 2, 1, map[event.Server]int{home: 1, other: 1})

	update(t, s, func(tx *Tx) error { // forgotten until the next invite
		m, err := tx.Membership(alice, w.room)
		if err != nil {
			return err
		}
		m.Forgotten = true
		return tx.PutMembership(*m)
	})
	w.send(w.admin, typeMember, string(alice), `{"membership":"ban"}`)
	expect("ban", alice, "ban", 2, 1, map[event.Server]int{home: 1, other: 1})
	forgotten := func() bool {
		var m *Membership
		view(t, s, func(tx *Tx) (err error) { m, err = tx.Membership(alice, w.room); return err })
		return m.Forgotten
	}
	if !forgotten() {
		t.Error("a ban brings a forgotten room back")
	}
	w.send(w.admin, typeMember, string(alice), `{"membership":"leave"}`)
	w.send(w.admin, typeMember, string(alice), `{"membership":"invite"}`)
	expect("invite again", alice, "invite", 2, 2, map[event.Server]int{home: 1, other: 1})
	if forgotten() {
		t.Error("an invite leaves the room forgotten")
	}
	view(t, s, func(tx *Tx) error {
		all, err := tx.Memberships(alice)
		if len(all) != 1 || all[0].Room != w.room || all[0].Sender != w.admin {
			t.Errorf("%+v", all)
		}
		return err
	})
}

// Concurrent changes: the resolution changes more than the event that brings it.
func TestForkedMembers(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	alice, bob := user("alice", home), user("bob", other)
	w.join(alice)
	fork := w.roomNow().Heads
	// Alice changes her name on one side and is banned on the other.
	key := string(alice)
	w.add(fork, alice, typeMember, &key, `{"membership":"join","displayname":"A"}`)
	w.add(fork, w.admin, typeMember, &key, `{"membership":"ban"}`)
	bkey := string(bob)
	w.add(fork, bob, typeMember, &bkey, `{"membership":"join"}`)
	r := w.roomNow()
	if len(r.Heads) != 3 || r.Joined != 2 {
		t.Errorf("%+v", r)
	}
	w.say(nil, w.admin, "merge")
	r = w.roomNow()
	if len(r.Heads) != 1 || r.Joined != 2 {
		t.Errorf("%+v", r)
	}
	view(t, s, func(tx *Tx) error {
		m, err := tx.Membership(alice, w.room)
		if m.Membership != "ban" {
			t.Errorf("%+v", m)
		}
		return err
	})
}

func TestStateAtInView(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	fork := w.roomNow().Heads
	key := ""
	a := w.add(fork, w.admin, "m.room.name", &key, `{"name":"a"}`)
	b := w.add(fork, w.admin, "m.room.topic", &key, `{"topic":"b"}`)
	both := []event.ID{a.ID(), b.ID()}
	s.memo = newCache[hash, *layer](memoCachePlaces)
	var inView, inUpdate StateID
	var next *event.Event
	var st *State
	view(t, s, func(tx *Tx) error {
		x, err := tx.StateAt(w.room, both)
		if err != nil {
			return err
		}
		inView = x.ID()
		for _, typ := range []string{"m.room.name", "m.room.topic"} {
			if e, err := x.StateEvent(typ, ""); e == nil || err != nil {
				t.Errorf("%s: %v, %v", typ, e, err)
			}
		}
		next, st, err = w.draft(tx, both, w.admin, "m.room.avatar", &key, `{}`)
		return err
	})
	update(t, s, func(tx *Tx) error {
		x, err := tx.StateAt(w.room, both)
		inUpdate = x.ID()
		if err != nil {
			return err
		}
		_, err = w.apply(tx, next, &State{tx, st.chain}, ApplyOptions{})
		return err
	})
	if inView == 0 || inView != inUpdate {
		t.Errorf("resolved twice: %d in View, %d in Update", inView, inUpdate)
	}
	view(t, s, func(tx *Tx) error {
		x, err := tx.StateAt(w.room, both)
		if x.ID() != inUpdate {
			t.Errorf("resolved again: %d", x.ID())
		}
		if x, err := tx.StateAt(w.room, nil); x.ID() != 0 || err != nil {
			t.Errorf("no events: %d, %v", x.ID(), err)
		}
		return err
	})
}

// A state that a View resolved for the first time goes into Apply.
func TestApplyLooseState(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	fork := w.roomNow().Heads
	key := ""
	a := w.add(fork, w.admin, "m.room.name", &key, `{"name":"a"}`)
	b := w.add(fork, w.admin, "m.room.topic", &key, `{"topic":"b"}`)
	w.add(fork, w.admin, "m.room.avatar", &key, `{}`) // so that the heads are others
	var e *event.Event
	var st *State
	view(t, s, func(tx *Tx) (err error) {
		e, st, err = w.draft(tx, []event.ID{a.ID(), b.ID()}, w.admin, "m.room.message", nil, `{"body":"x"}`)
		return err
	})
	update(t, s, func(tx *Tx) error {
		_, err := w.apply(tx, e, &State{tx, st.chain}, ApplyOptions{})
		return err
	})
	view(t, s, func(tx *Tx) error {
		got, err := tx.Event(e.ID())
		if err != nil {
			return err
		}
		s.layers.forget(got.Before)
		_, err = tx.State(got.Before)
		return err
	})
}

func TestTimeline(t *testing.T) {
	s := mustOpen(t, Options{})
	w, x := newWorld(t, s), newWorld(t, s)
	for i := range 10 {
		w.say(nil, w.admin, fmt.Sprint(i))
		x.say(nil, x.admin, fmt.Sprint(i))
	}
	var all []*Stored
	view(t, s, func(tx *Tx) (err error) {
		var more bool
		all, more, err = tx.Timeline(w.room, 0, s.Position(), 100)
		if len(all) != 13 || more {
			t.Fatalf("%d events, more %t", len(all), more)
		}
		return err
	})
	rapid.Check(t, func(rt *rapid.T) {
		after, to := rapid.IntRange(0, 30).Draw(rt, "after"), rapid.IntRange(0, 30).Draw(rt, "to")
		limit := rapid.IntRange(0, 15).Draw(rt, "limit")
		var forward, back []event.ID
		for _, e := range all {
			if int(e.Position) > after && int(e.Position) <= to {
				forward = append(forward, e.ID())
			}
			if int(e.Position) <= to {
				back = append([]event.ID{e.ID()}, back...)
			}
		}
		check := func(what string, got []*Stored, more bool, err error, want []event.ID) {
			n := min(limit, len(want))
			if err != nil || more != (len(want) > n) || !slices.Equal(ids(got), want[:n]) {
				rt.Errorf("%s (%d, %d, %d): %d events, more %t, %v; want %d", what, after, to, limit, len(got), more, err, len(want))
			}
		}
		view(t, s, func(tx *Tx) error {
			got, more, err := tx.Timeline(w.room, Position(after), Position(to), limit)
			check("forward", got, more, err, forward)
			got, more, err = tx.TimelineBack(w.room, Position(to), limit)
			check("back", got, more, err, back)
			return nil
		})
	})
}

func ids(evs []*Stored) []event.ID {
	out := []event.ID{}
	for _, e := range evs {
		out = append(out, e.ID())
	}
	return out
}

func TestCurrentAt(t *testing.T) {
	s := mustOpen(t, Options{})
	first := newWorld(t, s)
	w := newWorld(t, s)
	start := s.Position()
	for i := range 5 {
		w.send(w.admin, "m.room.name", "", fmt.Sprintf(`{"name":"%d"}`, i))
		first.say(nil, first.admin, "between")
	}
	view(t, s, func(tx *Tx) error {
		for p := start + 1; p <= start+10; p++ {
			st, err := tx.CurrentAt(w.room, p)
			if err != nil {
				return err
			}
			e, err := st.StateEvent("m.room.name", "")
			if err != nil {
				return err
			}
			if want := fmt.Sprint((p - start - 1) / 2); e.Field("name") != want {
				t.Errorf("at %d the name is %s, want %s", p, e.Field("name"), want)
			}
		}
		if _, err := tx.CurrentAt(w.room, 3); !errors.Is(err, ErrNotFound) {
			t.Errorf("before the first event: %v", err)
		}
		return nil
	})
}

// redaction signs a redaction of target at the heads of the room.
func (w *world) redaction(sender event.UserID, target event.ID) (e *event.Event, st *State) {
	w.t.Helper()
	view(w.t, w.s, func(tx *Tx) (err error) {
		r, err := tx.Room(w.room)
		if err != nil {
			return err
		}
		e, st, err = w.draft(tx, r.Heads, sender, typeRedaction, nil, fmt.Sprintf(`{"redacts":%q}`, target))
		return err
	})
	return e, st
}

func TestRedaction(t *testing.T) {
	bob, carol := user("bob", other), user("carol", faraway)
	for _, c := range []struct {
		name  string
		by    event.UserID
		works bool
	}{
		{"own event", bob, true},
		{"by power", user("admin", home), true},
		{"of another server", carol, false},
	} {
		for _, first := range []string{"target", "redaction", "both in one function"} {
			t.Run(c.name+", first "+first, func(t *testing.T) {
				s := mustOpen(t, Options{})
				w := newWorld(t, s)
				w.join(bob)
				w.join(carol)
				// Target and redaction do not refer to each other.
				var target *event.Event
				var before *State
				view(t, s, func(tx *Tx) (err error) {
					r, err := tx.Room(w.room)
					if err != nil {
						return err
					}
					target, before, err = w.draft(tx, r.Heads, bob, "m.room.message", nil, `{"body":"secret"}`)
					return err
				})
				red, rst := w.redaction(c.by, target.ID())
				put := func(tx *Tx, e *event.Event, st *State) error {
					_, err := w.apply(tx, e, &State{tx, st.chain}, ApplyOptions{})
					return err
				}
				see := func(tx *Tx) error {
					e, err := tx.Event(target.ID())
					if err != nil {
						return err
					}
					if gone := !bytes.Contains(e.JSON(), []byte("secret")); gone != c.works || (e.RedactedBy == red.ID()) != c.works || e.Redacted() != c.works {
						t.Errorf("gone %t, redacted by %q, %t", gone, e.RedactedBy, e.Redacted())
					}
					return nil
				}
				switch first {
				case "target":
					update(t, s, func(tx *Tx) error { return put(tx, target, before) })
					view(t, s, func(old *Tx) error { // an older snapshot must not bring it back
						update(t, s, func(tx *Tx) error { return errors.Join(put(tx, red, rst), see(tx)) })
						_, err := old.Event(target.ID())
						return err
					})
				case "redaction":
					update(t, s, func(tx *Tx) error { return put(tx, red, rst) })
					update(t, s, func(tx *Tx) error { return put(tx, target, before) })
				default:
					update(t, s, func(tx *Tx) error {
						return errors.Join(put(tx, target, before), put(tx, red, rst), see(tx))
					})
				}
				view(t, s, see)
				s.events = newEventCache(eventCacheBytes)
				view(t, s, see)
			})
		}
	}
}

// A redaction of an event that comes as an outlier first.
func TestRedactedOutlier(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	var e *event.Event
	var st *State
	view(t, s, func(tx *Tx) (err error) {
		r, err := tx.Room(w.room)
		if err != nil {
			return err
		}
		e, st, err = w.draft(tx, r.Heads, w.admin, "m.room.topic", new(string), `{"topic":"secret"}`)
		return err
	})
	red, rst := w.redaction(w.admin, e.ID())
	update(t, s, func(tx *Tx) error {
		_, err := w.apply(tx, red, &State{tx, rst.chain}, ApplyOptions{})
		return err
	})
	update(t, s, func(tx *Tx) error { return tx.PutOutlier(e) })
	update(t, s, func(tx *Tx) error {
		got, err := w.apply(tx, e, &State{tx, st.chain}, ApplyOptions{})
		if err == nil && (got.RedactedBy != red.ID() || bytes.Contains(got.JSON(), []byte("secret"))) {
			t.Errorf("%s, by %q", got.JSON(), got.RedactedBy)
		}
		return err
	})
}

// However many redactions of an unknown event there are, few are kept.
func TestWaitingRedactions(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	users := []event.UserID{user("b", other), user("c", other), user("d", faraway), w.admin}
	for _, u := range users[:3] {
		w.join(u)
	}
	target := fakeHash(7)
	for range 3 {
		for _, u := range users {
			red, st := w.redaction(u, target.event())
			update(t, s, func(tx *Tx) error {
				_, err := w.apply(tx, red, &State{tx, st.chain}, ApplyOptions{})
				return err
			})
		}
	}
	view(t, s, func(tx *Tx) error {
		all, err := tx.pendingRedactions(keyHash(kindPending, target))
		if len(all) != 3 {
			t.Errorf("%d redactions wait", len(all))
		}
		return err
	})
}

// A node that joins a room elsewhere: the state is given as a whole, the past of
// the join is not here.
func TestJoinWithHorizon(t *testing.T) {
	elsewhere := mustOpen(t, Options{Server: other})
	theirs := newWorld(t, elsewhere)
	theirs.join(user("bob", other))
	theirs.say(nil, theirs.admin, "before the join")
	alice := user("alice", faraway)
	key := string(alice)
	var join *event.Event
	var state room.Snapshot
	var evs []*event.Event
	view(t, elsewhere, func(tx *Tx) error {
		r, err := tx.Room(theirs.room)
		if err != nil {
			return err
		}
		var st *State
		if join, st, err = theirs.draft(tx, r.Heads, alice, typeMember, &key, `{"membership":"join"}`); err != nil {
			return err
		}
		if state, err = st.Snapshot(); err != nil {
			return err
		}
		return st.Each("", func(_ room.Key, id event.ID) error {
			e, err := tx.Event(id)
			if err == nil {
				evs = append(evs, e.Event)
			}
			return err
		})
	})
	here := mustOpen(t, Options{Server: faraway})
	ours := &world{t: t, s: here, room: theirs.room, admin: theirs.admin, clock: theirs.clock}
	update(t, here, func(tx *Tx) error {
		for _, e := range evs {
			if err := tx.PutOutlier(e); err != nil {
				return err
			}
		}
		st, err := tx.PutState(state)
		if err != nil {
			return err
		}
		_, err = tx.Apply(join, room.Accepted, st, ApplyOptions{Local: true, Horizon: true})
		return err
	})
	r := ours.roomNow()
	if r.Joined != 3 || !slices.Equal(r.Heads, []event.ID{join.ID()}) {
		t.Errorf("%+v", r)
	}
	view(t, here, func(tx *Tx) error {
		m, err := tx.Membership(alice, ours.room)
		if err != nil || m.Membership != "join" || m.Event != join.ID() {
			t.Errorf("%+v, %v", m, err)
		}
		c, err := tx.Counts()
		if want := (Counts{LocalEvents: 1, Rooms: 1, Federated: 1}); c != want {
			t.Errorf("%+v", c)
		}
		return err
	})
	ours.say(nil, alice, "after the join")
}
