package node

import (
	"cmp"
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// heroCount is how many members name a room that has no name.
const heroCount = 5

// heroScan bounds the work of finding heroes: in larger rooms they are looked for
// among the first events of the timeline only.
const heroScan = 100

// Summary helps clients to render a room.
type Summary struct {
	Heroes          []event.UserID // nil if the room has a name or an alias
	Joined, Invited int
}

// summary returns the summary of a room, nil if it is as the client knows it.
func (s *syncer) summary(v *viewer, d *delta) (*Summary, error) {
	if !d.members {
		_, name := d.places[room.Key{Type: "m.room.name"}]
		_, alias := d.places[room.Key{Type: "m.room.canonical_alias"}]
		if !name && !alias {
			return nil, nil
		}
	}
	out := &Summary{Joined: v.room.Joined, Invited: v.room.Invited}
	named, err := hasName(d.end)
	if err != nil || named {
		return out, err
	}
	if v.room.Joined+v.room.Invited > heroScan {
		out.Heroes, err = s.firstMembers(v, d.end)
	} else {
		out.Heroes, err = s.heroes(d.end)
	}
	return out, err
}

// hasName reports whether the room has a name or an alias that is not empty.
func hasName(st *store.State) (bool, error) {
	for _, at := range [][2]string{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		e, err := st.StateEvent(at[0], "")
		if err != nil {
			return false, err
		}
		if e != nil && e.Field(at[1]) != "" {
			return true, nil
		}
	}
	return false, nil
}

// heroes returns the first members in the order of their member events: those
// joined or invited, if there are none those who left or were banned; never the
// user.
func (s *syncer) heroes(st *store.State) ([]event.UserID, error) {
	type hero struct {
		user event.UserID
		pos  store.Position
	}
	var here, gone []hero
	err := st.Each(typeMember, func(k room.Key, id event.ID) error {
		if k.StateKey == string(s.req.User) {
			return nil
		}
		e, err := s.tx.Event(id)
		if err != nil {
			return err
		}
		h := hero{event.UserID(k.StateKey), e.Position}
		if m := e.Membership(); m == join || m == invite {
			here = append(here, h)
		} else {
			gone = append(gone, h)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(here) == 0 {
		here = gone
	}
	slices.SortFunc(here, func(a, b hero) int { return cmp.Or(cmp.Compare(a.pos, b.pos), cmp.Compare(a.user, b.user)) })
	out := make([]event.UserID, 0, heroCount)
	for _, h := range here[:min(len(here), heroCount)] {
		out = append(out, h.user)
	}
	return out, nil
}

// firstMembers finds heroes of a large room without going through its members.
func (s *syncer) firstMembers(v *viewer, st *store.State) ([]event.UserID, error) {
	out := make([]event.UserID, 0, heroCount)
	first, _, err := s.tx.Timeline(v.room.ID, 0, s.now, heroScan)
	if err != nil {
		return nil, err
	}
	for _, e := range first {
		u := s.req.User
		if e.Type == typeMember && e.StateKey != nil {
			u = event.UserID(*e.StateKey)
		}
		if u == s.req.User || slices.Contains(out, u) {
			continue
		}
		now, err := st.StateEvent(typeMember, string(u))
		if err != nil {
			return nil, err
		}
		if m := memberOf(now); m == join || m == invite {
			if out = append(out, u); len(out) == heroCount {
				return out, nil
			}
		}
	}
	// A room joined over the federation begins with our join. Who else is in it
	// comes in no order then.
	err = st.Each(typeMember, func(k room.Key, id event.ID) error {
		if len(out) == heroCount {
			return errEnough
		}
		u := event.UserID(k.StateKey)
		if u == s.req.User || slices.Contains(out, u) {
			return nil
		}
		e, err := s.tx.Event(id)
		if err == nil && (e.Membership() == join || e.Membership() == invite) {
			out = append(out, u)
		}
		return err
	})
	if err == errEnough {
		err = nil
	}
	return out, err
}

// errEnough ends an iteration early.
var errEnough = errors.New("enough")

// memberOf returns the membership that a member event gives, leave for none.
func memberOf(e *event.Event) string {
	if e == nil {
		return leave
	}
	return e.Membership()
}
