package client

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/federation/simnet"
)

func TestCreateRoom(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{
		"name": "Plans", "topic": "What to do", "room_alias_name": "plans", "visibility": "public", "preset": "public_chat",
		"invite": []string{string(bob.id)}, "room_version": "12", "is_direct": false,
		"initial_state":                []obj{{"type": "org.example.a", "content": obj{"b": 1}}},
		"power_level_content_override": obj{"events_default": 5},
		"creation_content":             obj{"org.example.c": true},
	})
	for _, tt := range []struct {
		path, field string
		want        any
	}{
		{"m.room.name", "name", "Plans"}, {"m.room.topic", "topic", "What to do"}, {"org.example.a", "b", 1},
		{"m.room.canonical_alias", "alias", "#plans:hq"}, {"m.room.join_rules", "join_rule", "public"},
		{"m.room.power_levels", "events_default", 5}, {"m.room.create", "room_version", "12"}, {"m.room.create", "org.example.c", true},
		{"m.room.member/" + string(bob.id), "membership", "invite"},
	} {
		hold(t, tt.path, alice.ok("GET", in(room, "/state/")+tt.path, nil).at(tt.field), tt.want)
	}
	hold(t, "alias", s.ok("GET", v3+"/directory/room/%23plans:hq", "", nil).json, obj{"room_id": room, "servers": []string{"hq"}})
	hold(t, "visibility", s.ok("GET", v3+"/directory/list/room/"+room, "", nil).json, obj{"visibility": "public"})

	for _, tt := range []struct {
		name   string
		status int
		code   string
		body   any
	}{
		{"version", 400, "M_UNSUPPORTED_ROOM_VERSION", obj{"room_version": "11"}},
		{"alias in use", 400, "M_ROOM_IN_USE", obj{"room_alias_name": "plans"}},
		{"alias", 400, "M_INVALID_PARAM", obj{"room_alias_name": "a:b"}},
		{"preset", 400, "M_INVALID_PARAM", obj{"preset": "x"}},
		{"visibility", 400, "M_INVALID_PARAM", obj{"visibility": "x"}},
		{"invite", 400, "M_INVALID_PARAM", obj{"invite": []string{"bob"}}},
		{"wrong types", 400, "M_BAD_JSON", obj{"name": 1}},
		{"overrides that are no object", 400, "M_BAD_JSON", obj{"power_level_content_override": []int{1}}},
		{"initial state without type", 400, "M_MISSING_PARAM", obj{"initial_state": []obj{{"content": obj{}}}}},
		{"initial state without content", 400, "M_BAD_JSON", obj{"initial_state": []obj{{"type": "a"}}}},
		{"third-party invites", 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", obj{"invite_3pid": []obj{{"medium": "email", "address": "a@b"}}}},
		{"state against the rules", 400, "M_INVALID_ROOM_STATE", obj{"power_level_content_override": obj{"ban": "fifty"}}},
		{"creators", 400, "M_INVALID_PARAM", obj{"creation_content": obj{"additional_creators": 7}}},
		{"not JSON", 400, "M_NOT_JSON", "x"},
	} {
		t.Run(tt.name, func(t *testing.T) { alice.fails(tt.status, tt.code, "POST", v3+"/createRoom", tt.body) })
	}
	s.fails(401, "M_MISSING_TOKEN", "POST", v3+"/createRoom", "", obj{})
}

// What is wrong with a body is said in the words of the specification.
func TestWrongTypes(t *testing.T) {
	alice := open(t).person("alice")
	a := alice.fails(400, "M_BAD_JSON", "POST", v3+"/createRoom", obj{"name": 5})
	if text := a.str("error"); !strings.Contains(text, "name") || strings.Contains(text, "Request") {
		t.Errorf("error: %q", text)
	}
}

func TestSend(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room, other := alice.room(obj{}), alice.room(obj{})
	text := obj{"msgtype": "m.text", "body": "hi"}
	one := alice.ok("PUT", in(room, "/send/m.room.message/1"), text).str("event_id")
	if got := alice.ok("PUT", in(room, "/send/m.room.message/1"), text).str("event_id"); got != one {
		t.Errorf("the same request made another event: %s and %s", one, got)
	}
	// Another path with the same transaction id is another request.
	for _, path := range []string{in(room, "/send/org.example.x/1"), in(other, "/send/m.room.message/1"), in(room, "/send/m.room.message/2")} {
		if got := alice.ok("PUT", path, text).str("event_id"); got == one {
			t.Errorf("%s is taken for a repetition", path)
		}
	}
	if got := alice.ok("GET", in(room, "/event/%s", one), nil); got.str("content", "body") != "hi" || got.str("sender") != string(alice.id) {
		t.Errorf("%s", got.raw)
	}

	bob.fails(403, "M_FORBIDDEN", "PUT", in(room, "/send/m.room.message/1"), text)
	alice.fails(413, "M_TOO_LARGE", "PUT", in(room, "/send/m.room.message/9"), obj{"body": strings.Repeat("x", 66_000)})
	alice.fails(400, "M_BAD_JSON", "PUT", in(room, "/send/m.room.message/9"), `{"a":1.5}`)
	alice.fails(400, "M_BAD_JSON", "PUT", in(room, "/send/m.room.message/9"), `[]`)
	alice.fails(400, "M_NOT_JSON", "PUT", in(room, "/send/m.room.message/9"), `{"a"`)
	alice.fails(400, "M_INVALID_PARAM", "PUT", in("!short", "/send/m.room.message/9"), text)
	alice.fails(400, "M_INVALID_PARAM", "PUT", in(room, "/send/m.room.message/%s", strings.Repeat("x", 256)), text)
	s.fails(401, "M_MISSING_TOKEN", "PUT", in(room, "/send/m.room.message/9"), "", text)
}

func TestRedact(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{"preset": "public_chat"})
	bob.ok("POST", in(room, "/join"), nil)
	id := alice.ok("PUT", in(room, "/send/m.room.message/1"), obj{"msgtype": "m.text", "body": "oops"}).str("event_id")
	red := alice.ok("PUT", in(room, "/redact/%s/1", id), obj{"reason": "typo"}).str("event_id")
	if again := alice.ok("PUT", in(room, "/redact/%s/1", id), obj{"reason": "typo"}).str("event_id"); again != red {
		t.Error("the same request made another event")
	}
	got := alice.ok("GET", in(room, "/event/%s", id), nil)
	if got.at("content", "body") != nil || got.str("unsigned", "redacted_because", "event_id") != red {
		t.Errorf("%s", got.raw)
	}
	hold(t, "redaction", alice.ok("GET", in(room, "/event/%s", red), nil).at("content"), obj{"reason": "typo", "redacts": id})
	// The redaction of another's message needs power.
	id = alice.ok("PUT", in(room, "/send/m.room.message/2"), obj{"msgtype": "m.text", "body": "stays"}).str("event_id")
	bob.fails(403, "M_FORBIDDEN", "PUT", in(room, "/redact/%s/1", id), obj{})
	// What counts is the key that the specification names, whatever stands beside it.
	own := bob.ok("PUT", in(room, "/send/m.room.message/1"), obj{"msgtype": "m.text", "body": "mine"}).str("event_id")
	for i, content := range []string{`{"redacts":%q,"Redacts":%q}`, `{"Redacts":%[2]q,"redacts":%[1]q}`, `{"REDACTS":%[2]q,"redacts":%[1]q,"redactS":%[2]q}`} {
		bob.fails(403, "M_FORBIDDEN", "PUT", in(room, "/send/m.room.redaction/%s", i), fmt.Sprintf(content, id, own))
	}
	bob.fails(400, "M_UNKNOWN", "PUT", in(room, "/send/m.room.redaction/9"), obj{"Redacts": own})
	if got := alice.ok("GET", in(room, "/event/%s", id), nil).str("content", "body"); got != "stays" {
		t.Errorf("body is %q", got)
	}
	alice.fails(400, "M_INVALID_PARAM", "PUT", in(room, "/redact/x/1"), obj{})
	alice.fails(400, "M_BAD_JSON", "PUT", in(room, "/redact/%s/1", id), obj{"reason": 1})
}

func TestPutState(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{"preset": "public_chat"})
	bob.ok("POST", in(room, "/join"), nil)
	// An empty state key can be left out, with or without its slash.
	for i, path := range []string{"/state/m.room.topic", "/state/m.room.topic/"} {
		topic := obj{"topic": strings.Repeat("x", i+1)}
		if alice.ok("PUT", in(room, path), topic).str("event_id") == "" {
			t.Error("no event id")
		}
		hold(t, path, alice.ok("GET", in(room, "/state/m.room.topic/"), nil).json, topic)
	}
	alice.ok("PUT", in(room, "/state/org.example.x/%s", "a/b c"), obj{"v": 1})
	hold(t, "state key", alice.ok("GET", in(room, "/state/org.example.x/%s", "a/b c"), nil).json, obj{"v": 1})
	bob.fails(403, "M_FORBIDDEN", "PUT", in(room, "/state/m.room.topic"), obj{"topic": "mine"})
	bob.fails(403, "M_FORBIDDEN", "PUT", in(room, "/state/org.example.x/%s", alice.id), obj{})
	alice.fails(400, "M_BAD_JSON", "PUT", in(room, "/state/m.room.topic"), `[]`)
	alice.fails(404, "M_UNRECOGNIZED", "PUT", in(room, "/state/a/b/c"), obj{})

	// Membership through the state.
	carol := s.person("carol")
	id := alice.ok("PUT", in(room, "/state/m.room.member/%s", carol.id), obj{"membership": "invite", "reason": "come"}).str("event_id")
	got := alice.ok("GET", in(room, "/event/%s", id), nil)
	if got.str("content", "membership") != "invite" || got.str("content", "reason") != "come" || got.str("state_key") != string(carol.id) {
		t.Errorf("%s", got.raw)
	}
	bob.ok("PUT", in(room, "/state/m.room.member/%s", bob.id), obj{"membership": "join", "displayname": "Bobby"})
	hold(t, "own member event", bob.ok("GET", in(room, "/state/m.room.member/%s", bob.id), nil).at("displayname"), "Bobby")
	alice.fails(400, "M_INVALID_PARAM", "PUT", in(room, "/state/m.room.member/x"), obj{"membership": "invite"})
	alice.fails(400, "M_BAD_JSON", "PUT", in(room, "/state/m.room.member/%s", bob.id), obj{"membership": 1})

	// Canonical aliases must be valid and point here.
	alice.ok("PUT", v3+"/directory/room/%23here:hq", obj{"room_id": room})
	alice.ok("PUT", v3+"/directory/room/%23there:hq", obj{"room_id": alice.room(obj{})})
	canonical := in(room, "/state/m.room.canonical_alias")
	alice.ok("PUT", canonical, obj{"alias": "#here:hq"})
	alice.fails(400, "M_BAD_ALIAS", "PUT", canonical, obj{"alias": "#there:hq"})
	alice.fails(400, "M_BAD_ALIAS", "PUT", canonical, obj{"alt_aliases": []string{"#here:hq", "#nowhere:hq"}})
	alice.fails(400, "M_INVALID_PARAM", "PUT", canonical, obj{"alias": "here"})
	alice.fails(400, "M_INVALID_PARAM", "PUT", canonical, obj{"alias": 1})
	// What is there already is not looked at.
	alice.ok("DELETE", v3+"/directory/room/%23here:hq", nil)
	alice.ok("PUT", canonical, obj{"alias": "#here:hq", "alt_aliases": []string{}})
	alice.ok("PUT", canonical, obj{})
}

func TestMembership(t *testing.T) {
	s := open(t)
	alice, bob, carol := s.person("alice"), s.person("bob"), s.person("carol")
	room := alice.room(obj{})
	membership := func(p *person) string {
		t.Helper()
		return alice.ok("GET", in(room, "/state/m.room.member/%s", p.id), nil).str("membership")
	}
	who := func(p *person) obj { return obj{"user_id": string(p.id), "reason": "because"} }

	bob.fails(403, "M_FORBIDDEN", "POST", in(room, "/join"), obj{})
	alice.ok("POST", in(room, "/invite"), who(bob))
	if membership(bob) != "invite" {
		t.Error("bob is not invited")
	}
	hold(t, "joined room", bob.ok("POST", v3+"/join/"+url.PathEscape(room), obj{"reason": "hello"}).json, obj{"room_id": room})
	hold(t, "reason", alice.ok("GET", in(room, "/state/m.room.member/%s", bob.id), nil).at("reason"), "hello")
	alice.fails(403, "M_FORBIDDEN", "POST", in(room, "/invite"), who(bob)) // is in the room
	bob.ok("POST", in(room, "/join"), nil)                                 // again changes nothing

	bob.fails(403, "M_FORBIDDEN", "POST", in(room, "/kick"), who(alice))
	alice.ok("POST", in(room, "/kick"), who(bob))
	if membership(bob) != "leave" {
		t.Error("bob is not kicked")
	}
	alice.fails(403, "M_FORBIDDEN", "POST", in(room, "/kick"), who(bob))
	alice.ok("POST", in(room, "/ban"), who(carol))
	if membership(carol) != "ban" {
		t.Error("carol is not banned")
	}
	alice.fails(403, "M_FORBIDDEN", "POST", in(room, "/invite"), who(carol))
	carol.fails(403, "M_FORBIDDEN", "POST", in(room, "/join"), obj{})
	bob.fails(403, "M_FORBIDDEN", "POST", in(room, "/unban"), who(carol))
	alice.ok("POST", in(room, "/unban"), who(carol))
	if membership(carol) != "leave" {
		t.Error("carol is still banned")
	}
	alice.fails(403, "M_BAD_STATE", "POST", in(room, "/unban"), who(carol))
	alice.fails(403, "M_BAD_STATE", "POST", in(room, "/unban"), obj{"user_id": "@never:hq"})
	carol.fails(403, "M_FORBIDDEN", "POST", in(room, "/unban"), who(bob))

	// Rejecting an invite, leaving, forgetting.
	alice.ok("POST", in(room, "/invite"), who(carol))
	carol.ok("POST", in(room, "/leave"), nil)
	if membership(carol) != "leave" {
		t.Error("the invite is not rejected")
	}
	alice.ok("POST", in(room, "/invite"), who(bob))
	bob.ok("POST", in(room, "/join"), obj{})
	bob.fails(400, "M_UNKNOWN", "POST", in(room, "/forget"), obj{})
	bob.ok("POST", in(room, "/leave"), obj{"reason": "enough"})
	bob.ok("POST", in(room, "/leave"), obj{})
	bob.ok("POST", in(room, "/forget"), obj{})

	for _, action := range []string{"invite", "kick", "ban", "unban"} {
		path := in(room, "/"+action)
		alice.fails(400, "M_MISSING_PARAM", "POST", path, obj{})
		alice.fails(400, "M_INVALID_PARAM", "POST", path, obj{"user_id": "bob"})
		alice.fails(400, "M_BAD_JSON", "POST", path, obj{"user_id": 1})
		alice.fails(400, "M_BAD_JSON", "POST", path, obj{"user_id": string(bob.id), "reason": obj{}})
		alice.fails(400, "M_NOT_JSON", "POST", path, nil)
		alice.fails(400, "M_INVALID_PARAM", "POST", in("!x", "/"+action), who(bob))
	}
	unknown := "!" + strings.Repeat("A", 43)
	bob.fails(404, "M_NOT_FOUND", "POST", in(unknown, "/join"), obj{})
	bob.fails(400, "M_INVALID_PARAM", "POST", v3+"/join/nonsense", obj{})
	bob.fails(404, "M_NOT_FOUND", "POST", v3+"/join/%23nowhere:hq", obj{})
	bob.fails(400, "M_INVALID_PARAM", "POST", v3+"/join/%23nowhere", obj{})
	bob.fails(400, "M_BAD_JSON", "POST", in(unknown, "/join"), obj{"reason": 1})
	bob.fails(400, "M_INVALID_PARAM", "POST", in("!x", "/leave"), obj{})
	bob.fails(400, "M_INVALID_PARAM", "POST", in("!x", "/forget"), obj{})
}

// Users of two servers meet: by alias, by invite, and through via.
func TestAcrossServers(t *testing.T) {
	net := simnet.New(7)
	hq := startServer(t, net, "hq", "open", Config{})
	branch := startServer(t, net, "branch", "open", Config{})
	alice, bob, carol := hq.person("alice"), branch.person("bob"), branch.person("carol")
	room := alice.room(obj{"preset": "public_chat", "room_alias_name": "open"})

	eventually(t, "alias is resolved", func() bool {
		return bob.do("GET", v3+"/directory/room/%23open:hq", nil).str("room_id") == room
	})
	branch.fails(404, "M_NOT_FOUND", "GET", v3+"/directory/room/%23open:hq", "", nil) // not for strangers
	hold(t, "join by alias", bob.ok("POST", v3+"/join/%23open:hq", obj{}).json, obj{"room_id": room})
	hold(t, "joined", alice.ok("GET", in(room, "/state/m.room.member/%s", bob.id), nil).at("membership"), "join")
	carol.ok("POST", v3+"/join/"+url.PathEscape(room)+"?via=nowhere&via=hq", obj{})
	id := bob.ok("PUT", in(room, "/send/m.room.message/1"), obj{"msgtype": "m.text", "body": "from afar"}).str("event_id")
	eventually(t, "message arrives", func() bool {
		return alice.do("GET", in(room, "/event/%s", id), nil).str("content", "body") == "from afar"
	})

	private := alice.room(obj{})
	alice.ok("PUT", in(private, "/state/m.room.member/%s", bob.id), obj{"membership": "invite"})
	bob.ok("POST", in(private, "/join"), obj{})
	alice.ok("POST", in(private, "/ban"), obj{"user_id": string(bob.id)})
	attempt := 0 // each with a transaction id of its own: a repetition would be answered as before
	eventually(t, "ban arrives", func() bool {
		attempt++
		return bob.do("PUT", in(private, "/send/m.room.message/%s", attempt), obj{"body": "x"}).status == 403
	})

	alice.ok("PUT", v3+"/profile/"+string(alice.id)+"/displayname", obj{"displayname": "Alice"})
	eventually(t, "profile is asked for", func() bool {
		return bob.do("GET", v3+"/profile/"+string(alice.id), nil).str("displayname") == "Alice"
	})
	branch.fails(403, "M_FORBIDDEN", "GET", v3+"/profile/"+string(alice.id), "", nil)
	bob.fails(404, "M_NOT_FOUND", "GET", v3+"/publicRooms?server=hq", nil)
}

func TestAliases(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{})
	path := v3 + "/directory/room/" + url.PathEscape("#a/b€:hq")
	alice.ok("PUT", path, obj{"room_id": room})
	hold(t, "alias", s.ok("GET", path, "", nil).at("room_id"), room)
	alice.fails(409, "M_UNKNOWN", "PUT", path, obj{"room_id": room})
	bob.fails(403, "M_FORBIDDEN", "PUT", v3+"/directory/room/%23mine:hq", obj{"room_id": room})
	alice.fails(400, "M_MISSING_PARAM", "PUT", v3+"/directory/room/%23x:hq", obj{})
	alice.fails(400, "M_INVALID_PARAM", "PUT", v3+"/directory/room/%23x:hq", obj{"room_id": "!x"})
	alice.fails(400, "M_INVALID_PARAM", "PUT", v3+"/directory/room/%23x:other", obj{"room_id": room})
	for _, bad := range []string{"x:hq", "#x", "#:hq", "#x:", "#" + strings.Repeat("x", 252) + ":hq"} {
		alice.fails(400, "M_INVALID_PARAM", "PUT", v3+"/directory/room/"+url.PathEscape(bad), obj{"room_id": room})
		alice.fails(400, "M_INVALID_PARAM", "GET", v3+"/directory/room/"+url.PathEscape(bad), nil)
		alice.fails(400, "M_INVALID_PARAM", "DELETE", v3+"/directory/room/"+url.PathEscape(bad), nil)
	}
	s.fails(404, "M_NOT_FOUND", "GET", v3+"/directory/room/%23none:hq", "", nil)

	hold(t, "aliases", alice.ok("GET", in(room, "/aliases"), nil).json, obj{"aliases": []string{"#a/b€:hq"}})
	bob.fails(403, "M_FORBIDDEN", "GET", in(room, "/aliases"), nil)
	alice.ok("PUT", in(room, "/state/m.room.history_visibility"), obj{"history_visibility": "world_readable"})
	hold(t, "aliases of a world readable room", bob.ok("GET", in(room, "/aliases"), nil).json, obj{"aliases": []string{"#a/b€:hq"}})
	bob.fails(403, "M_FORBIDDEN", "GET", in("!"+strings.Repeat("A", 43), "/aliases"), nil)

	bob.fails(403, "M_FORBIDDEN", "DELETE", path, nil)
	alice.ok("DELETE", path, nil)
	alice.fails(404, "M_NOT_FOUND", "DELETE", path, nil)
	// Who made an alias can delete it, and so can who has the power in the room.
	alice.ok("POST", in(room, "/invite"), obj{"user_id": string(bob.id)})
	bob.ok("POST", in(room, "/join"), nil)
	bob.ok("PUT", path, obj{"room_id": room})
	bob.ok("DELETE", path, nil)
	bob.ok("PUT", path, obj{"room_id": room})
	alice.ok("DELETE", path, nil)
}

func TestPublicRooms(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := func(name, topic string, extra obj) string {
		body := obj{"name": name, "topic": topic, "visibility": "public"}
		for k, v := range extra {
			body[k] = v
		}
		return alice.room(body)
	}
	big := room("Big", "all hands", nil)
	bob.ok("POST", in(big, "/join"), obj{})
	space := room("Space", "rooms of rooms", obj{"creation_content": obj{"type": "m.space"}})
	tea := room("Tea", "hot drinks", obj{"room_alias_name": "tea", "initial_state": []obj{
		{"type": "m.room.history_visibility", "content": obj{"history_visibility": "world_readable"}},
		{"type": "m.room.avatar", "content": obj{"url": "mxc://hq/tea"}},
		{"type": "m.room.guest_access", "content": obj{"guest_access": "can_join"}},
	}})
	hidden := alice.room(obj{"name": "Hidden"})
	ids := func(a answer) []string {
		t.Helper()
		var page publicRooms
		if err := json.Unmarshal(a.raw, &page); err != nil {
			t.Fatal(err)
		}
		list := []string{}
		for _, r := range page.Chunk {
			list = append(list, string(r.ID))
		}
		return list
	}
	all := ids(s.ok("GET", v3+"/publicRooms", "", nil))
	if len(all) != 3 || all[0] != big {
		t.Errorf("%v, want three rooms with %s first", all, big)
	}
	// Page by page, there and back.
	var paged []string
	path := v3 + "/publicRooms?limit=1"
	var a answer
	for range 3 {
		a = alice.ok("GET", path, nil)
		paged = append(paged, ids(a)...)
		path = v3 + "/publicRooms?limit=1&since=" + a.str("next_batch")
	}
	hold(t, "pages", paged, all)
	if a.at("next_batch") != nil {
		t.Error("there is no end")
	}
	hold(t, "back", ids(alice.ok("GET", v3+"/publicRooms?limit=1&since="+a.str("prev_batch"), nil)), all[1:2])
	hold(t, "limit in the body", ids(alice.ok("POST", v3+"/publicRooms", obj{"limit": 2})), all[:2])

	search := func(filter obj) []string { return ids(alice.ok("POST", v3+"/publicRooms", obj{"filter": filter})) }
	hold(t, "by topic", search(obj{"generic_search_term": "HOT"}), []string{tea})
	hold(t, "by alias", search(obj{"generic_search_term": "#tea"}), []string{tea})
	hold(t, "by nothing", search(obj{"generic_search_term": "nothing"}), []string{})
	hold(t, "spaces", search(obj{"room_types": []any{"m.space"}}), []string{space})
	if got := search(obj{"room_types": []any{nil}}); len(got) != 2 {
		t.Errorf("rooms without a type: %v", got)
	}
	if got := search(obj{"room_types": []any{nil, "m.space"}}); len(got) != 3 {
		t.Errorf("rooms of any type: %v", got)
	}
	var page publicRooms
	if err := json.Unmarshal(alice.ok("POST", v3+"/publicRooms", obj{"filter": obj{"generic_search_term": "tea"}}).raw, &page); err != nil {
		t.Fatal(err)
	}
	hold(t, "entry", page.Chunk, []publicRoom{{ID: page.Chunk[0].ID, Joined: 1, WorldReadable: true, GuestCanJoin: true, Name: "Tea",
		Topic: "hot drinks", Alias: "#tea:hq", Avatar: "mxc://hq/tea", JoinRule: "public"}})

	alice.fails(400, "M_INVALID_PARAM", "GET", v3+"/publicRooms?limit=-1", nil)
	alice.fails(400, "M_INVALID_PARAM", "GET", v3+"/publicRooms?since=x", nil)
	alice.fails(400, "M_BAD_JSON", "POST", v3+"/publicRooms", obj{"limit": "x"})
	alice.fails(400, "M_INVALID_PARAM", "POST", v3+"/publicRooms", obj{"limit": -1})
	s.fails(401, "M_MISSING_TOKEN", "POST", v3+"/publicRooms", "", obj{})
	hold(t, "of a bridge", ids(alice.ok("POST", v3+"/publicRooms", obj{"third_party_instance_id": "irc"})), []string{})

	// Visibility.
	visibility := func(room string) string { return v3 + "/directory/list/room/" + url.PathEscape(room) }
	hold(t, "hidden", s.ok("GET", visibility(hidden), "", nil).json, obj{"visibility": "private"})
	bob.fails(403, "M_FORBIDDEN", "PUT", visibility(big), obj{"visibility": "private"})
	alice.ok("PUT", visibility(big), obj{"visibility": "private"})
	alice.ok("PUT", visibility(hidden), obj{})
	got := ids(s.ok("GET", v3+"/publicRooms", "", nil))
	if len(got) != 3 || strings.Contains(strings.Join(got, " "), big) || !strings.Contains(strings.Join(got, " "), hidden) {
		t.Errorf("after the changes: %v", got)
	}
	alice.fails(400, "M_INVALID_PARAM", "PUT", visibility(big), obj{"visibility": "x"})
	alice.fails(404, "M_NOT_FOUND", "GET", visibility("!"+strings.Repeat("A", 43)), nil)
	alice.fails(404, "M_NOT_FOUND", "PUT", visibility("!"+strings.Repeat("A", 43)), obj{})
	// A room that nobody here is in any more is not listed.
	alice.ok("POST", in(hidden, "/leave"), nil)
	if got := ids(s.ok("GET", v3+"/publicRooms", "", nil)); len(got) != 2 {
		t.Errorf("after leaving: %v", got)
	}
}
