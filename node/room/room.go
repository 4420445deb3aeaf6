package room

import (
	"errors"
	"fmt"

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

// refuse makes a RuleError.
func refuse(rule, format string, args ...any) error {
	return &RuleError{Rule: rule, Reason: fmt.Sprintf(format, args...)}
}

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
// the snapshots name and all their auth events. Resolution asks for each event at
// most twice and keeps only those whose content matters.
type Lookup func(event.ID) (Found, error)

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
// decide. Signatures were checked before (event.Event.Signers): that a required
// one is missing says something about the copy, not about the event, because
// the id does not cover signatures (protocol C12.1).
func Judge(e *event.Event, in Input) (Verdict, error) {
	if e.Type == "m.room.create" {
		return verdict(Rejected, checkCreate(e))
	}
	// Rule 2. The room id is not that of an accepted m.room.create event.
	if in.Create == nil || in.Create.Type != "m.room.create" || in.Create.ID() != e.Room.Create() {
		return Rejected, refuse("2", "%s is not the id of a known group", e.Room)
	}
	if in.Before == nil {
		return Rejected, errors.New("the state before the event is not given")
	}
	rules := newRules(in.Create)
	c := claimOf(e)
	// Check 4: the auth events as such (rule 3), then as a state.
	if err := checkAuthEvents(&c, in.Auth); err != nil {
		return verdict(Rejected, err)
	}
	auth := facts{}
	for i, k := range c.keys() {
		for _, a := range in.Auth {
			if a.Is(k.Type, k.StateKey) {
				auth[i] = a.Event
			}
		}
	}
	if err := rules.check(&c, &auth); err != nil {
		return verdict(Rejected, err)
	}
	// Check 5: the state before the event.
	before, err := factsOf(&c, in.Before)
	if err != nil {
		return Rejected, fmt.Errorf("state before %s: %w", e.ID(), err)
	}
	if !before.same(&auth) {
		if err := rules.check(&c, &before); err != nil {
			return verdict(Rejected, err)
		}
	}
	// Check 6: the current state.
	if in.Current == nil {
		return Accepted, nil
	}
	current, err := factsOf(&c, in.Current)
	if err != nil {
		return Rejected, fmt.Errorf("current state of %s: %w", e.Room, err)
	}
	if !current.same(&before) && !current.same(&auth) {
		if err := rules.check(&c, &current); err != nil {
			return verdict(SoftFailed, err)
		}
	}
	return Accepted, nil
}

// verdict is v if err is nil or a refusal. What is undecided counts as rejected
// for those who forget to look at the error.
func verdict(v Verdict, err error) (Verdict, error) {
	if err == nil {
		return Accepted, nil
	}
	if !errors.Is(err, ErrForbidden) {
		return Rejected, err
	}
	return v, err
}

// Authorize applies rules 1 and 4 to 11 to e against st. A refusal is a
// *RuleError; any other error is a failure to decide.
func Authorize(e *event.Event, create *event.Event, st State) error {
	if e.Type == "m.room.create" {
		return checkCreate(e)
	}
	if create == nil {
		return errors.New("a room without create event")
	}
	c := claimOf(e)
	f, err := factsOf(&c, st)
	if err != nil {
		return err
	}
	return newRules(create).check(&c, &f)
}
