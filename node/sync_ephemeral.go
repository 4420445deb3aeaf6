package node

import (
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// typists returns who is typing in a room if the client must be told, else nil.
func (s *syncer) typists(r event.RoomID) []event.UserID {
	list, ok := s.typing[r]
	f := &s.filter.Room.Ephemeral
	if !ok || !f.room(r) || !f.typ("m.typing") {
		return nil
	}
	return slices.DeleteFunc(list, s.ignored.has)
}

// receipts returns the receipts of a room that are newer than since. Private ones
// are shown to their owner only (Private read receipts).
func (s *syncer) receipts(r event.RoomID, since store.Position) ([]store.Receipt, error) {
	f := &s.filter.Room.Ephemeral
	if !f.room(r) || !f.typ("m.receipt") {
		return nil, nil
	}
	all, err := s.tx.Receipts(r, since)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(rc store.Receipt) bool {
		return rc.Type == receiptPrivate && rc.User != s.req.User || s.ignored.has(rc.User)
	}), nil
}
