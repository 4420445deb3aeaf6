package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// syncClient is a client that follows its stream.
type syncClient struct {
	*person
	filter string
	after  bool // use_state_after
	since  string
}

func (p *person) syncing(filter string) *syncClient { return &syncClient{person: p, filter: filter} }

// query returns the path of the next sync.
func (c *syncClient) query(extra ...string) string {
	q := url.Values{}
	if c.since != "" {
		q.Set("since", c.since)
	}
	if c.filter != "" {
		q.Set("filter", c.filter)
	}
	if c.after {
		q.Set("use_state_after", "true")
	}
	for i := 0; i < len(extra); i += 2 {
		q.Set(extra[i], extra[i+1])
	}
	return v3 + "/sync?" + q.Encode()
}

// next syncs once and moves on. extra are further query parameters.
func (c *syncClient) next(extra ...string) answer {
	c.s.t.Helper()
	a := c.ok("GET", c.query(extra...), nil)
	if c.since = a.str("next_batch"); c.since == "" {
		c.s.t.Fatal("no next_batch")
	}
	return a
}

// poll is next with a long timeout.
func (c *syncClient) poll() answer {
	c.s.t.Helper()
	start := time.Now()
	a := c.next("timeout", "30000")
	if time.Since(start) > 20*time.Second {
		c.s.t.Fatal("the long-poll was not woken")
	}
	return a
}

// events returns the events of a list in an answer.
func (a answer) events(keys ...string) []obj {
	list, _ := a.at(append(keys, "events")...).([]any)
	out := make([]obj, len(list))
	for i := range list {
		out[i] = list[i].(obj)
	}
	return out
}

func (a answer) timeline(room string) []obj { return a.events("rooms", "join", room, "timeline") }
func (a answer) state(room string) []obj    { return a.events("rooms", "join", room, "state") }

// bodies names events: the body of messages, type and key of states.
func bodies(events []obj) []string {
	out := []string{}
	for _, e := range events {
		content, _ := e["content"].(obj)
		if body, ok := content["body"].(string); ok {
			out = append(out, body)
		} else if key, ok := e["state_key"].(string); ok {
			out = append(out, fmt.Sprint(e["type"], "/", key))
		} else {
			out = append(out, fmt.Sprint(e["type"]))
		}
	}
	return out
}

// types returns the types of events, sorted, each once.
func types(events []obj) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, e["type"].(string))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

var txns int

// say sends a message and returns its id.
func (p *person) say(room, body string) string {
	p.s.t.Helper()
	return p.send(room, "m.room.message", obj{"msgtype": "m.text", "body": body})
}

func (p *person) send(room, typ string, content any) string {
	p.s.t.Helper()
	txns++
	return p.ok("PUT", in(room, "/send/%s/%s", typ, fmt.Sprint("t", txns)), content).str("event_id")
}

func (p *person) set(room, typ, key string, content any) string {
	p.s.t.Helper()
	return p.ok("PUT", in(room, "/state/%s/%s", typ, key), content).str("event_id")
}

func (p *person) member(room, action string, who *person) {
	p.s.t.Helper()
	p.ok("POST", in(room, "/"+action), obj{"user_id": who.id})
}

func (p *person) join(room string)  { p.s.t.Helper(); p.ok("POST", in(room, "/join"), obj{}) }
func (p *person) leave(room string) { p.s.t.Helper(); p.ok("POST", in(room, "/leave"), obj{}) }

// pair returns two users of a room that anyone can join.
func pair(t *testing.T) (alice, bob *person, room string) {
	t.Helper()
	s := open(t)
	alice, bob = s.person("alice"), s.person("bob")
	room = alice.room(obj{"preset": "public_chat", "name": "Room"})
	bob.join(room)
	return alice, bob, room
}

func TestInitialSync(t *testing.T) {
	alice, bob, room := pair(t)
	alice.say(room, "one")
	a := bob.syncing(`{"room":{"timeline":{"limit":2}}}`).next()
	if got := bodies(a.timeline(room)); !slices.Equal(got, []string{"m.room.member/" + string(bob.id), "one"}) {
		t.Errorf("timeline: %v", got)
	}
	hold(t, "limited", a.at("rooms", "join", room, "timeline", "limited"), true)
	state := bodies(a.state(room))
	for _, want := range []string{"m.room.create/", "m.room.power_levels/", "m.room.join_rules/", "m.room.name/", "m.room.member/" + string(alice.id)} {
		if !slices.Contains(state, want) {
			t.Errorf("the state lacks %s: %v", want, state)
		}
	}
	if slices.Contains(state, "m.room.member/"+string(bob.id)) {
		t.Error("the state holds an event of the timeline")
	}
	for _, e := range slices.Concat(a.state(room), a.timeline(room)) {
		for _, no := range []string{"room_id", "auth_events", "prev_events", "hashes", "signatures", "depth"} {
			if _, ok := e[no]; ok {
				t.Errorf("%s has %s", e["type"], no)
			}
		}
	}
	hold(t, "summary", a.at("rooms", "join", room, "summary"), obj{"m.invited_member_count": 0, "m.joined_member_count": 2})
	hold(t, "one-time keys", a.at("device_one_time_keys_count"), obj{})

	// These accounts were made past the API; their clients find the push rules nonetheless.
	rules := slices.ContainsFunc(events(answer{json: a.at("account_data").(obj)}, "events"), func(e obj) bool { return e["type"] == typePushRules })
	if !rules {
		t.Errorf("no push rules: %v", a.at("account_data"))
	}

	// A whole room that fits into the timeline leaves no state before it.
	whole := bob.syncing(`{"room":{"timeline":{"limit":100}}}`).next()
	if len(whole.state(room)) != 0 || whole.timeline(room)[0]["type"] != "m.room.create" {
		t.Errorf("state %v, timeline %v", bodies(whole.state(room)), bodies(whole.timeline(room)))
	}
	hold(t, "limited", whole.at("rooms", "join", room, "timeline", "limited"), false)
}

func TestIncrementalSync(t *testing.T) {
	alice, bob, room := pair(t)
	other := alice.room(obj{"preset": "private_chat"})
	c := bob.syncing("")
	before := c.next().str("next_batch")
	// Nothing new: an answer with the same form and token.
	empty := c.next()
	hold(t, "next_batch", empty.str("next_batch"), before)
	hold(t, "rooms", empty.at("rooms"), nil)
	hold(t, "after a timeout", c.next("timeout", "1").at("rooms"), nil)

	alice.say(room, "one")
	alice.say(other, "not for bob")
	a := c.next()
	if got := bodies(a.timeline(room)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("timeline: %v", got)
	}
	if rooms := a.at("rooms", "join").(obj); len(rooms) != 1 {
		t.Errorf("%d rooms", len(rooms))
	}
	hold(t, "prev_batch", a.str("rooms", "join", room, "timeline", "prev_batch"), "t"+strings.TrimPrefix(before, "s"))
	// The same token again gives the same.
	c.since = before
	if got := bodies(c.next().timeline(room)); !slices.Equal(got, []string{"one"}) {
		t.Errorf("the same token again: %v", got)
	}
}

func TestLongPoll(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	for _, what := range []struct {
		name string
		do   func()
		is   func(a answer) bool
	}{
		{"a message", func() { alice.say(room, "hi") }, func(a answer) bool { return len(a.timeline(room)) == 1 }},
		{"typing", func() { alice.type_(room, true) }, func(a answer) bool { return len(a.events("rooms", "join", room, "ephemeral")) == 1 }},
		{"account data", func() {
			bob.ok("PUT", v3+"/user/"+url.PathEscape(string(bob.id))+"/account_data/x.y", obj{"a": 1})
		}, func(a answer) bool { return len(a.events("account_data")) == 1 }},
		{"an invite", func() { alice.room(obj{"invite": []any{bob.id}}) }, func(a answer) bool { return a.at("rooms", "invite") != nil }},
		{"being kicked", func() { alice.member(room, "kick", bob) }, func(a answer) bool { return a.at("rooms", "leave", room) != nil }},
	} {
		got := make(chan answer, 1)
		go func() { got <- c.poll() }()
		// The poll waits, or it has not looked yet; either way it must see the change.
		eventually(t, "somebody waits", func() bool { return alice.s.node.Feed.Waiting() > 0 || len(got) > 0 })
		what.do()
		if a := <-got; !what.is(a) {
			t.Errorf("%s: %s", what.name, a.raw)
		}
	}
}

func (p *person) type_(room string, is bool) {
	p.s.t.Helper()
	body := obj{"typing": is}
	if is {
		body["timeout"] = 30000
	}
	p.ok("PUT", in(room, "/typing/%s", p.id), body)
}

func TestLimitedTimeline(t *testing.T) {
	alice, bob, room := pair(t)
	for _, after := range []bool{false, true} {
		c := bob.syncing(`{"room":{"timeline":{"limit":3}}}`)
		c.after = after
		c.next()
		since := c.since
		want := []string{}
		for i := range 10 {
			if i == 2 {
				alice.set(room, "m.room.topic", "", obj{"topic": fmt.Sprint("in the gap ", after)})
				want = append(want, "m.room.topic/")
			}
			if i == 8 {
				alice.set(room, "m.room.name", "", obj{"name": fmt.Sprint("in the timeline ", after)})
				want = append(want, "m.room.name/")
			}
			body := fmt.Sprint("message ", i)
			alice.say(room, body)
			want = append(want, body)
		}
		a := c.next()
		if got := bodies(a.timeline(room)); !slices.Equal(got, want[len(want)-3:]) {
			t.Errorf("timeline: %v", got)
		}
		hold(t, "limited", a.at("rooms", "join", room, "timeline", "limited"), true)
		if after {
			hold(t, "state", a.at("rooms", "join", room, "state"), nil)
			hold(t, "state_after", types(a.events("rooms", "join", room, "state_after")), []string{"m.room.name", "m.room.topic"})
		} else {
			hold(t, "state", bodies(a.state(room)), []string{"m.room.topic/"})
		}
		// Between the token before and prev_batch lies exactly the gap.
		prev := a.str("rooms", "join", room, "timeline", "prev_batch")
		gap := bob.ok("GET", in(room, "/messages?dir=f&limit=50&from=%s&to=%s", since, prev), nil)
		back := bob.ok("GET", in(room, "/messages?dir=b&limit=50&from=%s&to=%s", prev, since), nil)
		forward := bodies(chunk(gap))
		if !slices.Equal(forward, want[:len(want)-3]) {
			t.Errorf("gap: %v", forward)
		}
		backward := bodies(chunk(back))
		slices.Reverse(backward)
		if !slices.Equal(backward, forward) {
			t.Errorf("gap backwards: %v", backward)
		}
		hold(t, "end", []any{gap.at("end"), back.at("end")}, []any{nil, nil})
	}
}

// chunk returns the events of a page.
func chunk(a answer) []obj {
	list, _ := a.at("chunk").([]any)
	out := []obj{}
	for _, e := range list {
		out = append(out, e.(obj))
	}
	return out
}

// TestStateOutsideTheTimeline: state events that the filter keeps out of the
// timeline reach the client in the state.
func TestStateOutsideTheTimeline(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing(`{"room":{"timeline":{"types":["m.room.message"]}}}`)
	c.next()
	alice.say(room, "one")
	alice.set(room, "m.room.topic", "", obj{"topic": "x"})
	a := c.next()
	hold(t, "timeline", bodies(a.timeline(room)), []string{"one"})
	hold(t, "state", bodies(a.state(room)), []string{"m.room.topic/"})
	alice.set(room, "m.room.topic", "", obj{"topic": "y"})
	a = c.next()
	hold(t, "timeline", bodies(a.timeline(room)), []string{})
	hold(t, "state", bodies(a.state(room)), []string{"m.room.topic/"})
}

func TestFullState(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	alice.say(room, "one")
	a := c.next("full_state", "true", "timeout", "30000")
	hold(t, "timeline", bodies(a.timeline(room)), []string{"one"})
	if s := bodies(a.state(room)); !slices.Contains(s, "m.room.create/") {
		t.Errorf("state: %v", s)
	}
	a = c.next("full_state", "true", "timeout", "30000") // does not wait
	if s := bodies(a.state(room)); !slices.Contains(s, "m.room.create/") || len(a.timeline(room)) != 0 {
		t.Errorf("again: %v", s)
	}
}

func TestInviteAndReject(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	c := bob.syncing("")
	c.next()
	room := alice.room(obj{"name": "Named", "topic": "secret", "invite": []any{bob.id}})
	alice.say(room, "before")
	for _, a := range []answer{c.next(), bob.syncing("").next()} {
		events := a.events("rooms", "invite", room, "invite_state")
		names := bodies(events)
		for _, want := range []string{"m.room.create/", "m.room.name/", "m.room.join_rules/", "m.room.member/" + string(bob.id)} {
			if !slices.Contains(names, want) {
				t.Errorf("invite_state lacks %s: %v", want, names)
			}
		}
		for _, e := range events {
			for k := range e {
				if !slices.Contains([]string{"type", "state_key", "sender", "content"}, k) {
					t.Errorf("stripped state with %s", k)
				}
			}
		}
	}
	hold(t, "the invite again", c.next().at("rooms"), nil)
	bob.fails(403, "M_FORBIDDEN", "GET", in(room, "/messages?dir=b"), nil)
	bob.fails(403, "M_FORBIDDEN", "GET", in(room, "/state"), nil)
	bob.leave(room)
	a := c.next()
	hold(t, "what one sees of the end", bodies(a.events("rooms", "leave", room, "timeline")), []string{"m.room.member/" + string(bob.id)})
	hold(t, "state", a.events("rooms", "leave", room, "state"), []obj{})
}

// TestEndOfMembership: kicked, banned and leaving users see the end and nothing
// that comes after it.
func TestEndOfMembership(t *testing.T) {
	for _, action := range []string{"leave", "kick", "ban"} {
		t.Run(action, func(t *testing.T) {
			alice, bob, room := pair(t)
			c := bob.syncing("")
			c.next()
			alice.say(room, "before")
			alice.set(room, "m.room.topic", "", obj{"topic": "before"})
			if action == "leave" {
				bob.leave(room)
			} else {
				alice.member(room, action, bob)
			}
			alice.say(room, "after")
			alice.set(room, "m.room.topic", "", obj{"topic": "after"})
			a := c.next()
			want := []string{"before", "m.room.topic/", "m.room.member/" + string(bob.id)}
			hold(t, "timeline", bodies(a.events("rooms", "leave", room, "timeline")), want)
			hold(t, "join", a.at("rooms", "join"), obj{})
			hold(t, "again", c.next().at("rooms"), nil)

			page := bodies(chunk(bob.ok("GET", in(room, "/messages?dir=b&limit=3"), nil)))
			slices.Reverse(page)
			hold(t, "messages", page, want)
			hold(t, "topic", bob.ok("GET", in(room, "/state/m.room.topic/"), nil).str("topic"), "before")
			var state []obj
			if err := json.Unmarshal(bob.ok("GET", in(room, "/state"), nil).raw, &state); err != nil {
				t.Fatal(err)
			}
			for _, e := range state {
				if e["type"] == "m.room.topic" && e["content"].(obj)["topic"] != "before" {
					t.Error("the state after the end is shown")
				}
			}
			bob.fails(403, "M_FORBIDDEN", "GET", in(room, "/joined_members"), nil)

			hold(t, "left rooms unasked", bob.syncing("").next().at("rooms"), nil)
			all := bob.syncing(`{"room":{"include_leave":true,"timeline":{"limit":1}}}`).next()
			hold(t, "include_leave", bodies(all.events("rooms", "leave", room, "timeline")), want[2:])
			if names := types(all.events("rooms", "leave", room, "state")); !slices.Contains(names, "m.room.create") {
				t.Errorf("state of a left room: %v", names)
			}
			bob.ok("POST", in(room, "/forget"), obj{})
			hold(t, "a forgotten room", bob.syncing(`{"room":{"include_leave":true}}`).next().at("rooms"), nil)
			bob.fails(403, "M_FORBIDDEN", "GET", in(room, "/messages?dir=b"), nil)
		})
	}
}

// What changes about the end of a membership that a client knows of is told
// alone, not with the end of the timeline again.
func TestLeftAgain(t *testing.T) {
	for _, after := range []bool{false, true} {
		alice, bob, room := pair(t)
		c := bob.syncing("")
		c.after = after
		c.next()
		alice.say(room, "before")
		me := []string{"m.room.member/" + string(bob.id)}
		for i, step := range []struct {
			what string
			do   func()
			want []string
		}{
			{"ban", func() { alice.member(room, "ban", bob) }, append([]string{"before"}, me...)},
			{"unban", func() { alice.member(room, "unban", bob) }, me},
			{"ban again", func() { alice.member(room, "ban", bob) }, me},
			{"an invite rejected", func() {
				alice.member(room, "unban", bob)
				alice.member(room, "invite", bob)
				c.next()
				bob.leave(room)
			}, me},
			{"joined and left between", func() {
				bob.join(room)
				bob.leave(room)
			}, append(slices.Clone(me), me...)},
		} {
			step.do()
			a := c.next()
			got := bodies(a.events("rooms", "leave", room, "timeline"))
			if i == 4 { // told in full, as every room that one newly joined
				got = got[max(0, len(got)-2):]
			}
			hold(t, step.what, got, step.want)
			if after && i > 0 && i < 4 {
				hold(t, step.what+": state_after", bodies(a.events("rooms", "leave", room, "state_after")), me)
			}
			alice.set(room, "m.room.topic", "", obj{"topic": "not for bob"})
			hold(t, "after "+step.what, c.next().at("rooms"), nil)
		}
	}
}

// A client that asks for state_after learns of the end of an invite there too:
// it takes no state from the timeline.
func TestRejectionInStateAfter(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{"invite": []any{bob.id}})
	c := bob.syncing("")
	c.after = true
	c.next()
	bob.leave(room)
	a := c.next()
	hold(t, "state_after", bodies(a.events("rooms", "leave", room, "state_after")), []string{"m.room.member/" + string(bob.id)})
}

func TestBanAfterLeave(t *testing.T) {
	alice, bob, room := pair(t)
	c := bob.syncing("")
	c.next()
	bob.leave(room)
	alice.say(room, "not for bob")
	alice.set(room, "m.room.topic", "", obj{"topic": "not for bob"})
	alice.member(room, "ban", bob)
	me := "m.room.member/" + string(bob.id)
	a := c.next()
	hold(t, "timeline", bodies(a.events("rooms", "leave", room, "timeline")), []string{me, me})
	hold(t, "state", bodies(a.events("rooms", "leave", room, "state")), []string{})
	after := bob.syncing(`{"room":{"include_leave":true,"state":{"types":["m.room.topic","m.room.member"]}}}`)
	after.after = true
	state := after.next().events("rooms", "leave", room, "state_after")
	hold(t, "state_after", memberKeys(state), []string{string(alice.id), string(bob.id)})
	hold(t, "the end", state[len(state)-1]["content"], obj{"membership": "ban"})
	hold(t, "what came later", types(state), []string{"m.room.member"})
}

func TestNewlyJoined(t *testing.T) {
	alice, bob, room := pair(t)
	carol := alice.s.person("carol")
	for _, p := range []*person{bob, carol} { // who comes back, and who comes
		c := p.syncing(`{"room":{"timeline":{"limit":1}}}`)
		if p == bob {
			bob.leave(room)
		}
		c.next()
		p.join(room)
		a := c.next()
		hold(t, "timeline", bodies(a.timeline(room)), []string{"m.room.member/" + string(p.id)})
		hold(t, "limited", a.at("rooms", "join", room, "timeline", "limited"), true)
		if s := bodies(a.state(room)); !slices.Contains(s, "m.room.create/") || !slices.Contains(s, "m.room.member/"+string(alice.id)) {
			t.Errorf("state: %v", s)
		}
	}
}

// TestRejoinBetweenSyncs: who left and came back between two syncs is told what
// changed, not everything.
func TestRejoinBetweenSyncs(t *testing.T) {
	alice, bob, room := pair(t)
	alice.set(room, "m.room.history_visibility", "", obj{"history_visibility": "joined"})
	c := bob.syncing("")
	c.next()
	bob.leave(room)
	alice.say(room, "while away")
	alice.set(room, "m.room.topic", "", obj{"topic": "while away"})
	bob.join(room)
	a := c.next()
	me := "m.room.member/" + string(bob.id)
	hold(t, "timeline", bodies(a.timeline(room)), []string{me, me})
	hold(t, "state", bodies(a.state(room)), []string{"m.room.topic/"})
}

func TestSyncParameters(t *testing.T) {
	alice, _, _ := pair(t)
	for _, q := range []string{"since=x", "since=s01", "since=s1_2", "since=s-1", "full_state=yes", "use_state_after=1", "set_presence=away",
		"timeout=soon", "timeout=-1", "filter=unknown", "filter={", "filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":-1}}}`),
		"filter=" + url.QueryEscape(`{"event_format":"xml"}`)} {
		alice.fails(400, "M_INVALID_PARAM", "GET", v3+"/sync?"+q, nil)
	}
	alice.s.fails(401, "M_MISSING_TOKEN", "GET", v3+"/sync", "", nil)
	alice.ok("GET", v3+"/sync?timeout="+strings.Repeat("9", 30), nil) // longer than any is as long as can be
	for _, presence := range []string{"online", "offline", "unavailable"} {
		alice.ok("GET", v3+"/sync?set_presence="+presence, nil)
	}
	// A token from the future of a store that was restored: everything anew.
	a := alice.ok("GET", v3+"/sync?since=s99999999", nil)
	if a.at("rooms", "join") == nil || a.str("next_batch") == "s99999999" {
		t.Errorf("%s", a.raw)
	}
	id := alice.ok("POST", v3+"/user/"+url.PathEscape(string(alice.id))+"/filter", obj{"room": obj{"rooms": []any{}}}).str("filter_id")
	hold(t, "a stored filter", alice.ok("GET", v3+"/sync?filter="+id, nil).at("rooms"), nil)
}

func TestSyncFilters(t *testing.T) {
	alice, bob, room := pair(t)
	other := alice.room(obj{"preset": "public_chat"})
	bob.join(other)
	type want struct {
		filter   string
		timeline []string
	}
	since := bob.syncing("").next().str("next_batch")
	alice.say(room, "text")
	alice.send(room, "m.room.message", obj{"msgtype": "m.image", "body": "image", "url": "mxc://hq/1"})
	bob.send(room, "x.y", obj{"body": "custom"})
	alice.say(other, "other")
	for _, w := range []want{
		{`{}`, []string{"text", "image", "custom"}},
		{`{"room":{"timeline":{"types":["x.*"]}}}`, []string{"custom"}},
		{`{"room":{"timeline":{"not_types":["m.room.*"]}}}`, []string{"custom"}},
		{`{"room":{"timeline":{"senders":["` + string(bob.id) + `"]}}}`, []string{"custom"}},
		{`{"room":{"timeline":{"not_senders":["` + string(bob.id) + `"]}}}`, []string{"text", "image"}},
		{`{"room":{"timeline":{"contains_url":true}}}`, []string{"image"}},
		{`{"room":{"timeline":{"contains_url":false}}}`, []string{"text", "custom"}},
		{`{"room":{"timeline":{"limit":1}}}`, []string{"custom"}},
		{`{"room":{"timeline":{"types":[]}}}`, nil},
		{`{"room":{"timeline":{"not_rooms":["` + room + `"]}}}`, nil},
		{`{"room":{"not_rooms":["` + room + `"]}}`, nil},
		{`{"room":{"rooms":["` + other + `"]}}`, nil},
	} {
		c := bob.syncing(w.filter)
		c.since = since
		a := c.next()
		if got := bodies(a.timeline(room)); !slices.Equal(got, w.timeline) && len(got)+len(w.timeline) > 0 {
			t.Errorf("%s: %v", w.filter, got)
		}
	}
	c := bob.syncing(`{"event_fields":["content.body"]}`)
	c.since = since
	for _, e := range c.next().timeline(room) {
		content := e["content"].(obj)
		if len(content) != 1 || content["body"] == nil || e["event_id"] == nil {
			t.Errorf("event_fields: %v", e)
		}
	}
	c = bob.syncing(`{"event_format":"federation"}`)
	c.since = since
	raw := bob.s.rawGet(c.query(), bob.token) // no format that the definitions know
	for _, e := range raw.timeline(room) {
		if e["hashes"] == nil || e["signatures"] == nil {
			t.Errorf("event_format: %v", e)
		}
	}
}

// rawGet is do without validation.
func (s *server) rawGet(path, token string) answer {
	s.t.Helper()
	req, err := http.NewRequest("GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	a := answer{status: resp.StatusCode}
	if err := json.NewDecoder(resp.Body).Decode(&a.json); err != nil {
		s.t.Fatal(err)
	}
	return a
}
