package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

const (
	maxQueue   = 1024 // events waiting in a room
	maxStaged  = 1024 // events of a room that wait for what they refer to
	maxBatch   = 64   // events committed together
	inboxCrew  = 4    // goroutines
	maxTries   = 3
	stageGrace = 30 * time.Millisecond // events that overtook each other arrive within it
)

// errFull says that a room's queue is full: the event is not handed on, and will
// be fetched (protocol C3, stage 3).
var errFull = errors.New("the queue of the room is full")

// arrival is an event from gossip that waits for its commit.
type arrival struct {
	*event.Event
	from  event.Server
	tries int  // times that it was queued again after asking for what is missing
	keys  bool // its signature could not be checked yet
}

// inbox holds what arrived by gossip until it is committed: a bounded queue for
// each room, served in turn by a fixed number of goroutines, one at a time for a
// room, so that big rooms do not starve small ones.
type inbox struct {
	node  *Node
	ready chan struct{} // capacity inboxCrew: there may be a room to serve

	mu      sync.Mutex // guards the fields below and all queues
	rooms   map[event.RoomID]*queue
	turn    []event.RoomID // rooms with work that nobody serves, in order
	waiting map[event.ID]struct{}
	unsure  map[event.ID]struct{}        // the same of events whose signature could not be checked yet
	timers  map[event.RoomID]*time.Timer // running graces
	closed  bool
	graces  sync.WaitGroup // one for each timer
}

// queue is one room's part.
type queue struct {
	events []arrival
	staged []arrival // what they refer to is not here
	busy   bool      // served, or in turn
}

func newInbox(n *Node) *inbox {
	return &inbox{
		node: n, ready: make(chan struct{}, inboxCrew), rooms: map[event.RoomID]*queue{},
		waiting: map[event.ID]struct{}{}, unsure: map[event.ID]struct{}{}, timers: map[event.RoomID]*time.Timer{},
	}
}

// marks returns where the id of an arrival is noted. The id does not cover the
// signatures: a copy whose signature names an unknown key, which anybody can make,
// must not keep a good one out (protocol C12.6).
func (b *inbox) marks(a arrival) map[event.ID]struct{} {
	if a.keys {
		return b.unsure
	}
	return b.waiting
}

// has reports whether an event waits here whose signature is good.
func (b *inbox) has(id event.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.waiting[id]
	return ok
}

// put queues events of one room; errFull if not all found room.
func (b *inbox) put(r event.RoomID, events []arrival) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue(r)
	var err error
	for _, a := range events {
		if _, ok := b.marks(a)[a.ID()]; ok {
			continue
		}
		if len(q.events) >= maxQueue {
			err = errFull
			break
		}
		b.marks(a)[a.ID()] = struct{}{}
		q.events = append(q.events, a)
	}
	b.schedule(r, q)
	return err
}

func (b *inbox) queue(r event.RoomID) *queue {
	q := b.rooms[r]
	if q == nil {
		q = &queue{}
		b.rooms[r] = q
	}
	return q
}

// schedule puts a room in turn if it has work. mu must be held.
func (b *inbox) schedule(r event.RoomID, q *queue) {
	if q.busy || len(q.events) == 0 {
		if !q.busy && len(q.staged) == 0 {
			delete(b.rooms, r)
		}
		return
	}
	q.busy = true
	b.turn = append(b.turn, r)
	select {
	case b.ready <- struct{}{}:
	default: // everybody is awake
	}
}

// unstage queues again what waited in a room: it may be possible now.
func (b *inbox) unstage(r event.RoomID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.rooms[r]; q != nil && len(q.staged) > 0 {
		for i := range q.staged {
			q.staged[i].tries++
		}
		q.events = append(q.staged, q.events...)
		q.staged = nil
		b.schedule(r, q)
	}
}

// unstageAll queues again what waited for the records of a peer.
func (b *inbox) unstageAll(from event.Server) {
	b.mu.Lock()
	var rooms []event.RoomID
	for r, q := range b.rooms {
		if slices.ContainsFunc(q.staged, func(a arrival) bool { return a.keys && a.from == from }) {
			rooms = append(rooms, r)
		}
	}
	b.mu.Unlock()
	for _, r := range rooms {
		b.unstage(r)
	}
}

// run serves rooms until ctx ends.
func (b *inbox) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.ready:
		}
		for ctx.Err() == nil {
			r, batch := b.take()
			if batch == nil {
				break
			}
			b.serve(ctx, r, batch)
		}
	}
}

// stop ends the graces that run and waits for them.
func (b *inbox) stop() {
	b.mu.Lock()
	b.closed = true
	for _, t := range b.timers {
		if t.Stop() {
			b.graces.Done()
		}
	}
	clear(b.timers)
	b.mu.Unlock()
	b.graces.Wait()
}

// take takes the next room's next events; what is staged goes with them, since
// they may be what it waited for.
func (b *inbox) take() (event.RoomID, []arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.turn) == 0 {
		return "", nil
	}
	r := b.turn[0]
	b.turn = b.turn[1:]
	q := b.rooms[r]
	k := min(len(q.events), maxBatch)
	batch := slices.Clone(q.events[:k])
	q.events = slices.Delete(q.events, 0, k)
	if len(q.staged) <= maxBatch {
		batch = append(batch, q.staged...)
		q.staged = nil
	}
	// Ancestors first. The depth that events claim is a hint: what comes too early
	// is staged.
	slices.SortStableFunc(batch, func(x, y arrival) int { return cmp.Compare(x.Body.Depth, y.Body.Depth) })
	return r, batch
}

// finish ends the service of a room: staged waits, the rest is done with.
func (b *inbox) finish(r event.RoomID, batch, staged []arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range batch {
		delete(b.marks(a), a.ID())
	}
	q := b.rooms[r]
	for _, a := range staged {
		if len(q.staged) < maxStaged {
			b.marks(a)[a.ID()] = struct{}{}
			q.staged = append(q.staged, a)
		}
	}
	q.busy = false
	b.schedule(r, q)
}

// serve commits a batch. Errors of single events cost those events.
func (b *inbox) serve(ctx context.Context, r event.RoomID, batch []arrival) {
	n := b.node
	var staged []arrival
	todo := make([]arrival, 0, len(batch))
	for _, a := range batch {
		if a.keys {
			err := n.verify(a.Event)
			a.keys = errors.Is(err, event.ErrUnknownKey)
			if a.keys {
				if a.tries < maxTries {
					staged = append(staged, a)
					n.peers.wantKeys(a.from, a.Signers())
				} else {
					n.peers.doubt(r, "")
				}
				continue
			} else if err != nil {
				n.log.Info("an event with a bad signature was dropped", "room", r, "event", a.ID(), "error", err)
				continue
			}
		}
		todo = append(todo, a)
	}
	waits := make([]*missingError, len(todo))
	err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
		for i, a := range todo {
			waits[i] = nil
			_, err := n.commit(tx, fx, a.Event, how{})
			if !errors.As(err, &waits[i]) && err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			n.log.Error("events from gossip were not committed, they will be fetched", "room", r, "error", err)
			n.peers.doubt(r, "")
		}
		b.finish(r, batch, nil)
		return
	}
	for i, a := range todo {
		if waits[i] == nil {
			continue
		}
		if a.tries < maxTries {
			staged = append(staged, a)
		} else {
			n.peers.doubt(r, a.from)
		}
	}
	b.finish(r, batch, staged)
	if len(staged) > 0 {
		b.grace(r)
	}
}

// grace waits a moment for events on their way before anything is fetched.
func (b *inbox) grace(r event.RoomID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.timers[r] != nil {
		return
	}
	b.graces.Add(1)
	b.timers[r] = time.AfterFunc(stageGrace, func() {
		defer b.graces.Done()
		b.fetch(r)
	})
}

// fetch asks those who handed on the events that still wait for their ancestors.
func (b *inbox) fetch(r event.RoomID) {
	b.mu.Lock()
	delete(b.timers, r)
	want := map[event.Server][]event.ID{}
	if q := b.rooms[r]; q != nil && !b.closed {
		for _, a := range q.staged {
			if !a.keys {
				want[a.from] = append(append(want[a.from], a.ID()), a.Prev...)
			}
		}
	}
	b.mu.Unlock()
	for s, ids := range want {
		unknown, err := b.node.unknown(ids)
		if err != nil {
			return // the store is closed
		}
		b.node.peers.want(s, r, unknown, 0)
	}
}
