package store

import (
	"fmt"

	"github.com/tokenim/tokenim/node/event"
)

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
	b, err := tx.get(keyHash(kindRoom, h))
	if err != nil {
		return 0, err
	}
	return lastOf(b)
}

// lastOf reads one field of a roomRow without the lists before it.
func lastOf(row []byte) (Position, error) {
	d := decoder{b: row}
	for n := d.number(); n > 0 && !d.bad; n-- { // heads
		d.take(uint64(len(hash{})))
		d.number()
		d.number()
	}
	for n := d.number(); n > 0 && !d.bad; n-- { // leaves
		d.take(uint64(len(hash{})))
	}
	d.number() // state
	last := Position(d.number())
	if d.bad {
		return 0, fmt.Errorf("%w: room row is malformed", errCorrupt)
	}
	return last, nil
}
