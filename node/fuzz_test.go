package node

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/tokenim/tokenim/node/event"
)

// fuzzNode is a node with a room that another server is in.
func fuzzNode(f *testing.F) (*member, event.RoomID) {
	_, a, _, _, bob, r := pair(f, 50)
	a.becomes(r, bob, join)
	return a, r
}

// FuzzHandleCall: whatever a peer writes, the answer is JSON or a refusal, and the
// room's state stays.
func FuzzHandleCall(f *testing.F) {
	m, r := fuzzNode(f)
	room := `{"room_id":"` + string(r) + `"`
	id := string(r.Create())
	for method, body := range map[string]string{
		CallMakeJoin:  room + `,"user_id":"@x:birch"}`,
		CallSendJoin:  `{"event":{"type":"m.room.member"}}`,
		CallInvite:    `{"room_version":"12","event":{},"invite_room_state":[{}]}`,
		CallMakeLeave: room + `,"user_id":"@bob:birch"}`,
		CallSend:      room + `,"events":[{}],"records":["YQ=="]}`,
		CallHeads:     `{"rooms":[` + room + `,"leaves":["` + id + `"],"leaf_digest":"","count":-1}]}`,
		CallMissing:   room + `,"want":["` + id + `"],"have":[],"offset":-1}`,
		CallState:     room + `,"event_id":"` + id + `"}`,
		CallEvents:    room + `,"event_ids":["` + id + `","$x"]}`,
		CallKeys:      `{"servers":["acme","birch",""]}`,
		CallAlias:     `{"room_alias":"#x:acme"}`,
		CallProfile:   `{"user_id":"@alice:acme"}`,
		"other":       `null`,
	} {
		f.Add(method, []byte(body))
	}
	before, err := m.picture(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		for _, from := range []event.Server{birch, "evil"} {
			answer, err := m.HandleCall(ctx0, from, method, body)
			var re *event.RemoteError
			if err != nil && !errors.As(err, &re) {
				t.Fatalf("%s from %s: %v", method, from, err)
			}
			if err == nil && !json.Valid(answer) {
				t.Fatalf("%s from %s: %s", method, from, answer)
			}
		}
		after, err := m.picture(r)
		if err != nil || after.state != before.state {
			t.Fatalf("the state changed: %v", err)
		}
	})
}

// FuzzHandleGossip: whatever comes over a topic, nothing changes unless it is
// signed.
func FuzzHandleGossip(f *testing.F) {
	m, r := fuzzNode(f)
	e, err := m.draftFor("@alice:acme", r, "m.room.message", message("x"))
	if err != nil {
		f.Fatal(err)
	}
	create := m.stateEvent(r, typeCreate, "")
	f.Add(e.JSON(), create.JSON(), string(e.ID()))
	f.Add([]byte(`{}`), []byte(`[]`), "$")
	f.Add([]byte(nil), []byte(`{"type":"m.room.member","state_key":"@bob:birch"}`), "")
	before, err := m.picture(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, one, two []byte, head string) {
		err := m.HandleGossip(ctx0, birch, r, [][]byte{one, two}, []event.ID{event.ID(head)})
		bad := 0
		for _, raw := range [][]byte{one, two} {
			if x, err := event.Parse(raw); err != nil || x.Room != r || m.verify(x) != nil {
				bad++
			}
		}
		if bad == 2 && err == nil {
			t.Fatal("handed on")
		}
		after, perr := m.picture(r)
		if perr != nil || after.state != before.state {
			t.Fatalf("the state changed: %v", perr)
		}
	})
}
