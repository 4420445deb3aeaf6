package store

import (
	"fmt"

	"github.com/tokenim/tokenim/node/event"
)

// Timeline returns accepted events of a room with after < position <= to, oldest
// first, at most limit; more says that there were more.
func (tx *Tx) Timeline(r event.RoomID, after, to Position, limit int) (evs []*Stored, more bool, err error) {
	in, ok := roomHash(r)
	if !ok || after >= to {
		return nil, false, nil
	}
	err = tx.each(keyHash(kindTimeline, in), keyHashNumber(kindTimeline, in, uint64(after)+1), func(k, v []byte) error {
		if lastNumber(k) > to {
			return errStop
		}
		evs, more, err = tx.shown(evs, v, limit)
		if more && err == nil {
			return errStop
		}
		return err
	})
	return evs, more, err
}

// TimelineBack returns accepted events with position <= from, newest first, at
// most limit; more says that there were more.
func (tx *Tx) TimelineBack(r event.RoomID, from Position, limit int) (evs []*Stored, more bool, err error) {
	in, ok := roomHash(r)
	if !ok {
		return nil, false, nil
	}
	err = tx.eachBack(keyHash(kindTimeline, in), keyHashNumber(kindTimeline, in, uint64(from)), func(_, v []byte) error {
		evs, more, err = tx.shown(evs, v, limit)
		if more && err == nil {
			return errStop
		}
		return err
	})
	return evs, more, err
}

// shown appends the event of a timeline row; true says that the limit is reached.
func (tx *Tx) shown(evs []*Stored, row []byte, limit int) ([]*Stored, bool, error) {
	if len(evs) >= limit {
		return evs, true, nil
	}
	h, _, err := decodeTimeline(row)
	if err != nil {
		return evs, false, err
	}
	v, err := tx.vertex(h)
	if err != nil {
		return evs, false, fmt.Errorf("%w: timeline names %s: %w", errCorrupt, h.event(), err)
	}
	s, err := tx.stored(h, v)
	return append(evs, s), false, err
}

func encodeTimeline(h hash, current StateID) []byte {
	var e encoder
	e.hash(h)
	e.number(uint64(current))
	return e.b
}

func decodeTimeline(v []byte) (hash, StateID, error) {
	d := decoder{b: v}
	h, s := d.hash(), StateID(d.number())
	return h, s, d.end("timeline")
}

// CurrentAt returns the current state of the room as it was when position p was
// the newest: the state clients that synced to p know. ErrNotFound before the
// room's first event.
func (tx *Tx) CurrentAt(r event.RoomID, p Position) (*State, error) {
	in, ok := roomHash(r)
	if !ok {
		return nil, ErrNotFound
	}
	var s *State
	err := tx.eachBack(keyHash(kindTimeline, in), keyHashNumber(kindTimeline, in, uint64(p)), func(_, v []byte) error {
		_, id, err := decodeTimeline(v)
		if err == nil {
			s, err = tx.State(id)
		}
		if err == nil {
			err = errStop
		}
		return err
	})
	if err == nil && s == nil {
		err = ErrNotFound
	}
	return s, err
}

// LocalEvent is an entry of the log of this node's own events.
type LocalEvent struct {
	Position Position
	Room     event.RoomID
	ID       event.ID
}

// LocalEvents returns own accepted events after a position, oldest first: what
// the publisher reads.
func (tx *Tx) LocalEvents(after Position, limit int) ([]LocalEvent, error) {
	var all []LocalEvent
	err := tx.each(key0(kindLocal), keyNumber(kindLocal, uint64(after)+1), func(k, v []byte) error {
		if len(all) >= limit {
			return errStop
		}
		d := decoder{b: v}
		r, id := d.hash(), d.hash()
		all = append(all, LocalEvent{Position: lastNumber(k), Room: r.room(), ID: id.event()})
		return d.end("own event")
	})
	return all, err
}
