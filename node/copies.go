package node

import (
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// copies are events as a peer gets them, with the redactions that show that the
// redacted ones among them are what is left of good copies.
type copies struct {
	events, redactions []*event.Event
}

// add appends an event.
func (c *copies) add(tx *store.Tx, st *store.Stored) error {
	c.events = append(c.events, st.Event)
	if st.RedactedBy == "" {
		return nil
	}
	by, err := tx.Event(st.RedactedBy)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.redactions, func(e *event.Event) bool { return e.ID() == by.ID() }) {
		c.redactions = append(c.redactions, by.Event)
	}
	return nil
}

// records returns the records of all that signed.
func (c *copies) records(n *Node) [][]byte {
	return n.recordsOf(slices.Concat(c.events, c.redactions))
}

// raws returns the bytes of events; never nil, so that JSON has a list.
func raws(events []*event.Event) pdus {
	out := make(pdus, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

// load returns events by id until one of the limits is reached, but at least one
// if any is there; unknown ones and those of other rooms are left out.
func (n *Node) load(r event.RoomID, ids []event.ID, count, size int) (c copies, err error) {
	err = n.store.View(func(tx *store.Tx) (err error) {
		c, err = loadFrom(tx, r, ids, count, size)
		return err
	})
	return c, err
}

// loadFrom is load within a transaction.
func loadFrom(tx *store.Tx, r event.RoomID, ids []event.ID, count, size int) (c copies, err error) {
	bytes := 0
	for _, id := range ids {
		st, err := tx.Event(id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return c, err
		}
		if st.Room != r {
			continue
		}
		bytes += len(st.JSON())
		if len(c.events) > 0 && (bytes > size || len(c.events) == count) {
			return c, nil
		}
		if err := c.add(tx, st); err != nil {
			return c, err
		}
	}
	return c, nil
}
