package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

const (
	maxGossip   = 64        // events in one message
	maxAhead    = time.Hour // events of a later time are taken but not handed on (protocol C12.7)
	suspectWait = time.Second
	maxSuspects = 10000
)

// errNothingNew says that a message holds nothing that should be handed on.
var errNothingNew = errors.New("nothing new")

// HandleGossip implements federation.Handler: stages 2 and 3 of protocol C3. The
// events are queued; whether the rules allow them is decided later and is nobody's
// fault on the way.
//
// nil if at least one event is valid, was not known and is fit to be handed on;
// an error that wraps event.ErrInvalid if one is what no honest node hands on.
func (n *Node) HandleGossip(_ context.Context, from event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	if len(pdus) > maxGossip || len(heads) > maxGossip {
		return fmt.Errorf("%w: %d events and %d heads in one message", event.ErrInvalid, len(pdus), len(heads))
	}
	if here, err := n.isResident(r, n.Server()); err != nil || !here {
		return fmt.Errorf("%w: not in %s", ErrUnknownRoom, r)
	}
	var (
		queue   []arrival
		invalid error
		verdict error = errNothingNew
	)
	for _, raw := range pdus {
		a, pass, err := n.admit(from, r, raw)
		if err != nil {
			invalid = err
			continue
		}
		if a.Event == nil {
			continue
		}
		queue = append(queue, a)
		if pass {
			verdict = nil
		}
	}
	if len(queue) > 0 {
		if err := n.inbox.put(r, queue); err != nil {
			n.peers.doubt(r, "")
			verdict = err
		}
	}
	n.suspects.add(r, from, heads)
	if invalid != nil { // the worst decides, the good ones were taken (protocol C12.6)
		return invalid
	}
	return verdict
}

// admit looks at one event of a message. The arrival is empty for a known one;
// pass says whether it is a reason to hand the message on.
func (n *Node) admit(from event.Server, r event.RoomID, raw []byte) (a arrival, pass bool, err error) {
	e, err := event.Parse(raw)
	if err != nil {
		return a, false, err
	}
	if e.Room != r || e.Type == typeCreate {
		return a, false, fmt.Errorf("%w: it does not belong into this room's topic", event.ErrInvalid)
	}
	// A content hash that does not match is a bad copy, which every honest node
	// on the way has seen (protocol C12.1).
	if e.Redacted() {
		return a, false, fmt.Errorf("%w: the content hash does not match", event.ErrInvalid)
	}
	if known, err := n.knows(e.ID()); err != nil || known {
		return a, false, nil
	}
	a = arrival{Event: e, from: from}
	if err := n.verify(e); errors.Is(err, event.ErrUnknownKey) {
		a.keys = true
		return a, false, nil
	} else if err != nil {
		return arrival{}, false, fmt.Errorf("%w: %w", event.ErrInvalid, err)
	}
	// Members of servers that are new here come with their own join.
	resident, err := n.isResident(r, e.Sender.Server())
	if err != nil {
		return a, false, nil
	}
	pass = resident || e.Type == typeMember
	if e.Time > n.cfg.Now().Add(maxAhead).UnixMilli() {
		pass = false
	}
	return a, pass, nil
}

// knows reports whether an event is in the graph or waits for its commit.
func (n *Node) knows(id event.ID) (known bool, err error) {
	if n.inbox.has(id) {
		return true, nil
	}
	err = n.store.View(func(tx *store.Tx) (err error) {
		known, err = tx.Has(id)
		return err
	})
	return known, err
}

// HandleLoss implements federation.Handler: the rooms concerned are compared
// with peers at once.
func (n *Node) HandleLoss(r event.RoomID) {
	if r != "" {
		n.peers.doubt(r, "")
		return
	}
	for _, r := range n.activeRooms(n.cfg.Now().Add(-activeFor)) {
		n.peers.doubt(r, "")
	}
}

// HandlePeer implements federation.Handler.
func (n *Node) HandlePeer(s event.Server, connected bool) { n.peers.connect(s, connected) }

// suspects are heads that peers named and that are not here. They are usually on
// their way; what has not come after a moment was lost.
type suspects struct {
	mu    sync.Mutex // guards heads
	heads map[event.ID]suspect
}

// suspect is one of them.
type suspect struct {
	room event.RoomID
	from event.Server
	at   time.Time
}

func newSuspects() *suspects { return &suspects{heads: map[event.ID]suspect{}} }

// add notes the heads that a peer named.
func (s *suspects) add(r event.RoomID, from event.Server, heads []event.ID) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range heads {
		if _, ok := s.heads[id]; !ok && len(s.heads) < maxSuspects {
			s.heads[id] = suspect{r, from, now}
		}
	}
}

// due takes those that have had their time.
func (s *suspects) due(wait time.Duration) map[event.ID]suspect {
	limit := time.Now().Add(-wait)
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[event.ID]suspect{}
	for id, x := range s.heads {
		if x.at.Before(limit) {
			out[id] = x
			delete(s.heads, id)
		}
	}
	return out
}

// checkSuspects asks for the heads that did not come.
func (n *Node) checkSuspects() {
	for id, x := range n.suspects.due(suspectWait) {
		if known, err := n.knows(id); err == nil && !known {
			n.peers.compare(x.from, x.room)
		}
	}
}
