package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// A room that was joined has a horizon: what happened before the join is not
// held. Events whose prev_events lie below it are ordinary. The prev is then taken
// with the state before it as a further point where the graph begins (protocol
// C12.2).

const (
	horizonBurst = 20 // such points at once, for each room
	horizonEvery = 10 * time.Second
)

// errHistory says that an event stands on what this node would have to hold.
var errHistory = errors.New("its past is not held though nothing is missing here")

// horizons knows where the graphs of rooms begin.
type horizons struct {
	mu     sync.Mutex // guards begin
	begin  map[event.RoomID][]event.ID
	points *budgets // by room
}

func newHorizons() *horizons {
	return &horizons{begin: map[event.RoomID][]event.ID{}, points: newBudgets(horizonEvery, horizonBurst)}
}

// roots returns events whose past is not held, none for a room all of which is in
// the graph: at most maxRoots, the oldest and the newest.
func (h *horizons) roots(tx *store.Tx, r event.RoomID) ([]event.ID, error) {
	h.mu.Lock()
	ids, ok := h.begin[r]
	h.mu.Unlock()
	if !ok {
		var err error
		if ids, err = findRoots(tx, r); err != nil {
			return nil, err
		}
		h.mu.Lock()
		if known, ok := h.begin[r]; ok {
			ids = known
		} else {
			h.begin[r] = ids
		}
		h.mu.Unlock()
	}
	if len(ids) > maxRoots {
		ids = append(slices.Clone(ids[:maxRoots/2]), ids[len(ids)-maxRoots/2:]...)
	}
	return ids, nil
}

// findRoots walks the whole graph of a room once.
func findRoots(tx *store.Tx, r event.RoomID) ([]event.ID, error) {
	rm, err := tx.Room(r)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if rm.Gaps == 0 {
		return nil, nil
	}
	all, _, err := tx.Missing(r, rm.Leaves, nil, int(^uint(0)>>1))
	if err != nil {
		return nil, err
	}
	held := make(map[event.ID]bool, len(all))
	for _, id := range all {
		held[id] = true
	}
	var roots []event.ID
	for _, id := range all {
		e, err := tx.Event(id)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(e.Prev, func(p event.ID) bool { return !held[p] }) {
			roots = append(roots, id)
		}
	}
	return roots, nil
}

// add notes an event that was committed without its past.
func (h *horizons) add(st *store.Stored) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ids, ok := h.begin[st.Room]; ok && !slices.Contains(ids, st.ID()) {
		h.begin[st.Room] = append(slices.Clone(ids), st.ID())
	}
}

// extendHorizon fetches an event below the horizon and the state before it, and
// lets the graph begin there too. It is kept from the timeline: for clients it is
// history.
func (n *Node) extendHorizon(ctx context.Context, src source, id event.ID) error {
	from, r := src.peer, src.room
	var (
		held, whole bool
		roots       []event.ID
	)
	err := n.store.View(func(tx *store.Tx) (err error) {
		// The create event says nothing: its server may have left and come back.
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		whole = rm.Gaps == 0
		if held, err = tx.Has(id); err != nil || held || whole {
			return err
		}
		if roots, err = n.horizons.roots(tx, r); len(roots) >= maxRoots {
			roots = nil // not all of them: they would prove nothing
		}
		return err
	})
	switch {
	case err != nil || held:
		return err
	case whole:
		return errHistory
	case !n.horizons.points.allow(string(r)):
		return errors.New("the room's budget for events below the horizon is used up")
	}
	page, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	answer, err := ask[stateAnswer](page, n, from, CallState, stateRequest{Room: r, Event: id, For: src.want})
	if err != nil {
		return err
	}
	n.learn(answer.Records)
	if err := n.confirm(ctx, src, id, answer.State, roots); err != nil {
		return err
	}
	x := n.read(r, pdus{answer.Event}, answer.Redactions)[0]
	if x.err != nil || x.ID() != id || x.Type == typeCreate {
		return fmt.Errorf("%w: not the event that was asked for", errBadAnswer)
	}
	b, err := n.fetchState(ctx, src, answer.State, answer.Auth, nil, nil)
	if err != nil {
		return err
	}
	if err := n.keep(ctx, r, b.order()); err != nil {
		return err
	}
	return n.update(ctx, func(tx *store.Tx, fx *effects) error {
		before, err := putState(tx, r, answer.State)
		if err != nil {
			return err
		}
		if _, err = n.commit(tx, fx, x.Event, how{before: before, hidden: true, ApplyOptions: store.ApplyOptions{Horizon: true}}); err != nil {
			return err
		}
		return x.keepRedaction(tx)
	})
}

// confirm asks a second resident for the state before an event and refuses a
// state that the two do not agree on. Where nobody else can tell, the first is
// believed: it can claim no event that was not signed and authorized. But what lies
// below the horizon is an ancestor of where the graph begins here. A resident that
// holds all of that and does not know the event proves that it is made up; taking
// it would cut this node off from those who cannot take it.
func (n *Node) confirm(ctx context.Context, src source, id event.ID, state, roots []event.ID) error {
	first, r := src.peer, src.room
	others, _, err := n.servers(r)
	if err != nil {
		return err
	}
	others = slices.DeleteFunc(others, func(s event.Server) bool { return s == first })
	for _, s := range n.peers.choose(others, askPeers, true) {
		page, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := ask[stateAnswer](page, n, s, CallState, stateRequest{Room: r, Event: id, For: src.want, Roots: roots})
		cancel()
		if isCode(err, codeNoEvent) {
			return fmt.Errorf("%w: %s names an event that %s would know", errBadAnswer, first, s)
		} else if err != nil {
			continue
		}
		if digestOf(sorted(answer.State)) != digestOf(sorted(state)) {
			n.log.Error("ALARM: two servers report different states before the same event", "room", r, "event", id, "peer", first, "other", s)
			n.divergences.Add(1)
			return fmt.Errorf("%w: %s and %s report different states", errBadAnswer, first, s)
		}
		return nil
	}
	return nil
}

func sorted(ids []event.ID) []event.ID {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

// fetchState returns the events of a state and its auth chain that are not known
// here. given are events that came along.
func (n *Node) fetchState(ctx context.Context, src source, state, auth []event.ID, given, redactions pdus) (bundle, error) {
	if len(state)+len(auth) > maxState {
		return nil, fmt.Errorf("%w: a state of %d and %d events", errBadAnswer, len(state), len(auth))
	}
	b := bundle{}
	for _, x := range n.read(src.room, given, redactions) {
		if x.err != nil {
			return nil, fmt.Errorf("%w: %w", errBadAnswer, x.err)
		}
		b[x.ID()] = x
	}
	var ids []event.ID
	asked := map[event.ID]bool{}
	err := n.store.View(func(tx *store.Tx) error {
		for _, id := range slices.Concat(state, auth) {
			if _, err := event.ParseID(string(id)); err != nil {
				return fmt.Errorf("%w: %w", errBadAnswer, err)
			}
			if _, ok := b[id]; ok || asked[id] {
				continue
			}
			asked[id] = true
			if _, err := tx.Lookup(id); errors.Is(err, store.ErrNotFound) {
				ids = append(ids, id)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, n.fetchEvents(ctx, src, ids, b)
}

// maxState is how many events a state and its auth chain may have.
const maxState = 500_000

// putState stores a state given by the ids of known events of the room.
func putState(tx *store.Tx, r event.RoomID, ids []event.ID) (*store.State, error) {
	s := make(room.Snapshot, len(ids))
	for _, id := range ids {
		f, err := tx.Lookup(id)
		if err != nil {
			return nil, fmt.Errorf("state event %s: %w", id, err)
		}
		if f.Rejected || f.StateKey == nil || f.Room != r {
			return nil, fmt.Errorf("%w: %s cannot be in the state", errBadAnswer, id)
		}
		k := room.Key{Type: f.Type, StateKey: *f.StateKey}
		if _, ok := s[k]; ok {
			return nil, fmt.Errorf("%w: two events at one place of the state", errBadAnswer)
		}
		s[k] = id
	}
	if s[room.Key{Type: typeCreate}] != r.Create() {
		return nil, fmt.Errorf("%w: a state without the create event", errBadAnswer)
	}
	return tx.PutState(s)
}

// handleState answers with an event and the state before it.
func (n *Node) handleState(_ context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[stateRequest](body)
	if err != nil {
		return nil, err
	}
	if err := checkRoom(req.Room); err != nil {
		return nil, err
	}
	if err := errors.Join(checkIDs(req.For, maxWant), checkIDs(req.Roots, maxRoots)); err != nil {
		return nil, refuse(codeInvalid, "%v", err)
	}
	ends, resident, err := n.grant(from, req.Room, req.For)
	if err != nil {
		return nil, err
	}
	var answer stateAnswer
	err = n.store.View(func(tx *store.Tx) error {
		st, err := tx.Event(req.Event)
		if errors.Is(err, store.ErrNotFound) || err == nil && (st.Status == store.Outlier || st.Room != req.Room) {
			if whole, err := holdsPast(tx, req.Room, req.Roots); err != nil {
				return err
			} else if whole {
				return refuse(codeNoEvent, "the event is no ancestor of those that the asker's graph begins with")
			}
			return refuse(codeNotFound, "the event is not in the graph here")
		} else if err != nil {
			return err
		}
		if !resident {
			led, err := ancestors(tx, req.Room, []event.ID{req.Event}, ends)
			if err != nil {
				return err
			}
			if len(led) == 0 {
				return errNotHere
			}
		}
		var c copies
		if err := c.add(tx, st); err != nil {
			return err
		}
		answer.Event, answer.Redactions, answer.Records = st.JSON(), raws(c.redactions), c.records(n)
		answer.State, answer.Auth, err = stateIDs(tx, st.Before, st.Auth)
		return err
	})
	return answer, err
}

// holdsPast reports whether events and all their ancestors are held here.
func holdsPast(tx *store.Tx, r event.RoomID, ids []event.ID) (bool, error) {
	rm, err := tx.Room(r)
	if err != nil || rm.Gaps > 0 || len(ids) == 0 {
		return false, err
	}
	unknown, err := absent(tx, ids)
	return err == nil && len(unknown) == 0, err
}

// stateIDs lists a state and the auth chain of it and of further events.
func stateIDs(tx *store.Tx, id store.StateID, further []event.ID) (state, auth []event.ID, err error) {
	st, err := tx.State(id)
	if err != nil {
		return nil, nil, err
	}
	state = []event.ID{}
	err = st.Each("", func(_ room.Key, id event.ID) error {
		state = append(state, id)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	in := make(map[event.ID]bool, len(state))
	for _, id := range state {
		in[id] = true
	}
	seeds := slices.Clone(state)
	for _, id := range further {
		if !in[id] {
			seeds = append(seeds, id)
			auth = append(auth, id)
		}
	}
	chain, err := authChain(tx, seeds)
	return state, append(auth, chain...), err
}
