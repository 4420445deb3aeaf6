package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// ApplyOptions qualify Apply.
type ApplyOptions struct {
	Local   bool // made by this node: the publisher hands it to the network
	Horizon bool // prev_events may be missing
}

// maxHorizonDepth bounds the depth that the author of an event with missing
// prev_events claims, so that counting on from it cannot overflow what JSON
// integers hold.
const maxHorizonDepth = 1 << 52

// Apply adds a judged event to the graph: rows, next position, extremities,
// current state, membership indexes, redactions in effect. before is the state
// before it (nil for a create event). All prev_events must be there
// (ErrNotFound), unless horizon says that the event's past is not held here (a
// join, protocol C12.2). Applying an event again changes nothing and returns
// what is stored. After any other error than ErrNotFound the function given to
// Update cannot commit any more.
//
// Extremities are what they are whatever the order of arrival. A head is an
// accepted event that no accepted event refers to; a leaf is an accepted or
// soft-failed event that no accepted or soft-failed event refers to. A rejected
// event hides nothing (protocol C12.15).
func (tx *Tx) Apply(e *event.Event, v room.Verdict, before *State, o ApplyOptions) (*Stored, error) {
	if tx.own == nil {
		return nil, errReadOnly
	}
	a, err := tx.prepare(e, o)
	if err != nil {
		return nil, err
	}
	if a.done != nil {
		return tx.stored(a.id, a.done)
	}
	if err := tx.apply(a, v, before); err != nil {
		tx.broken = fmt.Errorf("apply %s: %w", e.ID(), err)
		return nil, tx.broken
	}
	return tx.stored(a.id, &a.v)
}

// applied is an event on its way into the graph.
type applied struct {
	e       *event.Event
	id      hash
	v       vertex
	known   *vertex  // the row of the outlier it was
	done    *vertex  // it is in the graph already
	row     *roomRow // of its room
	newRoom bool
	missing []hash // prev events that are not there
}

// prepare checks an event and finds its place. It writes nothing.
func (tx *Tx) prepare(e *event.Event, o ApplyOptions) (*applied, error) {
	a := &applied{e: e}
	var ok bool
	if a.id, ok = eventHash(e.ID()); !ok {
		return nil, badID(string(e.ID()))
	}
	old, err := tx.vertex(a.id)
	switch {
	case err == nil && old.status != Outlier:
		a.done = old
		return a, nil
	case err == nil:
		a.known = old
	case !errors.Is(err, ErrNotFound):
		return nil, err
	}
	if a.v, err = newVertex(a.id, e); err != nil {
		return nil, err
	}
	a.v.local, a.v.horizon = o.Local, o.Horizon
	if a.known != nil {
		a.v.redacted, a.v.redactedBy = a.known.redacted, a.known.redactedBy
	}
	for _, p := range a.v.prevs {
		prev, err := tx.vertex(p)
		switch {
		case err == nil && prev.status != Outlier && prev.room == a.v.room:
			a.v.depth = max(a.v.depth, prev.depth)
		case err != nil && !errors.Is(err, ErrNotFound):
			return nil, err
		case o.Horizon:
			a.missing = append(a.missing, p)
		default:
			return nil, fmt.Errorf("prev event %s of %s: %w", p.event(), e.ID(), ErrNotFound)
		}
	}
	if len(a.v.prevs) == 0 && !isCreate(e) && !o.Horizon {
		return nil, fmt.Errorf("prev events of %s: %w", e.ID(), ErrNotFound)
	}
	a.v.depth++
	if len(a.missing) > 0 {
		a.v.depth = max(a.v.depth, min(e.Depth, maxHorizonDepth))
	}
	a.row, err = tx.room(a.v.room)
	if errors.Is(err, ErrNotFound) {
		a.row, a.newRoom, err = &roomRow{}, true, nil
	}
	return a, err
}

func isCreate(e *event.Event) bool { return e.Is("m.room.create", "") }

// newVertex takes what an event says about itself.
func newVertex(id hash, e *event.Event) (vertex, error) {
	v := vertex{redacted: e.Redacted()}
	r := e.Room
	if r == "" && isCreate(e) {
		r = e.ID().Room()
	}
	var ok bool
	if v.room, ok = roomHash(r); !ok {
		return v, badID(string(r))
	}
	for _, p := range e.Prev {
		h, ok := eventHash(p)
		if !ok || h == id {
			return v, badID(string(p))
		}
		if !slices.Contains(v.prevs, h) {
			v.prevs = append(v.prevs, h)
		}
	}
	if e.Type == typeMember && e.StateKey != nil {
		v.membership = membershipCode(e.Membership())
	}
	return v, nil
}

// apply writes all that follows from an event.
func (tx *Tx) apply(a *applied, verdict room.Verdict, before *State) error {
	a.v.status = statusOf(verdict)
	if err := tx.applyState(a, before); err != nil {
		return err
	}
	if a.known == nil {
		if err := tx.put(keyHash(kindBody, a.id), a.e.JSON(), true); err != nil {
			return err
		}
		if !tx.stale[a.id] {
			tx.s.events.keep(a.id, a.e, tx.epoch)
		}
	}
	if a.v.status == Accepted {
		p, err := tx.NextPosition()
		if err != nil {
			return err
		}
		a.v.position = p
	}
	if err := tx.setVertex(a.id, &a.v); err != nil {
		return err
	}
	if a.v.status == Rejected && a.newRoom {
		return nil // a rejected event does not make a room
	}
	if err := tx.extend(a); err != nil {
		return err
	}
	if a.v.status == Accepted {
		if err := tx.show(a); err != nil {
			return err
		}
	}
	if err := tx.set(keyHash(kindRoom, a.v.room), a.row.encode()); err != nil {
		return err
	}
	return tx.applyRedactions(a)
}

func statusOf(v room.Verdict) Status {
	switch v {
	case room.Accepted:
		return Accepted
	case room.SoftFailed:
		return SoftFailed
	}
	return Rejected
}

// applyState finds the states before and after the event.
func (tx *Tx) applyState(a *applied, before *State) error {
	var c chain
	if before != nil {
		c = before.chain
	}
	if len(c) > 0 {
		if err := tx.storeLoose(c[0]); err != nil {
			return err
		}
	}
	a.v.before, a.v.after = c.id(), c.id()
	if a.e.StateKey == nil || a.v.status == Rejected {
		return nil
	}
	k := room.Key{Type: a.e.Type, StateKey: *a.e.StateKey}
	if c.find(k) == a.id {
		return nil
	}
	l, err := tx.newLayer(c, []entry{{k, a.id}})
	if err != nil {
		return err
	}
	a.v.after = l.id
	return nil
}

// extend updates the extremities of the room.
func (tx *Tx) extend(a *applied) error {
	isHead, isLeaf := a.v.status == Accepted, a.v.status != Rejected
	if a.row.gaps > 0 {
		children, err := tx.gapChildren(a.id)
		if err != nil {
			return err
		}
		for _, c := range children {
			v, err := tx.vertex(c)
			if err != nil {
				return err
			}
			isHead = isHead && v.status != Accepted
			isLeaf = isLeaf && v.status == Rejected
		}
	}
	for _, p := range a.missing {
		children, err := tx.gapChildren(p)
		if err != nil {
			return err
		}
		var e encoder
		e.hashes(append(children, a.id))
		if err := tx.set(keyHash(kindGap, p), e.b); err != nil {
			return err
		}
		a.row.gaps++
	}
	if a.v.status == Accepted {
		a.row.heads = slices.DeleteFunc(a.row.heads, func(h head) bool { return slices.Contains(a.v.prevs, h.id) })
	}
	if a.v.status != Rejected {
		a.row.leaves = slices.DeleteFunc(a.row.leaves, func(h hash) bool { return slices.Contains(a.v.prevs, h) })
	}
	if isHead {
		a.row.heads = append(a.row.heads, head{a.id, a.v.after, a.v.depth})
	}
	if isLeaf {
		a.row.leaves = append(a.row.leaves, a.id)
	}
	return nil
}

// gapChildren returns the events that refer to one that was missing when they came.
func (tx *Tx) gapChildren(h hash) ([]hash, error) {
	b, err := tx.get(keyHash(kindGap, h))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d := decoder{b: b}
	children := d.hashes()
	return children, d.end("gap")
}

// show makes an accepted event visible: current state, members, timeline, counts.
func (tx *Tx) show(a *applied) error {
	states := make([]StateID, len(a.row.heads))
	for i, h := range a.row.heads {
		states[i] = h.after
	}
	current, err := tx.resolve(a.v.room, states)
	if err != nil {
		return err
	}
	t, err := tx.changeTotals()
	if err != nil {
		return err
	}
	federated := a.row.joined > a.row.localJoined
	if current.id() != a.row.state {
		old, err := tx.chain(a.row.state)
		if err != nil {
			return err
		}
		if err := tx.changeMembers(a, changes(old, current)); err != nil {
			return err
		}
		a.row.state = current.id()
	}
	if a.newRoom {
		t.counts.Rooms++
	}
	if now := a.row.joined > a.row.localJoined; now && !federated {
		t.counts.Federated++
	} else if !now && federated {
		t.counts.Federated--
	}
	a.row.last = a.v.position
	a.row.events++
	if a.v.local {
		t.counts.LocalEvents++
		var e encoder
		e.hash(a.v.room)
		e.hash(a.id)
		if err := tx.set(keyNumber(kindLocal, uint64(a.v.position)), e.b); err != nil {
			return err
		}
	} else {
		t.counts.RemoteEvents++
	}
	return tx.set(keyHashNumber(kindTimeline, a.v.room, uint64(a.v.position)), encodeTimeline(a.id, a.row.state))
}

// PutOutlier keeps an event that passed its auth events but has no place in the
// graph. Changes nothing if the event is known.
func (tx *Tx) PutOutlier(e *event.Event) error { return tx.putOutlier(e, false) }

// PutRefused keeps an event that its auth events refuse and that has no place in
// the graph: what names it as an auth event is refused too. It is judged again
// with its state when its place is known, so that what stands on it has a state.
// Changes nothing if the event is known.
func (tx *Tx) PutRefused(e *event.Event) error { return tx.putOutlier(e, true) }

func (tx *Tx) putOutlier(e *event.Event, refused bool) error {
	h, ok := eventHash(e.ID())
	if !ok {
		return badID(string(e.ID()))
	}
	known, err := tx.has(keyHash(kindNode, h))
	if err != nil || known {
		return err
	}
	v, err := newVertex(h, e)
	if err != nil {
		return err
	}
	v.status, v.refused = Outlier, refused
	if err := tx.put(keyHash(kindBody, h), e.JSON(), true); err != nil {
		return err
	}
	if err := tx.setVertex(h, &v); err != nil {
		return err
	}
	return tx.applyRedactions(&applied{e: e, id: h, v: v})
}
