package node

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// room returns what is new in one joined room, waiting for it.
func (f *follower) room(r event.RoomID, what string, is func(*JoinedRoom) bool) *JoinedRoom {
	f.m.world.t.Helper()
	var got *JoinedRoom
	f.m.world.wait(what, func() error {
		for _, j := range f.sync().Join {
			if j.ID == r && is(j) {
				got = j
				return nil
			}
		}
		return errors.New("not in the sync")
	})
	return got
}

func TestFederatedTyping(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 11)
	a.becomes(r, bob, join)
	f := a.follow(alice)
	f.sync()
	w.must(b.SetTyping(ctx0, bob, r, true, time.Minute))
	f.room(r, "typing", func(j *JoinedRoom) bool { return slices.Equal(j.Typing, []event.UserID{bob}) })
	w.must(b.SetTyping(ctx0, bob, r, false, 0))
	f.room(r, "no more typing", func(j *JoinedRoom) bool { return j.Typing != nil && len(j.Typing) == 0 })
}

func TestFederatedReceipts(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 12)
	one := a.say(alice, r, "one")
	two := a.say(alice, r, "two")
	b.has(two)
	f := a.follow(alice)
	f.sync()
	receipt := func(typ string, id event.ID) {
		t.Helper()
		w.must(b.SetReceipts(ctx0, ReceiptRequest{User: bob, Room: r, Receipt: map[string]event.ID{typ: id}}))
	}
	receipt(receiptPrivate, two)
	receipt(receiptRead, one)
	receipt(receiptRead, two) // within the time in which receipts are collected
	var got []store.Receipt
	f.room(r, "the last receipt", func(j *JoinedRoom) bool {
		got = append(got, j.Receipts...)
		return slices.ContainsFunc(j.Receipts, func(rc store.Receipt) bool { return rc.Event == two })
	})
	for _, rc := range got {
		if rc.Type != receiptRead || rc.User != bob {
			t.Errorf("%+v went to another server", rc)
		}
	}
}

// TestHostileEphemeral: what a peer may not say changes nothing.
func TestHostileEphemeral(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 13)
	a.becomes(r, bob, join)
	stranger := b.user("stranger")
	other := a.create(alice, CreateRequest{Preset: "public_chat"})
	now := time.Now()
	seq := uint64(now.Unix()) << 20
	make_ := func(change func(*edu), key event.SigningKey) []byte {
		seq++
		m := edu{Kind: eduTyping, Origin: birch, Room: r, Seq: seq, Time: now.UnixMilli(), Body: marshalled(typingBody{bob, true})}
		if change != nil {
			change(&m)
		}
		raw, err := event.SignJSON(marshalled(m), key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	birchKey := testKey(birch)
	receipts := func(items ...receiptItem) func(*edu) {
		return func(m *edu) { m.Kind, m.Body = eduReceipt, marshalled(receiptBody{items}) }
	}
	id := string(r.Create())
	cases := []struct {
		name  string
		raw   []byte
		fault bool // of who handed it on
	}{
		{"no JSON", []byte("x"), true},
		{"too large", []byte(`{"kind":"` + strings.Repeat("x", maxEDU) + `"}`), true},
		{"another room", make_(func(m *edu) { m.Room = other }, birchKey), true},
		{"no kind", make_(func(m *edu) { m.Kind = "" }, birchKey), true},
		{"too old", make_(func(m *edu) { m.Time = now.Add(-6 * time.Minute).UnixMilli() }, birchKey), false},
		{"too new", make_(func(m *edu) { m.Time = now.Add(6 * time.Minute).UnixMilli() }, birchKey), false},
		{"a server that is not in the room", make_(func(m *edu) { m.Origin = cedar }, testKey(cedar)), false},
		{"signed by another key", make_(nil, event.SigningKey{Server: birch, ID: birchKey.ID, Private: testKey(cedar).Private}), true},
		{"not signed by its origin", make_(nil, testKey(acme)), true},
		{"a key that is not known", make_(nil, event.SigningKey{Server: birch, ID: "ed25519:other", Private: birchKey.Private}), false},
		{"a user of another server", make_(func(m *edu) { m.Body = marshalled(typingBody{alice, true}) }, birchKey), true},
		{"a user who is not in the room", make_(func(m *edu) { m.Body = marshalled(typingBody{stranger, true}) }, birchKey), false},
		{"a body of another form", make_(func(m *edu) { m.Body = json.RawMessage(`[]`) }, birchKey), true},
		{"a receipt of another server's user", make_(receipts(receiptItem{User: alice, Event: event.ID(id)}), birchKey), true},
		{"a receipt for no event", make_(receipts(receiptItem{User: bob, Event: "x"}), birchKey), true},
		{"too many receipts", make_(receipts(make([]receiptItem, maxReceipts+1)...), birchKey), true},
		{"a changed message", []byte(strings.Replace(string(make_(nil, birchKey)), `"typing":true`, `"typing":false`, 1)), true},
	}
	gen := a.typing.gen
	for _, c := range cases {
		err := a.HandleEphemeral(ctx0, birch, r, c.raw)
		if err == nil || errors.Is(err, event.ErrInvalid) != c.fault {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if a.typing.gen != gen {
		t.Error("somebody is typing")
	}
	good := make_(nil, birchKey)
	w.must(a.HandleEphemeral(ctx0, birch, r, good))
	if err := a.HandleEphemeral(ctx0, birch, r, good); !errors.Is(err, errStale) {
		t.Errorf("a replay: %v", err)
	}
	if err := a.HandleEphemeral(ctx0, birch, r, make_(func(m *edu) { m.Kind = "of a later version" }, birchKey)); err != nil {
		t.Errorf("an unknown kind: %v", err)
	}
	if err := a.HandleEphemeral(ctx0, birch, r, make_(receipts(receiptItem{User: stranger, Event: r.Create()}), birchKey)); err != nil {
		t.Errorf("a receipt of one who left: %v", err)
	}
	w.must(a.HandleEphemeral(ctx0, birch, r, make_(receipts(receiptItem{User: bob, Event: r.Create(), Time: 10}), birchKey)))
	w.must(a.HandleEphemeral(ctx0, birch, r, make_(receipts(receiptItem{User: bob, Event: event.ID("$" + strings.Repeat("A", 43)), Time: 9}), birchKey)))
	var kept []store.Receipt
	w.wait("the receipt", func() error {
		return a.store.View(func(tx *store.Tx) (err error) {
			if kept, err = tx.Receipts(r, 0); err == nil && len(kept) == 0 {
				err = errors.New("none yet")
			}
			return err
		})
	})
	if len(kept) != 1 || kept[0].User != bob || kept[0].Event != r.Create() {
		t.Errorf("receipts: %+v", kept)
	}
}

func FuzzHandleEphemeral(f *testing.F) {
	w, a, _, _, bob, r := pair(f, 14)
	a.becomes(r, bob, join)
	raw, err := event.SignJSON(marshalled(edu{Kind: eduTyping, Origin: birch, Room: r, Seq: 1, Time: time.Now().UnixMilli(),
		Body: marshalled(typingBody{bob, true})}), testKey(birch))
	w.must(err)
	f.Add([]byte(raw))
	f.Add([]byte(`{"kind":"receipt","body":{"receipts":[{}]}}`))
	f.Add([]byte(`{"kind":"typing","origin":"birch","room_id":"` + string(r) + `","signatures":{"birch":{"ed25519:test":"x"}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		before := a.typing.gen
		err := a.HandleEphemeral(ctx0, birch, r, in)
		if err != nil && a.typing.gen != before {
			t.Fatal("a message that was refused had an effect")
		}
		if err == nil && !strings.Contains(string(in), `"signatures"`) {
			t.Fatal("a message without a signature was taken")
		}
	})
}
