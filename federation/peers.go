package federation

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/tokenim/tokenim/node/event"
)

// remote is a pinned peer. The fields of the first block never change.
type remote struct {
	name   event.Server
	id     peer.ID
	budget *budget
	kick   chan struct{}      // capacity 1: dial now
	ctx    context.Context    // ends when the peer is removed
	cancel context.CancelFunc // of ctx

	// The rest is guarded by peers.mu.
	link      Link
	addrs     []ma.Multiaddr
	source    string // file or configuration that the pin comes from
	dialing   bool
	conns     map[network.Conn]*session
	connected bool          // records are exchanged, and the handler was told
	changed   chan struct{} // closed and replaced when conns or connected change
	in        *inGuard
	out       *outGuard
}

// session is what is known of one connection.
type session struct {
	instance uint64 // chosen by the peer at its start, 0 before its record was verified
	admitted bool   // the peer has shown its record: its streams are served
	complete bool   // it has accepted ours, too
}

// peers is the table of pinned peers.
type peers struct {
	mu     sync.RWMutex // guards the maps and what remote says
	byID   map[peer.ID]*remote
	byName map[event.Server]*remote

	// report is called with mu held when a peer's connected changes; it only
	// puts the news into a queue.
	report func(r *remote, connected bool)
}

func newPeers(report func(*remote, bool)) *peers {
	return &peers{byID: map[peer.ID]*remote{}, byName: map[event.Server]*remote{}, report: report}
}

// get returns a pinned peer by its id, nil if it is not pinned.
func (p *peers) get(id peer.ID) *remote {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byID[id]
}

// named returns a pinned peer by its name, nil if it is not pinned.
func (p *peers) named(s event.Server) *remote {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byName[s]
}

// all returns every pinned peer, by name.
func (p *peers) all() []*remote {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]*remote, 0, len(p.byName))
	for _, r := range p.byName {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *remote) int { return cmp.Compare(a.name, b.name) })
	return out
}

// guards returns the guards on the pubsub streams of a peer, nil where there is
// no stream.
func (p *peers) guards(r *remote) (*outGuard, *inGuard) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return r.out, r.in
}

func (p *peers) setOut(r *remote, g *outGuard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.out = g
}

func (p *peers) setIn(r *remote, g *inGuard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.in = g
}

// dropGuards forgets guards whose streams have ended.
func (p *peers) dropGuards(r *remote, out *outGuard, in *inGuard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if out != nil && r.out == out {
		r.out = nil
	}
	if in != nil && r.in == in {
		r.in = nil
	}
}

// open notes a new connection.
func (p *peers) open(r *remote, c network.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.conns[c] = &session{}
	p.settle(r)
}

// admit notes that the peer has shown its record on a connection. If the peer
// was started anew, connections to its earlier life are returned, to be closed.
func (p *peers) admit(r *remote, c network.Conn, instance uint64) (dead []network.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := r.conns[c]
	if s == nil {
		return nil // closed meanwhile
	}
	s.instance, s.admitted = instance, true
	for other, o := range r.conns {
		if o.instance != 0 && o.instance != instance {
			delete(r.conns, other)
			dead = append(dead, other)
		}
	}
	p.settle(r)
	return dead
}

// complete notes that both records of a connection are accepted.
func (p *peers) complete(r *remote, c network.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := r.conns[c]; s != nil {
		s.complete = true
		p.settle(r)
	}
}

// closed notes the end of a connection.
func (p *peers) closed(r *remote, c network.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := r.conns[c]; ok {
		delete(r.conns, c)
		p.settle(r)
	}
}

// settle brings connected in line with the sessions, reports a change and wakes
// those who wait. p.mu is held.
func (p *peers) settle(r *remote) {
	now := false
	for _, s := range r.conns {
		now = now || s.complete
	}
	if now != r.connected {
		r.connected = now
		p.report(r, now)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// isAdmitted reports whether the peer's streams are served. peers.mu is held.
func (r *remote) isAdmitted() bool {
	for _, s := range r.conns {
		if s.admitted {
			return true
		}
	}
	return false
}

func (p *peers) isConnected(r *remote) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return r.connected
}

// wait blocks until ok holds for the peer, the peer is removed, ctx ends or the
// time is over; it reports whether ok held. ok is called with p.mu held.
func (p *peers) wait(ctx context.Context, r *remote, limit time.Duration, ok func(*remote) bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		p.mu.RLock()
		holds, changed := ok(r), r.changed
		p.mu.RUnlock()
		if holds {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-r.ctx.Done():
			return false
		case <-timer.C:
			return false
		}
	}
}

// list returns what event.Peer says of every peer, by name.
func (p *peers) list() []event.Peer {
	all := p.all()
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]event.Peer, len(all))
	for i, r := range all {
		e := event.Peer{Name: r.name, PeerID: r.link.PeerID, State: "disconnected", Addresses: slices.Clone(r.link.Addrs)}
		if r.dialing || len(r.conns) > 0 {
			e.State = "connecting"
		}
		if r.connected {
			e.State = "connected"
			for c, s := range r.conns {
				if s.complete {
					e.Transport = transport(c.RemoteMultiaddr())
				}
			}
		}
		out[i] = e
	}
	return out
}

func (p *peers) add(r *remote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byID[r.id], p.byName[r.name] = r, r
}

func (p *peers) remove(r *remote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byID, r.id)
	delete(p.byName, r.name)
}

// gone ends the sessions of a removed peer.
func (p *peers) gone(r *remote) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(r.conns)
	p.settle(r)
}

// update changes the link of a peer and reports whether its addresses changed.
func (p *peers) update(r *remote, l Link, addrs []ma.Multiaddr, source string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := !slices.Equal(r.link.Addrs, l.Addrs)
	r.link, r.addrs, r.source = l, addrs, source
	return changed
}

func (p *peers) linkAddrs(r *remote) []ma.Multiaddr {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(r.addrs)
}

func (p *peers) sourceOf(s event.Server) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if r := p.byName[s]; r != nil {
		return r.source
	}
	return ""
}

func (p *peers) setDialing(r *remote, dialing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.dialing = dialing
}

func (p *peers) linkOf(r *remote) Link {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return r.link
}
