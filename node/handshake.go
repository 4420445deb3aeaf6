package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// maxDepth is the largest depth that an event can have.
const maxDepth = event.MaxInteger

// joinThrough joins through one of the candidates, in turn. The error says most
// about the room: a refusal before silence.
func (n *Node) joinThrough(ctx context.Context, user event.UserID, r event.RoomID, candidates []event.Server, extra map[string]json.RawMessage) error {
	var refused error
	for _, s := range candidates {
		err := n.joinAt(ctx, user, r, s, extra)
		if err == nil {
			return nil
		}
		n.log.Info("a join was not possible through a server", "room", r, "server", s, "error", err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case isRefusal(err) && (refused == nil || !isCode(err, codeNotFound)):
			refused = err
		case errors.Is(err, room.ErrForbidden) && refused == nil:
			refused = err
		case errors.Is(err, store.ErrClosed), errors.Is(err, store.ErrDiskFull):
			return err
		}
	}
	if refused != nil {
		return refused
	}
	return fmt.Errorf("%w: %s", ErrNoRoute, r)
}

// joinAt does the handshake with one resident (protocol C5).
func (n *Node) joinAt(ctx context.Context, user event.UserID, r event.RoomID, s event.Server, extra map[string]json.RawMessage) error {
	t, err := ask[template](ctx, n, s, CallMakeJoin, makeJoinRequest{Room: r, User: user})
	if err != nil {
		return err
	}
	e, create, err := n.fromTemplate(r, s, user, join, extra, t)
	if err != nil {
		return err
	}
	answer, err := ask[joinAnswer](ctx, n, s, CallSendJoin, sendJoinRequest{Event: e.JSON()})
	if err != nil {
		return err
	}
	n.learn(answer.Records)
	if e, err = n.cosigned(e, answer.Event); err != nil {
		return err
	}
	b, err := n.fetchState(ctx, source{peer: s, room: r}, answer.State, answer.Auth, answer.Events, answer.Redactions)
	if err != nil {
		return err
	}
	if _, ok := b[create.ID()]; !ok {
		b[create.ID()] = received{Event: create}
	}
	if err := n.checkState(r, create, e, answer, b); err != nil {
		return err
	}
	// A room that was left before: fill the gap first, then the join is an event
	// like others. The resident has taken the join, so it answers.
	if n.fill(ctx, s, r, e.Prev) {
		if err := n.enter(ctx, r, e, nil, nil); err == nil {
			n.entered(r, s)
			return nil
		}
	}
	if err := n.enter(ctx, r, e, b.order(), answer.State); err != nil {
		return err
	}
	n.entered(r, s)
	return nil
}

// entered begins the life in a room: what happened during the handshake is
// fetched at once.
func (n *Node) entered(r event.RoomID, s event.Server) {
	n.peers.compare(s, r)
	n.peers.doubt(r, s)
}

// fromTemplate builds and signs a membership event of a local user. From the
// template come ids, the depth and the authorising user, each after a check, and
// nothing else (invariant I4).
func (n *Node) fromTemplate(r event.RoomID, from event.Server, user event.UserID, membership string, extra map[string]json.RawMessage, t template) (e, create *event.Event, err error) {
	if t.Version != roomVersion {
		return nil, nil, refuse(codeVersion, "the group has room version %.20q", t.Version)
	}
	n.learn(t.Records)
	// The room id is the hash of the create event, so nobody can show another one.
	// The hash does not cover the signatures, which others will ask for.
	create, err = event.Parse(t.Create)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	if create.Type != typeCreate || create.ID().Room() != r {
		return nil, nil, fmt.Errorf("%w: a create event of another room", errBadAnswer)
	}
	if err := n.verify(create); err != nil {
		return nil, nil, fmt.Errorf("%w: the create event: %w", errBadAnswer, err)
	}
	if v, err := room.Judge(create, room.Input{}); v != room.Accepted {
		return nil, nil, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	if create.Field("room_version") != roomVersion {
		return nil, nil, refuse(codeVersion, "the group has another room version")
	}
	if len(t.Prev) == 0 || len(t.Prev) > event.MaxPrev || checkIDs(t.Prev, event.MaxPrev) != nil {
		return nil, nil, fmt.Errorf("%w: bad prev_events", errBadAnswer)
	}
	if t.Via != "" && (membership != join || t.Via.Server() != from) {
		return nil, nil, fmt.Errorf("%w: %s cannot authorise through %s", errBadAnswer, t.Via, from)
	}
	var content json.RawMessage
	err = n.store.View(func(tx *store.Tx) (err error) {
		content, err = n.memberContent(tx, user, membership, extra, t.Via)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	key := string(user)
	auth, err := n.templateAuth(r, user, content, t)
	if err != nil {
		return nil, nil, err
	}
	now := n.cfg.Now().UnixMilli()
	b := event.Body{
		Room: r, Type: typeMember, StateKey: &key, Sender: user, Content: content,
		Prev: sorted(slices.Compact(sorted(t.Prev))), Auth: []event.ID{}, Depth: min(max(t.Depth, 1), maxDepth), Time: now,
	}
	for _, a := range auth {
		b.Auth = append(b.Auth, a.ID())
		b.Time = timeAfter(a.Event, b.Time, now)
	}
	e, err = event.Sign(b, n.cfg.Key)
	return e, create, err
}

// templateAuth checks the auth events of a template: signed events of the room
// at the places where auth events must be taken from, each once.
func (n *Node) templateAuth(r event.RoomID, user event.UserID, content json.RawMessage, t template) ([]received, error) {
	key := string(user)
	keys := room.AuthKeys(typeMember, &key, user, content)
	if len(t.Auth) > len(keys) {
		return nil, fmt.Errorf("%w: %d auth events", errBadAnswer, len(t.Auth))
	}
	auth := n.read(r, t.Auth, t.Redactions)
	taken := map[room.Key]bool{}
	for _, x := range auth {
		if x.err != nil {
			return nil, fmt.Errorf("%w: %w", errBadAnswer, x.err)
		}
		if x.StateKey == nil {
			return nil, fmt.Errorf("%w: an auth event without state key", errBadAnswer)
		}
		k := room.Key{Type: x.Type, StateKey: *x.StateKey}
		if taken[k] || !slices.Contains(keys, k) {
			return nil, fmt.Errorf("%w: an auth event of type %.60q", errBadAnswer, x.Type)
		}
		taken[k] = true
	}
	return auth, nil
}

// cosigned takes the copy of our event that a peer sent back, if it is that
// event and carries all signatures that it must.
func (n *Node) cosigned(e *event.Event, raw json.RawMessage) (*event.Event, error) {
	if len(raw) == 0 {
		return e, n.verify(e)
	}
	back, err := event.Parse(raw)
	if err != nil || back.ID() != e.ID() || back.Redacted() {
		return nil, fmt.Errorf("%w: another event came back", errBadAnswer)
	}
	if err := n.verify(back); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	return back, nil
}

// checkState checks what a resident says about a room: every event is authorized
// by its auth events, none is missing, the state has one event at each place, and
// it allows the join.
func (n *Node) checkState(r event.RoomID, create, e *event.Event, answer joinAnswer, b bundle) error {
	return n.store.View(func(tx *store.Tx) error {
		checked := make(map[event.ID]*event.Event, len(b))
		find := func(id event.ID) (room.Found, error) {
			if x := checked[id]; x != nil {
				return room.Found{Event: x}, nil
			}
			return tx.Lookup(id)
		}
		for _, x := range b.order() {
			if v, err := judgeByAuth(x.Event, create, find); v != room.Accepted {
				return fmt.Errorf("%w: %s is not authorized: %w", errBadAnswer, x.ID(), err)
			}
			checked[x.ID()] = x.Event
		}
		before := authState{}
		for _, id := range answer.State {
			x, err := find(id)
			if err != nil {
				return fmt.Errorf("%w: state event %s: %w", errBadAnswer, id, err)
			}
			if x.Rejected || x.StateKey == nil || x.Room != r {
				return fmt.Errorf("%w: %s cannot be in the state", errBadAnswer, id)
			}
			k := room.Key{Type: x.Type, StateKey: *x.StateKey}
			if before[k] != nil {
				return fmt.Errorf("%w: two events at one place of the state", errBadAnswer)
			}
			before[k] = x.Event
		}
		if before[room.Key{Type: typeCreate}] == nil {
			return fmt.Errorf("%w: a state without the create event", errBadAnswer)
		}
		in := room.Input{Create: create, Before: before}
		for _, id := range e.Auth {
			x, err := find(id)
			if err != nil {
				return fmt.Errorf("%w: auth event %s: %w", errBadAnswer, id, err)
			}
			in.Auth = append(in.Auth, x)
		}
		_, err := room.Judge(e, in)
		return err
	})
}

// enter commits a join. events are what is to be known before; state is the
// state before the join, nil if its past is held here.
func (n *Node) enter(ctx context.Context, r event.RoomID, e *event.Event, events []received, state []event.ID) error {
	for len(events) > 0 {
		k := pieces(events)
		err := n.store.Update(ctx, func(tx *store.Tx) error {
			for _, x := range events[:k] {
				if err := tx.PutOutlier(x.Event); err != nil {
					return err
				}
				if err := x.keepRedaction(tx); err != nil {
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
	return n.update(ctx, func(tx *store.Tx, fx *effects) (err error) {
		o := how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}}
		if state != nil {
			o.Horizon = true
			if o.before, err = putState(tx, r, state); err != nil {
				return err
			}
		}
		_, err = n.commit(tx, fx, e, o)
		return err
	})
}

// fill brings a graph that is held here up to some events, and reports whether
// it got there.
func (n *Node) fill(ctx context.Context, s event.Server, r event.RoomID, ids []event.ID) bool {
	held := false
	err := n.store.View(func(tx *store.Tx) error {
		_, err := tx.Room(r)
		held = err == nil
		return nil
	})
	if err != nil || !held {
		return false
	}
	w := &wish{room: r, want: slices.Clone(ids)}
	for more := true; more; {
		if more, err = n.page(ctx, s, w); err != nil {
			n.log.Info("the gap since a room was left was not filled", "room", r, "server", s, "error", err)
			return false
		}
	}
	left, err := n.unknown(ids)
	return err == nil && len(left) == 0
}

// turns lets one goroutine at a time do something about a room.
type turns struct {
	mu   sync.Mutex // guards busy
	busy map[event.RoomID]chan struct{}
}

// enter waits for the turn; the function ends it.
func (t *turns) enter(ctx context.Context, r event.RoomID) (func(), error) {
	for {
		t.mu.Lock()
		wait, ok := t.busy[r]
		if !ok {
			mine := make(chan struct{})
			t.busy[r] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.busy, r)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
