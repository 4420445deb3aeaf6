package client

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

const lazy = `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}`

// memberKeys returns whose member events a list holds, sorted.
func memberKeys(events []obj) []string {
	out := []string{}
	for _, e := range events {
		if e["type"] == "m.room.member" {
			out = append(out, e["state_key"].(string))
		}
	}
	slices.Sort(out)
	return out
}

func TestLazyMembers(t *testing.T) {
	alice, bob, room := pair(t)
	carol, dave := alice.s.person("carol"), alice.s.person("dave")
	carol.join(room)
	dave.join(room)
	alice.say(room, "one")
	carol.say(room, "two")
	c := bob.syncing(lazy)
	a := c.next()
	hold(t, "the senders and oneself", memberKeys(a.state(room)), []string{string(alice.id), string(bob.id), string(carol.id)})
	alice.say(room, "three")
	hold(t, "a sender who is known", memberKeys(c.next().state(room)), []string{})
	since := c.since
	dave.say(room, "four")
	hold(t, "a sender who is new", memberKeys(c.next().state(room)), []string{string(dave.id)})
	c.since = since // the answer was lost
	hold(t, "the same again", memberKeys(c.next().state(room)), []string{string(dave.id)})
	dave.say(room, "five")
	hold(t, "now known", memberKeys(c.next().state(room)), []string{})

	redundant := bob.syncing(`{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`)
	redundant.since = c.since
	dave.say(room, "six")
	hold(t, "include_redundant_members", memberKeys(redundant.next().state(room)), []string{string(dave.id)})
	hold(t, "an initial sync forgets", memberKeys(bob.syncing(lazy).next().state(room)), []string{string(bob.id), string(dave.id)})

	// Changes of members in a gap are told though nobody of them speaks.
	c.next()
	carol.leave(room)
	for i := range 5 {
		alice.say(room, fmt.Sprint("more ", i))
	}
	hold(t, "a change in the gap", memberKeys(c.next().state(room)), []string{string(carol.id)})
}

func TestLazyMembersAfter(t *testing.T) {
	alice, bob, room := pair(t)
	carol := alice.s.person("carol")
	c := bob.syncing(lazy)
	c.after = true
	c.next()
	carol.join(room)
	carol.say(room, "hi")
	a := c.next()
	hold(t, "state_after", memberKeys(a.events("rooms", "join", room, "state_after")), []string{string(carol.id)})
}

func TestSummary(t *testing.T) {
	s := open(t)
	alice, bob, carol := s.person("alice"), s.person("bob"), s.person("carol")
	room := alice.room(obj{"preset": "public_chat", "invite": []any{carol.id}})
	c := alice.syncing(lazy)
	a := c.next()
	hold(t, "an invite", a.at("rooms", "join", room, "summary"),
		obj{"m.heroes": []any{carol.id}, "m.invited_member_count": 1, "m.joined_member_count": 1})
	if !slices.Contains(memberKeys(slices.Concat(a.state(room), a.timeline(room))), string(carol.id)) {
		t.Error("the member event of a hero is missing")
	}
	bob.join(room)
	hold(t, "a join", c.next().at("rooms", "join", room, "summary"),
		obj{"m.heroes": []any{carol.id, bob.id}, "m.invited_member_count": 1, "m.joined_member_count": 2})
	bob.say(room, "x")
	hold(t, "a message", c.next().at("rooms", "join", room, "summary"), nil)
	alice.set(room, "m.room.name", "", obj{"name": "Named"})
	hold(t, "a name", c.next().at("rooms", "join", room, "summary"), obj{"m.invited_member_count": 1, "m.joined_member_count": 2})
	alice.set(room, "m.room.name", "", obj{"name": ""})
	bob.leave(room)
	carol.leave(room)
	hold(t, "all are gone", c.next().at("rooms", "join", room, "summary"),
		obj{"m.heroes": []any{bob.id, carol.id}, "m.invited_member_count": 0, "m.joined_member_count": 1})
}

// TestVisibility compares what a user sees who joins later with the rules of Room
// history visibility, through /sync, /messages, /event and /context.
func TestVisibility(t *testing.T) {
	for _, c := range []struct {
		visibility                     string
		before, invited, after, reader bool
	}{
		{"world_readable", true, true, true, true},
		{"shared", true, true, true, false},
		{"invited", false, true, true, false},
		{"joined", false, false, true, false},
		{"im.unknown", true, true, true, false}, // as shared
	} {
		t.Run(c.visibility, func(t *testing.T) {
			s := open(t)
			alice, bob, eve := s.person("alice"), s.person("bob"), s.person("eve")
			room := alice.room(obj{"preset": "private_chat", "name": "x",
				"initial_state": []any{obj{"type": "m.room.history_visibility", "content": obj{"history_visibility": c.visibility}}}})
			ids := map[string]string{}
			ids["before"] = alice.say(room, "before")
			alice.member(room, "invite", bob)
			ids["invited"] = alice.say(room, "invited")
			bob.join(room)
			ids["after"] = alice.say(room, "after")
			want := []string{}
			for _, x := range []struct {
				name string
				sees bool
			}{{"before", c.before}, {"invited", c.invited}, {"after", c.after}} {
				if x.sees {
					want = append(want, x.name)
					bob.ok("GET", in(room, "/event/%s", ids[x.name]), nil)
					bob.ok("GET", in(room, "/context/%s", ids[x.name]), nil)
				} else {
					bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/event/%s", ids[x.name]), nil)
					bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/context/%s", ids[x.name]), nil)
				}
			}
			only := `{"types":["m.room.message"]}`
			a := bob.syncing(`{"room":{"timeline":` + only + `}}`).next()
			hold(t, "sync", bodies(a.timeline(room)), want)
			page := bob.ok("GET", in(room, "/messages?dir=f&limit=100&filter=%s", only), nil)
			hold(t, "messages", bodies(chunk(page)), want)
			around := bob.ok("GET", in(room, "/context/%s?limit=100&filter=%s", ids["after"], only), nil)
			list, _ := around.at("events_before").([]any)
			hold(t, "context", len(list), len(want)-1)

			if c.reader {
				hold(t, "a stranger", bodies(chunk(eve.ok("GET", in(room, "/messages?dir=f&filter=%s", only), nil))), want)
				eve.ok("GET", in(room, "/state"), nil)
			} else {
				eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/messages?dir=f"), nil)
				eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/state"), nil)
				eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/members"), nil)
				eve.fails(404, "M_NOT_FOUND", "GET", in(room, "/event/%s", ids["after"]), nil)
				eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/context/%s", ids["after"]), nil)
			}
			eve.fails(403, "M_FORBIDDEN", "GET", in(room, "/joined_members"), nil)
		})
	}
}

// TestVisibilityChanges: an event that changes the visibility is seen if the state
// before or after it lets it be seen.
func TestVisibilityChanges(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{"preset": "public_chat"})
	visibility := func(v string) string {
		return alice.set(room, "m.room.history_visibility", "", obj{"history_visibility": v})
	}
	toJoined := visibility("joined")
	hidden := alice.set(room, "m.room.topic", "", obj{"topic": "hidden"})
	toShared := visibility("shared")
	toJoinedAgain := visibility("joined")
	bob.join(room)
	for id, sees := range map[string]bool{toJoined: true, hidden: false, toShared: true, toJoinedAgain: true} {
		if sees {
			bob.ok("GET", in(room, "/event/%s", id), nil)
		} else {
			bob.fails(404, "M_NOT_FOUND", "GET", in(room, "/event/%s", id), nil)
		}
	}
	// prev_content of an event that one may not see is not shown, its id is.
	again := alice.set(room, "m.room.topic", "", obj{"topic": "shown"})
	e := bob.ok("GET", in(room, "/event/%s", again), nil)
	hold(t, "prev_content", e.at("unsigned", "prev_content"), nil)
	hold(t, "replaces_state", e.at("unsigned", "replaces_state"), hidden)
	hold(t, "prev_content of one who may", alice.ok("GET", in(room, "/event/%s", again), nil).at("unsigned", "prev_content"), obj{"topic": "hidden"})
}

func TestUnsigned(t *testing.T) {
	alice, bob, room := pair(t)
	second := &person{s: alice.s, id: alice.id}
	login, err := alice.s.accounts.OpenSession(t.Context(), alice.id, "", "")
	if err != nil {
		t.Fatal(err)
	}
	second.token = login.Token
	bob.leave(room)
	sync := map[*person]*syncClient{}
	for _, p := range []*person{alice, second} {
		sync[p] = p.syncing("")
		sync[p].next()
	}
	alice.ok("PUT", in(room, "/send/m.room.message/my-txn"), obj{"body": "x"})
	hold(t, "the device that sent it", sync[alice].next().timeline(room)[0]["unsigned"].(obj)["transaction_id"], "my-txn")
	hold(t, "another device", sync[second].next().timeline(room)[0]["unsigned"].(obj)["transaction_id"], nil)
	bob.join(room)
	membership := map[string]any{}
	for _, e := range bob.syncing("").next().timeline(room) {
		u := e["unsigned"].(obj)
		membership[bodies([]obj{e})[0]] = u["membership"]
		if age, ok := u["age"].(float64); !ok || age < 0 || age > float64(time.Minute.Milliseconds()) {
			t.Errorf("age %v", u["age"])
		}
	}
	hold(t, "membership while away", membership["x"], "leave")
	hold(t, "membership of the own join", membership["m.room.member/"+string(bob.id)], "join")
}

func TestRedactionsInSync(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	id := alice.say(room, "regret")
	topic := alice.set(room, "m.room.topic", "", obj{"topic": "regret"})
	redaction := alice.ok("PUT", in(room, "/redact/%s/r1", id), obj{"reason": "typo"}).str("event_id")
	alice.ok("PUT", in(room, "/redact/%s/r2", topic), obj{})
	a := c.next()
	events := a.timeline(room)
	hold(t, "the redacted event", events[0]["content"], obj{})
	because := events[0]["unsigned"].(obj)["redacted_because"].(obj)
	hold(t, "redacted_because", because["event_id"], redaction)
	hold(t, "redacts for older clients", because["redacts"], id)
	hold(t, "the redaction", []any{events[2]["content"], events[2]["redacts"]}, []any{obj{"reason": "typo", "redacts": id}, id})
	e := bob.ok("GET", in(room, "/event/%s", id), nil)
	hold(t, "the event alone", []any{e.at("content"), e.at("unsigned", "redacted_because", "event_id")}, []any{obj{}, redaction})
	hold(t, "a redacted state event", bob.ok("GET", in(room, "/state/m.room.topic/"), nil).json, obj{})
}

func TestIgnoredUsers(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	bob.ok("PUT", v3+"/user/"+string(bob.id)+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{string(alice.id): obj{}}})
	alice.say(room, "unwanted")
	alice.set(room, "m.room.topic", "", obj{"topic": "told all the same"})
	alice.room(obj{"invite": []any{bob.id}})
	alice.type_(room, true)
	a := c.next()
	hold(t, "timeline", bodies(a.timeline(room)), []string{"m.room.topic/"})
	hold(t, "invites", a.at("rooms", "invite"), obj{})
	hold(t, "unread", a.at("rooms", "join", room, "unread_notifications", "notification_count"), 0)
	page := bob.ok("GET", in(room, "/messages?dir=b&limit=2"), nil)
	for _, b := range bodies(chunk(page)) {
		if b == "unwanted" {
			t.Error("a message of an ignored user")
		}
	}
}
