package federation

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// newHost makes a libp2p host that listens on nothing yet: TCP with TLS, and
// QUIC; no relay, no discovery, no NAT tools, no ping.
func newHost(id *Identity, announce []ma.Multiaddr, gate *gater) (host.Host, error) {
	limits, err := resources()
	if err != nil {
		return nil, err
	}
	opts := []libp2p.Option{
		libp2p.Identity(id.nodeKey),
		libp2p.NoListenAddrs,
		// Without SO_REUSEPORT a port that is taken is an error.
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Transport(quic.NewTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.ConnectionGater(gate),
		libp2p.ResourceManager(limits),
		libp2p.SwarmOpts(swarm.WithDialRanker(tcpFirst)),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.DisableRelay(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.DisableMetrics(),
		libp2p.Ping(false),
		libp2p.UserAgent("tokenim"),
		libp2p.ProtocolVersion("tokenim/1"),
	}
	if len(announce) > 0 {
		opts = append(opts, libp2p.AddrsFactory(func([]ma.Multiaddr) []ma.Multiaddr { return announce }))
	}
	return libp2p.New(opts...)
}

// listen opens every address; one that cannot be opened is an error, so that a
// node never runs half reachable without saying so.
func listen(h host.Host, addrs []ma.Multiaddr) error {
	for _, a := range addrs {
		if err := h.Network().Listen(a); err != nil {
			return fmt.Errorf("cannot listen for peers on %s (p2p.listen): %w", a, err)
		}
	}
	return nil
}

// resources has the limits of protocol C8 for connections, streams and memory.
func resources() (network.ResourceManager, error) {
	scaled := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&scaled)
	perPeer := func(streams rcmgr.LimitVal) rcmgr.ResourceLimits {
		return rcmgr.ResourceLimits{Streams: 2 * streams, StreamsInbound: streams, StreamsOutbound: streams}
	}
	partial := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: 2048, ConnsInbound: 1024, ConnsOutbound: 1024, FD: rcmgr.Unlimited,
			Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.Unlimited, StreamsOutbound: rcmgr.Unlimited,
		},
		Transient: rcmgr.ResourceLimits{Conns: 256, ConnsInbound: 128, ConnsOutbound: 128, FD: rcmgr.Unlimited},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: 8, ConnsInbound: 4, ConnsOutbound: 4, FD: 8,
			Streams: 160, StreamsInbound: 80, StreamsOutbound: 80, Memory: 128 << 20,
		},
		ProtocolPeer: nil,
		Protocol: map[protocol.ID]rcmgr.ResourceLimits{
			protoRPC:    {Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.Unlimited, StreamsOutbound: rcmgr.Unlimited},
			protoMesh:   {Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.Unlimited, StreamsOutbound: rcmgr.Unlimited},
			protoRecord: {Streams: rcmgr.Unlimited, StreamsInbound: rcmgr.Unlimited, StreamsOutbound: rcmgr.Unlimited},
		},
		ProtocolPeerDefault: perPeer(peerCalls + 16),
	}
	subnet := rate.SubnetLimit{Limit: rate.Limit{RPS: 5, Burst: 256}}
	v4, v6 := subnet, subnet
	v4.PrefixLength, v6.PrefixLength = 32, 56
	return rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(partial.Build(scaled.AutoScale())),
		rcmgr.WithMetricsDisabled(),
		// Many nodes can stand behind one address.
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 256}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: 256}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{v4}, IPv6SubnetLimits: []rate.SubnetLimit{v6}, GracePeriod: time.Minute,
			},
		}),
	)
}

// tcpFirst dials TCP before QUIC: it moves bulk several times faster. QUIC
// follows soon for the paths that TCP does not have.
func tcpFirst(addrs []ma.Multiaddr) []network.AddrDelay {
	out := make([]network.AddrDelay, 0, len(addrs))
	for _, a := range addrs {
		var delay time.Duration
		if transport(a) != "tcp" {
			delay = 250 * time.Millisecond
			if manet.IsPrivateAddr(a) {
				delay = 50 * time.Millisecond
			}
		}
		out = append(out, network.AddrDelay{Addr: a, Delay: delay})
	}
	slices.SortStableFunc(out, func(a, b network.AddrDelay) int { return int(a.Delay - b.Delay) })
	return out
}

// forgetFailures ends the back-off of the library for the addresses of a peer;
// the dial loop has its own.
func forgetFailures(h host.Host, id peer.ID) {
	if s, ok := h.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(id)
	}
}

// gater lets in and out only pinned peers (mode closed), and nobody before the
// network runs. It implements connmgr.ConnectionGater.
type gater struct {
	ctx   context.Context
	open  chan struct{} // closed when the network runs
	peers *peers
}

func (g *gater) isOpen() bool {
	select {
	case <-g.open:
		return g.ctx.Err() == nil
	default:
		return false
	}
}

// InterceptPeerDial implements connmgr.ConnectionGater.
func (g *gater) InterceptPeerDial(id peer.ID) bool { return g.isOpen() && g.peers.get(id) != nil }

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

// InterceptAccept implements connmgr.ConnectionGater.
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool { return g.isOpen() }

// InterceptSecured implements connmgr.ConnectionGater: the peer id is proven here.
func (g *gater) InterceptSecured(_ network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	return g.isOpen() && g.peers.get(id) != nil
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
