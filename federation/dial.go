package federation

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	dialTimeout = 10 * time.Second
	dialMin     = 200 * time.Millisecond
	dialMax     = 30 * time.Second
	recordAddrs = 8 // addresses of a peer's record that are tried beside those of its link
	forever     = 365 * 24 * time.Hour
)

// dialLoop keeps a pinned peer connected until it is removed: at once, then with
// pauses from 200 ms to 30 s, at once again when kicked.
func (n *Network) dialLoop(r *remote) {
	select {
	case <-n.gate.open:
	case <-r.ctx.Done():
		return
	}
	pause := time.Duration(0)
	for r.ctx.Err() == nil {
		n.peers.wait(r.ctx, r, forever, func(r *remote) bool { return len(r.conns) == 0 })
		timer := time.NewTimer(jitter(pause))
		select {
		case <-timer.C:
		case <-r.kick:
		case <-r.ctx.Done():
		}
		timer.Stop()
		if r.ctx.Err() != nil {
			return
		}
		if n.dial(r) {
			pause = dialMin
		} else {
			pause = min(max(2*pause, dialMin), dialMax)
		}
	}
}

// jitter takes up to a quarter off a pause, so that nodes do not dial in step.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

// dial connects to a peer and waits for the exchange of records.
func (n *Network) dial(r *remote) bool {
	ctx, cancel := context.WithTimeout(r.ctx, dialTimeout)
	defer cancel()
	addrs := n.addrsFor(r)
	n.peers.setDialing(r, true)
	defer n.peers.setDialing(r, false)
	// What the peer said of itself on earlier connections does not count: the
	// addresses are those of the link and, within limits, of the record.
	n.host.Peerstore().ClearAddrs(r.id)
	n.host.Peerstore().AddAddrs(r.id, addrs, peerstore.TempAddrTTL)
	forgetFailures(n.host, r.id)
	if err := n.host.Connect(ctx, peer.AddrInfo{ID: r.id, Addrs: addrs}); err != nil {
		n.log.Debug("a peer cannot be reached", "peer", r.name, "err", err)
		return false
	}
	n.peers.wait(ctx, r, dialTimeout, func(r *remote) bool { return r.connected || len(r.conns) == 0 })
	return n.peers.isConnected(r)
}

// addrsFor returns the addresses to dial: those of the link; of the peer's own
// record those that are public, or on a host that the link names too (C12.17).
func (n *Network) addrsFor(r *remote) []ma.Multiaddr {
	addrs := n.peers.linkAddrs(r)
	hosts, known := map[string]bool{}, map[string]bool{}
	for _, a := range addrs {
		hosts[hostOf(a)], known[a.String()] = true, true
	}
	extra := 0
	for _, text := range n.keys.addrs(r.name) {
		a, err := parseAddr(text)
		if err != nil || known[text] || extra == recordAddrs {
			continue
		}
		if hosts[hostOf(a)] || manet.IsPublicAddr(a) {
			addrs = append(addrs, a)
			extra++
		}
	}
	return addrs
}

// hostOf returns the first component of an address: the IP address or DNS name.
func hostOf(a ma.Multiaddr) string {
	first, _ := ma.SplitFirst(a)
	return first.String()
}
