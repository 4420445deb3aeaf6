package federation

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/tokenim/tokenim/node/event"
)

const (
	watchEvery  = 5 * time.Second
	deafAfter   = 30 * time.Second
	deafBackoff = time.Hour // most pauses between two reconnections of a peer that stays deaf
	idleAfter   = time.Minute
)

// roomChange is a call of SetRoom on its way to the keeper.
type roomChange struct {
	room    event.RoomID
	salt    []byte
	members []event.Server
	done    chan struct{}
}

// keepRooms carries out the changes of rooms, one at a time. The first thing of
// each is the access list; all that follows only informs.
func (n *Network) keepRooms() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case c := <-n.changes:
			n.changeRoom(c)
			close(c.done)
		}
	}
}

func (n *Network) changeRoom(c roomChange) {
	before, after, gained, lost := n.access.set(c.room, c.salt, c.members, n.id.Name)
	topics := topicsOf(before, after)
	var waiting []*outGuard
	for _, s := range lost {
		if r := n.peers.named(s); r != nil {
			out, in := n.peers.guards(r)
			if out != nil {
				out.touch(topics...)
				waiting = append(waiting, out)
			}
			if in != nil {
				in.touch(topics...)
			}
		}
	}
	for _, out := range waiting {
		out.barrier()
	}
	for _, t := range missing(before, after) {
		if err := n.gossip.leave(t); err != nil {
			n.log.Warn("a topic cannot be left", "room", c.room, "err", err)
		}
	}
	for _, t := range missing(after, before) {
		if err := n.gossip.join(t); err != nil && n.ctx.Err() == nil {
			n.log.Error("a topic cannot be joined", "room", c.room, "err", err)
		}
	}
	for _, s := range gained {
		r := n.peers.named(s)
		if r == nil {
			continue
		}
		out, in := n.peers.guards(r)
		if in != nil {
			in.touch(topics...)
		}
		if out != nil {
			out.touch(topics...)
		} else if n.peers.isConnected(r) {
			n.gated.announce(n.ctx, r.id)
		}
	}
}

// missing returns the topics of a that b has not.
func missing(a, b *roomAccess) []string {
	if a == nil || (b != nil && a.topics == b.topics) {
		return nil
	}
	return a.topics[:]
}

// stray notes that a message came from a server that may not see its topic: a
// joiner's first messages can arrive before its join (protocol C12.15).
func (n *Network) stray(topic string) {
	if r := n.access.byTopic(topic); r != nil && topic == r.topics[0] {
		n.loss.mark(r.id)
	}
}

// graftAtOnce reports whether a peer that begins to follow a topic belongs into
// the mesh without waiting for the router's heartbeat: always, in a room so
// small that the mesh is to hold everybody, unless a PRUNE asks for patience.
func (n *Network) graftAtOnce(id peer.ID, topic string) bool {
	r := n.access.byTopic(topic)
	return r != nil && len(r.members) <= meshSize && n.tracer.calm(id, topic)
}

// deafness is what the watchdog knows of one peer.
type deafness struct {
	since  time.Time     // when a shared topic was first missing
	pause  time.Duration // before the next reconnection
	next   time.Time
	idle   time.Time // since when no room is shared
	closed bool
}

// watch looks for connected peers whose gossip stands still (reliability B50):
// the router gives a stream up after four failures and never tries again on
// that connection, and loses the subscriptions of a peer of whose two streams
// one was reset. The cure is a new connection. Streams of peers that share no
// room any more are ended, after a while, since most come back.
func (n *Network) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	state := map[peer.ID]*deafness{}
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		n.watchOnce(state, time.Now())
	}
}

func (n *Network) watchOnce(state map[peer.ID]*deafness, now time.Time) {
	present := map[string]map[peer.ID]bool{}
	known := map[peer.ID]bool{}
	for _, r := range n.peers.all() {
		known[r.id] = true
		d := state[r.id]
		if d == nil {
			d = &deafness{}
			state[r.id] = d
		}
		if !n.peers.isConnected(r) {
			d.since, d.idle = time.Time{}, time.Time{}
			continue
		}
		if !n.access.shares(r.name) {
			n.endIdle(r, d, now)
			continue
		}
		d.idle, d.closed = time.Time{}, false
		if !n.isDeaf(r, present) {
			d.since, d.pause = time.Time{}, 0
			continue
		}
		if d.since.IsZero() {
			d.since = now
		}
		if out, _ := n.peers.guards(r); out == nil {
			n.gated.announce(n.ctx, r.id) // the cheap cure first
		}
		if now.Sub(d.since) < deafAfter || now.Before(d.next) {
			continue
		}
		n.log.Warn("a peer takes no part in the gossip of a shared room; it is connected anew", "peer", r.name)
		d.pause = min(max(2*d.pause, deafAfter), deafBackoff)
		d.since, d.next = time.Time{}, now.Add(d.pause)
		_ = n.host.Network().ClosePeer(r.id)
		r.hurry()
	}
	for id := range state {
		if !known[id] {
			delete(state, id)
		}
	}
}

// isDeaf reports whether a peer is missing from the topic of a room it shares.
// present caches what the router says.
func (n *Network) isDeaf(r *remote, present map[string]map[peer.ID]bool) bool {
	for _, room := range n.access.roomsOf(r.name) {
		t := room.topics[0]
		if present[t] == nil {
			present[t] = map[peer.ID]bool{}
			for _, id := range n.gossip.ps.ListPeers(t) {
				present[t][id] = true
			}
		}
		if !present[t][r.id] {
			return true
		}
	}
	return false
}

// endIdle ends both pubsub streams of a peer that shares no room for a minute.
// Never one alone (protocol C12.4).
func (n *Network) endIdle(r *remote, d *deafness, now time.Time) {
	if d.idle.IsZero() {
		d.idle = now
	}
	if d.closed || now.Sub(d.idle) < idleAfter {
		return
	}
	d.closed = true
	out, in := n.peers.guards(r)
	if out != nil {
		_ = out.Reset()
	}
	if in != nil {
		_ = in.Reset()
	}
}
