package store

import "github.com/tokenim/tokenim/node/event"

// Body returns a known event in any status, without how it stands in the graph:
// as a state names it and clients are shown it. It is what Event returns, for a
// fraction of the cost.
func (tx *Tx) Body(id event.ID) (*event.Event, error) {
	h, ok := eventHash(id)
	if !ok {
		return nil, ErrNotFound
	}
	return tx.event(h)
}

// Last returns the position of the newest thing in a room that clients are shown
// (Room.Last), or ErrNotFound. It is for readers that look at many rooms.
func (tx *Tx) Last(id event.RoomID) (Position, error) {
	h, ok := roomHash(id)
	if !ok {
		return 0, ErrNotFound
	}
	r, err := tx.room(h)
	if err != nil {
		return 0, err
	}
	return r.last, nil
}
