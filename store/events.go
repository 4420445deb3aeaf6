package store

import (
	"encoding/json"

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
	Outlier                  // known and passed its auth events, but has no place in the graph yet
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

// Room is what the store knows of a room of which it holds the graph.
type Room struct {
	ID      event.RoomID
	Heads   []event.ID // forward extremities X(R), sorted (protocol C4.1)
	Leaves  []event.ID // sync leaves L(R), sorted: soft-failed events included
	Depth   int64      // largest counted depth of Heads
	State   StateID    // current state: resolution over Heads
	Last    Position   // position of the newest thing clients are shown
	Joined  int        // joined members in the current state
	Invited int
	Events  int64 // accepted events
}

// Membership is a local user's place in a room, kept for rooms known only by an
// invite too.
type Membership struct {
	Room       event.RoomID
	User       event.UserID
	Membership string // join, invite, leave, ban, knock
	Event      event.ID
	Sender     event.UserID
	Position   Position        // of the last change
	Forgotten  bool            // hidden from the user (POST forget)
	Stripped   json.RawMessage // invite_state: array of stripped state events, for invites and knocks
	Raw        json.RawMessage // the member event itself when the room's graph is not held here
}

// Apply adds a judged event to the graph: rows, next position, extremities,
// current state, membership indexes, redactions in effect. before is the state
// before it. All prev_events must be there (ErrNotFound), unless horizon says
// that the event's past is not held here (a join, protocol C12.2). Applying an
// event again changes nothing and returns what is stored.
func (tx *Tx) Apply(e *event.Event, v room.Verdict, before *State, o ApplyOptions) (*Stored, error) {
	panic("stub")
}

// ApplyOptions qualify Apply.
type ApplyOptions struct {
	Local   bool // made by this node: the publisher hands it to the network
	Horizon bool // prev_events may be missing
}

// PutOutlier keeps an event that passed its auth events but has no place in the
// graph. Changes nothing if the event is known.
func (tx *Tx) PutOutlier(e *event.Event) error { panic("stub") }

// Event returns an event in any status, or ErrNotFound.
func (tx *Tx) Event(id event.ID) (*Stored, error) { panic("stub") }

// Has reports whether the event is in the graph (known and no outlier).
func (tx *Tx) Has(id event.ID) (bool, error) { panic("stub") }

// Lookup is Event as state resolution wants it (room.Lookup).
func (tx *Tx) Lookup(id event.ID) (room.Found, error) { panic("stub") }

// Room returns a room whose graph is held here, or ErrNotFound.
func (tx *Tx) Room(id event.RoomID) (*Room, error) { panic("stub") }

// Rooms returns the ids of all rooms whose graph is held here.
func (tx *Tx) Rooms() ([]event.RoomID, error) { panic("stub") }

// Timeline returns accepted events of a room with after < position <= to, oldest
// first, at most limit; more says that there were more.
func (tx *Tx) Timeline(r event.RoomID, after, to Position, limit int) (evs []*Stored, more bool, err error) {
	panic("stub")
}

// TimelineBack returns accepted events with position <= from, newest first, at
// most limit; more says that there were more.
func (tx *Tx) TimelineBack(r event.RoomID, from Position, limit int) (evs []*Stored, more bool, err error) {
	panic("stub")
}

// CurrentAt returns the current state of the room as it was when position p was
// the newest: the state clients that synced to p know. ErrNotFound before the
// room's first event.
func (tx *Tx) CurrentAt(r event.RoomID, p Position) (*State, error) { panic("stub") }

// LocalEvent is an entry of the log of this node's own events.
type LocalEvent struct {
	Position Position
	Room     event.RoomID
	ID       event.ID
}

// LocalEvents returns own accepted events after a position, oldest first: what
// the publisher reads.
func (tx *Tx) LocalEvents(after Position, limit int) ([]LocalEvent, error) { panic("stub") }

// Position returns the newest position the transaction sees.
func (tx *Tx) Position() (Position, error) { panic("stub") }

// NextPosition takes the next position, for changes other than events.
func (tx *Tx) NextPosition() (Position, error) { panic("stub") }

// Missing returns the events that are ancestors of want or among them and not
// ancestors of have or among them, by counted depth, oldest first (protocol
// C4.4): at most limit ids; rest counts those left out. Unknown ids are ignored.
func (tx *Tx) Missing(r event.RoomID, want, have []event.ID, limit int) (ids []event.ID, rest int, err error) {
	panic("stub")
}
