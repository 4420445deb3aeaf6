package store

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

func TestMain(m *testing.M) {
	if child := os.Getenv("STORE_TEST_CHILD"); child != "" {
		os.Exit(runChild(child))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const home = event.Server("home.example")

func signingKey(s event.Server) event.SigningKey {
	seed := sha256.Sum256([]byte(s))
	return event.SigningKey{Server: s, ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed[:])}
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Server == "" {
		o.Server = home
	}
	if o.Dir == "" {
		o.InMemory = true
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func update(t testing.TB, s *Store, fn func(*Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, s *Store, fn func(*Tx) error) {
	t.Helper()
	if err := s.View(fn); err != nil {
		t.Fatal(err)
	}
}

// world makes events of one room as several servers would.
type world struct {
	t     testing.TB
	s     *Store
	room  event.RoomID
	admin event.UserID
	clock int64
}

func user(name string, s event.Server) event.UserID {
	return event.UserID("@" + name + ":" + string(s))
}

// worlds counts rooms, so that no two have the same create event.
var worlds atomic.Int64

// newWorld creates a public room with its creator as the only member.
func newWorld(t testing.TB, s *Store) *world {
	w := &world{t: t, s: s, admin: user("admin", home), clock: 1_700_000_000_000 + 1_000_000*worlds.Add(1)}
	w.room = w.create()
	return w
}

func (w *world) create() event.RoomID {
	w.t.Helper()
	w.clock++
	e := w.sign(event.Body{
		Type: "m.room.create", StateKey: new(string), Sender: w.admin, Depth: 1,
		Content: json.RawMessage(`{"room_version":"12"}`), Time: w.clock,
	})
	w.room = e.ID().Room()
	update(w.t, w.s, func(tx *Tx) error {
		e, err := w.load(e)
		if err != nil {
			return err
		}
		_, err = tx.Apply(e, room.Accepted, nil, ApplyOptions{Local: true})
		return err
	})
	w.send(w.admin, typeMember, string(w.admin), `{"membership":"join"}`)
	w.send(w.admin, "m.room.join_rules", "", `{"join_rule":"public"}`)
	return w.room
}

// load parses what was signed, as a receiver does.
func (w *world) load(e *event.Event) (*event.Event, error) { return event.Parse(e.JSON()) }

func (w *world) sign(b event.Body) *event.Event {
	w.t.Helper()
	e, err := event.Sign(b, signingKey(b.Sender.Server()))
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// draft makes an event on top of the given heads.
func (w *world) draft(tx *Tx, heads []event.ID, sender event.UserID, typ string, key *string, content string) (*event.Event, *State, error) {
	st, err := tx.StateAt(w.room, heads)
	if err != nil {
		return nil, nil, err
	}
	depth := int64(0)
	for _, h := range heads {
		e, err := tx.Event(h)
		if err != nil {
			return nil, nil, err
		}
		depth = max(depth, e.Depth)
	}
	w.clock++
	b, err := room.Room{ID: w.room, Heads: heads, Depth: depth}.Draft(st, sender, typ, key, json.RawMessage(content), w.clock)
	if err != nil {
		return nil, nil, err
	}
	return w.sign(b), st, nil
}

// apply judges an event and applies it, as the node does.
func (w *world) apply(tx *Tx, e *event.Event, st *State, o ApplyOptions) (*Stored, error) {
	create, err := tx.Lookup(w.room.Create())
	if err != nil {
		return nil, err
	}
	in := room.Input{Create: create.Event, Before: st}
	for _, id := range e.Auth {
		f, err := tx.Lookup(id)
		if err != nil {
			return nil, err
		}
		in.Auth = append(in.Auth, f)
	}
	r, err := tx.Room(w.room)
	if err != nil {
		return nil, err
	}
	if in.Current, err = tx.State(r.State); err != nil {
		return nil, err
	}
	v, err := room.Judge(e, in)
	if v == room.Accepted && err != nil {
		return nil, err
	}
	return tx.Apply(e, v, st, o)
}

// sendAt drafts, judges and applies on top of heads; nil means the room's own.
func (w *world) sendAt(tx *Tx, heads []event.ID, sender event.UserID, typ string, key *string, content string) (*Stored, error) {
	if heads == nil {
		r, err := tx.Room(w.room)
		if err != nil {
			return nil, err
		}
		heads = r.Heads
	}
	e, st, err := w.draft(tx, heads, sender, typ, key, content)
	if err != nil {
		return nil, err
	}
	return w.apply(tx, e, st, ApplyOptions{Local: sender.Server() == home})
}

// send adds a state event at the heads of the room.
func (w *world) send(sender event.UserID, typ, key, content string) *Stored {
	w.t.Helper()
	return w.add(nil, sender, typ, &key, content)
}

// say adds a message on top of heads; nil means the room's own.
func (w *world) say(heads []event.ID, sender event.UserID, text string) *Stored {
	w.t.Helper()
	return w.add(heads, sender, "m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))
}

func (w *world) add(heads []event.ID, sender event.UserID, typ string, key *string, content string) *Stored {
	w.t.Helper()
	var out *Stored
	update(w.t, w.s, func(tx *Tx) (err error) {
		out, err = w.sendAt(tx, heads, sender, typ, key, content)
		return err
	})
	return out
}

func (w *world) join(u event.UserID) *Stored {
	w.t.Helper()
	return w.send(u, typeMember, string(u), `{"membership":"join"}`)
}

func (w *world) roomNow() *Room {
	w.t.Helper()
	var r *Room
	view(w.t, w.s, func(tx *Tx) (err error) {
		r, err = tx.Room(w.room)
		return err
	})
	return r
}
