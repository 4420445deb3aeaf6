package simnet

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// Limits of one Publish (node.Network).
const (
	maxEvents = 50
	maxBytes  = 256 << 10
)

// seenFor is how long a frame is remembered.
const seenFor = 2 * time.Minute

// frame is one gossip message. It is shared and never changed.
type frame struct {
	id    [32]byte
	room  event.RoomID
	salt  string
	pdus  [][]byte
	heads []event.ID
	edu   []byte // not nil: an ephemeral message, without pdus and heads
}

// newFrame copies what it is made of. Two frames with the same content that are
// made at different times differ, as they do on the wire.
func newFrame(r event.RoomID, salt string, pdus [][]byte, heads []event.ID, edu []byte) *frame {
	f := &frame{room: r, salt: salt, heads: slices.Clone(heads)}
	for _, pdu := range pdus {
		f.pdus = append(f.pdus, slices.Clone(pdu))
	}
	if edu != nil {
		f.edu = append([]byte{}, edu...)
	}
	text, err := json.Marshal([]any{r, pdus, heads, edu, time.Now().UnixMilli()})
	if err != nil {
		panic("simnet: " + err.Error())
	}
	f.id = sha256.Sum256(text)
	return f
}

// delivery is a frame on its way to a peer, or the loss of one.
type delivery struct {
	*frame
	from     event.Server
	due      time.Time
	order    uint64
	repeated bool // past the check for repeats
	lost     bool
}

// inbox holds deliveries, the next one first.
type inbox []*delivery

func (b inbox) Len() int { return len(b) }
func (b inbox) Less(i, j int) bool {
	if !b[i].due.Equal(b[j].due) {
		return b[i].due.Before(b[j].due)
	}
	return b[i].order < b[j].order
}
func (b inbox) Swap(i, j int) { b[i], b[j] = b[j], b[i] }
func (b *inbox) Push(x any)   { *b = append(*b, x.(*delivery)) }
func (b *inbox) Pop() any {
	old := *b
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*b = old[:len(old)-1]
	return d
}

// Publish implements node.Network. Nobody hears what is published to a room
// that SetRoom was not called for, or before Run.
func (p *Peer) Publish(_ context.Context, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	size := 0
	for _, pdu := range pdus {
		size += len(pdu)
	}
	if len(pdus) > maxEvents || size > maxBytes {
		return fmt.Errorf("simnet: %d events with %d bytes at once", len(pdus), size)
	}
	return p.publish(r, pdus, heads, nil)
}

// PublishEphemeral implements node.Network.
func (p *Peer) PublishEphemeral(_ context.Context, r event.RoomID, edu []byte) error {
	return p.publish(r, nil, nil, append([]byte{}, edu...))
}

func (p *Peer) publish(r event.RoomID, pdus [][]byte, heads []event.ID, edu []byte) error {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if p.over {
		return errOver
	}
	set := p.rooms[r]
	if set == nil {
		return nil
	}
	f := newFrame(r, set.salt, pdus, heads, edu)
	p.seen[f.id] = time.Now()
	p.send(f, p.name)
	return nil
}

// Inject sends a frame to one peer as a hostile node can: whatever this node's
// SetRoom says, and without limits. The peer must be connected.
func (p *Peer) Inject(to event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	return p.inject(to, r, pdus, heads, nil)
}

// InjectEphemeral is Inject for the room's second topic.
func (p *Peer) InjectEphemeral(to event.Server, r event.RoomID, edu []byte) error {
	return p.inject(to, r, nil, nil, append([]byte{}, edu...))
}

func (p *Peer) inject(to event.Server, r event.RoomID, pdus [][]byte, heads []event.ID, edu []byte) error {
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.connected(p.name, to) {
		return fmt.Errorf("%w: %s is not connected", event.ErrUnreachable, to)
	}
	salt := ""
	if set := n.peers[to].rooms[r]; set != nil {
		salt = set.salt // the salt is no secret among those who know the room
	}
	n.transmit(p.name, n.peers[to], newFrame(r, salt, pdus, heads, edu))
	return nil
}

// send hands f to the connected members of the room except the one it came
// from and those that have it. The caller holds net.mu.
func (p *Peer) send(f *frame, except event.Server) {
	set := p.rooms[f.room]
	if set == nil || set.salt != f.salt {
		return
	}
	for _, m := range slices.Sorted(maps.Keys(set.members)) {
		target := p.net.peers[m]
		if m == p.name || m == except || target == nil || !p.net.connected(p.name, m) || target.has(f) {
			continue
		}
		p.net.transmit(p.name, target, f)
	}
}

// transmit decides what becomes of f on the link to a peer. The caller holds mu.
func (n *Net) transmit(from event.Server, to *Peer, f *frame) {
	die := n.die(from, to.name)
	lost := die.Float64() < n.faults.Loss
	repeat := die.Float64() < n.faults.Repeat
	first, second := n.delay(die), n.delay(die)
	to.queue(&delivery{frame: f, from: from, lost: lost}, first)
	if repeat {
		to.queue(&delivery{frame: f, from: from, lost: lost, repeated: true}, second)
	}
}

// queue has d delivered after a time. The caller holds net.mu.
func (p *Peer) queue(d *delivery, after time.Duration) {
	p.net.frames++
	d.due, d.order = time.Now().Add(after), p.net.frames
	heap.Push(&p.inbox, d)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// has reports whether f was seen within the last two minutes. The caller holds
// net.mu.
func (p *Peer) has(f *frame) bool {
	at, ok := p.seen[f.id]
	return ok && time.Since(at) < seenFor
}

// deliver calls h with the frames of the inbox as they become due.
func (p *Peer) deliver(ctx context.Context, h Handler) {
	for ctx.Err() == nil {
		d, wait := p.next()
		if d != nil {
			p.handle(ctx, h, d)
			continue
		}
		var timer *time.Timer
		var due <-chan time.Time
		if wait > 0 {
			timer = time.NewTimer(wait)
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// next takes the delivery that is due and admissible, if there is one; else it
// returns how long to wait for the next, 0 if there is none.
func (p *Peer) next() (*delivery, time.Duration) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for len(p.inbox) > 0 {
		if wait := time.Until(p.inbox[0].due); wait > 0 {
			return nil, wait
		}
		d := heap.Pop(&p.inbox).(*delivery)
		if p.admit(d) {
			return d, 0
		}
	}
	return nil, 0
}

// admit decides whether a delivery reaches the handler. The caller holds net.mu.
func (p *Peer) admit(d *delivery) bool {
	set := p.rooms[d.room]
	if set == nil || set.salt != d.salt {
		return false // not subscribed
	}
	if p.has(d.frame) && !d.repeated {
		return false
	}
	// A cut loses what is on its way. What comes from a server that is not a
	// member here is not taken, although the sender may just have become one.
	if d.lost || !p.net.connected(d.from, p.name) || !set.members[d.from] {
		if p.net.faults.NoticeLoss {
			p.report(report{loss: true, room: d.room})
		}
		return false
	}
	p.remember(d.frame)
	return true
}

// remember marks f as seen and forgets what is old. The caller holds net.mu.
func (p *Peer) remember(f *frame) {
	now := time.Now()
	p.seen[f.id] = now
	if len(p.seen)%1024 != 0 {
		return
	}
	maps.DeleteFunc(p.seen, func(_ [32]byte, at time.Time) bool { return now.Sub(at) >= seenFor })
}

// handle calls h and hands the frame on if h accepts it.
func (p *Peer) handle(ctx context.Context, h Handler, d *delivery) {
	var err error
	if d.edu != nil {
		err = h.HandleEphemeral(ctx, d.from, d.room, slices.Clone(d.edu))
	} else {
		err = h.HandleGossip(ctx, d.from, d.room, slices.Clone(d.pdus), slices.Clone(d.heads))
	}
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	switch {
	case err == nil:
		p.send(d.frame, d.from)
	case errors.Is(err, event.ErrInvalid):
		p.refused[d.from]++
	}
}
