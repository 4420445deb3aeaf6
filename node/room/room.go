package room

import (
	"encoding/json"
	"errors"

	"github.com/tokenim/tokenim/node/event"
)

// ErrForbidden says that the authorization rules refuse an event. A RuleError
// says which one.
var ErrForbidden = errors.New("not allowed by the rules of the room")

// RuleError is an ErrForbidden with the number of the rule of room version 12.
type RuleError struct {
	Rule   string // for example "5.3.2"
	Reason string // for people, a sentence without full stop
}

// Error returns the reason and the rule's number.
func (e *RuleError) Error() string { return e.Reason + " (rule " + e.Rule + ")" }

// Unwrap returns ErrForbidden.
func (e *RuleError) Unwrap() error { return ErrForbidden }

// Key names a place in the state of a room.
type Key struct{ Type, StateKey string }

// State is the state of a room at one point.
type State interface {
	// StateEvent returns the event at a place, or nil and no error where there is none.
	StateEvent(typ, key string) (*event.Event, error)
}

// Snapshot is a state by event ids.
type Snapshot map[Key]event.ID

// Found is an event of the graph with what was decided about it.
type Found struct {
	*event.Event
	Rejected bool
}

// Lookup finds an event of the graph by its id. It must find every event that
// the snapshots name and all their auth events.
type Lookup func(event.ID) (Found, error)

// Resolve is state resolution v2.1 (room version 12, State resolution). The
// result does not depend on the order of forks. One fork is returned as it is.
func Resolve(create *event.Event, forks []Snapshot, get Lookup) (Snapshot, error) { panic("stub") }

// Verdict is what a node decided about an event.
type Verdict int

// The verdicts (Server-Server API, Checks performed on receipt of a PDU).
const (
	Accepted   Verdict = iota // allowed at its place and now
	SoftFailed                // allowed at its place, refused by the current state: not shown, not referred to
	Rejected                  // refused by its auth events or by the state before it
)

// Input is all that a verdict depends on.
type Input struct {
	Create  *event.Event // the room's accepted create event; nil when e is it
	Auth    []Found      // the events that e.Auth names, in order
	Before  State        // the state before e, resolved from its prev_events
	Current State        // the resolved state of the forward extremities, or nil to skip the soft-fail check
}

// Judge applies the checks on receipt of a PDU 4, 5 and 6. The error of
// SoftFailed and Rejected is a *RuleError; any other error is a failure to
// decide. Signatures were checked before (event.Event.Signers).
func Judge(e *event.Event, in Input) (Verdict, error) { panic("stub") }

// Authorize applies rules 1 and 4 to 11 to e against st.
func Authorize(e *event.Event, create *event.Event, st State) error { panic("stub") }

// AuthKeys returns the places whose events must be the auth_events of an event
// (Server-Server API, Auth events selection, for room version 12).
func AuthKeys(typ string, stateKey *string, sender event.UserID, content json.RawMessage) []Key {
	panic("stub")
}

// Room is what a node needs to add an event to a room.
type Room struct {
	ID    event.RoomID
	Heads []event.ID // forward extremities
	Depth int64      // largest depth among Heads
}

// Draft completes what a user wants to send: prev_events (at most 10, protocol
// C4.1), auth_events from st, depth. now is in milliseconds.
func (r Room) Draft(st State, sender event.UserID, typ string, stateKey *string, content json.RawMessage, now int64) (event.Body, error) {
	panic("stub")
}

// CreatorPower is the power level of room creators, above every integer that
// power levels can hold (room version 12).
const CreatorPower int64 = 1 << 53

// Levels answers questions about power levels.
type Levels struct{ levels }

type levels struct{}

// LevelsOf reads the power levels of st; create gives the creators.
func LevelsOf(create *event.Event, st State) (Levels, error) { panic("stub") }

// User returns the power level of a user, CreatorPower for creators.
func (l Levels) User(u event.UserID) int64 { panic("stub") }

// Event returns the level that sending an event of the type takes.
func (l Levels) Event(typ string, isState bool) int64 { panic("stub") }

// Action returns the level for "ban", "kick", "invite", "redact", "users_default",
// "events_default" and "state_default".
func (l Levels) Action(name string) int64 { panic("stub") }

// Notification returns the level for notifications.<key>, 50 unless set.
func (l Levels) Notification(key string) int64 { panic("stub") }

// CanRedact reports whether a redaction by redactor takes effect on target
// (room version 3 and later, Handling redactions).
func CanRedact(l Levels, redactor event.UserID, target *event.Event) bool { panic("stub") }

// Visible reports whether a user sees an event (Client-Server API, Room history
// visibility): visibility and membership are those of the state at the event
// (for events that change them, the more permissive of before and after), and
// joinedLater says that the user joined at some point after the event.
func Visible(visibility, membership string, joinedLater bool) bool { panic("stub") }
