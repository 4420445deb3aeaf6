package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// Join joins a local user to a room, through one of via if the room is not held
// here. content holds further keys of the member event's content ("reason", ...).
// Joining a room that the user is in changes nothing. The servers known from an
// invite are asked too.
//
// ErrUnknownRoom if there is nobody to ask, ErrNoRoute if nobody answered, the
// refusal as *event.RemoteError or room.ErrForbidden.
func (n *Node) Join(ctx context.Context, user event.UserID, r event.RoomID, via []event.Server, content map[string]json.RawMessage) error {
	if user.Server() != n.Server() {
		return fmt.Errorf("%w: not a user of this server", ErrForbidden)
	}
	if _, err := event.ParseRoomID(string(r)); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	// Two users who join the same room one after the other need one handshake.
	release, err := n.joins.enter(ctx, r)
	if err != nil {
		return err
	}
	defer release()
	others, here, err := n.servers(r)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && (here || len(others) == 0) {
		err := n.joinHere(ctx, user, r, content)
		// Another resident may know what this one does not, or hold the power to
		// let the user in (Server-Server API, Restricted rooms).
		if !isCode(err, codeNoAuthorise) && !isCode(err, codeNoGrant) || len(others) == 0 {
			return err
		}
	}
	candidates, err := n.candidates(user, r, via, others)
	if err != nil {
		return err
	}
	if len(candidates) == 0 {
		return fmt.Errorf("%w: %s", ErrUnknownRoom, r)
	}
	return n.joinThrough(ctx, user, r, candidates, content)
}

// candidates lists the servers to join through, connected ones first.
func (n *Node) candidates(user event.UserID, r event.RoomID, via, others []event.Server) ([]event.Server, error) {
	var list []event.Server
	add := func(s event.Server) {
		if _, err := event.ParseServer(string(s)); err == nil && s != n.Server() && !slices.Contains(list, s) && len(list) < 20 {
			list = append(list, s)
		}
	}
	for _, s := range via {
		add(s)
	}
	err := n.store.View(func(tx *store.Tx) error {
		m, err := tx.Membership(user, r)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err == nil {
			add(m.Sender.Server())
		}
		return err
	})
	for _, s := range others {
		add(s)
	}
	return n.peers.near(list), err
}

// joinHere joins a room that this node has users in, or whose last users it had.
func (n *Node) joinHere(ctx context.Context, user event.UserID, r event.RoomID, extra map[string]json.RawMessage) error {
	return n.update(ctx, func(tx *store.Tx, fx *effects) error {
		now, err := currentMembership(tx, r, user)
		if err != nil || now == join {
			return err
		}
		authorised, err := n.mayJoin(tx, r, user)
		if err != nil {
			return err
		}
		content, err := n.memberContent(tx, user, join, extra, authorised)
		if err != nil {
			return err
		}
		return n.sendMember(tx, fx, r, user, user, content)
	})
}

// sendMember commits a member event of a local sender.
func (n *Node) sendMember(tx *store.Tx, fx *effects, r event.RoomID, sender, target event.UserID, content json.RawMessage) error {
	key := string(target)
	e, err := n.draft(tx, r, sender, typeMember, &key, content)
	if err != nil {
		return err
	}
	_, err = n.commit(tx, fx, e, how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}})
	return err
}

// currentMembership returns a user's membership in the current state of a room,
// leave if there is none. store.ErrNotFound if the room is not held here.
func currentMembership(tx *store.Tx, r event.RoomID, u event.UserID) (string, error) {
	rm, err := tx.Room(r)
	if err != nil {
		return "", err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return "", err
	}
	return room.Membership(st, u)
}

// memberContent makes the content of a member event: the membership, the profile
// of a local target, further keys. extra cannot change the membership or who
// authorised it.
func (n *Node) memberContent(tx *store.Tx, target event.UserID, membership string, extra map[string]json.RawMessage, authorised event.UserID) (json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	if target.Server() == n.Server() && (membership == join || membership == invite) {
		u, err := tx.User(target)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			for _, field := range []string{"displayname", "avatar_url"} {
				if v := u.Profile[field]; len(v) > 0 {
					content[field] = v
				}
			}
		}
	}
	for k, v := range extra {
		content[k] = v
	}
	content["membership"] = quote(membership)
	delete(content, "join_authorised_via_users_server")
	if authorised != "" {
		content["join_authorised_via_users_server"] = quote(string(authorised))
	}
	return json.Marshal(content)
}

// quote returns s as JSON.
func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always has a JSON form
	return b
}

// joinRules is the content of m.room.join_rules.
type joinRules struct {
	Rule  string `json:"join_rule"`
	Allow []struct {
		Type string       `json:"type"`
		Room event.RoomID `json:"room_id"`
	} `json:"allow"`
}

// mayJoin decides whether this node lets a user join a room that it is in, and
// names the local user who authorises a restricted join (Server-Server API,
// Restricted rooms). The rules of the room have the last word.
func (n *Node) mayJoin(tx *store.Tx, r event.RoomID, user event.UserID) (event.UserID, error) {
	rm, err := tx.Room(r)
	if err != nil {
		return "", err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return "", err
	}
	membership, err := room.Membership(st, user)
	if err != nil {
		return "", err
	}
	switch membership {
	case ban:
		return "", fmt.Errorf("%w: the user is banned", ErrForbidden)
	case join, invite:
		return "", nil
	}
	rules := joinRules{Rule: invite}
	if e, err := st.StateEvent(typeJoinRules, ""); err != nil {
		return "", err
	} else if e != nil && json.Unmarshal(e.Content, &rules) != nil {
		rules = joinRules{Rule: e.Field("join_rule")} // conditions that cannot be read let nobody in
	}
	switch rules.Rule {
	case "public":
		return "", nil
	case "restricted", "knock_restricted":
	default:
		if rm.Joined == 0 {
			return "", nil // nobody is left; let the rules of the room decide
		}
		return "", fmt.Errorf("%w: the group takes invited users only", ErrForbidden)
	}
	if err := n.meetsCondition(tx, rules, user); err != nil {
		return "", err
	}
	return n.authoriser(tx, r, st)
}

// meetsCondition checks whether a user is joined to one of the rooms that let
// people in.
func (n *Node) meetsCondition(tx *store.Tx, rules joinRules, user event.UserID) error {
	blind := false
	for _, c := range rules.Allow {
		if c.Type != "m.room_membership" {
			continue
		}
		servers, err := tx.Servers(c.Room)
		if err != nil {
			return err
		}
		if servers[n.Server()] == 0 { // what is known of the room may be old
			blind = true
			continue
		}
		m, err := currentMembership(tx, c.Room, user)
		if err != nil {
			return err
		}
		if m == join {
			return nil
		}
	}
	if blind {
		return refuse(codeNoAuthorise, "this server cannot tell whether the user meets a condition of the group")
	}
	return fmt.Errorf("%w: the user meets no condition of the group", ErrForbidden)
}

// authoriser finds a local joined user who may invite.
func (n *Node) authoriser(tx *store.Tx, r event.RoomID, st *store.State) (event.UserID, error) {
	create, err := tx.Event(r.Create())
	if err != nil {
		return "", err
	}
	levels, err := room.LevelsOf(create.Event, st)
	if err != nil {
		return "", err
	}
	members, err := tx.LocalMembers(r, join)
	if err != nil {
		return "", err
	}
	need := levels.Action("invite")
	for _, u := range members {
		if levels.User(u) >= need {
			return u, nil
		}
	}
	return "", refuse(codeNoGrant, "no user of this server may let others in")
}
