package client

import (
	"fmt"
	"slices"
	"testing"
)

func TestMessages(t *testing.T) {
	alice, bob, room := pair(t)
	want := []string{}
	for i := range 25 {
		want = append(want, fmt.Sprint("m", i))
		alice.say(room, want[i])
	}
	const only = `{"types":["m.room.message"]}`
	for _, dir := range []string{"f", "b"} {
		got := []string{}
		from, pages := "", 0
		for {
			a := bob.ok("GET", in(room, "/messages?dir=%s&limit=7&from=%s&filter=%s", dir, from, only), nil)
			if from != "" && a.str("start") != from {
				t.Errorf("start %q, from %q", a.str("start"), from)
			}
			got = append(got, bodies(chunk(a))...)
			pages++
			if from = a.str("end"); from == "" {
				break
			}
		}
		if dir == "b" {
			slices.Reverse(got)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v", dir, got)
		}
		if pages != 4 {
			t.Errorf("%s: %d pages", dir, pages)
		}
	}
	hold(t, "the default limit", len(chunk(bob.ok("GET", in(room, "/messages?dir=b"), nil))), defaultPage)
	e := chunk(bob.ok("GET", in(room, "/messages?dir=b&limit=1"), nil))[0]
	hold(t, "room_id", e["room_id"], room)

	create := chunk(bob.ok("GET", in(room, "/messages?dir=f&limit=1"), nil))[0]
	hold(t, "the create event has a room id", []any{create["type"], create["room_id"]}, []any{"m.room.create", room})

	lazyPage := bob.ok("GET", in(room, "/messages?dir=b&limit=2&filter=%s", `{"lazy_load_members":true}`), nil)
	state, _ := lazyPage.at("state").([]any)
	if len(state) != 1 || state[0].(obj)["state_key"] != string(alice.id) {
		t.Errorf("lazily loaded members: %v", state)
	}
	for _, q := range []string{"", "dir=x", "dir=b&from=x", "dir=b&to=y", "dir=b&limit=0", "dir=b&limit=x", "dir=b&filter=x", "dir=b&filter=[]"} {
		code := "M_INVALID_PARAM"
		if q == "" {
			code = "M_MISSING_PARAM"
		}
		bob.fails(400, code, "GET", in(room, "/messages")+"?"+q, nil)
	}
	eve := alice.s.person("eve")
	eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/messages?dir=b"), nil)
	unknown := "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	eve.fails(403, "M_FORBIDDEN", "GET", in(unknown, "/messages?dir=b"), nil)
}

// TestMessagesScansOn: a page without a match still leads on.
func TestMessagesScansOn(t *testing.T) {
	alice, bob, room := pair(t)
	alice.send(room, "x.rare", obj{"body": "needle"})
	for i := range 450 {
		alice.say(room, fmt.Sprint(i))
	}
	from, found, pages := "", []string{}, 0
	for {
		a := bob.ok("GET", in(room, "/messages?dir=b&limit=5&from=%s&filter=%s", from, `{"types":["x.*"]}`), nil)
		found = append(found, bodies(chunk(a))...)
		if from = a.str("end"); from == "" {
			break
		}
		if pages++; pages > 20 {
			t.Fatal("the pages do not end")
		}
	}
	hold(t, "found", found, []string{"needle"})
	if pages < 2 {
		t.Error("one request went through the whole history")
	}
}

func TestContext(t *testing.T) {
	alice, bob, room := pair(t)
	ids := []string{}
	for i := range 9 {
		ids = append(ids, alice.say(room, fmt.Sprint("m", i)))
	}
	a := bob.ok("GET", in(room, "/context/%s?limit=5", ids[4]), nil)
	list := func(key string) []string {
		events := []obj{}
		l, _ := a.at(key).([]any)
		for _, e := range l {
			events = append(events, e.(obj))
		}
		return bodies(events)
	}
	hold(t, "event", a.at("event", "content", "body"), "m4")
	hold(t, "before", list("events_before"), []string{"m3", "m2"})
	hold(t, "after", list("events_after"), []string{"m5", "m6", "m7"})
	if s := list("state"); !slices.Contains(s, "m.room.create/") {
		t.Errorf("state: %v", s)
	}
	start, end := a.str("start"), a.str("end")
	hold(t, "further back", bodies(chunk(bob.ok("GET", in(room, "/messages?dir=b&limit=1&from=%s", start), nil))), []string{"m1"})
	hold(t, "further on", bodies(chunk(bob.ok("GET", in(room, "/messages?dir=f&limit=1&from=%s", end), nil))), []string{"m8"})
	a = bob.ok("GET", in(room, "/context/%s?limit=0", ids[4]), nil)
	hold(t, "limit 0", []any{a.at("event", "content", "body"), list("events_before"), list("events_after")}, []any{"m4", []string{}, []string{}})
	a = bob.ok("GET", in(room, "/context/%s?limit=4&filter=%s", ids[4], `{"lazy_load_members":true,"types":["m.room.*"]}`), nil)
	hold(t, "lazily loaded members", memberKeys(events(a, "state")), []string{string(alice.id)})
	bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/context/%s", "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), nil)
	bob.fails(400, "M_INVALID_PARAM", "GET", in(room, "/context/%s?limit=-1", ids[0]), nil)
}

func events(a answer, key string) []obj {
	l, _ := a.at(key).([]any)
	out := []obj{}
	for _, e := range l {
		out = append(out, e.(obj))
	}
	return out
}

func TestSingleEvent(t *testing.T) {
	alice, bob, room := pair(t)
	id := alice.say(room, "hi")
	other := alice.room(obj{"preset": "public_chat"})
	e := bob.ok("GET", in(room, "/event/%s", id), nil)
	hold(t, "event", []any{e.at("content", "body"), e.at("room_id"), e.at("event_id"), e.at("unsigned", "membership")}, []any{"hi", room, id, "join"})
	bob.fails(404, "M_NOT_FOUND", "GET", in(other, "/event/%s", id), nil)
	alice.fails(404, "M_NOT_FOUND", "GET", in(other, "/event/%s", id), nil) // of another room
	bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/event/%s", "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), nil)
	for _, none := range []string{"$none", "$none:example.org", "x"} { // ids that no event here can have
		bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/event/%s", none), nil)
		bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/context/%s", none), nil)
	}
}

// Links on the web lead to rooms of other versions: nobody here is in them.
func TestRoomsOfOtherVersions(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	const room = "!abc:example.org"
	for _, path := range []string{"/state", "/state/m.room.name", "/members", "/joined_members", "/messages?dir=b", "/aliases"} {
		alice.fails(403, "M_FORBIDDEN", "GET", in(room, path), nil)
	}
	alice.fails(403, "M_FORBIDDEN", "PUT", in(room, "/send/m.room.message/1"), obj{})
	alice.fails(403, "M_FORBIDDEN", "POST", in(room, "/leave"), nil)
	alice.fails(404, "M_NOT_FOUND", "POST", in(room, "/join"), nil)
	alice.fails(404, "M_NOT_FOUND", "POST", v3+"/join/"+room+"?via=example.org", nil)
	alice.fails(404, "M_NOT_FOUND", "GET", v3+"/directory/list/room/"+room, nil)
	for _, bad := range []string{"!abc", "abc:example.org", "!:example.org", "!abc:"} {
		alice.fails(400, "M_INVALID_PARAM", "GET", in(bad, "/state"), nil)
		alice.fails(400, "M_INVALID_PARAM", "POST", in(bad, "/join"), nil)
	}
}

func TestStateEndpoints(t *testing.T) {
	alice, bob, room := pair(t)
	alice.set(room, "x.y", "a/b c", obj{"v": 1})
	hold(t, "content", bob.ok("GET", in(room, "/state/%s/%s", "x.y", "a/b c"), nil).json, obj{"v": 1})
	// The definition wants exactly one of two forms, of which an event has both.
	whole := bob.s.rawGet(in(room, "/state/m.room.name?format=event"), bob.token)
	hold(t, "event", []any{whole.at("type"), whole.at("content", "name"), whole.at("room_id")}, []any{"m.room.name", "Room", room})
	bob.ok("GET", in(room, "/state/m.room.name/"), nil)
	bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/state/x.none/"), nil)
	bob.fails(400, "M_INVALID_PARAM", "GET", in(room, "/state/m.room.name?format=xml"), nil)
	eve := alice.s.person("eve")
	eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/state/m.room.name/"), nil)

	carol := alice.s.person("carol")
	before := bob.syncing("").next().str("next_batch")
	carol.join(room)
	alice.member(room, "invite", eve)
	carol.leave(room)
	members := func(query string) []string {
		return memberKeys(chunk(bob.ok("GET", in(room, "/members")+"?"+query, nil)))
	}
	a, b, c, e := string(alice.id), string(bob.id), string(carol.id), string(eve.id)
	hold(t, "all", members(""), []string{a, b, c, e})
	hold(t, "joined", members("membership=join"), []string{a, b})
	hold(t, "not left", members("not_membership=leave"), []string{a, b, e})
	hold(t, "either", members("membership=leave&not_membership=join"), []string{c, e})
	hold(t, "then", members("at="+before), []string{a, b})
	bob.fails(400, "M_INVALID_PARAM", "GET", in(room, "/members")+"?membership=away", nil)
	bob.fails(400, "M_INVALID_PARAM", "GET", in(room, "/members")+"?at=x", nil)
	hold(t, "who left sees the room as it was", memberKeys(chunk(carol.ok("GET", in(room, "/members"), nil))), []string{a, b, c, e})

	joined := bob.ok("GET", in(room, "/joined_members"), nil)
	hold(t, "joined_members", len(joined.at("joined").(obj)), 2)
	carol.fails(403, "M_FORBIDDEN", "GET", in(room, "/joined_members"), nil)
	hold(t, "joined_rooms", bob.ok("GET", v3+"/joined_rooms", nil).at("joined_rooms"), []any{room})
	hold(t, "no rooms", carol.ok("GET", v3+"/joined_rooms", nil).at("joined_rooms"), []any{})
}
