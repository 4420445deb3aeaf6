package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// follower is a client that does with its syncs what the specification says.
type follower struct {
	m      *member
	user   event.UserID
	filter Filter
	after  bool
	since  *Token
	state  map[event.RoomID]map[room.Key]event.ID // of rooms that it is in
	seen   map[event.RoomID][]event.ID            // timelines, gaps filled
}

func (m *member) follow(u event.UserID) *follower {
	return &follower{m: m, user: u, state: map[event.RoomID]map[room.Key]event.ID{}, seen: map[event.RoomID][]event.ID{}}
}

// sync syncs once, without waiting, and takes in the answer.
func (f *follower) sync() *SyncResult {
	f.m.world.t.Helper()
	res, err := f.m.Sync(ctx0, SyncRequest{Viewer: Viewer{User: f.user, Device: "D"}, Since: f.since, Filter: &f.filter, StateAfter: f.after})
	if err != nil {
		f.m.world.t.Fatal(err)
	}
	for _, j := range res.Join {
		f.take(j.ID, j.State, &j.Timeline)
	}
	for _, l := range res.Leave {
		delete(f.state, l.ID)
		delete(f.seen, l.ID)
	}
	f.since = &res.Next
	return res
}

func (f *follower) take(r event.RoomID, state []*Shown, tl *RoomTimeline) {
	st := f.state[r]
	if st == nil {
		st = map[room.Key]event.ID{}
		f.state[r] = st
	}
	apply := func(list []*Shown) {
		for _, e := range list {
			if e.StateKey != nil {
				st[room.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID()
			}
		}
	}
	apply(state)
	if !f.after {
		apply(tl.Events)
	}
	if tl.Limited && f.since != nil && len(f.seen[r]) > 0 {
		f.fill(r, tl.Prev)
	}
	for _, e := range tl.Events {
		f.seen[r] = append(f.seen[r], e.ID())
	}
}

// fill closes the gap between the token and the beginning of a limited timeline.
func (f *follower) fill(r event.RoomID, prev Token) {
	from := f.since
	for from != nil {
		p, err := f.m.Messages(ctx0, Viewer{User: f.user}, PageRequest{Room: r, From: from, To: &prev, Forward: true, Limit: 3})
		if err != nil {
			f.m.world.t.Fatal(err)
		}
		for _, e := range p.Events {
			f.seen[r] = append(f.seen[r], e.ID())
		}
		from = p.End
	}
}

// check compares what the client knows of a room with what the node holds.
func (f *follower) check(r event.RoomID) error {
	return f.m.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		st, err := tx.State(rm.State)
		if err != nil {
			return err
		}
		n := 0
		err = st.Each("", func(k room.Key, id event.ID) error {
			if n++; f.state[r][k] != id {
				return fmt.Errorf("at %s %q the client has %q, the node %q", k.Type, k.StateKey, f.state[r][k], id)
			}
			return nil
		})
		if err != nil || n != len(f.state[r]) {
			return errors.Join(err, fmt.Errorf("the client has %d places, the node %d", len(f.state[r]), n))
		}
		evs, _, err := tx.Timeline(r, 0, 1<<62, 1<<20)
		if err != nil {
			return err
		}
		var all []event.ID
		for _, e := range evs {
			all = append(all, e.ID())
		}
		if got := f.seen[r]; !slices.Equal(got, all[len(all)-len(got):]) {
			return fmt.Errorf("the client has the timeline %v, the node %v", got, all)
		}
		return nil
	})
}

// TestClientFollows: whatever happens in a room, a client that syncs now and then
// knows its state and misses nothing of its timeline.
func TestClientFollows(t *testing.T) {
	w := newWorld(t, 1, acme)
	a := w.nodes[acme]
	alice, bob, carol := a.user("alice"), a.user("bob"), a.user("carol")
	rapid.Check(t, func(t *rapid.T) {
		r := a.create(alice, CreateRequest{Preset: "public_chat"})
		w.must(a.Join(ctx0, bob, r, nil, nil))
		var clients []*follower
		for _, limit := range []int{1, 3, 0} {
			for _, after := range []bool{false, true} {
				f := a.follow(bob)
				f.after, f.filter.Room.Timeline.Limit = after, limit
				f.filter.Room.Rooms = []event.RoomID{r}
				clients = append(clients, f)
			}
		}
		there := true
		for i := range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0, 1:
				a.say(alice, r, fmt.Sprint(i))
			case 2:
				a.set(alice, r, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, i))
			case 3:
				a.set(alice, r, "x.y", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), fmt.Sprintf(`{"v":%d}`, i))
			case 4:
				w.must(a.Join(ctx0, carol, r, nil, nil))
			case 5:
				w.must(a.Join(ctx0, carol, r, nil, nil)) // none if she is there
				w.must(a.Leave(ctx0, carol, r, ""))
			case 6:
				if there {
					w.must(a.Kick(ctx0, alice, r, bob, ""))
				} else {
					w.must(a.Join(ctx0, bob, r, nil, nil))
				}
				there = !there
			default:
				for n, f := range clients {
					if rapid.Bool().Draw(t, fmt.Sprint("client ", n)) {
						f.sync()
					}
				}
			}
		}
		if !there {
			w.must(a.Join(ctx0, bob, r, nil, nil))
		}
		for n, f := range clients {
			f.sync()
			if err := f.check(r); err != nil {
				t.Fatalf("client %d: %v", n, err)
			}
			if res := f.sync(); !res.empty() {
				t.Fatalf("client %d: something is new though nothing happened", n)
			}
		}
	})
}

// TestStateAfterFork: after a fork the timeline does not tell the state; a client
// that asks for the state after it knows it all the same.
func TestStateAfterFork(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 5)
	a.set(alice, r, "m.room.power_levels", "", `{"users":{"`+string(bob)+`":50},"state_default":50,"events_default":0}`)
	w.agree(r, acme, birch)
	fa, fb := a.follow(alice), b.follow(bob)
	fa.after, fb.after = true, true
	fa.sync()
	fb.sync()
	w.net.Partition([]event.Server{acme}, []event.Server{birch})
	for i := range 3 {
		a.set(alice, r, "m.room.topic", "", fmt.Sprintf(`{"topic":"acme %d"}`, i))
		b.set(bob, r, "m.room.topic", "", fmt.Sprintf(`{"topic":"birch %d"}`, i))
		b.set(bob, r, "x.y", "", fmt.Sprintf(`{"v":%d}`, i))
		fa.sync()
		fb.sync()
	}
	w.net.Heal()
	w.agree(r, acme, birch)
	w.wait("the client knows the resolved state", func() error {
		fa.sync()
		fb.sync()
		return errors.Join(fa.check(r), fb.check(r))
	})
}

// TestSyncAcrossRestart: a token of a former run goes on where it stood.
func TestSyncAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(store.Options{Dir: dir, Server: acme})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 6)
	a := w.addOn(acme, st)
	alice, bob := a.user("alice"), a.user("bob")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.must(a.Join(ctx0, bob, r, nil, nil))
	w.must(a.SetTyping(ctx0, alice, r, true, time.Minute))
	f := a.follow(bob)
	if res := f.sync(); len(res.Join) != 1 || !slices.Equal(res.Join[0].Typing, []event.UserID{alice}) {
		t.Fatalf("%+v", res)
	}
	text := f.since.String()
	a.say(alice, r, "before the restart")
	a.kill()
	if err := a.store.Close(); err != nil {
		t.Fatal(err)
	}
	if a.store, err = store.Open(store.Options{Dir: dir, Server: acme}); err != nil {
		t.Fatal(err)
	}
	a.start()
	last := a.say(alice, r, "after the restart")
	tok, err := ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	f.since = &tok
	res := f.sync()
	if len(res.Join) != 1 || len(res.Join[0].Timeline.Events) != 2 || res.Join[0].Timeline.Events[1].ID() != last || len(res.Join[0].State) != 0 {
		t.Fatalf("%+v", res.Join)
	}
	if ty := res.Join[0].Typing; ty == nil || len(ty) != 0 {
		t.Errorf("typing: %v; nobody is typing, and the client believes otherwise", ty)
	}
	if err := f.check(r); err != nil {
		t.Error(err)
	}
	if res := f.sync(); !res.empty() {
		t.Errorf("%+v", res)
	}
}

// TestSyncEndsWithItsContext: a long-poll is answered at once when the server
// stops.
func TestSyncEndsWithItsContext(t *testing.T) {
	w := newWorld(t, 7, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	since := Token{Position: a.store.Position()}
	ctx, stop := context.WithCancel(ctx0)
	done := make(chan error, 1)
	go func() {
		res, err := a.Sync(ctx, SyncRequest{Viewer: Viewer{User: alice}, Since: &since, Timeout: time.Hour})
		if err == nil && res.Next != since {
			err = fmt.Errorf("the token is %s", res.Next)
		}
		done <- err
	}()
	w.wait("the poll waits", func() error {
		if a.Feed.Waiting() == 0 {
			return errors.New("nobody waits")
		}
		return nil
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if a.Feed.Waiting() != 0 {
		t.Error("the poll left its ticket behind")
	}
}

// TestSyncOfAJoinOverTheFederation: the state that came with the join is told,
// members and all, and /messages ends where the history that is held begins.
func TestSyncOfAJoinOverTheFederation(t *testing.T) {
	w := newWorld(t, 8, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob, carol := a.user("alice"), b.user("bob"), a.user("carol")
	r := a.create(alice, CreateRequest{Preset: "public_chat", Name: "Far", Topic: "away"})
	w.must(a.Join(ctx0, carol, r, nil, nil))
	a.say(alice, r, "long ago")
	f := b.follow(bob)
	f.sync()
	w.must(b.Join(ctx0, bob, r, []event.Server{acme}, nil))
	last := a.say(alice, r, "welcome")
	b.has(last)
	res := f.sync()
	if len(res.Join) != 1 {
		t.Fatalf("%+v", res)
	}
	if err := f.check(r); err != nil {
		t.Error(err)
	}
	if res.Join[0].Summary == nil || res.Join[0].Summary.Joined != 3 {
		t.Errorf("summary %+v", res.Join[0].Summary)
	}
	members, err := b.Members(ctx0, bob, MembersRequest{Room: r, Membership: join})
	if err != nil || len(members) != 3 {
		t.Errorf("%d members, %v", len(members), err)
	}
	create, err := b.Event(ctx0, Viewer{User: bob}, r, r.Create())
	if err != nil || create.Type != typeCreate {
		t.Errorf("an event of the state: %v", err)
	}
	if _, err := b.EventContext(ctx0, Viewer{User: bob}, r, r.Create(), 10, nil); err != nil {
		t.Errorf("around an event of the state: %v", err)
	}
	var got []event.ID
	for from := (*Token)(nil); ; {
		p, err := b.Messages(ctx0, Viewer{User: bob}, PageRequest{Room: r, From: from, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Events {
			got = append(got, e.ID())
		}
		if from = p.End; from == nil {
			break
		}
	}
	slices.Reverse(got)
	if !slices.Equal(got, f.seen[r]) {
		t.Errorf("messages %v, sync %v", got, f.seen[r])
	}
	// Leaving: the room is told as left, and stays readable as it was.
	w.must(b.Leave(ctx0, bob, r, ""))
	res = f.sync()
	if len(res.Leave) != 1 || len(res.Leave[0].Timeline.Events) == 0 {
		t.Fatalf("%+v", res.Leave)
	}
	if _, err := b.State(ctx0, bob, r); err != nil {
		t.Error(err)
	}
}

// TestSyncOfARemoteInvite: an invite of another server, and its end.
func TestSyncOfARemoteInvite(t *testing.T) {
	w := newWorld(t, 9, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{Preset: "private_chat", Name: "Far"})
	f := b.follow(bob)
	f.sync()
	w.must(a.Invite(ctx0, alice, r, bob, nil))
	var res *SyncResult
	w.wait("the invite", func() error {
		if res = f.sync(); len(res.Invite) != 1 {
			return errors.New("no invite")
		}
		return nil
	})
	types := map[string]bool{}
	for _, raw := range res.Invite[0].State {
		var e map[string]json.RawMessage
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		types[string(e["type"])] = true
	}
	if !types[`"m.room.create"`] || !types[`"m.room.name"`] || !types[`"m.room.member"`] {
		t.Errorf("invite_state holds %v", types)
	}
	if _, err := b.Messages(ctx0, Viewer{User: bob}, PageRequest{Room: r, Limit: 1}); !errors.Is(err, ErrForbidden) {
		t.Errorf("messages of a room that one is invited to: %v", err)
	}
	w.must(b.Leave(ctx0, bob, r, ""))
	if res = f.sync(); len(res.Leave) != 1 || len(res.Invite) != 0 {
		t.Errorf("%+v", res)
	}
}

// TestManyMembersHeroes: the heroes of a large room are found without going
// through its members, and are members.
func TestManyMembersHeroes(t *testing.T) {
	w := newWorld(t, 10, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	var users []event.UserID
	for i := range heroScan + 5 {
		u := a.user(fmt.Sprintf("u%03d", i))
		w.must(a.Join(ctx0, u, r, nil, nil))
		users = append(users, u)
	}
	w.must(a.Leave(ctx0, users[0], r, ""))
	f := a.follow(users[2])
	res := f.sync()
	want := []event.UserID{alice, users[1], users[3], users[4], users[5]}
	if got := res.Join[0].Summary.Heroes; !slices.Equal(got, want) {
		t.Errorf("heroes %v, want %v", got, want)
	}
}
