package store

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// damage is a change behind the store's back, with what Check must say.
type damage struct {
	name string
	fn   func(tx *Tx, w *world) error
	want string
}

func (tx *Tx) changeVertex(id event.ID, fn func(*vertex)) error {
	h, v, err := tx.inGraph(id)
	if err != nil {
		return err
	}
	fn(v)
	return tx.setVertex(h, v)
}

func (tx *Tx) changeRoom(id event.RoomID, fn func(*roomRow)) error {
	h, _ := roomHash(id)
	r, err := tx.room(h)
	if err != nil {
		return err
	}
	fn(r)
	return tx.set(keyHash(kindRoom, h), r.encode())
}

func (w *world) head(tx *Tx) event.ID {
	r, err := tx.Room(w.room)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Heads[0]
}

var damages = []damage{
	{"no body", func(tx *Tx, w *world) error {
		h, _ := eventHash(w.head(tx))
		return tx.delete(keyHash(kindBody, h))
	}, "not found"},
	{"another body", func(tx *Tx, w *world) error {
		h, _ := eventHash(w.head(tx))
		b, err := tx.get(keyHash(kindBody, hash(must(roomHash(w.room)))))
		return errors.Join(err, tx.set(keyHash(kindBody, h), b))
	}, "are those of"},
	{"bytes that do not parse", func(tx *Tx, w *world) error {
		h, _ := eventHash(w.head(tx))
		return tx.set(keyHash(kindBody, h), []byte("{"))
	}, "invalid event"},
	{"depth", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.depth += 2 })
	}, "has depth"},
	{"prev event not there", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.prevs = append(v.prevs, fakeHash(1)) })
	}, "is not in the graph"},
	{"state before", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.before, v.after = 1, 1 })
	}, "the state before"},
	{"state after", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.after = 1 })
	}, "changes"},
	{"state not there", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.after = 77 })
	}, "does not exist"},
	{"redacted by nothing", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.redactedBy = fakeHash(1) })
	}, "is redacted by"},
	{"redaction waits", func(tx *Tx, w *world) error {
		h, _ := eventHash(w.head(tx))
		return tx.set(keyHash(kindPending, h), nil)
	}, "waits for"},
	{"gap that is none", func(tx *Tx, w *world) error {
		h, _ := eventHash(w.head(tx))
		var e encoder
		e.hashes([]hash{h})
		return tx.set(keyHash(kindGap, fakeHash(1)), e.b)
	}, "does not refer to it"},
	{"layer without parent", func(tx *Tx, w *world) error { return tx.delete(keyNumber(kindLayer, 2)) }, "lacks its parent"},
	{"layer without part", func(tx *Tx, w *world) error { return tx.delete(keyChunk(3, 0)) }, "lacks part"},
	{"layer out of order", func(tx *Tx, w *world) error {
		l := &layer{id: 1, height: 1, entries: []entry{{room.Key{Type: "b"}, fakeHash(1)}, {room.Key{Type: "a"}, fakeHash(1)}}}
		return tx.storeLayer(l)
	}, "is not sorted"},
	{"layer of a wrong height", func(tx *Tx, w *world) error {
		return tx.storeLayer(&layer{id: 50, height: 4, parent: 1})
	}, "has a parent of height"},
	{"layer above the last", func(tx *Tx, w *world) error {
		return errors.Join(tx.storeLayer(&layer{id: 50, height: 1}), tx.set(key0(kindLastState), encodeNumber(9)))
	}, "is above the largest id"},
	{"no head", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.heads = nil })
	}, "heads, counted"},
	{"head with another state", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.heads[0].after = 1 })
	}, "row of head"},
	{"another leaf", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.leaves = append(r.leaves, fakeHash(1)) })
	}, "leaves, counted"},
	{"current state", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.state = 1 })
	}, "the current state is not"},
	{"joined", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.joined++; r.localJoined++ })
	}, "joined"},
	{"events of a room", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.events++ })
	}, "events, there are"},
	{"gaps of a room", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.gaps++ })
	}, "gaps, there are"},
	{"news of a room", func(tx *Tx, w *world) error {
		return tx.changeRoom(w.room, func(r *roomRow) { r.last = 99 })
	}, "has news at"},
	{"servers", func(tx *Tx, w *world) error {
		h, _ := roomHash(w.room)
		return tx.set(keyHashText(kindServerIn, h, "x.example"), encodeNumber(1))
	}, "users of x.example"},
	{"membership row", func(tx *Tx, w *world) error {
		m, err := tx.Membership(w.admin, w.room)
		if err != nil {
			return err
		}
		m.Membership = "leave"
		return tx.PutMembership(*m)
	}, "the membership row"},
	{"no membership row", func(tx *Tx, w *world) error {
		h, _ := roomHash(w.room)
		return tx.delete(keyMember(w.admin, h))
	}, "has no membership row"},
	{"membership index", func(tx *Tx, w *world) error {
		h, _ := roomHash(w.room)
		return tx.set(keyMemberBy(h, "join", "@x:home.example"), nil)
	}, "lists @x:home.example"},
	{"position used twice", func(tx *Tx, w *world) error {
		h, _ := roomHash(w.room)
		return tx.set(keyHashNumber(kindRcptPos, h, 2), (&encoder{}).b)
	}, "position 2 is for"},
	{"timeline without event", func(tx *Tx, w *world) error {
		h, _ := roomHash(w.room)
		return tx.set(keyHashNumber(kindTimeline, h, 4), encodeTimeline(fakeHash(1), 1))
	}, "timeline row 4"},
	{"event without timeline", func(tx *Tx, w *world) error {
		h, _ := roomHash(w.room)
		return tx.delete(keyHashNumber(kindTimeline, h, 3))
	}, "timeline rows than accepted"},
	{"own event not in the log", func(tx *Tx, w *world) error { return tx.delete(keyNumber(kindLocal, 2)) }, "own rows"},
	{"log without own event", func(tx *Tx, w *world) error { return tx.set(keyNumber(kindLocal, 9), make([]byte, 64)) }, "own event 9"},
	{"position of a hidden event", func(tx *Tx, w *world) error {
		return tx.changeVertex(w.head(tx), func(v *vertex) { v.status = SoftFailed })
	}, "is not shown"},
	{"cursor ahead", func(tx *Tx, w *world) error { return tx.SetCursor("x", 1000) }, "cursor x"},
	{"token without device", func(tx *Tx, w *world) error {
		var e encoder
		e.text("@u:x")
		e.text("D")
		return tx.set(keyHash(kindToken, fakeHash(1)), e.b)
	}, "names no device"},
	{"device without token", func(tx *Tx, w *world) error {
		return tx.setJSON(keyDevice("@u:x", "D"), &Device{})
	}, "more tokens"},
	{"user under another id", func(tx *Tx, w *world) error {
		return tx.setJSON(keyText(kindUser, "@u:x"), &User{ID: "@v:x", Deactivated: true})
	}, "the row of user"},
	{"account data without index", func(tx *Tx, w *world) error {
		return tx.set(keyData("@u:x", "", "t"), []byte{1, 0})
	}, "account data index"},
	{"index without account data", func(tx *Tx, w *world) error {
		return tx.set(keyDataPos("@u:x", 1), []byte{0, 1, 't'})
	}, "does not match its index"},
	{"receipt without index", func(tx *Tx, w *world) error {
		return tx.set(keyReceipt(fakeHash(1), "m.read", "@u:x", ""), encodeNumber(1))
	}, "receipts than"},
	{"alias without room", func(tx *Tx, w *world) error {
		var e encoder
		e.hash(fakeHash(1))
		e.text("@u:x")
		return tx.set(keyText(kindAlias, "#a:x"), e.b)
	}, "is not in the list"},
	{"room without alias", func(tx *Tx, w *world) error {
		return tx.set(keyHashText(kindAliasOf, fakeHash(1), "#a:x"), nil)
	}, "more aliases"},
	{"totals", func(tx *Tx, w *world) error {
		t, err := tx.changeTotals()
		t.counts.Users++
		return err
	}, "totals are"},
	{"unknown row", func(tx *Tx, w *world) error { return tx.set([]byte("Zx"), nil) }, "unknown kind"},
}

func must[T any](v T, ok bool) T {
	if !ok {
		panic("not ok")
	}
	return v
}

// Check finds what it promises to find.
func TestCheckFinds(t *testing.T) {
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			s, err := Open(Options{InMemory: true, Server: home})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, s)
			if err := s.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			update(t, s, func(tx *Tx) error { return d.fn(tx, w) })
			s.events = newEventCache(eventCacheBytes)
			s.layers = newCache[StateID, *layer](layerCachePlaces)
			if err := s.Close(); err == nil || !strings.Contains(err.Error(), d.want) {
				t.Errorf("got %v, want %q", err, d.want)
			}
		})
	}
}

func TestCheckStops(t *testing.T) {
	s := mustOpen(t, Options{})
	newWorld(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
