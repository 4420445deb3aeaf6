package node

import (
	"context"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// MaxPage is the largest number of events that one request gets.
const MaxPage = 1000

// PageRequest asks for a stretch of a room's history (GET
// /rooms/{roomId}/messages). From and To may be nil.
type PageRequest struct {
	Room     event.RoomID
	From, To *Token
	Forward  bool
	Limit    int // 1 to MaxPage
	Filter   *EventFilter
}

// Page is a stretch of history in the order in which it was asked for.
type Page struct {
	Events []*Shown
	State  []*Shown // member events of the senders, if they are loaded lazily
	Start  Token
	End    *Token // nil at the end of what there is for the user
}

// Messages returns a page of a room's history. ErrForbidden unless the user is
// or was a member.
func (n *Node) Messages(_ context.Context, who Viewer, req PageRequest) (*Page, error) {
	out := &Page{}
	f := req.Filter
	if f == nil {
		f = &EventFilter{}
	}
	limit := min(f.limit(req.Limit, req.Limit), MaxPage)
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, who.User, req.Room)
		if err != nil {
			return err
		}
		now, err := v.position()
		if err != nil {
			return err
		}
		ignored, err := ignoredUsers(tx, who.User)
		if err != nil {
			return err
		}
		keep := func(e *store.Stored) bool { return f.room(req.Room) && f.match(e.Event) && !ignored.hides(e.Event) }
		var p page
		if req.Forward {
			start, end := bounds(req.From, req.To, 0, now)
			p, err = v.forward(start, end, limit, keep)
			out.Start = TimelineToken(start)
		} else {
			start, end := bounds(req.From, req.To, now, 0)
			p, err = v.back(start, end, limit, keep)
			out.Start = TimelineToken(start)
		}
		if err != nil {
			return err
		}
		if req.From != nil {
			out.Start = *req.From
		}
		if p.more {
			end := TimelineToken(p.next)
			out.End = &end
		}
		if out.Events, err = p.show(v, who.Device); err != nil {
			return err
		}
		if f.LazyMembers {
			out.State, err = v.senders(p.events)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// bounds returns the positions of two tokens. Absent ones have defaults.
func bounds(from, to *Token, defFrom, defTo store.Position) (store.Position, store.Position) {
	if from != nil {
		defFrom = from.Position
	}
	if to != nil {
		defTo = to.Position
	}
	return defFrom, defTo
}

// senders returns the member events of the senders in the state at the newest of
// the events.
func (v *viewer) senders(events []*store.Stored) ([]*Shown, error) {
	if len(events) == 0 {
		return nil, nil
	}
	newest := events[0]
	var users []event.UserID
	for _, e := range events {
		if e.Position > newest.Position {
			newest = e
		}
		users = append(users, e.Sender)
	}
	st, err := v.tx.State(newest.After)
	if err != nil {
		return nil, err
	}
	return v.members(st, users)
}

// members returns the member events of some users in a state, each once.
func (v *viewer) members(st *store.State, users []event.UserID) ([]*Shown, error) {
	slices.Sort(users)
	var ids []event.ID
	for _, u := range slices.Compact(users) {
		id, ok, err := st.Get(room.Key{Type: typeMember, StateKey: string(u)})
		if err != nil {
			return nil, err
		}
		if ok {
			ids = append(ids, id)
		}
	}
	return stateEvents(v.tx, ids)
}

// Context is what surrounds an event (GET /rooms/{roomId}/context/{eventId}).
type Context struct {
	Event  *Shown
	Before []*Shown // newest first
	After  []*Shown // oldest first
	State  []*Shown // at the last event returned
	Start  Token
	End    Token
}

// EventContext returns an event with at most limit events around it. ErrForbidden
// unless the user is or was a member, ErrNotFound if the user may not see the event.
func (n *Node) EventContext(_ context.Context, who Viewer, r event.RoomID, id event.ID, limit int, f *EventFilter) (*Context, error) {
	out := &Context{}
	if f == nil {
		f = &EventFilter{}
	}
	limit = min(f.limit(limit, limit), MaxPage)
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, who.User, r)
		if err != nil {
			return err
		}
		s, membership, err := v.find(id)
		if err != nil {
			return err
		}
		if out.Event, err = v.show(s, who.Device, membership); err != nil {
			return err
		}
		if s.Position == 0 { // it came with our join: nothing is around it
			out.Start, out.End = TimelineToken(0), TimelineToken(0)
			return nil
		}
		return out.around(v, s, who, limit, f)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// around fills in what stands before and after s.
func (c *Context) around(v *viewer, s *store.Stored, who Viewer, limit int, f *EventFilter) error {
	ignored, err := ignoredUsers(v.tx, who.User)
	if err != nil {
		return err
	}
	keep := func(e *store.Stored) bool { return f.room(v.room.ID) && f.match(e.Event) && !ignored.hides(e.Event) }
	now, err := v.position()
	if err != nil {
		return err
	}
	before, after := page{next: s.Position - 1}, page{next: s.Position}
	if half := limit / 2; half > 0 {
		if before, err = v.back(s.Position-1, 0, half, keep); err != nil {
			return err
		}
	}
	if rest := limit - len(before.events); rest > 0 {
		if after, err = v.forward(s.Position, now, rest, keep); err != nil {
			return err
		}
	}
	c.Start, c.End = TimelineToken(before.next), TimelineToken(after.next)
	if c.Before, err = before.show(v, who.Device); err != nil {
		return err
	}
	if c.After, err = after.show(v, who.Device); err != nil {
		return err
	}
	last := s
	if len(after.events) > 0 {
		last = after.events[len(after.events)-1]
	}
	st, err := v.tx.State(last.After)
	if err != nil {
		return err
	}
	var senders map[event.UserID]bool
	if f.LazyMembers {
		senders = map[event.UserID]bool{s.Sender: true}
		for _, e := range slices.Concat(before.events, after.events) {
			senders[e.Sender] = true
		}
	}
	c.State, err = v.stateOf(st, f, senders)
	return err
}

// stateOf returns the events of a state that the filter wants; of the members
// only those in senders unless that is nil.
func (v *viewer) stateOf(st *store.State, f *EventFilter, senders map[event.UserID]bool) ([]*Shown, error) {
	var ids []event.ID
	err := st.Each("", func(k room.Key, id event.ID) error {
		if f.typ(k.Type) && (senders == nil || k.Type != typeMember || senders[event.UserID(k.StateKey)]) {
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all, err := stateEvents(v.tx, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s *Shown) bool { return !f.match(s.Event) }), nil
}
