package federation

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	libevent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
)

// admitWait bounds how long a stream waits for the records to be exchanged.
const admitWait = 5 * time.Second

var errNotShared = errors.New("the peer shares no room")

// gatedHost is the host as the gossip router sees it (protocol C2): it opens
// streams only to connected peers that share a room, puts a guard on every
// stream, and learns of peers through announce alone.
//
// Inbound streams are taken from every peer that has shown its record: nothing
// is told to a peer on its own stream, and refusing one would use up the few
// attempts that the router on the other side makes.
type gatedHost struct {
	host.Host
	n     *Network
	ids   *seenMessages
	bus   libevent.Bus
	ready chan struct{} // closed when the router listens to bus
	once  sync.Once
	peers libevent.Emitter
}

func newGatedHost(n *Network, h host.Host) (*gatedHost, error) {
	ids, err := newSeenMessages()
	if err != nil {
		return nil, err
	}
	g := &gatedHost{Host: h, n: n, ids: ids, bus: eventbus.NewBus(), ready: make(chan struct{})}
	g.peers, err = g.bus.Emitter(new(libevent.EvtPeerProtocolsUpdated))
	return g, err
}

// EventBus returns a bus of its own, on which announce speaks.
func (g *gatedHost) EventBus() libevent.Bus { return &announceBus{g.bus, g} }

// announceBus notices when the router begins to listen for peers.
type announceBus struct {
	libevent.Bus
	g *gatedHost
}

// Subscribe implements event.Bus.
func (b *announceBus) Subscribe(types any, opts ...libevent.SubscriptionOpt) (libevent.Subscription, error) {
	s, err := b.Bus.Subscribe(types, opts...)
	list, _ := types.([]any)
	if slices.ContainsFunc(list, func(t any) bool { _, ok := t.(*libevent.EvtPeerProtocolsUpdated); return ok }) {
		b.g.once.Do(func() { close(b.g.ready) })
	}
	return s, err
}

// announce tells the router of a peer to open a stream to.
func (g *gatedHost) announce(ctx context.Context, id peer.ID) {
	select {
	case <-g.ready:
	case <-ctx.Done():
		return
	}
	_ = g.peers.Emit(libevent.EvtPeerProtocolsUpdated{Peer: id, Added: []protocol.ID{protoMesh}})
}

// NewStream opens a guarded stream. It never dials.
func (g *gatedHost) NewStream(ctx context.Context, id peer.ID, protos ...protocol.ID) (network.Stream, error) {
	r := g.n.peers.get(id)
	if r == nil || !g.n.peers.isConnected(r) || !g.n.access.shares(r.name) {
		return nil, errNotShared
	}
	s, err := g.Host.NewStream(network.WithNoDial(ctx, "gossip"), id, protos...)
	if err != nil {
		return nil, err
	}
	guard := newOutGuard(s, func(topic string) (time.Time, bool) { return g.n.access.since(r.name, topic) }, g.ids)
	g.n.peers.setOut(r, guard)
	if !g.n.start(func() {
		guard.run(g.n.ctx)
		g.n.peers.dropGuards(r, guard, nil)
	}) {
		_ = guard.Reset()
		return nil, errClosed
	}
	return guard, nil
}

// SetStreamHandler puts a guard between the peers and the router.
func (g *gatedHost) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	g.Host.SetStreamHandler(id, func(s network.Stream) {
		r := g.n.peers.get(s.Conn().RemotePeer())
		if r == nil || !g.n.peers.wait(g.n.ctx, r, admitWait, (*remote).isAdmitted) {
			_ = s.Reset()
			return
		}
		guard := g.n.newInGuard(s, r.name, r.id)
		g.n.peers.setIn(r, guard)
		if !g.n.start(guard.pump) {
			_ = guard.Reset()
			return
		}
		handle(guard)
		_ = guard.Reset() // ends pump in any case
		g.n.peers.dropGuards(r, nil, guard)
	})
}
