package store

import (
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// State is a stored state of a room. It implements room.State and is valid
// while its transaction is.
type State struct{}

var _ room.State = (*State)(nil)

// ID names the state.
func (s *State) ID() StateID { panic("stub") }

// StateEvent implements room.State.
func (s *State) StateEvent(typ, key string) (*event.Event, error) { panic("stub") }

// Get returns the id of the event at a place.
func (s *State) Get(k room.Key) (event.ID, bool, error) { panic("stub") }

// Each calls fn for every place, in the order of type and state key; typ
// restricts it to one type unless empty. An error of fn ends it and is returned.
func (s *State) Each(typ string, fn func(room.Key, event.ID) error) error { panic("stub") }

// Snapshot returns the whole state.
func (s *State) Snapshot() (room.Snapshot, error) { panic("stub") }

// Hash is the state_hash of protocol C4.1.
func (s *State) Hash() ([32]byte, error) { panic("stub") }

// State loads a stored state.
func (tx *Tx) State(id StateID) (*State, error) { panic("stub") }

// StateAt returns the state after the given events, resolved by v2.1 if there
// are several. ErrNotFound if one is not in the graph.
func (tx *Tx) StateAt(r event.RoomID, ids []event.ID) (*State, error) { panic("stub") }

// PutState stores a state given as a whole, as a join receives it. The events
// it names must be known.
func (tx *Tx) PutState(s room.Snapshot) (*State, error) { panic("stub") }

// Changed calls fn for every place that differs between two states; now is empty
// where the place is empty in to.
func (tx *Tx) Changed(from, to StateID, fn func(k room.Key, was, now event.ID) error) error {
	panic("stub")
}

// Memberships returns the rows of a local user.
func (tx *Tx) Memberships(u event.UserID) ([]Membership, error) { panic("stub") }

// Membership returns one row of a local user, or ErrNotFound.
func (tx *Tx) Membership(u event.UserID, r event.RoomID) (*Membership, error) { panic("stub") }

// PutMembership writes a row for a room whose graph is not held here, or
// changes Forgotten. It sets Position to a new one if that is zero.
func (tx *Tx) PutMembership(m Membership) error { panic("stub") }

// LocalMembers returns the local users with this membership in the current state.
func (tx *Tx) LocalMembers(r event.RoomID, membership string) ([]event.UserID, error) { panic("stub") }

// Servers returns the servers with joined users and how many each has, from the
// current state.
func (tx *Tx) Servers(r event.RoomID) (map[event.Server]int, error) { panic("stub") }
