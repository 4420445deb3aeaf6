package node

import (
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// How many events of a room a sync shows. What a client missed between two
// syncs is shown rather than left to /messages, so that a busy room does not
// make every answer a limited one.
const (
	initialLimit     = 20
	incrementalLimit = 100
	maxTimeline      = 1000
)

// joined adds a room that the user is in, if something is new there.
func (s *syncer) joined(m *store.Membership) error {
	last, err := s.tx.Last(m.Room)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if s.since > 0 && !s.req.FullState && last <= s.since && s.typing[m.Room] == nil && s.data[m.Room] == nil {
		return nil // the usual case
	}
	r, err := s.tx.Room(m.Room)
	if err != nil {
		return err
	}
	since := s.since
	if since > 0 && m.Position > since {
		was, err := s.membershipAt(m.Room, since)
		if err != nil {
			return err
		}
		if was != join {
			since = 0 // newly joined rooms are told in full
		}
	}
	full := since == 0 || s.req.FullState
	out := &JoinedRoom{ID: m.Room, Typing: s.typists(m.Room), AccountData: s.roomData(m.Room, since)}
	if !full && r.Last <= since && out.Typing == nil && len(out.AccountData) == 0 {
		return nil
	}
	if out.Receipts, err = s.receipts(m.Room, since); err != nil {
		return err
	}
	v := newMember(s.tx, s.req.User, r)
	p, err := s.timeline(v, since, &out.Timeline)
	if err != nil {
		return err
	}
	now, err := s.tx.State(r.State)
	if err != nil {
		return err
	}
	d, err := s.delta(v, p, now, since, full)
	if err != nil {
		return err
	}
	if out.Summary, err = s.summary(v, d); err != nil {
		return err
	}
	if out.State, err = s.stateEvents(v, d, p, out.Summary); err != nil {
		return err
	}
	if !full && len(p.events)+len(out.State)+len(out.AccountData)+len(out.Receipts) == 0 && out.Typing == nil && out.Summary == nil {
		return nil
	}
	if err := s.unread(v, m, out); err != nil {
		return err
	}
	s.res.Join = append(s.res.Join, out)
	return nil
}

// left adds a room that the user left, or was made to leave, since the token.
func (s *syncer) left(m *store.Membership) error {
	out := &LeftRoom{ID: m.Room, AccountData: s.roomData(m.Room, s.since), Timeline: RoomTimeline{Prev: TimelineToken(m.Position)}}
	v, err := newViewer(s.tx, s.req.User, m.Room)
	if errors.Is(err, store.ErrNotFound) || err == nil && len(m.Raw) > 0 {
		if err := s.unheld(m, out); err != nil {
			return err
		}
		s.endOnly(out)
		return nil
	} else if err != nil {
		return err
	}
	end := v.until
	v.until = max(v.until, m.Position) // a ban after a leave is told too; sees lets nothing else through
	since := s.since
	if since > 0 {
		was, err := s.membershipAt(m.Room, since)
		if err != nil {
			return err
		}
		if was != join {
			since = 0
		}
	}
	// Not joined since the token, or ever: an invite was rejected, somebody was
	// banned, a ban was lifted. The user sees that, and nothing else of the room
	// is new.
	if v.lastJoin == 0 || v.lastJoin <= s.since && since == 0 && !s.req.FullState {
		if err := s.ownEvent(v, m, out); err != nil {
			return err
		}
		s.endOnly(out)
		return nil
	}
	p, err := s.timeline(v, since, &out.Timeline)
	if err != nil {
		return err
	}
	last, err := s.tx.CurrentAt(m.Room, end)
	if err != nil {
		return err
	}
	d, err := s.delta(v, p, last, since, since == 0 || s.req.FullState)
	if err != nil {
		return err
	}
	if out.State, err = s.stateEvents(v, d, p, nil); err != nil {
		return err
	}
	if s.req.StateAfter && m.Position > end { // the ban lies behind the state that the user may see
		own, err := stateEvents(s.tx, []event.ID{m.Event})
		if err != nil {
			return err
		}
		out.State = slices.DeleteFunc(out.State, func(e *Shown) bool { return e.Is(typeMember, string(s.req.User)) })
		out.State = append(out.State, own...)
	}
	s.res.Leave = append(s.res.Leave, out)
	return nil
}

// endOnly adds a left room of which nothing is told but how it ended. That is a
// change of the state, too.
func (s *syncer) endOnly(out *LeftRoom) {
	if f := &s.filter.Room.State; s.req.StateAfter && f.room(out.ID) {
		out.State = slices.DeleteFunc(slices.Clone(out.Timeline.Events), func(e *Shown) bool { return !f.match(e.Event) })
	}
	s.res.Leave = append(s.res.Leave, out)
}

// ownEvent shows nothing but the user's own member event. A resolution of the
// state may have left none.
func (s *syncer) ownEvent(v *viewer, m *store.Membership, out *LeftRoom) error {
	e, err := s.tx.Event(m.Event)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	shown, err := v.show(e, s.req.Device, m.Membership)
	if err != nil {
		return err
	}
	shown.Replaces, shown.PrevContent = "", nil
	out.Timeline.Events = []*Shown{shown}
	return nil
}

// unheld fills in a left room of which only the member event is held: an invite
// to a room of other servers that was rejected.
func (s *syncer) unheld(m *store.Membership, out *LeftRoom) error {
	if len(m.Raw) == 0 {
		return nil
	}
	e, err := event.Load(m.Event, m.Raw, false)
	if err != nil {
		return err
	}
	out.Timeline.Events = []*Shown{{Event: e, Membership: m.Membership}}
	return nil
}

// timeline reads the end of the timeline into out.
func (s *syncer) timeline(v *viewer, since store.Position, out *RoomTimeline) (page, error) {
	f := &s.filter.Room.Timeline
	p := page{next: s.now}
	if !f.room(v.room.ID) {
		out.Prev = TimelineToken(p.next)
		return p, nil
	}
	def := initialLimit
	if since > 0 {
		def = incrementalLimit
	}
	keep := func(e *store.Stored) bool { return f.match(e.Event) && !s.ignored.hides(e.Event) }
	p, err := v.tail(s.now, since, f.limit(def, maxTimeline), keep)
	if err != nil {
		return p, err
	}
	slices.Reverse(p.events)
	slices.Reverse(p.member)
	out.Limited, out.Prev = p.more, TimelineToken(p.next)
	out.Events, err = p.show(v, s.req.Device)
	return p, err
}

// roomData returns the new account data of a room; all of it if since is 0.
func (s *syncer) roomData(r event.RoomID, since store.Position) []store.AccountData {
	if since != 0 || s.since == 0 || !s.filter.Room.AccountData.room(r) {
		return s.data[r]
	}
	all, err := s.tx.AllAccountData(s.req.User, 0)
	if err != nil {
		return s.data[r]
	}
	return slices.DeleteFunc(all, func(d store.AccountData) bool {
		return d.Room != r || !s.filter.Room.AccountData.typ(d.Type)
	})
}

// membershipAt returns the user's membership of a room at a position.
func (s *syncer) membershipAt(r event.RoomID, p store.Position) (string, error) {
	st, err := s.tx.CurrentAt(r, p)
	if errors.Is(err, store.ErrNotFound) {
		return leave, nil
	} else if err != nil {
		return "", err
	}
	e, err := st.StateEvent(typeMember, string(s.req.User))
	if err != nil || e == nil {
		return leave, err
	}
	return e.Membership(), nil
}
