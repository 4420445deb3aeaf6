package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

const (
	maxOutliers  = 5000    // events fetched for one event that names unknown auth events
	outlierBatch = 256     // outliers written in one update
	outlierBytes = 2 << 20 // bytes of outliers written in one update
	// bundleBytes bounds the events of a bundle, which is held in memory until all
	// of it has been checked: a state of some hundred thousand members.
	bundleBytes = 256 << 20
)

// bundle is a set of events that have no place in the graph: the state before a
// join, and the events that authorize them.
type bundle map[event.ID]received

// size returns the bytes of the events.
func (b bundle) size() (total int) {
	for _, x := range b {
		total += len(x.JSON())
	}
	return total
}

// authState is the state that an event's auth events make.
type authState map[room.Key]*event.Event

// StateEvent implements room.State.
func (s authState) StateEvent(typ, key string) (*event.Event, error) {
	return s[room.Key{Type: typ, StateKey: key}], nil
}

// fetchEvents fetches events of a room by id from a peer and adds them to b once
// they have been read and their signatures checked. Events that the peer does not
// have or that are bad copies are missing from b afterwards. A bundle beyond
// bundleBytes is a bad answer.
func (n *Node) fetchEvents(ctx context.Context, src source, ids []event.ID, b bundle) error {
	for size := b.size(); ; {
		if size > n.bundleBytes {
			return fmt.Errorf("%w: more than %d bytes of events", errBadAnswer, n.bundleBytes)
		}
		if len(ids) == 0 {
			return nil
		}
		k := min(len(ids), maxIDs)
		page, cancel := context.WithTimeout(ctx, pageTimeout)
		answer, err := ask[eventsAnswer](page, n, src.peer, CallEvents, eventsRequest{Room: src.room, Events: ids[:k], For: src.want})
		cancel()
		if err != nil {
			return err
		}
		n.learn(answer.Records)
		if len(answer.Events) == 0 || len(answer.Events) > k {
			return fmt.Errorf("%w: %d events for %d ids", errBadAnswer, len(answer.Events), k)
		}
		asked := make(map[event.ID]bool, k)
		for _, id := range ids[:k] {
			asked[id] = true
		}
		last := event.ID("")
		for _, x := range n.read(src.room, answer.Events, answer.Redactions) {
			if x.err != nil {
				return fmt.Errorf("%w: %w", errBadAnswer, x.err)
			}
			if !asked[x.ID()] {
				return fmt.Errorf("%w: an event that was not asked for", errBadAnswer)
			}
			b[x.ID()] = x
			size += len(x.JSON())
			last = x.ID()
		}
		// The answer is in the order of the request and ends where it is full: what
		// stands before its last event and is not there is not known to the peer.
		for i, id := range ids[:k] {
			if id == last {
				ids = ids[i+1:]
				break
			}
		}
	}
}

// order sorts a bundle so that auth events stand before the events that name
// them. Iterative: chains can be as long as the room is old.
func (b bundle) order() []received {
	out := make([]received, 0, len(b))
	state := make(map[event.ID]byte, len(b)) // 1 entered, 2 done
	var stack []received
	for _, e := range b {
		stack = append(stack[:0], e)
		for len(stack) > 0 {
			e := stack[len(stack)-1]
			if state[e.ID()] != 0 {
				stack = stack[:len(stack)-1]
				if state[e.ID()] == 1 {
					state[e.ID()] = 2
					out = append(out, e)
				}
				continue
			}
			state[e.ID()] = 1
			for _, id := range e.Auth {
				if a, ok := b[id]; ok && state[id] == 0 {
					stack = append(stack, a)
				}
			}
		}
	}
	return out
}

// judgeByAuth decides about an event by its auth events alone (Checks performed
// on receipt of a PDU, 4). store.ErrNotFound if one of them is not to be found.
func judgeByAuth(e, create *event.Event, find room.Lookup) (room.Verdict, error) {
	in := room.Input{Create: create}
	st := authState{}
	for _, id := range e.Auth {
		f, err := find(id)
		if err != nil {
			return room.Rejected, err
		}
		in.Auth = append(in.Auth, f)
		if f.StateKey != nil {
			st[room.Key{Type: f.Type, StateKey: *f.StateKey}] = f.Event
		}
	}
	in.Before = st
	return room.Judge(e, in)
}

// fetchOutliers fetches events that others refer to as auth events, and what
// authorizes them in turn, and keeps them.
func (n *Node) fetchOutliers(ctx context.Context, src source, ids []event.ID) error {
	b := bundle{}
	for len(ids) > 0 {
		if len(b)+len(ids) > maxOutliers {
			return fmt.Errorf("more than %d auth events are missing", maxOutliers)
		}
		if err := n.fetchEvents(ctx, src, ids, b); err != nil {
			return err
		}
		var next []event.ID
		seen := map[event.ID]bool{}
		err := n.store.View(func(tx *store.Tx) error {
			for _, id := range ids {
				e, ok := b[id]
				if !ok {
					return fmt.Errorf("auth event %s: %w", id, store.ErrNotFound)
				}
				for _, a := range e.Auth {
					if _, ok := b[a]; ok || seen[a] {
						continue
					}
					_, err := tx.Lookup(a)
					if errors.Is(err, store.ErrNotFound) {
						seen[a] = true
						next = append(next, a)
					} else if err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		ids = next
	}
	return n.keep(ctx, src.room, b.order())
}

// keep puts events whose auth events are known or stand before them where they
// belong: into the graph if their past is held, else beside it.
func (n *Node) keep(ctx context.Context, r event.RoomID, events []received) error {
	for len(events) > 0 {
		k := pieces(events)
		err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
			create, err := tx.Event(r.Create())
			if err != nil {
				return err
			}
			for _, e := range events[:k] {
				if e.Type == typeCreate {
					continue
				}
				if err := n.keepOne(tx, fx, e.Event, create.Event); err != nil {
					return err
				}
				if err := e.keepRedaction(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		events = events[k:]
	}
	return nil
}

// keepOne is keep for one event.
func (n *Node) keepOne(tx *store.Tx, fx *effects, e, create *event.Event) error {
	var missing *missingError
	if _, err := n.commit(tx, fx, e, how{}); !errors.As(err, &missing) {
		return err
	}
	verdict, err := judgeByAuth(e, create, tx.Lookup)
	switch {
	case verdict == room.Accepted && err == nil:
		return tx.PutOutlier(e)
	case errors.Is(err, room.ErrForbidden): // it is known, and known to be refused
		return tx.PutRefused(e)
	case errors.Is(err, store.ErrNotFound): // one of its auth events was left out
		return nil
	}
	return err
}

// keepRedaction keeps what shows that a redacted copy is no bad one: it may lie
// below the horizon, and those who get the copy from here need it.
func (x received) keepRedaction(tx *store.Tx) error {
	if x.by == nil {
		return nil
	}
	return tx.KeepRedaction(x.ID(), x.by)
}

// pieces returns how many of the events one update takes.
func pieces(events []received) int {
	k, size := 0, 0
	for k < len(events) && k < outlierBatch && (k == 0 || size+len(events[k].JSON()) <= outlierBytes) {
		size += len(events[k].JSON())
		k++
	}
	return k
}

// handleEvents answers a request for events by id.
func (n *Node) handleEvents(_ context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[eventsRequest](body)
	if err != nil {
		return nil, err
	}
	if err := checkRoom(req.Room); err != nil {
		return nil, err
	}
	if err := checkIDs(req.Events, maxIDs); err != nil {
		return nil, err
	}
	if err := checkIDs(req.For, maxWant); err != nil {
		return nil, err
	}
	ends, resident, err := n.grant(from, req.Room, req.For)
	if err != nil {
		return nil, err
	}
	if !resident {
		err := n.store.View(func(tx *store.Tx) (err error) {
			req.Events, err = ancestors(tx, req.Room, req.Events, ends)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	events, err := n.load(req.Room, req.Events, maxIDs, maxPage)
	if err != nil {
		return nil, err
	}
	return eventsAnswer{Events: raws(events.events), Redactions: raws(events.redactions), Records: events.records(n)}, nil
}

// authChain lists the auth events of the given events, theirs, and so on, without
// the events given (Room version 12, State resolution, Auth chain).
func authChain(tx *store.Tx, ids []event.ID) ([]event.ID, error) {
	seen := make(map[event.ID]bool, len(ids))
	for _, id := range ids {
		seen[id] = true
	}
	var chain []event.ID
	todo := ids
	for len(todo) > 0 {
		var next []event.ID
		for _, id := range todo {
			e, err := tx.Event(id)
			if err != nil {
				return nil, err
			}
			for _, a := range e.Auth {
				if !seen[a] {
					seen[a] = true
					next = append(next, a)
				}
			}
		}
		chain = append(chain, next...)
		todo = next
	}
	return chain, nil
}
