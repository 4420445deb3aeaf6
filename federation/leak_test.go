package federation

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

const testRoom = event.RoomID("!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")

func roomNumber(i byte) event.RoomID {
	id := []byte(testRoom)
	id[1] = 'A' + i
	return event.RoomID(id)
}

// spy is a pinned peer that speaks the gossip protocol by hand and keeps
// every byte it gets.
type spy struct {
	t *testing.T
	*testNode
	victim *testNode
	out    network.Stream

	mu   sync.Mutex // guards got
	got  []*pb.RPC
	size int
}

// newSpy starts a node whose gossip streams are its own affair, and pins it and
// the victim to each other.
func newSpy(t *testing.T, victim *testNode) *spy {
	t.Helper()
	s := &spy{t: t, testNode: newTestNode(t, ""), victim: victim}
	s.open(t)
	s.n.host.SetStreamHandler(protoMesh, s.record)
	r := &nettest.Recorder{}
	s.start(t, r)
	if _, err := victim.n.AddPeer(s.link(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.n.AddPeer(victim.link(t)); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the spy to be connected", func() bool {
		return r.Connected(victim.n.Self()) && victim.n.peers.isConnected(victim.n.peers.named(s.n.Self()))
	})
	return s
}

func (s *spy) record(in network.Stream) {
	r := bufio.NewReader(in)
	for {
		size, err := binary.ReadUvarint(r)
		if err != nil {
			return
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		rpc := &pb.RPC{}
		if err := proto.Unmarshal(frame, rpc); err != nil {
			s.t.Errorf("unreadable frame: %v", err)
			return
		}
		s.mu.Lock()
		s.got = append(s.got, rpc)
		s.size += len(frame)
		s.mu.Unlock()
	}
}

// frames returns how many frames came of which f says yes.
func (s *spy) frames(f func(*pb.RPC) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, rpc := range s.got {
		if f(rpc) {
			n++
		}
	}
	return n
}

// names reports whether a frame names a topic in any way.
func names(rpc *pb.RPC, topic string) bool {
	return slices.ContainsFunc(rpc.Subscriptions, func(x *pb.RPC_SubOpts) bool { return x.GetTopicid() == topic }) ||
		slices.ContainsFunc(rpc.Publish, func(x *pb.Message) bool { return x.GetTopic() == topic }) ||
		slices.ContainsFunc(rpc.GetControl().GetIhave(), func(x *pb.ControlIHave) bool { return x.GetTopicID() == topic }) ||
		slices.ContainsFunc(rpc.GetControl().GetGraft(), func(x *pb.ControlGraft) bool { return x.GetTopicID() == topic }) ||
		slices.ContainsFunc(rpc.GetControl().GetPrune(), func(x *pb.ControlPrune) bool { return x.GetTopicID() == topic })
}

func subscribes(topic string, want bool) func(*pb.RPC) bool {
	return func(rpc *pb.RPC) bool {
		return slices.ContainsFunc(rpc.Subscriptions, func(x *pb.RPC_SubOpts) bool {
			return x.GetTopicid() == topic && x.GetSubscribe() == want
		})
	}
}

func publishes(topic string) func(*pb.RPC) bool {
	return func(rpc *pb.RPC) bool {
		return slices.ContainsFunc(rpc.Publish, func(x *pb.Message) bool { return x.GetTopic() == topic })
	}
}

// gossips is true of a message and of an offer of messages.
func gossips(topic string) func(*pb.RPC) bool {
	return func(rpc *pb.RPC) bool {
		return publishes(topic)(rpc) || slices.ContainsFunc(rpc.GetControl().GetIhave(), func(x *pb.ControlIHave) bool { return x.GetTopicID() == topic })
	}
}

func naming(topic string) func(*pb.RPC) bool {
	return func(rpc *pb.RPC) bool { return names(rpc, topic) }
}

// send writes a frame to the victim.
func (s *spy) send(rpc *pb.RPC) {
	s.t.Helper()
	if s.out == nil {
		out, err := s.n.host.NewStream(network.WithNoDial(s.t.Context(), "spy"), s.victim.cfg.Identity.peerID, protoMesh)
		if err != nil {
			s.t.Fatal(err)
		}
		s.out = out
	}
	b, err := proto.Marshal(rpc)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.out.Write(lengthPrefixed(b)); err != nil {
		s.t.Fatal(err)
	}
}

// greedy asks for everything about a topic that the protocol knows.
func greedy(topic string, ids ...string) *pb.RPC {
	return &pb.RPC{
		Subscriptions: []*pb.RPC_SubOpts{{Subscribe: proto.Bool(true), Topicid: &topic}},
		Control: &pb.ControlMessage{
			Graft: []*pb.ControlGraft{{TopicID: &topic}},
			Iwant: []*pb.ControlIWant{{MessageIDs: ids}},
		},
	}
}

// pair starts two nodes that share a room and have it live.
func pair(t *testing.T) (a, b *testNode, rb *nettest.Recorder) {
	t.Helper()
	c := &cluster{nodes: map[int]*testNode{}}
	ra, rb := &nettest.Recorder{}, &nettest.Recorder{}
	c.Start(t, 0, ra)
	c.Start(t, 1, rb)
	c.Link(t, 0, 1)
	a, b = c.nodes[0], c.nodes[1]
	nettest.Wait(t, "the pair to be connected", func() bool {
		return ra.Connected(b.n.Self()) && rb.Connected(a.n.Self())
	})
	members := []event.Server{a.n.Self(), b.n.Self()}
	a.n.SetRoom(testRoom, nil, members)
	b.n.SetRoom(testRoom, nil, members)
	meshed(t, a, b, testRoom)
	meshed(t, b, a, testRoom)
	return a, b, rb
}

// meshed waits until from knows that to follows the room.
func meshed(t *testing.T, from, to *testNode, room event.RoomID) {
	t.Helper()
	topic := from.n.access.room(room).topics[0]
	nettest.Wait(t, "the topic to be shared", func() bool {
		return slices.Contains(from.n.gossip.ps.ListPeers(topic), to.cfg.Identity.peerID)
	})
}

// say publishes at a until b has it, with a text of its own each time.
func say(t *testing.T, a *testNode, rb *nettest.Recorder, room event.RoomID, text string) {
	t.Helper()
	polls := 0
	nettest.Wait(t, text+" to arrive", func() bool {
		if polls%100 == 0 {
			if err := a.n.Publish(t.Context(), room, [][]byte{fmt.Appendf(nil, "%s %d", text, polls)}, nil); err != nil {
				t.Fatal(err)
			}
		}
		polls++
		return rb.Has(room, text)
	})
}

// Measurements E1 to E6: who shares no room gets nothing whatever it asks for;
// who shares another one learns nothing of this one.
func TestOutsiderGetsNothing(t *testing.T) {
	a, b, rb := pair(t)
	s := newSpy(t, a)
	topic := a.n.access.room(testRoom).topics[0]
	ephemeral := a.n.access.room(testRoom).topics[1]
	// The ids are those of real messages, as if somebody had told.
	var ids []string
	for i := range 20 {
		say(t, a, rb, testRoom, fmt.Sprintf("secret %d.", i))
		ids = append(ids, a.n.gossip.ids.byID.Keys()...)
		s.send(greedy(topic, ids[len(ids)-1]))
		s.send(greedy(ephemeral, ids...))
		// To be asked for something would tell that the topic is followed.
		s.send(&pb.RPC{Control: &pb.ControlMessage{Ihave: []*pb.ControlIHave{{TopicID: &topic, MessageIDs: []string{"01234567890123456789"}}}}})
	}
	if err := a.n.PublishEphemeral(t.Context(), testRoom, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if s.frames(func(*pb.RPC) bool { return true }) != 0 {
		t.Errorf("an outsider got %v", s.got)
	}
	// Protocols that know no filter do not exist.
	for _, p := range []string{string(pubsub.FloodSubID), string(pubsub.GossipSubID_v11), string(pubsub.GossipSubID_v12)} {
		if slices.Contains(a.n.host.Mux().Protocols(), protocol.ID(p)) {
			t.Errorf("the node speaks %s", p)
		}
	}
	// Sharing another room opens a stream, and nothing of this room flows in it.
	other := roomNumber(1)
	a.n.SetRoom(other, nil, []event.Server{a.n.Self(), s.n.Self(), b.n.Self()})
	otherTopic := a.n.access.room(other).topics[0]
	nettest.Wait(t, "the spy to be told of the shared topic", func() bool { return s.frames(subscribes(otherTopic, true)) > 0 })
	s.send(greedy(otherTopic))
	s.send(greedy(topic, ids...))
	nettest.Wait(t, "the spy to get gossip", func() bool {
		if err := a.n.Publish(t.Context(), other, [][]byte{fmt.Append(nil, time.Now())}, nil); err != nil {
			t.Fatal(err)
		}
		say(t, a, rb, testRoom, fmt.Sprint("secret ", time.Now()))
		return s.frames(publishes(otherTopic)) > 2
	})
	if s.frames(naming(topic)) != 0 || s.frames(naming(ephemeral)) != 0 {
		t.Errorf("a member of another room got %v", s.got)
	}
}

// Measurements E4 and E7: who was removed gets nothing more, without a new
// connection, whatever it asks for; and is told that the node left.
func TestRemovedGetsNothing(t *testing.T) {
	a, b, rb := pair(t)
	s := newSpy(t, a)
	members := []event.Server{a.n.Self(), b.n.Self()}
	a.n.SetRoom(testRoom, nil, append(members, s.n.Self()))
	b.n.SetRoom(testRoom, nil, append(members, s.n.Self()))
	topic := a.n.access.room(testRoom).topics[0]
	s.send(greedy(topic))
	nettest.Wait(t, "the spy to get gossip", func() bool {
		if err := a.n.Publish(t.Context(), testRoom, [][]byte{fmt.Append(nil, time.Now())}, nil); err != nil {
			t.Fatal(err)
		}
		return s.frames(publishes(topic)) > 2
	})
	for round := range 2 {
		a.n.SetRoom(testRoom, nil, members)
		s.mu.Lock()
		before := len(s.got) // what is on its way was written before SetRoom returned
		s.mu.Unlock()
		nettest.Wait(t, "the spy to be told", func() bool { return s.frames(subscribes(topic, false)) > round })
		ids := a.n.gossip.ids.byID.Keys()
		for i := range 20 {
			say(t, a, rb, testRoom, fmt.Sprintf("after %d %d.", round, i))
			s.send(greedy(topic, ids...))
		}
		s.mu.Lock()
		told := slices.IndexFunc(s.got[before:], subscribes(topic, false)) + before
		for _, rpc := range s.got[told+1:] {
			if names(rpc, topic) {
				t.Errorf("a removed member got %v", rpc)
			}
		}
		s.mu.Unlock()
		// Its mesh slot is free again (C12.5): the router no longer knows it.
		if slices.Contains(a.n.gossip.ps.ListPeers(topic), s.cfg.Identity.peerID) {
			t.Error("the router still counts the removed member")
		}
		// Measurement E8: when it comes back it is told again and gets gossip again.
		a.n.SetRoom(testRoom, nil, append(members, s.n.Self()))
		nettest.Wait(t, "the spy to be told again", func() bool { return s.frames(subscribes(topic, true)) > round+1 })
		// The router takes it into the mesh after a while; until then it offers.
		got := s.frames(gossips(topic))
		nettest.Wait(t, "the spy to get gossip again", func() bool {
			if err := a.n.Publish(t.Context(), testRoom, [][]byte{fmt.Append(nil, time.Now())}, nil); err != nil {
				t.Fatal(err)
			}
			return s.frames(gossips(topic)) > got
		})
	}
}

// Measurement E8: a member that is added after the streams are open and the
// topic is joined is told of the topic.
func TestAddedIsTold(t *testing.T) {
	a, _, _ := pair(t)
	s := newSpy(t, a)
	first, second := roomNumber(1), roomNumber(2)
	a.n.SetRoom(first, nil, []event.Server{a.n.Self(), s.n.Self()})
	a.n.SetRoom(second, nil, []event.Server{a.n.Self()})
	topic := a.n.access.room(second).topics[0]
	nettest.Wait(t, "the first topic", func() bool {
		return s.frames(subscribes(a.n.access.room(first).topics[0], true)) > 0
	})
	// It said before that it is interested, when nobody would listen.
	s.send(greedy(topic))
	if s.frames(naming(topic)) != 0 {
		t.Fatal("told too early")
	}
	a.n.SetRoom(second, nil, []event.Server{a.n.Self(), s.n.Self()})
	nettest.Wait(t, "the second topic", func() bool { return s.frames(subscribes(topic, true)) > 0 })
	nettest.Wait(t, "gossip", func() bool {
		if err := a.n.Publish(t.Context(), second, [][]byte{fmt.Append(nil, time.Now())}, nil); err != nil {
			t.Fatal(err)
		}
		return s.frames(publishes(topic)) > 0
	})
	// Leaving is told, too.
	a.n.SetRoom(second, nil, nil)
	nettest.Wait(t, "the end of the second topic", func() bool { return s.frames(subscribes(topic, false)) > 0 })
}

// Messages of somebody without access do not reach the handler, cost the honest
// copy nothing (E9, E10), and make the room dirty, since a joiner's first
// messages can arrive before its join (C12.15).
func TestStrayMessages(t *testing.T) {
	a, b, rb := pair(t)
	s := newSpy(t, b)
	topic := a.n.access.room(testRoom).topics[0]
	e := &envelope{room: testRoom, pdus: [][]byte{[]byte("early")}, sent: 1}
	data, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	early := &pb.RPC{Publish: []*pb.Message{{Topic: &topic, Data: data}}}
	s.send(early)
	nettest.Wait(t, "the loss to be reported", func() bool { return slices.Contains(rb.Losses(), testRoom) })
	if rb.Has(testRoom, "early") {
		t.Error("a message without access was handled")
	}
	// The same bytes from a member count.
	if err := a.n.gossip.handle(topic).Publish(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the honest copy", func() bool { return rb.Has(testRoom, "early") })
}

// A malformed message is the forwarder's fault and goes no further.
func TestMalformedMessages(t *testing.T) {
	a, b, rb := pair(t)
	s := newSpy(t, b)
	members := []event.Server{a.n.Self(), b.n.Self(), s.n.Self()}
	b.n.SetRoom(testRoom, nil, members)
	topic, ephemeral := b.n.access.room(testRoom).topics[0], b.n.access.room(testRoom).topics[1]
	wrongRoom, err := (&envelope{room: roomNumber(3), pdus: [][]byte{[]byte("wrong room")}}).encode()
	if err != nil {
		t.Fatal(err)
	}
	good, err := (&envelope{room: testRoom, pdus: [][]byte{[]byte("good")}}).encode()
	if err != nil {
		t.Fatal(err)
	}
	validate := func(topic string, data []byte) pubsub.ValidationResult {
		return b.n.gossip.validate(t.Context(), s.cfg.Identity.peerID, &pubsub.Message{Message: &pb.Message{Topic: &topic, Data: data}})
	}
	for _, tt := range []struct {
		topic string
		data  []byte
		want  pubsub.ValidationResult
	}{
		{topic, good, pubsub.ValidationAccept},
		{topic, []byte("junk"), pubsub.ValidationReject},
		{topic, wrongRoom, pubsub.ValidationReject},
		{ephemeral, good, pubsub.ValidationReject},
		{"tim1/p/unknown", good, pubsub.ValidationIgnore},
	} {
		if got := validate(tt.topic, tt.data); got != tt.want {
			t.Errorf("%s %q: %v, want %v", tt.topic, tt.data, got, tt.want)
		}
	}
	b.n.SetRoom(testRoom, nil, members[:2])
	if got := validate(topic, good); got != pubsub.ValidationIgnore {
		t.Errorf("from a server without access: %v", got)
	}
	if rb.Has(testRoom, "wrong room") || !rb.Has(testRoom, "good") {
		t.Error("the wrong ones were handled")
	}
	// A frame that is none ends the stream and nothing else.
	s.send(&pb.RPC{})
	if _, err := s.out.Write([]byte{3, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the stream to end", func() bool {
		_, err := s.out.Write(lengthPrefixed([]byte{}))
		return err != nil
	})
	say(t, a, rb, testRoom, "still here")
}

// A panic of the handler is nobody's fault but this node's.
func TestGossipPanic(t *testing.T) {
	a, b, _ := pair(t)
	b.stop(t)
	rb := &nettest.Recorder{Verdict: func(g nettest.Gossip) error {
		if slices.ContainsFunc(g.PDUs, func(p []byte) bool { return string(p[:4]) == "boom" }) {
			panic("boom")
		}
		return nil
	}}
	b.start(t, rb)
	b.n.SetRoom(testRoom, nil, []event.Server{a.n.Self(), b.n.Self()})
	meshed(t, a, b, testRoom)
	say(t, a, rb, testRoom, "boom")
	nettest.Wait(t, "the loss to be reported", func() bool { return slices.Contains(rb.Losses(), testRoom) })
	say(t, a, rb, testRoom, "after")
}

// Drops that the router reports make the room dirty; those of hints do not.
func TestLossTracer(t *testing.T) {
	h, rec := newTestNode(t, ""), &nettest.Recorder{}
	n := h.start(t, rec)
	// Nobody else is in the room, so nothing but the calls below can be lost.
	n.SetRoom(testRoom, nil, []event.Server{n.Self()})
	topics := n.access.room(testRoom).topics
	message := func(topic string) *pubsub.Message { return &pubsub.Message{Message: &pb.Message{Topic: &topic}} }
	tr := n.tracer
	reports := map[string]func(topic string){
		"DropRPC": func(topic string) {
			tr.DropRPC(&pubsub.RPC{RPC: pb.RPC{Publish: []*pb.Message{{Topic: &topic}}}}, "")
		},
		"Undeliverable": func(topic string) { tr.UndeliverableMessage(message(topic)) },
		"QueueFull":     func(topic string) { tr.RejectMessage(message(topic), pubsub.RejectValidationQueueFull) },
		"Throttled":     func(topic string) { tr.RejectMessage(message(topic), pubsub.RejectValidationThrottled) },
		"Graft":         func(topic string) { tr.Graft("", topic) },
	}
	for name, report := range reports {
		report(topics[1])
		report("tim1/p/unknown")
		before := len(rec.Losses())
		report(topics[0])
		nettest.Wait(t, name+" to be reported", func() bool { return len(rec.Losses()) > before })
	}
	// Verdicts are no losses.
	tr.RejectMessage(message(topics[0]), pubsub.RejectValidationFailed)
	tr.RejectMessage(message(topics[0]), pubsub.RejectValidationIgnored)
	tr.ThrottlePeer("")
	nettest.Wait(t, "any room to be reported", func() bool { return slices.Contains(rec.Losses(), "") })
	want := append(slices.Repeat([]event.RoomID{testRoom}, len(reports)), "")
	if got := rec.Losses(); !slices.Equal(got, want) {
		t.Errorf("losses %v, want %v", got, want)
	}
}

// Reliability B50: a connected peer that takes no part is connected anew.
func TestWatchdog(t *testing.T) {
	a, b, _ := pair(t)
	s := newSpy(t, a) // it opens no gossip stream of its own
	other := roomNumber(1)
	a.n.SetRoom(other, nil, []event.Server{a.n.Self(), s.n.Self()})
	state := map[peer.ID]*deafness{}
	conns := func() []network.Conn { return a.n.host.Network().ConnsToPeer(s.cfg.Identity.peerID) }
	old := conns()
	now := time.Now()
	a.n.watchOnce(state, now)
	a.n.watchOnce(state, now.Add(deafAfter-time.Second))
	if got := conns(); len(got) == 0 || got[0].IsClosed() {
		t.Fatal("closed too early")
	}
	good := a.n.host.Network().ConnsToPeer(b.cfg.Identity.peerID)
	a.n.watchOnce(state, now.Add(deafAfter))
	nettest.Wait(t, "the connection to be closed", func() bool { return old[0].IsClosed() })
	if good[0].IsClosed() {
		t.Error("the good peer was disconnected")
	}
	nettest.Wait(t, "a new connection", func() bool {
		now := conns()
		return len(now) > 0 && !slices.Contains(old, now[0]) && a.n.peers.isConnected(a.n.peers.named(s.n.Self()))
	})
	// It is patient with those who stay deaf.
	again := conns()
	a.n.watchOnce(state, now.Add(deafAfter+time.Second))
	a.n.watchOnce(state, now.Add(2*deafAfter-time.Second))
	if again[0].IsClosed() {
		t.Error("closed again too early")
	}
	// Once it takes part it is left alone.
	s.send(greedy(a.n.access.room(other).topics[0]))
	meshed(t, a, s.testNode, other)
	a.n.watchOnce(state, now.Add(time.Hour))
	if again[0].IsClosed() || !state[s.cfg.Identity.peerID].since.IsZero() {
		t.Error("a healthy peer counts as deaf")
	}
	// Without a shared room its streams end after a while.
	a.n.SetRoom(other, nil, nil)
	a.n.watchOnce(state, now.Add(2*time.Hour))
	a.n.watchOnce(state, now.Add(2*time.Hour+idleAfter))
	nettest.Wait(t, "the idle streams to end", func() bool {
		out, in := a.n.peers.guards(a.n.peers.named(s.n.Self()))
		return out == nil && in == nil
	})
}

// A peer that reads nothing holds up neither Publish nor SetRoom.
func TestStuckPeer(t *testing.T) {
	a, _, rb := pair(t)
	s := newSpy(t, a)
	other := roomNumber(1)
	stuck := make(chan struct{})
	defer close(stuck)
	s.n.host.SetStreamHandler(protoMesh, func(network.Stream) { <-stuck })
	a.n.SetRoom(other, nil, []event.Server{a.n.Self(), s.n.Self()})
	topic := a.n.access.room(other).topics[0]
	s.send(greedy(topic))
	meshed(t, a, s.testNode, other)
	big := make([]byte, 60_000)
	blocked := func() bool {
		out, _ := a.n.peers.guards(a.n.peers.named(s.n.Self()))
		return out != nil && len(out.frame) == 1
	}
	ctx, cancel := context.WithTimeout(t.Context(), nettest.Deadline)
	defer cancel()
	streak := 0
	nettest.Wait(t, "the stream to be full", func() bool {
		_, _ = rand.Read(big)
		if err := a.n.Publish(ctx, other, [][]byte{big}, nil); err != nil {
			t.Fatal(err)
		}
		if !blocked() {
			streak = 0
			return false
		}
		streak++
		return streak > 200
	})
	say(t, a, rb, testRoom, "not held up")
	a.n.SetRoom(other, nil, []event.Server{a.n.Self()})
	say(t, a, rb, testRoom, "nor after the removal")
}
