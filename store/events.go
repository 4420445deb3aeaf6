package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// Status says how an event stands in the graph of its room.
type Status byte

// The statuses of a stored event.
const (
	Accepted   Status = iota // in the graph and shown
	SoftFailed               // in the graph, not shown, not referred to
	Rejected                 // in the graph without effect
	Outlier                  // known, but has no place in the graph yet; see PutOutlier and PutRefused
)

// StateID names a stored state; 0 is the empty state.
type StateID uint64

// Stored is an event as the store holds it.
type Stored struct {
	*event.Event
	Status     Status
	Position   Position // 0 unless Accepted
	Depth      int64    // counted here: largest depth of the prev events + 1 (C12.8); shadows Event.Depth
	Before     StateID  // state before it (not for outliers)
	After      StateID  // state after it
	RedactedBy event.ID // the redaction in effect, if any
	Local      bool     // created by this node
}

// vertex is what the store knows of an event besides its bytes. Walks through
// the graph read only this.
type vertex struct {
	status     Status
	local      bool
	redacted   bool // the stored bytes are the redacted form
	horizon    bool // prev events may be missing
	refused    bool // an outlier that its auth events refuse
	membership byte // of an m.room.member event, see membershipNames
	position   Position
	depth      int64
	before     StateID
	after      StateID
	room       hash
	redactedBy hash
	prevs      []hash
}

func (v *vertex) encode() []byte {
	e := encoder{b: make([]byte, 0, 72+32*(len(v.prevs)+1))}
	e.byte(byte(v.status))
	var flags byte
	for i, set := range []bool{v.local, v.redacted, v.horizon, v.refused} {
		if set {
			flags |= 1 << i
		}
	}
	e.byte(flags)
	e.byte(v.membership)
	e.number(uint64(v.position))
	e.number(uint64(v.depth))
	e.number(uint64(v.before))
	e.number(uint64(v.after))
	e.hash(v.room)
	e.bool(v.redactedBy != none)
	if v.redactedBy != none {
		e.hash(v.redactedBy)
	}
	e.hashes(v.prevs)
	return e.b
}

func decodeVertex(b []byte) (*vertex, error) {
	d := decoder{b: b}
	v := &vertex{status: Status(d.byte())}
	flags := d.byte()
	v.local, v.redacted, v.horizon, v.refused = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0
	v.membership = d.byte()
	v.position = Position(d.number())
	v.depth = int64(d.number())
	v.before, v.after = StateID(d.number()), StateID(d.number())
	v.room = d.hash()
	if d.bool() {
		v.redactedBy = d.hash()
	}
	v.prevs = d.hashes()
	return v, d.end("event")
}

// vertex returns the row of an event in any status, or ErrNotFound.
func (tx *Tx) vertex(h hash) (*vertex, error) {
	b, err := tx.get(keyHash(kindNode, h))
	if err != nil {
		return nil, err
	}
	return decodeVertex(b)
}

// inGraph returns the row of an event of the graph, or ErrNotFound.
func (tx *Tx) inGraph(id event.ID) (hash, *vertex, error) {
	h, ok := eventHash(id)
	if !ok {
		return h, nil, ErrNotFound
	}
	v, err := tx.vertex(h)
	if err == nil && v.status == Outlier {
		err = ErrNotFound
	}
	return h, v, err
}

func (tx *Tx) setVertex(h hash, v *vertex) error {
	return tx.put(keyHash(kindNode, h), v.encode(), v.status == Outlier)
}

// event returns the bytes of a known event, parsed.
func (tx *Tx) event(h hash) (*event.Event, error) {
	if e, ok := tx.s.events.get(h); ok && !tx.stale[h] {
		return e, nil
	}
	v, err := tx.vertex(h)
	if err != nil {
		return nil, err
	}
	return tx.body(h, v)
}

func (tx *Tx) body(h hash, v *vertex) (*event.Event, error) {
	if e, ok := tx.s.events.get(h); ok && !tx.stale[h] {
		return e, nil
	}
	raw, err := tx.get(keyHash(kindBody, h))
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: event %s has no bytes", errCorrupt, h.event())
	}
	if err != nil {
		return nil, err
	}
	e, err := event.Load(h.event(), raw, v.redacted)
	if err != nil {
		return nil, fmt.Errorf("%w: event %s: %w", errCorrupt, h.event(), err)
	}
	if !tx.stale[h] {
		tx.s.events.keep(h, e, tx.epoch)
	}
	return e, nil
}

func (tx *Tx) stored(h hash, v *vertex) (*Stored, error) {
	e, err := tx.body(h, v)
	if err != nil {
		return nil, err
	}
	s := &Stored{
		Event: e, Status: v.status, Position: v.position, Depth: v.depth,
		Before: v.before, After: v.after, Local: v.local,
	}
	if v.redactedBy != none {
		s.RedactedBy = v.redactedBy.event()
	}
	return s, nil
}

// Event returns an event in any status, or ErrNotFound.
func (tx *Tx) Event(id event.ID) (*Stored, error) {
	h, ok := eventHash(id)
	if !ok {
		return nil, ErrNotFound
	}
	v, err := tx.vertex(h)
	if err != nil {
		return nil, err
	}
	return tx.stored(h, v)
}

// Has reports whether the event is in the graph (known and no outlier).
func (tx *Tx) Has(id event.ID) (bool, error) {
	_, _, err := tx.inGraph(id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Lookup is Event as state resolution wants it (room.Lookup).
func (tx *Tx) Lookup(id event.ID) (room.Found, error) {
	h, ok := eventHash(id)
	if !ok {
		return room.Found{}, ErrNotFound
	}
	v, err := tx.vertex(h)
	if err != nil {
		return room.Found{}, fmt.Errorf("event %s: %w", id, err)
	}
	e, err := tx.body(h, v)
	return room.Found{Event: e, Rejected: v.status == Rejected || v.refused}, err
}

// Room is what the store knows of a room of which it holds the graph.
type Room struct {
	ID      event.RoomID
	Heads   []event.ID // forward extremities X(R), sorted (protocol C4.1)
	Leaves  []event.ID // sync leaves L(R), sorted: soft-failed events included
	Depth   int64      // largest counted depth of Heads
	State   StateID    // current state: resolution over Heads
	Last    Position   // position of the newest thing clients are shown: an event or a receipt
	Joined  int        // joined members in the current state
	Invited int
	Events  int64 // accepted events
	Gaps    int   // references to prev_events that were not there when their event came (ApplyOptions.Horizon)
}

// head is a forward extremity with what is needed of it often.
type head struct {
	id    hash
	after StateID
	depth int64
}

// roomRow is the row of a room.
type roomRow struct {
	heads       []head
	leaves      []hash
	state       StateID
	last        Position
	joined      int
	invited     int
	localJoined int // of joined, the users of this server
	events      int64
	gaps        int // references to prev events that were not there (kindGap)
}

func (r *roomRow) encode() []byte {
	e := encoder{b: make([]byte, 0, 32+44*len(r.heads)+32*len(r.leaves))}
	e.number(uint64(len(r.heads)))
	for _, h := range r.heads {
		e.hash(h.id)
		e.number(uint64(h.after))
		e.number(uint64(h.depth))
	}
	e.hashes(r.leaves)
	e.number(uint64(r.state))
	e.number(uint64(r.last))
	for _, n := range []int{r.joined, r.invited, r.localJoined} {
		e.number(uint64(n))
	}
	e.number(uint64(r.events))
	e.number(uint64(r.gaps))
	return e.b
}

func decodeRoom(b []byte) (*roomRow, error) {
	d := decoder{b: b}
	r := &roomRow{}
	n := d.number()
	for i := uint64(0); i < n && !d.bad; i++ {
		r.heads = append(r.heads, head{d.hash(), StateID(d.number()), int64(d.number())})
	}
	r.leaves = d.hashes()
	r.state, r.last = StateID(d.number()), Position(d.number())
	r.joined, r.invited, r.localJoined = int(d.number()), int(d.number()), int(d.number())
	r.events, r.gaps = int64(d.number()), int(d.number())
	return r, d.end("room")
}

func (tx *Tx) room(h hash) (*roomRow, error) {
	b, err := tx.get(keyHash(kindRoom, h))
	if err != nil {
		return nil, err
	}
	return decodeRoom(b)
}

// touchRoom records news of a room, if the room is held here.
func (tx *Tx) touchRoom(h hash, p Position) error {
	r, err := tx.room(h)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	r.last = p
	return tx.set(keyHash(kindRoom, h), r.encode())
}

// Room returns a room whose graph is held here, or ErrNotFound.
func (tx *Tx) Room(id event.RoomID) (*Room, error) {
	h, ok := roomHash(id)
	if !ok {
		return nil, ErrNotFound
	}
	row, err := tx.room(h)
	if err != nil {
		return nil, err
	}
	r := &Room{
		ID: id, State: row.state, Last: row.last, Joined: row.joined, Invited: row.invited, Events: row.events, Gaps: row.gaps,
		Heads: make([]event.ID, 0, len(row.heads)), Leaves: make([]event.ID, 0, len(row.leaves)),
	}
	for _, h := range row.heads {
		r.Heads = append(r.Heads, h.id.event())
		r.Depth = max(r.Depth, h.depth)
	}
	for _, h := range row.leaves {
		r.Leaves = append(r.Leaves, h.event())
	}
	slices.Sort(r.Heads)
	slices.Sort(r.Leaves)
	return r, nil
}

// Rooms returns the ids of all rooms whose graph is held here.
func (tx *Tx) Rooms() ([]event.RoomID, error) { return tx.roomsOf(kindRoom) }
