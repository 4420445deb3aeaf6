package node

import (
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// delta is what a client must be told of a room's state.
type delta struct {
	full    bool               // all of the state, not what changed
	members bool               // the members changed
	start   *store.State       // before the timeline; nil: empty
	end     *store.State       // after it
	places  map[room.Key]place // what changed; of a full state, what the timeline does not tell
}

// place is a changed place of the state: what stood there before the timeline and
// at its end, empty where that is no change.
type place struct{ start, end event.ID }

// delta compares the state that the client knows, the state before the timeline
// and the state at its end.
func (s *syncer) delta(v *viewer, p page, end *store.State, since store.Position, full bool) (*delta, error) {
	d := &delta{full: full, members: full, end: end, places: map[room.Key]place{}}
	var known *store.State
	var err error
	if !full {
		known, err = s.tx.CurrentAt(v.room.ID, since)
		if errors.Is(err, store.ErrNotFound) { // it came to this node later
			d.full, d.members = true, true
		} else if err != nil {
			return nil, err
		}
	}
	if p.whole && !d.full {
		d.start = known // the timeline begins where the client's knowledge ends
		if len(p.events) == 0 {
			d.start = end
		}
	} else if d.start, err = s.startState(v, p, end); err != nil {
		return nil, err
	}
	if !d.full {
		err = s.changed(known, d.start, func(k room.Key, now event.ID) {
			d.places[k] = place{start: now}
			d.members = d.members || k.Type == typeMember
		})
		if err != nil {
			return nil, err
		}
	}
	err = s.changed(d.start, end, func(k room.Key, now event.ID) {
		pl := d.places[k]
		pl.end = now
		d.places[k] = pl
		d.members = d.members || k.Type == typeMember
	})
	return d, err
}

// startState returns the state before the first event of the timeline; that at
// its end if the timeline is empty, so that the client is told all of it.
func (s *syncer) startState(v *viewer, p page, end *store.State) (*store.State, error) {
	if len(p.events) == 0 {
		return end, nil
	}
	first := p.events[0]
	st, err := s.tx.CurrentAt(v.room.ID, first.Position-1)
	if errors.Is(err, store.ErrNotFound) { // the first event held here: a create, or our join
		return s.tx.State(first.Before)
	}
	return st, err
}

// changed calls fn for the places of from that hold another event in to.
func (s *syncer) changed(from, to *store.State, fn func(room.Key, event.ID)) error {
	if from.ID() == to.ID() {
		return nil
	}
	return s.tx.Changed(from.ID(), to.ID(), func(k room.Key, _, now event.ID) error {
		if now != "" {
			fn(k, now)
		}
		return nil
	})
}

// stateEvents returns the state events that the client is told besides the
// timeline.
//
// By default that is the state before the timeline, and those changes during the
// timeline that no event in it tells: events that the filter left out, and what a
// resolution of the state brought back. With StateAfter it is the state at the end.
func (s *syncer) stateEvents(v *viewer, d *delta, p page, sum *Summary) ([]*Shown, error) {
	f := &s.filter.Room.State
	if !f.room(v.room.ID) {
		return nil, nil
	}
	told := make(map[event.ID]bool, len(p.events))
	for _, e := range p.events {
		told[e.ID()] = true
	}
	var ids []event.ID
	lazy := f.LazyMembers
	if d.full {
		base := d.start
		if s.req.StateAfter {
			base = d.end
		}
		err := s.each(base, f, lazy, func(k room.Key, id event.ID) {
			end := d.places[k].end
			if s.req.StateAfter || end == "" || told[end] {
				ids = append(ids, id)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for k, pl := range d.places {
		if !f.typ(k.Type) || lazy && d.full && k.Type == typeMember {
			continue
		}
		switch {
		case s.req.StateAfter && d.full: // d.end was taken as a whole
		case pl.end != "" && (s.req.StateAfter || !told[pl.end]):
			ids = append(ids, pl.end)
		case pl.start != "":
			ids = append(ids, pl.start)
		}
	}
	slices.Sort(ids) // the order of a map is none
	if lazy && f.typ(typeMember) {
		members, err := s.lazyMembers(v, d, p, sum, told)
		if err != nil {
			return nil, err
		}
		ids = append(ids, members...)
	}
	ids = unique(ids)
	out, err := stateEvents(s.tx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out, func(e *Shown) bool { return !f.match(e.Event) }), nil
}

// each goes through a state, without the members if they are loaded lazily.
func (s *syncer) each(st *store.State, f *EventFilter, lazy bool, fn func(room.Key, event.ID)) error {
	return st.Each("", func(k room.Key, id event.ID) error {
		if (!lazy || k.Type != typeMember) && f.typ(k.Type) {
			fn(k, id)
		}
		return nil
	})
}

// lazyMembers returns the member events that a client needs which loads them
// lazily: of the senders in the timeline and the heroes, and the user's own with a
// full state; without those that it was told before.
func (s *syncer) lazyMembers(v *viewer, d *delta, p page, sum *Summary, told map[event.ID]bool) ([]event.ID, error) {
	users := make([]event.UserID, 0, len(p.events)+6)
	for _, e := range p.events {
		users = append(users, e.Sender)
	}
	if sum != nil {
		users = append(users, sum.Heroes...)
	}
	if d.full {
		users = append(users, s.req.User)
	}
	slices.Sort(users)
	base := d.start
	if s.req.StateAfter {
		base = d.end
	}
	var ids []event.ID
	for _, u := range slices.Compact(users) {
		id, ok, err := base.Get(room.Key{Type: typeMember, StateKey: string(u)})
		if err != nil {
			return nil, err
		}
		if ok && (!told[id] || s.req.StateAfter) {
			ids = append(ids, id)
		}
	}
	if s.filter.Room.State.RedundantMembers {
		return ids, nil
	}
	since := s.since
	if d.full { // a client that comes to a room may have forgotten what it knew of it
		since = 0
	}
	return s.n.lazy.fresh(s.req.Viewer, v.room.ID, ids, since, s.now), nil
}

// unique drops repeated ids, keeping the order.
func unique(ids []event.ID) []event.ID {
	had := make(map[event.ID]bool, len(ids))
	return slices.DeleteFunc(ids, func(id event.ID) bool {
		was := had[id]
		had[id] = true
		return was
	})
}
