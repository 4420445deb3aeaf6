package node

import (
	"errors"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// errNotHere answers who asks about a room that he is not in, whether it is held
// here or not: nobody learns which.
var errNotHere = refuse(codeForbidden, "you are not in the room")

// grant decides what a server may have of a room (invariant I5): everything if it
// has joined users there. If not, those of the events it names that ended a joined
// membership of a user of its own, and their ancestors (protocol C12.3);
// errNotHere if there is none.
func (n *Node) grant(from event.Server, r event.RoomID, named []event.ID) (ends []event.ID, resident bool, err error) {
	resident, err = n.isResident(r, from)
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, errNotHere
	} else if err != nil || resident {
		return nil, resident, err
	}
	err = n.store.View(func(tx *store.Tx) error {
		ends = nil
		for _, id := range named {
			ended, err := endsMembership(tx, id, r, from)
			if err != nil {
				return err
			}
			if ended {
				ends = append(ends, id)
			}
		}
		return nil
	})
	if err == nil && len(ends) == 0 {
		err = errNotHere
	}
	return ends, false, err
}

// endsMembership reports whether an event of a room ended the joined membership
// of a user of a server. Who never was joined gets nothing.
func endsMembership(tx *store.Tx, id event.ID, r event.RoomID, of event.Server) (bool, error) {
	e, err := tx.Event(id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if e.Room != r || e.Type != typeMember || e.StateKey == nil || event.UserID(*e.StateKey).Server() != of ||
		e.Membership() == join || e.Status == store.Outlier || e.Status == store.Rejected {
		return false, nil
	}
	st, err := tx.State(e.Before)
	if err != nil {
		return false, err
	}
	before, err := st.StateEvent(typeMember, *e.StateKey)
	return before != nil && before.Membership() == join, err
}

// ancestors returns those of the events that are ancestors of ends or among them.
// Events without a place in the graph count: they are state from before all that
// is held here.
func ancestors(tx *store.Tx, r event.RoomID, ids, ends []event.ID) ([]event.ID, error) {
	later, _, err := tx.Missing(r, ids, ends, int(^uint(0)>>1))
	if err != nil {
		return nil, err
	}
	not := make(map[event.ID]bool, len(later))
	for _, id := range later {
		not[id] = true
	}
	var out []event.ID
	for _, id := range ids {
		if !not[id] {
			out = append(out, id)
		}
	}
	return out, nil
}
