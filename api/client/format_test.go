package client

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

var formatKey = event.SigningKey{Server: "hq", ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}

const formatRoom = event.RoomID("!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")

func signed(t testing.TB, b event.Body) *event.Event {
	t.Helper()
	e, err := event.Sign(b, formatKey)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func message(t testing.TB, typ string, key *string, content string) *event.Event {
	return signed(t, event.Body{Room: formatRoom, Type: typ, StateKey: key, Sender: "@a:hq", Time: 1000, Depth: 3,
		Content: json.RawMessage(content), Prev: []event.ID{formatRoom.Create()}})
}

func TestFormat(t *testing.T) {
	e := message(t, "m.room.message", nil, `{"body":"hi \" \u0001 <é>","n":[1,{"z":null}]}`)
	id := string(e.ID())
	got := string((&format{now: 1500}).append(nil, &node.Shown{Event: e, Membership: "join", TxnID: `t"1`}))
	want := `{"content":{"body":"hi \" \u0001 <é>","n":[1,{"z":null}]},"event_id":"` + id +
		`","origin_server_ts":1000,"sender":"@a:hq","type":"m.room.message","unsigned":{"age":500,"membership":"join","transaction_id":"t\"1"}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	key := ""
	state := message(t, "m.room.topic", &key, `{"topic":"x"}`)
	by := message(t, "m.room.redaction", nil, `{"redacts":"`+id+`","reason":"r"}`)
	got = string((&format{room: true, now: 1500}).append(nil, &node.Shown{Event: state, RedactedBy: by,
		Replaces: "$old", PrevContent: json.RawMessage(`{"topic":"before"}`)}))
	want = `{"content":{"topic":"x"},"event_id":"` + string(state.ID()) + `","origin_server_ts":1000,"room_id":"` + string(formatRoom) +
		`","sender":"@a:hq","state_key":"","type":"m.room.topic","unsigned":{"age":500,"prev_content":{"topic":"before"},` +
		`"redacted_because":{"content":{"reason":"r","redacts":"` + id + `"},"event_id":"` + string(by.ID()) +
		`","origin_server_ts":1000,"redacts":"` + id + `","room_id":"` + string(formatRoom) +
		`","sender":"@a:hq","type":"m.room.redaction","unsigned":{"age":500}},"replaces_state":"$old"}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	if got := (&format{federation: true}).append(nil, &node.Shown{Event: state}); !bytes.Equal(got, state.JSON()) {
		t.Errorf("federation format: %s", got)
	}
}

func TestEventFields(t *testing.T) {
	e := message(t, "m.room.message", nil, `{"body":"b","info":{"h":1,"w":2,"x.y":{"a":1,"b":2}},"url":"u"}`)
	for _, c := range []struct{ fields, content string }{
		{`["content"]`, `{"body":"b","info":{"h":1,"w":2,"x.y":{"a":1,"b":2}},"url":"u"}`},
		{`["type"]`, `{}`},
		{`["content.body"]`, `{"body":"b"}`},
		{`["content.info.h","content.info.w"]`, `{"info":{"h":1,"w":2}}`},
		{`["content.info.x\\.y.a"]`, `{"info":{"x.y":{"a":1}}}`},
		{`["content.body.deeper","content.none"]`, `{}`},
	} {
		var fields []string
		if err := json.Unmarshal([]byte(c.fields), &fields); err != nil {
			t.Fatal(err)
		}
		raw := (&format{fields: fields}).append(nil, &node.Shown{Event: e})
		var got map[string]json.RawMessage
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if string(got["content"]) != c.content {
			t.Errorf("%s: %s", c.fields, got["content"])
		}
		for _, must := range []string{"event_id", "type", "sender", "origin_server_ts"} {
			if got[must] == nil {
				t.Errorf("%s: no %s", c.fields, must)
			}
		}
		if got["unsigned"] != nil {
			t.Errorf("%s: unsigned", c.fields)
		}
	}
}

func TestAppendText(t *testing.T) {
	for _, s := range []string{"", "plain", `"\`, "\x00\x1f\n\t", "é世\U0001f600", "a\xffb", "\xc3", "</script>\u2028"} {
		var back string
		if err := json.Unmarshal(appendText(nil, s), &back); err != nil {
			t.Errorf("%q: %v", s, err)
		} else if want := strings.ToValidUTF8(s, "\ufffd"); back != want {
			t.Errorf("%q reads as %q", s, back)
		}
	}
}

func TestReceiptsByThread(t *testing.T) {
	w := syncWriter{}
	w.ephemeral(&node.JoinedRoom{Typing: []event.UserID{"@t:x"}, Receipts: []store.Receipt{
		{Type: "m.read", User: "@b:x", Event: "$2", Time: 2},
		{Type: "m.read", User: "@a:x", Event: "$2", Time: 1, Thread: "main"},
		{Type: "m.read", User: "@a:x", Event: "$2", Time: 3},
		{Type: "m.read.private", User: "@a:x", Event: "$2", Time: 4},
		{Type: "m.read", User: "@c:x", Event: "$1", Time: 5},
	}})
	want := `[{"content":{"user_ids":["@t:x"]},"type":"m.typing"},` +
		`{"content":{"$1":{"m.read":{"@c:x":{"ts":5}}},"$2":{"m.read":{"@a:x":{"ts":3},"@b:x":{"ts":2}},"m.read.private":{"@a:x":{"ts":4}}}},"type":"m.receipt"},` +
		`{"content":{"$2":{"m.read":{"@a:x":{"thread_id":"main","ts":1}}}},"type":"m.receipt"}]`
	if string(w.b) != want {
		t.Errorf("got  %s\nwant %s", w.b, want)
	}
}

// FuzzClientFormat: whatever an event holds, the client gets valid JSON with
// exactly the properties that it may have.
func FuzzClientFormat(f *testing.F) {
	f.Add(`{"body":"x"}`, "m.room.message", "", false, "content.body")
	f.Add(`{"redacts":"$x","a":{"b":{"c":1}}}`, "m.room.redaction", "k", true, `content.a\.b.c`)
	f.Add(`{"auth_events":[],"hashes":{}}`, "x\"y\\", "\u0000", true, "unsigned")
	f.Fuzz(func(t *testing.T, content, typ, key string, state bool, field string) {
		b := event.Body{Room: formatRoom, Type: typ, Sender: "@a:hq", Time: 5, Depth: 1, Content: json.RawMessage(content),
			Prev: []event.ID{formatRoom.Create()}}
		if state {
			b.StateKey = &key
		}
		e, err := event.Sign(b, formatKey)
		if err != nil {
			return
		}
		for _, fm := range []*format{{room: true}, {fields: []string{field}}} {
			raw := fm.append(nil, &node.Shown{Event: e, TxnID: key, PrevContent: e.Content, RedactedBy: e})
			var got map[string]json.RawMessage
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatalf("%s: %v", raw, err)
			}
			for k := range got {
				switch k {
				case "content", "event_id", "origin_server_ts", "redacts", "room_id", "sender", "state_key", "type", "unsigned":
				default:
					t.Fatalf("property %q in %s", k, raw)
				}
			}
			var typBack string
			if json.Unmarshal(got["type"], &typBack) != nil || typBack != e.Type {
				t.Fatalf("type %q became %s", e.Type, got["type"])
			}
			if _, ok := got["state_key"]; ok != state {
				t.Fatalf("state_key in %s", raw)
			}
			if fm.fields == nil && !bytes.Equal(got["content"], e.Content) {
				t.Fatalf("content %s became %s", e.Content, got["content"])
			}
			if !utf8.Valid(raw) {
				t.Fatal("answer is not UTF-8")
			}
		}
	})
}

func BenchmarkFormat(b *testing.B) {
	e := message(b, "m.room.message", nil, `{"body":"`+strings.Repeat("x", 100)+`","msgtype":"m.text"}`)
	s := &node.Shown{Event: e, Membership: "join"}
	f := &format{now: 1500}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = f.append(buf[:0], s)
	}
}
