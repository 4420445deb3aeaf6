package node

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
)

func TestWildcard(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"m.room.message", "m.room.message", true},
		{"m.room.message", "m.room.messages", false},
		{"m.*", "m.room.message", true},
		{"m.*", "im.room", false},
		{"*", "", true},
		{"*.message", "m.room.message", true},
		{"m.*.message", "m.room.message", true},
		{"m.*.message", "m.message", false},
		{"*room*", "m.room.name", true},
		{"a*a", "a", false},
		{"a**b", "ab", true},
		{"m.room.[a-z]", "m.room.x", false},
	} {
		if got := wildcard(c.pattern, c.s); got != c.want {
			t.Errorf("wildcard(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// TestWildcardLikeRegexp compares with a second implementation.
func TestWildcardLikeRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,12}`).Draw(t, "s")
		re := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", ".*") + "$")
		if wildcard(pattern, s) != re.MatchString(s) {
			t.Fatalf("wildcard(%q, %q) = %v", pattern, s, !re.MatchString(s))
		}
	})
}

func TestParseFilter(t *testing.T) {
	f, err := ParseFilter([]byte(` {"room":{"timeline":{"limit":5,"types":[]},"include_leave":true},"event_format":"federation","new":1}`))
	if err != nil {
		t.Fatal(err)
	}
	if f.Room.Timeline.Limit != 5 || !f.Room.IncludeLeave || !f.Federation() {
		t.Fatalf("%+v", f)
	}
	if f.Room.Timeline.typ("m.room.message") {
		t.Error("an empty list of types lets a type through")
	}
	if !f.Room.State.typ("m.room.message") {
		t.Error("an absent list of types keeps a type out")
	}
	long, _ := json.Marshal(map[string]any{"event_fields": make([]string, maxFilterList+1)})
	for _, bad := range []string{
		``, `x`, `[]`, `{`, `{"room":[]}`, `{"event_format":"xml"}`, `{"room":{"timeline":{"limit":-1}}}`,
		`{"room":{"timeline":{"limit":"5"}}}`, `{"presence":{"senders":["alice"]}}`, `{"room":{"not_rooms":["#a:b"]}}`,
		`{"room":{"state":{"rooms":["x"]}}}`, `{"event_fields":"content"}`, string(long),
		`{"event_fields":["` + strings.Repeat("x", maxFilterSize) + `"]}`,
	} {
		if _, err := ParseFilter([]byte(bad)); !errors.Is(err, ErrParam) {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
}

func TestEventFilterMatch(t *testing.T) {
	msg := &event.Event{Body: event.Body{Type: "m.room.message", Sender: "@a:x", Content: json.RawMessage(`{"body":"url","url":"mxc://x/1"}`)}}
	text := &event.Event{Body: event.Body{Type: "m.room.message", Sender: "@b:x", Content: json.RawMessage(`{"body":"the \"url\" of it","info":{"url":"deeper"}}`)}}
	for _, c := range []struct {
		filter    string
		msg, text bool
	}{
		{`{}`, true, true},
		{`{"senders":["@a:x"]}`, true, false},
		{`{"senders":[]}`, false, false},
		{`{"senders":["@a:x"],"not_senders":["@a:x"]}`, false, false},
		{`{"types":["m.*"],"not_types":["m.room.*"]}`, false, false},
		{`{"types":["m.room.mess*"]}`, true, true},
		{`{"contains_url":true}`, true, false},
		{`{"contains_url":false}`, false, true},
	} {
		f, err := ParseEventFilter([]byte(c.filter))
		if err != nil {
			t.Fatal(err)
		}
		if f.match(msg) != c.msg || f.match(text) != c.text {
			t.Errorf("%s: %v %v", c.filter, f.match(msg), f.match(text))
		}
	}
	f, _ := ParseEventFilter([]byte(`{"rooms":["!a:x","!b:x"],"not_rooms":["!b:x"]}`))
	if !f.room("!a:x") || f.room("!b:x") || f.room("!c:x") {
		t.Error("rooms and not_rooms")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(`{"room":{"timeline":{"limit":5,"types":["m.*"],"senders":["@a:b"],"contains_url":true}}}`, "m.room.message")
	f.Add(`{"event_fields":["content.body"],"event_format":"client"}`, "")
	f.Fuzz(func(t *testing.T, raw, typ string) {
		flt, err := ParseFilter([]byte(raw))
		if err != nil {
			if !errors.Is(err, ErrParam) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		e := &event.Event{Body: event.Body{Type: typ, Sender: "@a:b", Content: json.RawMessage(`{"url":1}`)}}
		tl := &flt.Room.Timeline
		if tl.match(e) && !tl.typ(typ) {
			t.Fatal("match lets through a type that typ does not")
		}
		if n := tl.limit(20, 100); n < 1 || n > 100 {
			t.Fatalf("limit %d", n)
		}
	})
}
