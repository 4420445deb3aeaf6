package node

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// Shown is an event as one user sees it: with what the specification puts into
// its unsigned property.
type Shown struct {
	*event.Event                 // in its redacted form if it was redacted
	Membership   string          // of the user at the event; empty where it is left out
	TxnID        string          // only for the device that sent the event
	Replaces     event.ID        // the state event that this one replaced
	PrevContent  json.RawMessage // its content, if the user may see it
	RedactedBy   *event.Event    // the redaction in effect
}

// Viewer says for whom an event is shown.
type Viewer struct {
	User   event.UserID
	Device string
}

// redacted returns the event in the form that it may be shown in, and the
// redaction in effect.
func redacted(tx *store.Tx, s *store.Stored) (*event.Event, *event.Event, error) {
	if s.RedactedBy == "" {
		return s.Event, nil, nil
	}
	e := s.Event
	if !e.Redacted() { // the store keeps redacted events in their redacted form
		var err error
		if e, err = e.Redact(); err != nil {
			return nil, nil, err
		}
	}
	by, err := tx.Event(s.RedactedBy)
	if errors.Is(err, store.ErrNotFound) {
		return e, nil, nil
	} else if err != nil {
		return nil, nil, err
	}
	return e, by.Event, nil
}

// show prepares an event of the timeline for a device of the viewer's user.
func (v *viewer) show(s *store.Stored, device, membership string) (*Shown, error) {
	out := &Shown{Membership: membership}
	var err error
	if out.Event, out.RedactedBy, err = redacted(v.tx, s); err != nil {
		return nil, err
	}
	if s.Sender == v.user && device != "" {
		if out.TxnID, err = v.tx.TxnOf(v.user, device, s.ID()); err != nil {
			return nil, err
		}
	}
	if s.StateKey != nil && s.Status == store.Accepted {
		if err := v.replaced(s, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// replaced fills in what a state event replaced. The content is shown if the
// user may see the replaced event, the id in any case.
func (v *viewer) replaced(s *store.Stored, out *Shown) error {
	before, err := v.tx.State(s.Before)
	if err != nil {
		return err
	}
	id, ok, err := before.Get(room.Key{Type: s.Type, StateKey: *s.StateKey})
	if err != nil || !ok {
		return err
	}
	out.Replaces = id
	old, err := v.tx.Event(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	sees := old.Status == store.Outlier && v.membership == join // it came with the state at our join
	if !sees {
		if sees, _, err = v.sees(old); err != nil {
			return err
		}
	}
	if sees {
		e, _, err := redacted(v.tx, old)
		if err != nil {
			return err
		}
		out.PrevContent = e.Content
	}
	return nil
}

// stateEvents loads events of a state to be shown.
func stateEvents(tx *store.Tx, ids []event.ID) ([]*Shown, error) {
	all := make([]Shown, len(ids))
	out := make([]*Shown, len(ids))
	for i, id := range ids {
		e, err := tx.Body(id)
		if err != nil {
			return nil, err
		}
		if all[i].Event = e; e.Redacted() {
			s, err := tx.Event(id)
			if err != nil {
				return nil, err
			}
			if all[i].Event, all[i].RedactedBy, err = redacted(tx, s); err != nil {
				return nil, err
			}
		}
		out[i] = &all[i]
	}
	return out, nil
}

// scanFactor and scanLeast bound how many events a page may pass over because
// the filter or the user's rights leave them out; scanChunk are read at once at
// least.
const (
	scanFactor = 10
	scanLeast  = 200
	scanChunk  = 8
)

// page is a stretch of a timeline that one user sees.
type page struct {
	events []*store.Stored
	member []string       // the user's membership at each
	next   store.Position // where the stretch ends: behind or before which to go on
	more   bool           // there may be more
	whole  bool           // nothing was left out
}

// back reads at most limit events with after < position <= from that keep wants,
// newest first. next is the position behind which the read events begin.
func (v *viewer) back(from, after store.Position, limit int, keep func(*store.Stored) bool) (page, error) {
	p := page{next: after}
	from = min(from, v.until)
	for budget := max(limit*scanFactor, scanLeast); from > after; {
		evs, more, err := v.tx.TimelineBack(v.room.ID, from, min(max(limit-len(p.events)+1, scanChunk), budget))
		if err != nil {
			return p, err
		}
		for _, e := range evs {
			if e.Position <= after {
				return p, nil
			}
			ok, membership, err := v.wants(e, keep)
			if err != nil {
				return p, err
			}
			if ok && len(p.events) == limit {
				p.more, p.next = true, e.Position // the oldest kept comes right after this one
				return p, nil
			}
			if ok {
				p.events, p.member = append(p.events, e), append(p.member, membership)
			}
			from = e.Position - 1
		}
		if !more || len(evs) == 0 {
			return p, nil
		}
		if budget -= len(evs); budget <= 0 {
			p.more, p.next = true, from
			return p, nil
		}
	}
	return p, nil
}

// tail is back for the end of a timeline, of which usually little is new: it
// reads only what is, unless that is more than the limit.
func (v *viewer) tail(from, after store.Position, limit int, keep func(*store.Stored) bool) (page, error) {
	if after > 0 {
		evs, more, err := v.tx.Timeline(v.room.ID, after, min(from, v.until), limit+1)
		if err != nil {
			return page{}, err
		}
		if !more && len(evs) <= limit {
			p := page{next: after}
			for _, e := range slices.Backward(evs) {
				ok, membership, err := v.wants(e, keep)
				if err != nil {
					return p, err
				}
				if ok {
					p.events, p.member = append(p.events, e), append(p.member, membership)
				}
			}
			p.whole = len(p.events) == len(evs)
			return p, nil
		}
	}
	return v.back(from, after, limit, keep)
}

// forward reads at most limit events with after < position <= to that keep
// wants, oldest first. next is the position behind which to go on.
func (v *viewer) forward(after, to store.Position, limit int, keep func(*store.Stored) bool) (page, error) {
	p := page{next: after}
	to = min(to, v.until)
	for budget := max(limit*scanFactor, scanLeast); p.next < to; {
		evs, more, err := v.tx.Timeline(v.room.ID, p.next, to, min(max(limit-len(p.events)+1, scanChunk), budget))
		if err != nil {
			return p, err
		}
		for _, e := range evs {
			ok, membership, err := v.wants(e, keep)
			if err != nil {
				return p, err
			}
			if ok && len(p.events) == limit {
				p.more = true
				return p, nil
			}
			if ok {
				p.events, p.member = append(p.events, e), append(p.member, membership)
			}
			p.next = e.Position
		}
		if !more || len(evs) == 0 {
			p.next = to
			return p, nil
		}
		if budget -= len(evs); budget <= 0 {
			p.more = true
			return p, nil
		}
	}
	return p, nil
}

// wants asks the filter, then what the user may see.
func (v *viewer) wants(e *store.Stored, keep func(*store.Stored) bool) (bool, string, error) {
	if keep != nil && !keep(e) {
		return false, "", nil
	}
	return v.sees(e)
}

// show prepares the events of a page.
func (p page) show(v *viewer, device string) ([]*Shown, error) {
	out := make([]*Shown, len(p.events))
	for i, e := range p.events {
		var err error
		if out[i], err = v.show(e, device, p.member[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Event returns an event of a room that the user may see. ErrNotFound in every
// other case (GET /rooms/{roomId}/event/{eventId}).
func (n *Node) Event(_ context.Context, who Viewer, r event.RoomID, id event.ID) (*Shown, error) {
	var out *Shown
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, who.User, r)
		if errors.Is(err, ErrForbidden) {
			return store.ErrNotFound
		} else if err != nil {
			return err
		}
		s, membership, err := v.find(id)
		if err != nil {
			return err
		}
		out, err = v.show(s, who.Device, membership)
		return err
	})
	return out, err
}

// find returns an event of the room that the user may see, or ErrNotFound.
func (v *viewer) find(id event.ID) (*store.Stored, string, error) {
	s, err := v.tx.Event(id)
	if err != nil {
		return nil, "", err
	}
	if s.Room != v.room.ID {
		return nil, "", store.ErrNotFound
	}
	if s.Status == store.Outlier && s.StateKey != nil {
		// The state that came with a join of ours has no place in the timeline;
		// who may see the state may see its events.
		st, err := v.current()
		if err != nil {
			return nil, "", err
		}
		if now, ok, err := st.Get(room.Key{Type: s.Type, StateKey: *s.StateKey}); err != nil || ok && now == id {
			return s, "", err
		}
	}
	ok, membership, err := v.sees(s)
	if err != nil {
		return nil, "", err
	}
	if !ok {
		return nil, "", store.ErrNotFound
	}
	return s, membership, nil
}
