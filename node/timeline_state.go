package node

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// State returns the state of a room: the current one for members, the one at the
// end of the membership for those who left. ErrForbidden for everybody else.
func (n *Node) State(_ context.Context, user event.UserID, r event.RoomID) ([]*Shown, error) {
	var out []*Shown
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, user, r)
		if err != nil {
			return err
		}
		st, err := v.current()
		if err != nil {
			return err
		}
		out, err = v.stateOf(st, &EventFilter{}, nil)
		return err
	})
	return out, err
}

// StateEvent returns one event of the state that State returns, ErrNotFound if
// there is none.
func (n *Node) StateEvent(_ context.Context, user event.UserID, r event.RoomID, typ, key string) (*Shown, error) {
	var out *Shown
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, user, r)
		if err != nil {
			return err
		}
		st, err := v.current()
		if err != nil {
			return err
		}
		id, ok, err := st.Get(room.Key{Type: typ, StateKey: key})
		if err != nil {
			return err
		}
		if !ok {
			return store.ErrNotFound
		}
		evs, err := stateEvents(tx, []event.ID{id})
		if err != nil {
			return err
		}
		out = evs[0]
		return nil
	})
	return out, err
}

// MembersRequest asks for member events (GET /rooms/{roomId}/members).
type MembersRequest struct {
	Room          event.RoomID
	At            *Token // the state then; nil: now
	Membership    string // with NotMembership: either is enough
	NotMembership string
}

// Members returns member events of a room. ErrForbidden unless the user is or
// was a member.
func (n *Node) Members(_ context.Context, user event.UserID, req MembersRequest) ([]*Shown, error) {
	var out []*Shown
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, user, req.Room)
		if err != nil {
			return err
		}
		st, err := v.current()
		if err != nil {
			return err
		}
		if req.At != nil && req.At.Position < v.until {
			if at, err := tx.CurrentAt(req.Room, req.At.Position); err == nil {
				st = at
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		var ids []event.ID
		err = st.Each(typeMember, func(_ room.Key, id event.ID) error {
			e, err := tx.Body(id)
			if err == nil && req.wants(e.Membership()) {
				ids = append(ids, id)
			}
			return err
		})
		if err != nil {
			return err
		}
		out, err = stateEvents(tx, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (req *MembersRequest) wants(membership string) bool {
	switch {
	case req.Membership == "" && req.NotMembership == "":
		return true
	case req.Membership != "" && membership == req.Membership:
		return true
	default:
		return req.NotMembership != "" && membership != req.NotMembership
	}
}

// Profile parts of a joined member, as the member event has them; nil if absent.
type JoinedMember struct {
	DisplayName json.RawMessage `json:"display_name,omitempty"`
	AvatarURL   json.RawMessage `json:"avatar_url,omitempty"`
}

// JoinedMembers returns the joined members of a room that the user is in;
// ErrForbidden otherwise.
func (n *Node) JoinedMembers(_ context.Context, user event.UserID, r event.RoomID) (map[event.UserID]JoinedMember, error) {
	out := map[event.UserID]JoinedMember{}
	err := n.store.View(func(tx *store.Tx) error {
		v, err := enter(tx, user, r)
		if err != nil {
			return err
		}
		if v.membership != join {
			return errNotMember
		}
		st, err := v.current()
		if err != nil {
			return err
		}
		return st.Each(typeMember, func(k room.Key, id event.ID) error {
			e, err := tx.Body(id)
			if err != nil || e.Membership() != join {
				return err
			}
			out[event.UserID(k.StateKey)] = JoinedMember{
				DisplayName: stringField(e.Content, "displayname"),
				AvatarURL:   stringField(e.Content, "avatar_url"),
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// stringField returns a string property of an object as JSON, nil if it is absent
// or no string: member events are made by others.
func stringField(object json.RawMessage, name string) json.RawMessage {
	var o map[string]json.RawMessage
	if json.Unmarshal(object, &o) != nil || len(o[name]) == 0 || o[name][0] != '"' {
		return nil
	}
	return o[name]
}

// JoinedRooms returns the rooms that a local user is joined to.
func (n *Node) JoinedRooms(_ context.Context, user event.UserID) ([]event.RoomID, error) {
	rooms := []event.RoomID{}
	err := n.store.View(func(tx *store.Tx) error {
		rooms = rooms[:0]
		ms, err := tx.Memberships(user)
		for _, m := range ms {
			if m.Membership == join {
				rooms = append(rooms, m.Room)
			}
		}
		return err
	})
	return rooms, err
}

// ignoring holds the users that a user ignores.
type ignoring map[event.UserID]json.RawMessage

// ignoredUsers reads the list from the user's account data.
func ignoredUsers(tx *store.Tx, user event.UserID) (ignoring, error) {
	d, err := tx.AccountData(user, "", "m.ignored_user_list")
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var c struct {
		Users ignoring `json:"ignored_users"`
	}
	if json.Unmarshal(d.Content, &c) != nil {
		return nil, nil // clients write it; what cannot be understood ignores nobody
	}
	delete(c.Users, user)
	return c.Users, nil
}

// has reports whether the user is ignored.
func (g ignoring) has(u event.UserID) bool { _, ok := g[u]; return ok }

// hides reports whether an event is left out: state events never are (Ignoring
// users, Server behaviour).
func (g ignoring) hides(e *event.Event) bool { return e.StateKey == nil && g.has(e.Sender) }
