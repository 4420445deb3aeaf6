// Package nettest checks that an implementation of node.Network keeps the
// contract: those tests that package federation and the simulated network must
// both pass.
//
// An implementation provides a Cluster, which makes nodes and links, and calls
// Test. The suite waits for conditions with deadlines and never for a time to
// pass, except to see that something does not arrive: then a message that must
// arrive follows it on the same way.
//
// Goroutines: the tests start some and wait for them; a Recorder has none. Its
// mutex guards what it has recorded.
package nettest

import (
	"context"
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// Deadline is how long a condition may take to become true.
const Deadline = 20 * time.Second

// Sizes in bytes that every implementation must carry.
const (
	MaxRequest = 1 << 20 // body of a call
	MaxAnswer  = 4 << 20 // body of an answer
)

// Network has the methods of node.Network. It stands here so that a broken
// package node does not break the tests of networks; a test compares the two.
type Network interface {
	Self() event.Server
	SetRoom(r event.RoomID, salt []byte, members []event.Server)
	Publish(ctx context.Context, r event.RoomID, pdus [][]byte, heads []event.ID) error
	PublishEphemeral(ctx context.Context, r event.RoomID, edu []byte) error
	Call(ctx context.Context, to event.Server, method string, body []byte) ([]byte, error)
	Peers() []event.Peer
	Key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error)
	Records(servers []event.Server) [][]byte
	Learn(records [][]byte)
}

// Handler has the methods of federation.Handler.
type Handler interface {
	HandleGossip(ctx context.Context, from event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error
	HandleEphemeral(ctx context.Context, from event.Server, r event.RoomID, edu []byte) error
	HandleCall(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error)
	HandlePeer(s event.Server, connected bool)
	HandleLoss(r event.RoomID)
	LoadRecords() ([][]byte, error)
	SaveRecord(s event.Server, raw []byte) error
}

// Cluster is a set of nodes, numbered from 0, that an implementation provides
// to one test. Nodes without a link cannot reach each other, but know each
// other's names to be genuine if a record says so: give them self-certifying
// names. What goes wrong fails the test.
type Cluster interface {
	// Start brings node i up and delivers to h until Stop or the end of the
	// test; what it started is gone before the test ends. Again after Stop, it
	// is the same node with the same name and keys, its links as they were.
	Start(t testing.TB, i int, h Handler) (Network, event.SigningKey)

	// Stop takes node i down and returns when it is.
	Stop(t testing.TB, i int)

	// Link pins two started nodes to each other. They connect by themselves,
	// at once and whenever both run.
	Link(t testing.TB, i, j int)

	// Unlink takes the link away and disconnects the two.
	Unlink(t testing.TB, i, j int)

	// Forge makes a record in the name of node victim with a key of its own
	// choosing, signed with the keys of node by.
	Forge(t testing.TB, victim, by int) []byte
}

// Test runs the suite. open is called for each test and makes a Cluster without
// nodes; it registers with t what is to be cleaned up.
func Test(t *testing.T, open func(t *testing.T) Cluster) {
	tests := []struct {
		name string
		run  func(t *testing.T, c *cluster)
	}{
		{"Self", testSelf},
		{"PeerUpAndDown", testPeerUpAndDown},
		{"PeerRestart", testPeerRestart},
		{"Peers", testPeers},
		{"GossipReachesMembers", testGossip},
		{"GossipOneWayMembership", testGossipOneWay},
		{"GossipAfterRemoval", testGossipAfterRemoval},
		{"GossipAfterAddition", testGossipAfterAddition},
		{"GossipAfterLeaving", testGossipAfterLeaving},
		{"GossipLimits", testGossipLimits},
		{"GossipRoomsApart", testGossipRoomsApart},
		{"GossipHandedOn", testGossipHandedOn},
		{"Ephemeral", testEphemeral},
		{"CallRoundTrip", testCall},
		{"CallSizes", testCallSizes},
		{"CallRefused", testCallRefused},
		{"CallInternalError", testCallInternalError},
		{"CallUnreachable", testCallUnreachable},
		{"CallCancelled", testCallCancelled},
		{"CallBrokenOff", testCallBrokenOff},
		{"CallConcurrent", testCallConcurrent},
		{"KeyAndRecords", testKey},
		{"LearnTransitively", testLearn},
		{"LearnForged", testLearnForged},
		{"LearnDamaged", testLearnDamaged},
		{"RecordsSurvive", testRecordsSurvive},
		{"Concurrent", testConcurrent},
		{"NoCallBack", testNoCallBack},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, &cluster{Cluster: open(t), t: t}) })
	}
}

// node is one started node of a cluster.
type node struct {
	Network
	*Recorder
	i   int
	key event.SigningKey
}

// cluster adds what the tests share.
type cluster struct {
	Cluster
	t     *testing.T
	nodes []*node
}

// start brings up n nodes and links all of them if linked is set.
func (c *cluster) start(n int, linked bool) []*node {
	c.t.Helper()
	for i := range n {
		c.nodes = append(c.nodes, c.run(i, &Recorder{}))
	}
	if linked {
		for i := range n {
			for j := range i {
				c.Link(c.t, j, i)
			}
		}
		for i := range n {
			for j := range i {
				c.meet(c.nodes[j], c.nodes[i])
			}
		}
	}
	return c.nodes
}

func (c *cluster) run(i int, r *Recorder) *node {
	c.t.Helper()
	network, key := c.Start(c.t, i, r)
	return &node{Network: network, Recorder: r, i: i, key: key}
}

// meet waits until two nodes have reported each other.
func (c *cluster) meet(a, b *node) {
	c.t.Helper()
	Wait(c.t, "both nodes to report the other one", func() bool {
		return a.Connected(b.Self()) && b.Connected(a.Self())
	})
}

// room sets the same members on all nodes given, as if all had seen them join.
func (c *cluster) room(r event.RoomID, members ...*node) {
	c.t.Helper()
	var names []event.Server
	for _, m := range members {
		names = append(names, m.Self())
	}
	for _, m := range members {
		m.SetRoom(r, salt(r), names)
	}
}

// salt is the salt of a room's topics.
func salt(r event.RoomID) []byte { return []byte("salt of " + r) }

// roomID makes the id of a room.
func roomID(name byte) event.RoomID {
	id := []byte("!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	id[1] = name
	return event.RoomID(id)
}

// eventID makes an event id.
func eventID(name byte) event.ID { return event.ID("$" + roomID(name)[1:]) }

// Wait polls until cond is true and fails the test after Deadline.
func Wait(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(Deadline); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", Deadline, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
