package federation

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/network"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// guardWrite bounds a write that the guard makes by itself.
	guardWrite = 30 * time.Second
	// guardBarrier is how long SetRoom waits for a frame that is being written
	// to a slow peer; then the peer's pubsub streams end.
	guardBarrier = 200 * time.Millisecond
	// pruneSeconds is the back-off of the PRUNE that the guards inject. Both
	// sides keep it, so no GRAFT after a re-admission comes too early.
	pruneSeconds = 1
	// wantedIDs bounds the message ids, seen in the IHAVEs of a peer, that an
	// IWANT to it may name.
	wantedIDs = 8192
)

// told is what the peer was told about this node's interest in a topic.
type told int

const (
	toldNothing told = iota
	toldSubscribed
	toldUnsubscribed // a PRUNE may still follow
)

// outGuard stands on the outbound pubsub stream of one peer (protocol C2, the
// egress guard). Every frame is taken apart and only the pieces whose topic the
// peer may see at that moment are written. It tells the peer of topics that it
// may see since a later moment, and takes back those that it may see no more.
type outGuard struct {
	*endingStream
	see sight
	ids *seenMessages

	frame chan struct{} // a lock that can be waited for with a deadline: one frame at a time
	// The next fields belong to the holder of frame.
	partial []byte          // the beginning of a frame
	want    map[string]bool // topics the router is subscribed to
	told    map[string]told

	mu      sync.Mutex // guards the next two fields
	touched map[string]struct{}
	wanted  *lru.Cache[string, string] // message id -> topic, from the peer's IHAVEs

	wake chan struct{} // capacity 1: touched is not empty
}

func newOutGuard(s network.Stream, see sight, ids *seenMessages) *outGuard {
	return &outGuard{
		endingStream: newEndingStream(s), see: see, ids: ids, frame: make(chan struct{}, 1),
		want: map[string]bool{}, told: map[string]told{}, touched: map[string]struct{}{},
		wake: make(chan struct{}, 1),
	}
}

// Write takes whole frames or parts of them and writes what may pass.
func (g *outGuard) Write(b []byte) (int, error) {
	g.frame <- struct{}{}
	defer func() { <-g.frame }()
	if err := g.settle(); err != nil {
		return 0, err
	}
	data := b
	if len(g.partial) > 0 {
		g.partial = append(g.partial, b...)
		data = g.partial
	}
	for len(data) > 0 {
		size, n := binary.Uvarint(data)
		if n < 0 || size > maxFrame {
			_ = g.Reset()
			return 0, fmt.Errorf("%w: frame of %d bytes", errFrame, size)
		}
		if n == 0 || uint64(len(data)-n) < size {
			break
		}
		end := n + int(size)
		if err := g.writeFrame(data[:end], data[n:end]); err != nil {
			return 0, err
		}
		data = data[end:]
	}
	g.partial = append(g.partial[:0:0], data...)
	return len(b), nil
}

// writeFrame writes what may pass of a frame; whole is the frame with its length.
func (g *outGuard) writeFrame(whole, frame []byte) error {
	out, err := filterFrame(frame, g)
	if err != nil {
		_ = g.Reset()
		return err
	}
	switch {
	case len(out) == 0:
		return nil
	case len(out) == len(frame):
		_, err = g.Stream.Write(whole)
	default:
		_, err = g.Stream.Write(lengthPrefixed(out))
	}
	return err
}

func lengthPrefixed(frame []byte) []byte {
	b := make([]byte, 0, len(frame)+binary.MaxVarintLen32)
	return append(binary.AppendUvarint(b, uint64(len(frame))), frame...)
}

// settle writes the subscriptions that a change of access calls for. The
// holder of frame calls it.
func (g *outGuard) settle() error {
	var topics map[string]struct{}
	g.mu.Lock()
	if len(g.touched) > 0 {
		topics, g.touched = g.touched, map[string]struct{}{}
	}
	g.mu.Unlock()
	var rpc []byte
	for t := range topics {
		switch see := g.sees(t); {
		case see && g.want[t] && g.told[t] != toldSubscribed:
			rpc = appendSubscription(rpc, t, true)
			g.told[t] = toldSubscribed
		case !see && g.told[t] == toldSubscribed:
			rpc = appendPrune(appendSubscription(rpc, t, false), t, pruneSeconds)
			delete(g.told, t)
		}
	}
	if len(rpc) == 0 {
		return nil
	}
	_ = g.Stream.SetWriteDeadline(time.Now().Add(guardWrite))
	_, err := g.Stream.Write(lengthPrefixed(rpc))
	return err
}

// touch has the subscription state of topics checked against the access of the
// moment, soon, and before any further frame.
func (g *outGuard) touch(topics ...string) {
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

// barrier waits until no frame is being written that was checked before the
// call. If that takes too long the stream is reset and no byte more is written.
func (g *outGuard) barrier() {
	timer := time.NewTimer(guardBarrier)
	defer timer.Stop()
	select {
	case g.frame <- struct{}{}:
		<-g.frame
	case <-g.ended:
	case <-timer.C:
		_ = g.Reset()
	}
}

// run writes what touch asks for until the stream or ctx ends.
func (g *outGuard) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.ended:
			return
		case <-g.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-g.ended:
			return
		case g.frame <- struct{}{}:
		}
		err := g.settle()
		<-g.frame
		if err != nil {
			_ = g.Reset()
			return
		}
	}
}

// subscription implements frameRules.
func (g *outGuard) subscription(topic string, subscribe bool) bool {
	if subscribe {
		g.want[topic] = true
		if !g.sees(topic) {
			return false
		}
		g.told[topic] = toldSubscribed
		return true
	}
	delete(g.want, topic)
	if g.told[topic] != toldSubscribed {
		return false
	}
	// The peer knows the topic; it must learn that this node left.
	g.told[topic] = toldUnsubscribed
	return true
}

// topic implements frameRules.
func (g *outGuard) topic(p part, topic string) bool {
	if p == partPrune && g.told[topic] == toldUnsubscribed {
		delete(g.told, topic)
		return true
	}
	return g.sees(topic)
}

// sees reports whether the peer may see a topic now.
func (g *outGuard) sees(topic string) bool {
	_, ok := g.see(topic)
	return ok
}

// id implements frameRules.
func (g *outGuard) id(field protowire.Number, id string) bool {
	if field != controlIWant {
		m, ok := g.ids.get(id)
		return ok && g.sees(m.topic)
	}
	g.mu.Lock()
	wanted := g.wanted
	g.mu.Unlock()
	if wanted == nil {
		return false
	}
	topic, ok := wanted.Get(id)
	return ok && g.sees(topic)
}

// offer implements frameRules: a new member is not offered what was said before
// it had access. It would have access now; but the history of a room is for the
// room's rules to give away, not for the router.
func (g *outGuard) offer(topic, id string) bool {
	since, ok := g.see(topic)
	m, known := g.ids.get(id)
	return ok && known && !m.at.Before(since)
}

// offered notes the message ids of an IHAVE of the peer.
func (g *outGuard) offered(topic string, ids []string) {
	g.mu.Lock()
	if g.wanted == nil {
		g.wanted, _ = lru.New[string, string](wantedIDs)
	}
	wanted := g.wanted
	g.mu.Unlock()
	for _, id := range ids {
		wanted.Add(id, topic)
	}
}

// sight says whether a peer may see a topic now, and since when.
type sight func(topic string) (since time.Time, ok bool)

// seenMessages remembers topic and time of the messages that came by lately.
type seenMessages struct {
	byID *lru.Cache[string, seenMessage]
}

type seenMessage struct {
	topic string
	at    time.Time
}

func newSeenMessages() (*seenMessages, error) {
	c, err := lru.New[string, seenMessage](messageIDs)
	return &seenMessages{c}, err
}

// add notes a message; its first time counts.
func (s *seenMessages) add(id, topic string) {
	s.byID.ContainsOrAdd(id, seenMessage{topic, time.Now()})
}

func (s *seenMessages) get(id string) (seenMessage, bool) { return s.byID.Get(id) }
