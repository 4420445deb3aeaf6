package client

import (
	"fmt"
	"net/url"
	"testing"
)

// read sends a receipt.
func (p *person) read(room, typ, id string, body any) {
	p.s.t.Helper()
	p.ok("POST", in(room, "/receipt/%s/%s", typ, id), body)
}

// receiptsOf returns the contents of the m.receipt events of a room.
func receiptsOf(a answer, room string) []any {
	out := []any{}
	for _, e := range a.events("rooms", "join", room, "ephemeral") {
		if e["type"] == "m.receipt" {
			content := e["content"].(obj)
			for _, types := range content {
				for _, users := range types.(obj) {
					for _, r := range users.(obj) {
						delete(r.(obj), "ts")
					}
				}
			}
			out = append(out, content)
		}
	}
	return out
}

func TestReceipts(t *testing.T) {
	alice, bob, room := pair(t)
	first, second := alice.say(room, "one"), alice.say(room, "two")
	ca, cb := alice.syncing(""), bob.syncing("")
	ca.next()
	cb.next()
	bob.read(room, "m.read", second, obj{})
	want := []any{obj{second: obj{"m.read": obj{string(bob.id): obj{}}}}}
	hold(t, "others", receiptsOf(ca.next(), room), want)
	hold(t, "oneself", receiptsOf(cb.next(), room), want)
	bob.read(room, "m.read", second, nil) // as some clients do, without a body
	bob.read(room, "m.read", first, obj{})
	hold(t, "backwards", ca.next().at("rooms"), nil)

	bob.read(room, "m.read.private", second, obj{})
	hold(t, "a private one, others", ca.next().at("rooms"), nil)
	hold(t, "a private one, oneself", receiptsOf(cb.next(), room), []any{obj{second: obj{"m.read.private": obj{string(bob.id): obj{}}}}})
	hold(t, "a private one, others' initial sync", receiptsOf(alice.syncing("").next(), room), want)

	bob.read(room, "m.read", second, obj{"thread_id": "main"})
	hold(t, "threaded", receiptsOf(ca.next(), room), []any{obj{second: obj{"m.read": obj{string(bob.id): obj{"thread_id": "main"}}}}})
	hold(t, "all", len(receiptsOf(alice.syncing("").next(), room)), 2)
	hold(t, "filtered", receiptsOf(alice.syncing(`{"room":{"ephemeral":{"not_types":["m.receipt"]}}}`).next(), room), []any{})
}

func TestReceiptErrors(t *testing.T) {
	alice, bob, room := pair(t)
	id := alice.say(room, "root")
	inThread := alice.send(room, "m.room.message", obj{"body": "x", "m.relates_to": obj{"rel_type": "m.thread", "event_id": id}})
	reaction := alice.send(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": inThread, "key": "+"}})
	other := alice.say(alice.room(obj{}), "elsewhere")
	eve := alice.s.person("eve")
	path := func(typ, id string) string { return in(room, "/receipt/%s/%s", typ, id) }
	for _, c := range []struct {
		typ, id string
		body    any
	}{
		{"m.seen", id, obj{}},
		{"m.read", id, obj{"thread_id": ""}},
		{"m.read", id, obj{"thread_id": 5}},
		{"m.fully_read", id, obj{"thread_id": "main"}},
		{"m.read", inThread, obj{"thread_id": "main"}},
		{"m.read", reaction, obj{"thread_id": "main"}},
		{"m.read", id, obj{"thread_id": inThread}},
		{"m.read", "nonsense", obj{}},
	} {
		bob.fails(400, "M_INVALID_PARAM", "POST", path(c.typ, c.id), c.body)
	}
	bob.fails(404, "M_NOT_FOUND", "POST", path("m.read", other), obj{})
	eve.fails(403, "M_FORBIDDEN", "POST", path("m.read", id), obj{})
	bob.fails(400, "M_NOT_JSON", "POST", path("m.read", id), "{")
	bob.read(room, "m.read", inThread, obj{"thread_id": id})
	bob.read(room, "m.read", reaction, obj{"thread_id": id}) // over two hops
	bob.read(room, "m.read", id, obj{"thread_id": "main"})
}

func TestReadMarkers(t *testing.T) {
	alice, bob, room := pair(t)
	first, second := alice.say(room, "one"), alice.say(room, "two")
	c := bob.syncing("")
	c.next()
	bob.ok("POST", in(room, "/read_markers"), obj{"m.fully_read": second, "m.read": second, "m.read.private": first})
	a := c.next()
	hold(t, "fully read", a.events("rooms", "join", room, "account_data"),
		[]obj{{"type": "m.fully_read", "content": obj{"event_id": second}}})
	hold(t, "receipts", receiptsOf(a, room), []any{obj{first: obj{"m.read.private": obj{string(bob.id): obj{}}}, second: obj{"m.read": obj{string(bob.id): obj{}}}}})
	bob.read(room, "m.fully_read", first, obj{})
	hold(t, "backwards", c.next().at("rooms"), nil)
	hold(t, "in an initial sync", bob.syncing("").next().events("rooms", "join", room, "account_data"),
		[]obj{{"type": "m.fully_read", "content": obj{"event_id": second}}})
	bob.fails(400, "M_INVALID_PARAM", "POST", in(room, "/read_markers"), obj{"m.fully_read": "x"})
	bob.fails(404, "M_NOT_FOUND", "POST", in(room, "/read_markers"), obj{"m.fully_read": alice.say(alice.room(obj{}), "elsewhere")})
	bob.fails(400, "M_BAD_JSON", "POST", in(room, "/read_markers"), obj{"m.read": 1})
}

func TestUnreadCounts(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	counts := func(a answer) string {
		t.Helper()
		return fmt.Sprint(a.at("rooms", "join", room, "unread_notifications", "notification_count"), "/",
			a.at("rooms", "join", room, "unread_notifications", "highlight_count"))
	}
	expect := func(what, want string) {
		t.Helper()
		if got := counts(c.next()); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	first := alice.say(room, "one")
	expect("a message", "1/0")
	alice.send(room, "m.room.message", obj{"msgtype": "m.notice", "body": "quiet", "m.mentions": obj{"user_ids": []any{bob.id}}})
	expect("a notice", "1/0")
	alice.send(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": first, "key": "+"}})
	expect("a reaction", "1/0")
	alice.send(room, "m.room.encrypted", obj{"algorithm": "x"})
	expect("an encrypted message", "2/0")
	mention := alice.send(room, "m.room.message", obj{"body": "bob!", "m.mentions": obj{"user_ids": []any{bob.id}}})
	expect("a mention", "3/1")
	alice.send(room, "m.room.message", obj{"body": "* bob!", "m.relates_to": obj{"rel_type": "m.replace", "event_id": mention}})
	expect("an edit", "3/1")
	alice.send(room, "m.room.message", obj{"body": "all!", "m.mentions": obj{"room": true}})
	expect("everybody", "4/2")
	alice.set(room, "m.room.topic", "", obj{"topic": "x"})
	expect("a state event", "4/2")
	alice.ok("PUT", in(room, "/redact/%s/r", first), obj{})
	expect("a redacted message", "3/2")
	hold(t, "the same in an initial sync", counts(bob.syncing("").next()), "3/2")
	hold(t, "the sender", counts(alice.syncing("").next()), "0/0")
	bob.read(room, "m.read.private", mention, obj{})
	expect("after a receipt", "1/1")
	bob.read(room, "m.read", first, obj{})
	expect("a public receipt behind the private one", "1/1")
	bob.say(room, "answer")
	expect("after an own message", "0/0")
	alice.type_(room, true)
	expect("typing", "0/0")
	carol := alice.s.person("carol")
	carol.join(room)
	hold(t, "who just came", counts(carol.syncing("").next()), "0/0")
	carol.send(room, "m.room.message", obj{"body": "me too", "m.mentions": obj{"room": true}})
	expect("everybody, by one who may not", "1/0")
	for range 150 {
		alice.say(room, "many")
	}
	expect("counts stop somewhere", "100/0")
}

// The counts follow the push rules that the user set.
func TestUnreadCountsByOwnRules(t *testing.T) {
	alice, bob, room := pair(t)
	rules := v3 + "/pushrules/global/"
	count := func(what, want string) {
		t.Helper()
		a := bob.syncing("").next()
		got := fmt.Sprint(a.at("rooms", "join", room, "unread_notifications", "notification_count"), "/",
			a.at("rooms", "join", room, "unread_notifications", "highlight_count"))
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	set := func(path string, body any) func() {
		t.Helper()
		bob.ok("PUT", rules+path, body)
		return func() { t.Helper(); bob.ok("DELETE", rules+path, nil) }
	}
	text := func(body string) string {
		return alice.send(room, "m.room.message", obj{"msgtype": "m.text", "body": body})
	}
	text("hello")
	cake := text("I like Cake!")
	alice.send(room, "m.room.message", obj{"body": "bob", "m.mentions": obj{"user_ids": []any{bob.id}}})
	alice.send(room, "m.room.message", obj{"msgtype": "m.notice", "body": "a notice"})
	alice.send(room, "org.example.poll", obj{"a.b": obj{"c": 1}, "list": []any{"x"}})
	loud := []any{"notify", obj{"set_tweak": "highlight"}}
	count("predefined rules", "3/1")
	undo := set("room/"+url.PathEscape(room), obj{"actions": []any{}})
	count("a room that is muted but for mentions", "1/1")
	undo()
	undo = set("sender/"+url.PathEscape(string(alice.id)), obj{"actions": []any{}})
	count("a muted sender", "1/1")
	undo()
	undo = set("override/silence", obj{"actions": []any{}, "conditions": []any{obj{"kind": "event_match", "key": "room_id", "pattern": room}}})
	count("a room that is muted", "0/0")
	undo()
	undo = set("content/cake", obj{"actions": loud, "pattern": "cake"})
	count("a keyword", "3/2")
	alice.ok("PUT", in(room, "/redact/%s/1", cake), obj{})
	count("a redacted keyword", "2/1")
	undo()
	for what, condition := range map[string]obj{
		"an exact property": {"kind": "event_property_is", "key": `content.a\.b.c`, "value": 1},
		"a list":            {"kind": "event_property_contains", "key": "content.list", "value": "x"},
		"a pattern":         {"kind": "event_match", "key": "type", "pattern": "ORG.example.*"},
	} {
		undo = set("underride/poll", obj{"actions": loud, "conditions": []any{condition}})
		count(what, "3/2")
		undo()
	}
	undo = set("override/pair", obj{"actions": []any{}, "conditions": []any{obj{"kind": "room_member_count", "is": ">2"}}})
	count("for larger rooms only", "2/1")
	undo()
	undo = set("override/odd", obj{"actions": loud, "conditions": []any{obj{"kind": "org.example.unknown"}}})
	count("a condition that is not known", "2/1")
	undo()
	bob.ok("PUT", rules+"override/.m.rule.suppress_notices/enabled", obj{"enabled": false})
	count("with notices", "3/1")
	bob.ok("PUT", rules+"override/.m.rule.is_user_mention/actions", obj{"actions": []any{"notify"}})
	count("a mention without highlight", "3/0")
	bob.ok("PUT", rules+"override/.m.rule.master/enabled", obj{"enabled": true})
	count("nothing at all", "0/0")
}

func TestUnreadThreads(t *testing.T) {
	alice, bob, room := pair(t)
	root := alice.say(room, "root")
	bob.read(room, "m.read", root, obj{})
	c := bob.syncing(`{"room":{"timeline":{"unread_thread_notifications":true}}}`)
	c.next()
	reply := alice.send(room, "m.room.message", obj{"body": "in thread", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	alice.say(room, "main")
	a := c.next()
	hold(t, "main", a.at("rooms", "join", room, "unread_notifications"), obj{"highlight_count": 0, "notification_count": 1})
	hold(t, "threads", a.at("rooms", "join", room, "unread_thread_notifications"), obj{root: obj{"highlight_count": 0, "notification_count": 1}})
	hold(t, "without threads", bob.syncing("").next().at("rooms", "join", room, "unread_notifications", "notification_count"), 2)
	bob.read(room, "m.read", reply, obj{"thread_id": root})
	a = c.next()
	hold(t, "main", a.at("rooms", "join", room, "unread_notifications", "notification_count"), 1)
	hold(t, "threads", a.at("rooms", "join", room, "unread_thread_notifications"), nil)
}

// typists returns the m.typing of a room in an answer, nil if there is none.
func typists(a answer, room string) any {
	for _, e := range a.events("rooms", "join", room, "ephemeral") {
		if e["type"] == "m.typing" {
			return e["content"].(obj)["user_ids"]
		}
	}
	return nil
}

func TestTyping(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	alice.type_(room, true)
	hold(t, "beginning", typists(c.next(), room), []any{alice.id})
	hold(t, "nothing new", c.next().at("rooms"), nil)
	hold(t, "in an initial sync", typists(bob.syncing("").next(), room), []any{alice.id})
	alice.type_(room, true) // prolonged
	hold(t, "prolonged", c.next().at("rooms"), nil)
	alice.type_(room, false)
	hold(t, "end", typists(c.next(), room), []any{})
	alice.ok("PUT", in(room, "/typing/%s", alice.id), obj{"typing": true, "timeout": 50})
	hold(t, "short", typists(c.poll(), room), []any{alice.id})
	hold(t, "its end wakes", typists(c.poll(), room), []any{})
	hold(t, "filtered", typists(bob.syncing(`{"room":{"ephemeral":{"types":["m.receipt"]}}}`).next(), room), nil)

	path := func(p *person) string { return in(room, "/typing/%s", p.id) }
	alice.fails(403, "M_FORBIDDEN", "PUT", path(bob), obj{"typing": true})
	alice.fails(400, "M_MISSING_PARAM", "PUT", path(alice), obj{})
	alice.fails(400, "M_BAD_JSON", "PUT", path(alice), obj{"typing": "yes"})
	alice.fails(400, "M_INVALID_PARAM", "PUT", path(alice), obj{"typing": true, "timeout": -1})
	eve := alice.s.person("eve")
	eve.fails(403, "M_FORBIDDEN", "PUT", path(eve), obj{"typing": true})
}
