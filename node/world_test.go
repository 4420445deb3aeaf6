package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// world is a federation of nodes in one process: real nodes, real stores, a
// simulated network.
type world struct {
	t     testing.TB
	net   *simnet.Net
	log   *slog.Logger
	nodes map[event.Server]*member
	every time.Duration // period of the heads exchange
	clock func() time.Time
	merge time.Duration // how long forward extremities are left alone
}

// member is one node of a world. Its store outlives its node.
type member struct {
	*Node
	world   *world
	name    event.Server
	key     event.SigningKey
	store   *store.Store
	peer    *simnet.Peer
	stop    context.CancelFunc
	running bool // between start and kill; touched by the test's goroutine alone
	done    sync.WaitGroup
}

func newWorld(t testing.TB, seed uint64, names ...event.Server) *world {
	var out io.Writer = io.Discard
	if os.Getenv("TOKENIM_TEST_LOG") != "" {
		out = os.Stderr
	}
	w := &world{
		t: t, net: simnet.New(seed), nodes: map[event.Server]*member{}, every: 100 * time.Millisecond, merge: mergeAfter,
		log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, s := range names {
		w.add(s)
	}
	return w
}

// testKey is the event key of a server, always the same.
func testKey(s event.Server) event.SigningKey {
	seed := sha256.Sum256([]byte(s))
	return event.SigningKey{Server: s, ID: "ed25519:test", Private: ed25519.NewKeyFromSeed(seed[:])}
}

// add opens a store in memory and starts a node on it.
func (w *world) add(s event.Server) *member {
	m := w.addOn(s, memoryStore(w.t, s))
	w.wait("connections of "+string(s), func() error {
		for _, p := range m.peer.Peers() {
			if p.State != "connected" && w.nodes[p.Name].running {
				return fmt.Errorf("%s is %s", p.Name, p.State)
			}
		}
		return nil
	})
	return m
}

func memoryStore(t testing.TB, s event.Server) *store.Store {
	t.Helper()
	st, err := store.Open(store.Options{InMemory: true, Server: s})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// addOn starts a node on a store that is closed at the end of the test.
func (w *world) addOn(s event.Server, st *store.Store) *member {
	m := &member{world: w, name: s, key: testKey(s), store: st}
	w.nodes[s] = m
	m.start()
	w.t.Cleanup(func() {
		m.kill()
		if err := m.store.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			w.t.Errorf("store of %s: %v", s, err)
		}
	})
	return m
}

// start begins a life of the node.
func (m *member) start() {
	m.world.t.Helper()
	m.peer = m.world.net.Add(m.name, m.key)
	n, err := New(Config{
		Key: m.key, Store: m.store, Network: m.peer, Logger: m.world.log.With("node", m.name),
		HeadsEvery: m.world.every, Now: m.world.clock,
	})
	if err != nil {
		m.world.t.Fatal(err)
	}
	n.mergeAfter = m.world.merge
	m.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	m.stop, m.running = cancel, true
	m.done.Go(func() {
		if err := n.Run(ctx); err != nil {
			m.world.t.Errorf("%s: %v", m.name, err)
		}
	})
	m.done.Go(func() {
		if err := m.peer.Run(ctx, n); err != nil {
			m.world.t.Errorf("network of %s: %v", m.name, err)
		}
	})
	m.world.wait("start of "+string(m.name), func() error {
		if !n.Ready() {
			return errors.New("not ready")
		}
		return nil
	})
}

// kill ends the node; the store stays as it is.
func (m *member) kill() {
	m.stop()
	m.done.Wait()
	m.running = false
}

// wait waits until check has no objection.
func (w *world) wait(what string, check func() error) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	w.t.Fatalf("%s: %v", what, err)
}

// user makes an account on the node.
func (m *member) user(local string) event.UserID {
	m.world.t.Helper()
	u := event.UserID("@" + local + ":" + string(m.name))
	err := m.store.Update(ctx0, func(tx *store.Tx) error {
		return tx.PutUser(&store.User{ID: u, Role: "user", Profile: map[string]json.RawMessage{"displayname": quote(local)}})
	})
	if err != nil {
		m.world.t.Fatal(err)
	}
	return u
}

var ctx0 = context.Background()

// create makes a room.
func (m *member) create(u event.UserID, req CreateRequest) event.RoomID {
	m.world.t.Helper()
	r, err := m.CreateRoom(ctx0, u, req)
	if err != nil {
		m.world.t.Fatal(err)
	}
	return r
}

// say sends a message.
func (m *member) say(u event.UserID, r event.RoomID, text string) event.ID {
	m.world.t.Helper()
	id, err := m.Send(ctx0, SendRequest{User: u, Room: r, Type: "m.room.message", Content: message(text)})
	if err != nil {
		m.world.t.Fatalf("%s says %q: %v", u, text, err)
	}
	return id
}

func message(text string) json.RawMessage {
	return marshalled(map[string]string{"msgtype": "m.text", "body": text})
}

// set sends a state event.
func (m *member) set(u event.UserID, r event.RoomID, typ, key, content string) event.ID {
	m.world.t.Helper()
	id, err := m.Send(ctx0, SendRequest{User: u, Room: r, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	if err != nil {
		m.world.t.Fatalf("%s sets %s: %v", u, typ, err)
	}
	return id
}

// must fails the test on an error.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// status returns how an event stands at a node, or an error if it is not there.
func (m *member) status(id event.ID) (st store.Status, err error) {
	err = m.store.View(func(tx *store.Tx) error {
		e, err := tx.Event(id)
		if err == nil {
			st = e.Status
		}
		return err
	})
	return st, err
}

// has waits until an event is shown at a node.
func (m *member) has(id event.ID) {
	m.world.t.Helper()
	m.world.wait(fmt.Sprintf("%s gets %s", m.name, id), func() error {
		st, err := m.status(id)
		if err == nil && st != store.Accepted {
			err = fmt.Errorf("status %d", st)
		}
		return err
	})
}

// membership returns a user's membership as a node sees it.
func (m *member) membership(r event.RoomID, u event.UserID) string {
	m.world.t.Helper()
	var got string
	err := m.store.View(func(tx *store.Tx) (err error) {
		got, err = currentMembership(tx, r, u)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return got
}

// row returns the membership of a local user's own row, "" for none.
func (m *member) row(r event.RoomID, u event.UserID) (row store.Membership) {
	m.world.t.Helper()
	err := m.store.View(func(tx *store.Tx) error {
		x, err := tx.Membership(u, r)
		if err == nil {
			row = *x
		}
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		m.world.t.Fatal(err)
	}
	return row
}

// becomes waits for a membership.
func (m *member) becomes(r event.RoomID, u event.UserID, want string) {
	m.world.t.Helper()
	m.world.wait(fmt.Sprintf("%s sees %s %s", m.name, u, want), func() error {
		if got := m.membership(r, u); got != want {
			return errors.New(got)
		}
		return nil
	})
}

// picture is what a node holds of a room.
type picture struct {
	heads []event.ID
	state [32]byte
	ids   []event.ID // of the graph, sorted, rejected ones apart
}

func (m *member) picture(r event.RoomID) (p picture, err error) {
	err = m.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		st, err := tx.State(rm.State)
		if err != nil {
			return err
		}
		p.heads = slices.Clone(rm.Heads)
		if p.state, err = st.Hash(); err != nil {
			return err
		}
		ids, _, err := tx.Missing(r, rm.Leaves, nil, 1<<30)
		for _, id := range ids {
			e, err := tx.Event(id)
			if err != nil {
				return err
			}
			if e.Status != store.Rejected {
				p.ids = append(p.ids, id)
			}
		}
		slices.Sort(p.ids)
		return err
	})
	return p, err
}

// same says how two nodes' views of a room differ in state and extremities.
func same(a, b *member, r event.RoomID) error {
	x, err := a.picture(r)
	if err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	y, err := b.picture(r)
	if err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	if !slices.Equal(x.heads, y.heads) {
		return fmt.Errorf("heads: %s has %v, %s has %v", a.name, x.heads, b.name, y.heads)
	}
	if x.state != y.state {
		return fmt.Errorf("%s and %s stand on equal heads and see different states", a.name, b.name)
	}
	return nil
}

// agree waits until all nodes have the same extremities and state of a room.
func (w *world) agree(r event.RoomID, names ...event.Server) {
	w.t.Helper()
	w.wait("agreement", func() error {
		for _, s := range names[1:] {
			if err := same(w.nodes[names[0]], w.nodes[s], r); err != nil {
				return err
			}
		}
		return nil
	})
	for _, s := range names {
		if d := w.nodes[s].Divergences(); d != 0 {
			w.t.Fatalf("%s raised the alarm %d times", s, d)
		}
	}
}

// stateEvent returns an event of a node's current state, nil if there is none.
func (m *member) stateEvent(r event.RoomID, typ, key string) *event.Event {
	m.world.t.Helper()
	var e *event.Event
	err := m.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		st, err := tx.State(rm.State)
		if err != nil {
			return err
		}
		e, err = st.StateEvent(typ, key)
		return err
	})
	if err != nil {
		m.world.t.Fatal(err)
	}
	return e
}

var _ room.State = authState(nil)
