package federation

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	pool "github.com/libp2p/go-buffer-pool"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tokenim/tokenim/node/event"
)

// maxPeerTopics bounds the topics of one peer that are remembered.
const maxPeerTopics = 50_000

// inGuard stands on the inbound pubsub stream of one peer. The router behind it
// learns of the peer's interest in a topic only while the peer has access to
// it, and is told that the peer left when access ends (protocol C12.5), so that
// no mesh keeps a hole where a removed peer was. Messages without access never
// reach the router, which would remember their ids and drop honest copies.
type inGuard struct {
	*endingStream
	see    func(topic string) bool
	stray  func(topic string)      // a message without access was dropped
	graft  func(topic string) bool // a new follower belongs into the mesh at once
	pruned func(topic string)      // the router is about to get a PRUNE

	frames chan []byte   // from pump to Read
	wake   chan struct{} // capacity 1: touched is not empty
	err    error         // why frames was closed; written before that

	// The next fields belong to the one reader.
	current []byte
	buffer  []byte // the pooled buffer under current
	said    map[string]bool
	shown   map[string]bool
	failed  error    // a frame could not be read
	grafts  []string // topics of which the frame in hand showed the router a new follower

	mu      sync.Mutex // guards touched
	touched map[string]struct{}
}

// newInGuard makes the guard of a stream of a peer.
func (n *Network) newInGuard(s network.Stream, name event.Server, id peer.ID) *inGuard {
	return &inGuard{
		endingStream: newEndingStream(s),
		see:          func(topic string) bool { return n.access.see(name, topic) },
		stray:        n.stray,
		graft:        func(topic string) bool { return n.graftAtOnce(id, topic) },
		pruned:       func(topic string) { n.tracer.note(meshLink{id, topic}) },
		frames:       make(chan []byte), wake: make(chan struct{}, 1),
		said: map[string]bool{}, shown: map[string]bool{}, touched: map[string]struct{}{},
	}
}

// pump reads frames until the stream ends. It is a goroutine of its own, so
// that Read can be woken by touch while nothing arrives.
func (g *inGuard) pump() {
	defer close(g.frames)
	r := bufio.NewReaderSize(g.Stream, 4<<10)
	for {
		size, err := binary.ReadUvarint(r)
		if err == nil && size > maxFrame {
			err = fmt.Errorf("%w: frame of %d bytes", errFrame, size)
		}
		if err != nil {
			g.err = err
			return
		}
		// The frame is kept with its length before it, as the reader wants it.
		frame := pool.Get(protowire.SizeBytes(int(size)))
		n := binary.PutUvarint(frame, size)
		if _, err := io.ReadFull(r, frame[n:]); err != nil {
			pool.Put(frame)
			g.err = io.ErrUnexpectedEOF
			return
		}
		select {
		case g.frames <- frame:
		case <-g.ended:
			pool.Put(frame)
			g.err = network.ErrReset
			return
		}
	}
}

// Read returns the bytes of the frames that may pass.
func (g *inGuard) Read(p []byte) (int, error) {
	for len(g.current) == 0 {
		if g.buffer != nil {
			pool.Put(g.buffer)
			g.buffer = nil
		}
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.current)
	g.current = g.current[n:]
	return n, nil
}

// next makes current the next frame, or the subscriptions that a change of
// access calls for.
func (g *inGuard) next() error {
	if g.failed != nil {
		return g.failed // the router reads on after a first error
	}
	select {
	case <-g.wake: // first, if both are ready
		g.current = g.settle()
		return nil
	default:
	}
	select {
	case <-g.wake:
		g.current = g.settle()
		return nil
	case frame, ok := <-g.frames:
		if !ok {
			return g.err
		}
		g.buffer = frame
		_, n := binary.Uvarint(frame)
		out, err := filterFrame(frame[n:], g)
		switch {
		case err != nil:
			g.failed = err
		case len(out) == 0:
		case len(out) == len(frame)-n && len(g.grafts) == 0:
			g.current = frame
		default:
			g.current = lengthPrefixed(g.appendGrafts(out))
		}
		return err
	}
}

// settle returns the frame that brings the router up to the access of the
// moment, nil if there is nothing to say.
func (g *inGuard) settle() []byte {
	g.mu.Lock()
	topics := g.touched
	g.touched = map[string]struct{}{}
	g.mu.Unlock()
	var rpc []byte
	for t := range topics {
		switch see := g.see(t); {
		case see && g.said[t] && !g.shown[t]:
			rpc = appendSubscription(rpc, t, true)
			g.show(t)
		case !see && g.shown[t]:
			rpc = appendPrune(appendSubscription(rpc, t, false), t, pruneSeconds)
			delete(g.shown, t)
			g.pruned(t)
		}
	}
	if len(rpc) == 0 {
		return nil
	}
	return lengthPrefixed(g.appendGrafts(rpc))
}

// appendGrafts has the router take new followers into its mesh at once. It
// would do so at its next heartbeat, and what is said in between would never
// reach a peer that nobody else serves.
func (g *inGuard) appendGrafts(rpc []byte) []byte {
	rpc = rpc[:len(rpc):len(rpc)]
	for _, t := range g.grafts {
		rpc = appendGraft(rpc, t)
	}
	g.grafts = g.grafts[:0]
	return rpc
}

// show notes that the router learns of the peer's interest.
func (g *inGuard) show(topic string) {
	if !g.shown[topic] && g.graft(topic) {
		g.grafts = append(g.grafts, topic)
	}
	g.shown[topic] = true
}

// touch has topics checked against the access of the moment.
func (g *inGuard) touch(topics ...string) {
	g.mu.Lock()
	for _, t := range topics {
		g.touched[t] = struct{}{}
	}
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// subscription implements frameRules.
func (g *inGuard) subscription(topic string, subscribe bool) bool {
	if !subscribe {
		delete(g.said, topic)
		shown := g.shown[topic]
		delete(g.shown, topic)
		return shown
	}
	// Beyond the limit subscriptions are not remembered, the frame stays good (C12.15).
	if len(g.said) < maxPeerTopics || g.said[topic] {
		g.said[topic] = true
	}
	if !g.see(topic) {
		return false
	}
	g.show(topic)
	return true
}

// topic implements frameRules.
func (g *inGuard) topic(p part, topic string) bool {
	switch see := g.see(topic); {
	case p == partPrune && (see || g.shown[topic]):
		g.pruned(topic) // before the router knows: a SUBSCRIBE may follow in the same breath
		return true
	case see:
		return true
	case p == partMessage:
		g.stray(topic)
	}
	return false
}

// id implements frameRules: what a peer wants is checked when it is sent.
func (g *inGuard) id(protowire.Number, string) bool { return true }

// offer implements frameRules.
func (g *inGuard) offer(string, string) bool { return true }
