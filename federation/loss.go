package federation

import (
	"context"
	"strings"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/tokenim/tokenim/node/event"
)

// lossPause is the least time between two reports of loss for one room.
const lossPause = 500 * time.Millisecond

// losses collects the rooms of which gossip was dropped. Marking never blocks.
type losses struct {
	mu    sync.Mutex // guards rooms
	rooms map[event.RoomID]struct{}
	wake  chan struct{} // capacity 1
}

func newLosses() *losses {
	return &losses{rooms: map[event.RoomID]struct{}{}, wake: make(chan struct{}, 1)}
}

// mark notes a loss; the empty room means any.
func (l *losses) mark(r event.RoomID) {
	l.mu.Lock()
	l.rooms[r] = struct{}{}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *losses) take() map[event.RoomID]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	rooms := l.rooms
	l.rooms = map[event.RoomID]struct{}{}
	return rooms
}

// run reports losses to the handler until ctx ends.
func (l *losses) run(ctx context.Context, h Handler) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		rooms := l.take()
		if _, any := rooms[""]; any {
			h.HandleLoss("")
		} else {
			for r := range rooms {
				h.HandleLoss(r)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lossPause):
		}
	}
}

// lossTracer listens to the router. Its methods run inside the router and never
// block. A message that was dropped on either side is a reason to exchange heads
// (reliability B1): the router would not ask for it again.
type lossTracer struct {
	n *Network

	mu     sync.Mutex // guards pruned
	pruned map[meshLink]time.Time
}

// meshLink is a peer in the mesh of a topic; without peer: any.
type meshLink struct {
	id    peer.ID
	topic string
}

const (
	// pruneCalm is how long after a PRUNE no GRAFT comes from the guards: the
	// longest back-off of the router, and its slack.
	pruneCalm = 65 * time.Second
	// maxPruned bounds the memory of PRUNEs; beyond it the oldest do not matter.
	maxPruned = 50_000
)

func newLossTracer(n *Network) *lossTracer {
	return &lossTracer{n: n, pruned: map[meshLink]time.Time{}}
}

// calm reports whether a PRUNE between this node and a peer is long past.
func (t *lossTracer) calm(id peer.ID, topic string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.pruned[meshLink{id, topic}]) > pruneCalm && time.Since(t.pruned[meshLink{"", topic}]) > pruneCalm
}

func (t *lossTracer) note(l meshLink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pruned) >= maxPruned {
		for l, at := range t.pruned {
			if time.Since(at) > pruneCalm {
				delete(t.pruned, l)
			}
		}
	}
	if len(t.pruned) < maxPruned {
		t.pruned[l] = time.Now()
	}
}

func (t *lossTracer) lost(topic string) {
	if !strings.HasPrefix(topic, topicEvents) {
		return // ephemeral messages are hints
	}
	if r := t.n.access.byTopic(topic); r != nil {
		t.n.loss.mark(r.id)
	}
}

// DropRPC implements pubsub.RawTracer: the queue to a peer was full.
func (t *lossTracer) DropRPC(rpc *pubsub.RPC, _ peer.ID) {
	for _, m := range rpc.GetPublish() {
		t.lost(m.GetTopic())
	}
}

// UndeliverableMessage implements pubsub.RawTracer.
func (t *lossTracer) UndeliverableMessage(m *pubsub.Message) { t.lost(m.GetTopic()) }

// RejectMessage implements pubsub.RawTracer.
func (t *lossTracer) RejectMessage(m *pubsub.Message, reason string) {
	switch reason {
	case pubsub.RejectValidationQueueFull, pubsub.RejectValidationThrottled:
		t.lost(m.GetTopic())
	}
}

// ThrottlePeer implements pubsub.RawTracer: messages of a peer went unread.
func (t *lossTracer) ThrottlePeer(peer.ID) { t.n.loss.mark("") }

// RecvRPC implements pubsub.RawTracer: the ids of an IHAVE are those that an
// IWANT to the same peer may name. Who subscribes to a room's topic only now has
// missed what was published before, on either side.
func (t *lossTracer) RecvRPC(rpc *pubsub.RPC) {
	for _, s := range rpc.GetSubscriptions() {
		if s.GetSubscribe() {
			t.lost(s.GetTopicid())
		}
	}
	for _, have := range rpc.GetControl().GetIhave() {
		if r := t.n.peers.get(rpc.From()); r != nil {
			if out, _ := t.n.peers.guards(r); out != nil {
				out.offered(have.GetTopicID(), have.GetMessageIDs())
			}
		}
	}
}

// Graft implements pubsub.RawTracer: until now the router handed a peer nothing
// of the topic but what it asked for.
func (t *lossTracer) Graft(_ peer.ID, topic string) { t.lost(topic) }

// Leave implements pubsub.RawTracer: the router has sent a PRUNE to its mesh.
func (t *lossTracer) Leave(topic string) { t.note(meshLink{"", topic}) }

// Prune implements pubsub.RawTracer.
func (t *lossTracer) Prune(id peer.ID, topic string) { t.note(meshLink{id, topic}) }

// The rest of pubsub.RawTracer is of no interest here.

// OnNewOutboundStream implements pubsub.RawTracer.
func (t *lossTracer) OnNewOutboundStream(peer.ID, protocol.ID) {}

// OnClosedOutboundStream implements pubsub.RawTracer.
func (t *lossTracer) OnClosedOutboundStream(peer.ID) {}

// Join implements pubsub.RawTracer.
func (t *lossTracer) Join(string) {}

// ValidateMessage implements pubsub.RawTracer.
func (t *lossTracer) ValidateMessage(*pubsub.Message) {}

// DeliverMessage implements pubsub.RawTracer.
func (t *lossTracer) DeliverMessage(*pubsub.Message) {}

// DuplicateMessage implements pubsub.RawTracer.
func (t *lossTracer) DuplicateMessage(*pubsub.Message) {}

// SendRPC implements pubsub.RawTracer.
func (t *lossTracer) SendRPC(*pubsub.RPC, peer.ID) {}

// SendRPCCompleted implements pubsub.RawTracer.
func (t *lossTracer) SendRPCCompleted(*pubsub.RPC, peer.ID, time.Duration) {}
