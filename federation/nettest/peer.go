package nettest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

func testSelf(t *testing.T, c *cluster) {
	nodes := c.start(2, false)
	for _, n := range nodes {
		if s, err := event.ParseServer(string(n.Self())); err != nil || s != n.Self() {
			t.Errorf("Self = %q: %v", n.Self(), err)
		}
		if n.key.Server != n.Self() {
			t.Errorf("the key is of %q, the node is %q", n.key.Server, n.Self())
		}
	}
	if nodes[0].Self() == nodes[1].Self() {
		t.Error("two nodes have one name")
	}
}

// alternates fails the test unless a peer was reported as connected and gone by
// turns, connected first.
func alternates(t *testing.T, n *node, s event.Server) {
	t.Helper()
	for i, up := range n.Changes(s) {
		if up != (i%2 == 0) {
			t.Fatalf("%s reported %s as %v", n.Self(), s, n.Changes(s))
		}
	}
}

func testPeerUpAndDown(t *testing.T, c *cluster) {
	nodes := c.start(3, false)
	a, b, third := nodes[0], nodes[1], nodes[2]
	c.Link(t, 0, 1)
	c.meet(a, b)
	c.Link(t, 1, 2)
	c.meet(b, third)
	// A peer that is reported has shown its record.
	if _, err := a.Key(b.Self(), b.key.ID, time.Now().UnixMilli()); err != nil {
		t.Errorf("Key of a connected peer: %v", err)
	}
	c.Unlink(t, 0, 1)
	Wait(t, "both to report the other one as gone", func() bool {
		return !a.Connected(b.Self()) && !b.Connected(a.Self())
	})
	c.Link(t, 0, 1)
	c.meet(a, b)
	if !b.Connected(third.Self()) || a.Connected(third.Self()) || third.Connected(a.Self()) {
		t.Error("links of others changed something")
	}
	alternates(t, a, b.Self())
	alternates(t, b, a.Self())
}

func testPeerRestart(t *testing.T, c *cluster) {
	nodes := c.start(2, true)
	a, b := nodes[0], nodes[1]
	r := roomID('r')
	c.room(r, a, b)
	spread(t, r, "before", a, b)
	c.Stop(t, 1)
	Wait(t, "a to report b as gone", func() bool { return !a.Connected(b.Self()) })
	again := c.run(1, &Recorder{})
	if again.Self() != b.Self() {
		t.Fatalf("the node came back as %s, not as %s", again.Self(), b.Self())
	}
	c.meet(a, again)
	again.SetRoom(r, salt(r), []event.Server{a.Self(), b.Self()})
	spread(t, r, "after", a, again)
	spread(t, r, "and back", again, a)
	if got, err := a.Call(t.Context(), b.Self(), "heads", []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("Call after a restart = %q, %v", got, err)
	}
	alternates(t, a, b.Self())
	silent(t, again, r, "before")
}

func testPeers(t *testing.T, c *cluster) {
	nodes := c.start(3, false)
	a, b, third := nodes[0], nodes[1], nodes[2]
	c.Link(t, 0, 1)
	c.Link(t, 0, 2)
	c.meet(a, b)
	c.meet(a, third)
	find := func(s event.Server) (event.Peer, bool) {
		peers := a.Peers()
		if !slices.IsSortedFunc(peers, func(x, y event.Peer) int {
			if x.Name < y.Name {
				return -1
			}
			return 1
		}) {
			t.Errorf("Peers is not sorted by name: %v", peers)
		}
		i := slices.IndexFunc(peers, func(p event.Peer) bool { return p.Name == s })
		if i < 0 {
			return event.Peer{}, false
		}
		return peers[i], true
	}
	for _, n := range []*node{b, third} {
		p, ok := find(n.Self())
		if !ok || p.State != "connected" || p.PeerID == "" || len(p.Addresses) == 0 || p.Transport != "quic" && p.Transport != "tcp" {
			t.Errorf("peer %s: %+v", n.Self(), p)
		}
	}
	if _, ok := find(a.Self()); ok {
		t.Error("a node is its own peer")
	}
	c.Stop(t, 1)
	Wait(t, "a pinned peer to be shown as not connected", func() bool {
		p, ok := find(b.Self())
		return ok && p.State != "connected" && p.Transport == ""
	})
	if p, _ := find(third.Self()); p.State != "connected" {
		t.Errorf("the other peer: %+v", p)
	}
	c.Unlink(t, 0, 2)
	Wait(t, "a peer that is not pinned any more to be gone", func() bool {
		_, ok := find(third.Self())
		return !ok
	})
}

// public is a node's event key.
func (n *node) public() ed25519.PublicKey { return n.key.Private.Public().(ed25519.PublicKey) }

// knows reports whether n knows the key of other for events of this moment, and
// fails the test if it takes another key for it.
func (n *node) knows(t *testing.T, other *node) bool {
	t.Helper()
	key, err := n.Key(other.Self(), other.key.ID, time.Now().UnixMilli())
	if err != nil {
		if !errors.Is(err, event.ErrUnknownKey) {
			t.Fatalf("Key: %v, which is not ErrUnknownKey", err)
		}
		return false
	}
	if !key.Equal(other.public()) {
		t.Fatalf("%s takes a wrong key for the one of %s", n.Self(), other.Self())
	}
	return true
}

func testKey(t *testing.T, c *cluster) {
	nodes := c.start(2, true)
	a, b := nodes[0], nodes[1]
	if !a.knows(t, a) || !a.knows(t, b) || !b.knows(t, a) {
		t.Error("connected nodes do not know each other's keys")
	}
	now := time.Now()
	for _, tt := range []struct {
		why string
		s   event.Server
		kid event.KeyID
		ts  int64
	}{
		{"an unknown server", "nobody.example", b.key.ID, now.UnixMilli()},
		{"an unknown key", b.Self(), "ed25519:other", now.UnixMilli()},
		{"an unknown algorithm", b.Self(), "rsa:1", now.UnixMilli()},
		// Records are good for seven days at most.
		{"a time after the record's end", b.Self(), b.key.ID, now.Add(8 * 24 * time.Hour).UnixMilli()},
	} {
		if key, err := a.Key(tt.s, tt.kid, tt.ts); !errors.Is(err, event.ErrUnknownKey) || key != nil {
			t.Errorf("Key of %s = %x, %v; want ErrUnknownKey", tt.why, key, err)
		}
	}
	if n := len(a.Records([]event.Server{a.Self(), b.Self(), "nobody.example"})); n != 2 {
		t.Errorf("Records returned %d records of two known servers", n)
	}
	if n := len(a.Records(nil)); n != 0 {
		t.Errorf("Records of nobody returned %d records", n)
	}
	Wait(t, "the peer's record to be saved", func() bool { return a.Saved(b.Self()) != nil })
}

// chain starts three nodes of which the first and the last have no link.
func (c *cluster) chain() (a, b, far *node) {
	c.t.Helper()
	nodes := c.start(3, false)
	a, b, far = nodes[0], nodes[1], nodes[2]
	c.Link(c.t, 0, 1)
	c.Link(c.t, 1, 2)
	c.meet(a, b)
	c.meet(b, far)
	return a, b, far
}

func testLearn(t *testing.T, c *cluster) {
	a, b, far := c.chain()
	if a.knows(t, far) {
		t.Fatal("a node knows the key of one that it never heard of")
	}
	records := b.Records([]event.Server{far.Self()})
	if len(records) != 1 {
		t.Fatalf("b has %d records of its peer", len(records))
	}
	a.Learn(records)
	Wait(t, "the key to be known", func() bool { return a.knows(t, far) })
	Wait(t, "the record to be saved", func() bool { return a.Saved(far.Self()) != nil })
	if len(a.Records([]event.Server{far.Self()})) != 1 {
		t.Error("a does not hand on what it learned")
	}
	a.Learn(nil)
	a.Learn(records)
	if !a.knows(t, far) {
		t.Error("the key was forgotten")
	}
	if a.Connected(far.Self()) {
		t.Error("a record connects")
	}
}

func testLearnForged(t *testing.T, c *cluster) {
	a, b, far := c.chain()
	forged := c.Forge(t, far.i, b.i)
	a.Learn([][]byte{forged, nil, {}, []byte("{}"), []byte("nonsense"), make([]byte, 1<<20)})
	// The good one behind them shows that they have been dealt with.
	if a.knows(t, far) {
		t.Fatal("a forged record was taken")
	}
	a.Learn(b.Records([]event.Server{far.Self()}))
	Wait(t, "the genuine key to be known", func() bool { return a.knows(t, far) })
	a.Learn([][]byte{forged})
	a.Learn([][]byte{c.Forge(t, b.i, far.i), c.Forge(t, a.i, b.i)})
	if !a.knows(t, far) || !a.knows(t, b) || !a.knows(t, a) {
		t.Error("a forged record replaced a genuine one")
	}
}

// No change of a single byte makes a record say something else.
func testLearnDamaged(t *testing.T, c *cluster) {
	a, b, far := c.chain()
	records := b.Records([]event.Server{far.Self()})
	if len(records) != 1 {
		t.Fatalf("b has %d records of its peer", len(records))
	}
	for i := range records[0] {
		damaged := slices.Clone(records[0])
		damaged[i] ^= 1 << (i % 8)
		a.Learn([][]byte{damaged, records[0][:i]})
		a.knows(t, far) // not necessarily, but nothing wrong
	}
}

// What was saved is known again after a restart, without the peer.
func testRecordsSurvive(t *testing.T, c *cluster) {
	a, b, far := c.chain()
	a.Learn(b.Records([]event.Server{far.Self()}))
	Wait(t, "the records to be saved", func() bool { return a.Saved(far.Self()) != nil && a.Saved(b.Self()) != nil })
	c.Stop(t, 0)
	c.Stop(t, 1)
	again := c.run(0, a.Recorder)
	Wait(t, "the keys to be known again", func() bool { return again.knows(t, far) && again.knows(t, b) })
}

// All methods may be called from any goroutine.
func testConcurrent(t *testing.T, c *cluster) {
	nodes := c.start(3, true)
	var names []event.Server
	for _, n := range nodes {
		names = append(names, n.Self())
	}
	var wg sync.WaitGroup
	for _, n := range nodes {
		for k := range 4 {
			r := roomID('a' + byte(k))
			pdu := n.pdu(t, r, fmt.Sprintf("%s %d", n.Self(), k))
			wg.Go(func() {
				for i := range 30 {
					n.SetRoom(r, salt(r), names[:1+i%3])
					if err := n.Publish(t.Context(), r, [][]byte{pdu}, nil); err != nil {
						t.Errorf("Publish: %v", err)
					}
					if err := n.PublishEphemeral(t.Context(), r, []byte("{}")); err != nil {
						t.Errorf("PublishEphemeral: %v", err)
					}
					n.SetRoom(r, salt(r), names)
					n.Peers()
					n.Learn(n.Records(names))
					if _, err := n.Key(names[i%3], n.key.ID, 0); err != nil && !errors.Is(err, event.ErrUnknownKey) {
						t.Errorf("Key: %v", err)
					}
				}
			})
		}
	}
	wg.Wait()
	r := roomID('a')
	c.room(r, nodes...)
	spread(t, r, "afterwards", nodes[0], nodes[1], nodes[2])
}

// busy is a handler in which everything but HandleCall waits for mu.
type busy struct {
	*Recorder
	mu *sync.Mutex
}

func (b busy) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
}

// HandleGossip implements Handler.
func (b busy) HandleGossip(ctx context.Context, from event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	b.wait()
	return b.Recorder.HandleGossip(ctx, from, r, pdus, heads)
}

// HandleEphemeral implements Handler.
func (b busy) HandleEphemeral(ctx context.Context, from event.Server, r event.RoomID, edu []byte) error {
	b.wait()
	return b.Recorder.HandleEphemeral(ctx, from, r, edu)
}

// HandlePeer implements Handler.
func (b busy) HandlePeer(s event.Server, connected bool) {
	b.wait()
	b.Recorder.HandlePeer(s, connected)
}

// HandleLoss implements Handler.
func (b busy) HandleLoss(r event.RoomID) {
	b.wait()
	b.Recorder.HandleLoss(r)
}

// SaveRecord implements Handler.
func (b busy) SaveRecord(s event.Server, raw []byte) error {
	b.wait()
	return b.Recorder.SaveRecord(s, raw)
}

// No method waits for the handler: a node may call all of them while it holds
// what its handler waits for.
func testNoCallBack(t *testing.T, c *cluster) {
	var mu sync.Mutex
	r := &Recorder{}
	network, key := c.Start(t, 0, busy{r, &mu})
	a := &node{Network: network, Recorder: r, i: 0, key: key}
	b, third := c.run(1, &Recorder{}), c.run(2, &Recorder{})
	c.nodes = []*node{a, b, third}
	c.Link(t, 0, 1)
	c.Link(t, 1, 2)
	c.meet(a, b)
	c.meet(b, third)
	room := roomID('r')

	mu.Lock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.room(room, a, b)
		for _, n := range []*node{a, b} {
			if err := n.Publish(t.Context(), room, [][]byte{n.pdu(t, room, "while busy")}, nil); err != nil {
				t.Errorf("Publish: %v", err)
			}
			if err := n.PublishEphemeral(t.Context(), room, []byte("{}")); err != nil {
				t.Errorf("PublishEphemeral: %v", err)
			}
		}
		a.Peers()
		a.Learn(b.Records([]event.Server{b.Self(), third.Self()}))
		a.Records([]event.Server{b.Self()})
		if _, err := a.Key(third.Self(), third.key.ID, time.Now().UnixMilli()); err != nil {
			t.Errorf("Key of a record just learned: %v", err)
		}
		if _, err := a.Call(t.Context(), b.Self(), "heads", []byte("{}")); err != nil {
			t.Errorf("Call: %v", err)
		}
		if _, err := b.Call(t.Context(), a.Self(), "heads", []byte("{}")); err != nil {
			t.Errorf("Call back: %v", err)
		}
	}()
	select {
	case <-done:
		mu.Unlock()
	case <-time.After(Deadline):
		mu.Unlock()
		t.Fatal("a method waits for the handler")
	}
	spread(t, room, "afterwards", b, a)
	Wait(t, "the record to be saved", func() bool { return a.Saved(third.Self()) != nil })
}
