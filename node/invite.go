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

// strippedTypes are the places of the state that help an invited user to know
// the room (Client-Server API, Stripped state).
var strippedTypes = []string{
	typeCreate, typeName, "m.room.avatar", typeTopic, typeJoinRules, typeAlias, "m.room.encryption",
}

// Invite invites a user of any server. Inviting who is invited changes nothing,
// but a user of another server is told again.
//
// A user of a server that is not in the room is invited if that server can be
// asked and agrees: ErrNoRoute, or its refusal, and nothing is changed.
func (n *Node) Invite(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, content map[string]json.RawMessage) error {
	if _, err := event.ParseUserID(string(target)); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	remote, err := n.mustAsk(r, target)
	if err != nil {
		return err
	}
	if !remote {
		return n.update(ctx, func(tx *store.Tx, fx *effects) error {
			e, err := n.draftInvite(tx, by, r, target, content)
			if err != nil || e == nil {
				return err
			}
			_, err = n.commit(tx, fx, e, how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}})
			return err
		})
	}
	return n.inviteRemote(ctx, by, r, target, content)
}

// mustAsk reports whether the server of an invited user must be asked: it is
// another one, and not in the room.
func (n *Node) mustAsk(r event.RoomID, target event.UserID) (bool, error) {
	s := target.Server()
	if s == n.Server() {
		return false, nil
	}
	resident, err := n.isResident(r, s)
	if errors.Is(err, store.ErrNotFound) {
		return false, errNotMember
	}
	return !resident, err
}

// draftInvite makes an invite, nil if the user is invited already.
func (n *Node) draftInvite(tx *store.Tx, by event.UserID, r event.RoomID, target event.UserID, extra map[string]json.RawMessage) (*event.Event, error) {
	mine, err := currentMembership(tx, r, by)
	if errors.Is(err, store.ErrNotFound) || err == nil && mine != join {
		return nil, errNotMember
	} else if err != nil {
		return nil, err
	}
	now, err := currentMembership(tx, r, target)
	if err != nil || now == invite {
		return nil, err
	}
	content, err := n.memberContent(tx, target, invite, extra, "")
	if err != nil {
		return nil, err
	}
	key := string(target)
	return n.draft(tx, r, by, typeMember, &key, content)
}

// inviteRemote asks the invited user's server to sign the invite and commits it.
func (n *Node) inviteRemote(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, content map[string]json.RawMessage) error {
	var (
		e    *event.Event
		req  inviteRequest
		sent bool // it is in the graph
	)
	err := n.store.View(func(tx *store.Tx) (err error) {
		sent = false
		if e, err = n.draftInvite(tx, by, r, target, content); err != nil {
			return err
		}
		if e == nil {
			sent = true
			if e, err = currentMember(tx, r, target); err != nil {
				return err
			}
		} else if err := n.tryOut(tx, e); err != nil {
			return err
		}
		req, err = n.inviteRequest(tx, e)
		return err
	})
	if err != nil {
		return err
	}
	answer, err := ask[eventAnswer](ctx, n, target.Server(), CallInvite, req)
	if err != nil {
		if isRefusal(err) {
			return err
		}
		return fmt.Errorf("%w: %s: %w", ErrNoRoute, target.Server(), err)
	}
	if sent {
		return nil
	}
	signed, err := n.cosigned(e, answer.Event)
	if err == nil {
		err = n.verifyBy(signed, target.Server())
	}
	if err != nil {
		return fmt.Errorf("%w: %s did not sign the invite: %w", ErrNoRoute, target.Server(), err)
	}
	return n.update(ctx, func(tx *store.Tx, fx *effects) error {
		_, err := n.commit(tx, fx, signed, how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}})
		return err
	})
}

// tryOut decides about an event without committing it.
func (n *Node) tryOut(tx *store.Tx, e *event.Event) error {
	in, _, err := n.input(tx, e, how{})
	if err != nil {
		return err
	}
	_, err = room.Judge(e, in)
	return err
}

// currentMember returns a user's member event in the current state.
func currentMember(tx *store.Tx, r event.RoomID, u event.UserID) (*event.Event, error) {
	rm, err := tx.Room(r)
	if err != nil {
		return nil, err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return nil, err
	}
	e, err := st.StateEvent(typeMember, string(u))
	if err == nil && e == nil {
		err = store.ErrNotFound
	}
	return e, err
}

// inviteRequest adds to an invite what helps to know the room: whole events, so
// that the receiver can check them, the create event first (MSC4311).
func (n *Node) inviteRequest(tx *store.Tx, e *event.Event) (req inviteRequest, err error) {
	rm, err := tx.Room(e.Room)
	if err != nil {
		return req, err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return req, err
	}
	req = inviteRequest{Version: roomVersion, Event: e.JSON(), State: pdus{}}
	signed := []*event.Event{e}
	size := 0
	add := func(typ, key string) error {
		x, err := st.StateEvent(typ, key)
		if err != nil || x == nil || x.Redacted() { // what is left of it would not help
			return err
		}
		if size += len(x.JSON()); size > maxInviteB && len(req.State) > 0 {
			return nil // what helps must not be larger than what is told
		}
		req.State = append(req.State, x.JSON())
		signed = append(signed, x)
		return nil
	}
	for _, typ := range strippedTypes {
		if err := add(typ, ""); err != nil {
			return req, err
		}
	}
	if err := add(typeMember, string(e.Sender)); err != nil { // who invites
		return req, err
	}
	req.Records = n.recordsOf(signed)
	return req, nil
}

// handleInvite takes an invite for a local user and returns it co-signed. The
// signature vouches for nothing but an invite of this server's own user
// (Server-Server API, Inviting to a room; protocol C12.16).
func (n *Node) handleInvite(ctx context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[inviteRequest](body)
	if err != nil {
		return nil, err
	}
	if req.Version != roomVersion {
		return nil, refuse(codeVersion, "room version %.20q", req.Version)
	}
	n.learn(req.Records)
	e, err := n.memberFrom(from, req.Event, invite)
	if err != nil {
		return nil, err
	}
	target := event.UserID(*e.StateKey)
	if _, err := event.ParseUserID(*e.StateKey); err != nil || target.Server() != n.Server() {
		return nil, refuse(codeInvalid, "not a user of this server")
	}
	stripped, err := n.stripped(e, req.State)
	if err != nil {
		return nil, err
	}
	if e, err = e.Cosign(n.cfg.Key); err != nil {
		return nil, err
	}
	return eventAnswer{Event: e.JSON()}, n.putInvite(ctx, e, target, stripped)
}

// putInvite keeps an invite beside the graph.
func (n *Node) putInvite(ctx context.Context, e *event.Event, target event.UserID, stripped json.RawMessage) error {
	return n.update(ctx, func(tx *store.Tx, fx *effects) error {
		servers, err := tx.Servers(e.Room) // here and not before: a join may have been on its way
		if err != nil {
			return err
		}
		here := servers[n.Server()] > 0
		u, err := tx.User(target)
		if errors.Is(err, store.ErrNotFound) || err == nil && u.Deactivated {
			return refuse(codeNotFound, "no such user")
		} else if err != nil {
			return err
		}
		m, err := tx.Membership(target, e.Room)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err == nil {
			if m.Event == e.ID() {
				return nil // the same call again
			}
			if here && m.Membership == join {
				return refuse(codeForbidden, "the user is in the group")
			}
		}
		if here { // the room's own way brings it too
			return nil
		}
		fx.users = append(fx.users, target)
		return tx.PutMembership(store.Membership{
			Room: e.Room, User: target, Membership: invite, Event: e.ID(), Sender: e.Sender,
			Stripped: stripped, Raw: e.JSON(),
		})
	})
}

// stripped checks the state that came with an invite and prunes it to what
// clients get: the create event must be there and make the room's id, and all
// must be signed events of the room.
func (n *Node) stripped(e *event.Event, state pdus) (json.RawMessage, error) {
	size := 0
	for _, raw := range state {
		size += len(raw)
	}
	if len(state) > maxInvite || size > maxInviteB+event.MaxSize {
		return nil, refuse(codeTooLarge, "%d state events of %d bytes", len(state), size)
	}
	var (
		out    []json.RawMessage
		places []room.Key
	)
	for _, x := range append(n.read(e.Room, state, nil), received{Event: e}) {
		if x.err != nil {
			return nil, refuse(codeInvalid, "the state of the invite: %v", x.err)
		}
		if x.StateKey == nil {
			return nil, refuse(codeInvalid, "the state of the invite holds a message")
		}
		k := room.Key{Type: x.Type, StateKey: *x.StateKey}
		if slices.Contains(places, k) {
			continue
		}
		places = append(places, k)
		raw, err := json.Marshal(struct {
			Content  json.RawMessage `json:"content"`
			Sender   event.UserID    `json:"sender"`
			StateKey string          `json:"state_key"`
			Type     string          `json:"type"`
		}{x.Content, x.Sender, *x.StateKey, x.Type})
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	if !slices.Contains(places, room.Key{Type: typeCreate}) {
		return nil, refuse(codeMissing, "the create event is missing")
	}
	return json.Marshal(out)
}

// rejectInvite ends an invite to a room that is not held here, or a membership
// that is over for the room already. It takes effect here at once; the room is
// told as soon as a server of it can be asked.
func (n *Node) rejectInvite(ctx context.Context, user event.UserID, r event.RoomID, reason string) error {
	var (
		sender event.Server
		tell   bool
	)
	err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
		tell = false
		m, err := tx.Membership(user, r)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w: you are not in the group", ErrForbidden)
		} else if err != nil {
			return err
		}
		switch m.Membership {
		case leave:
			return nil
		case ban:
			return fmt.Errorf("%w: you are banned from the group", ErrForbidden)
		case join: // the room has to hear of the leave
			return errJoinedMeanwhile
		}
		tell, sender = true, m.Sender.Server()
		m.Membership, m.Sender, m.Position, m.Stripped = leave, user, 0, nil
		if len(m.Raw) == 0 { // the row stands beside the graph from now on
			e, err := tx.Event(m.Event)
			if err != nil {
				return err
			}
			m.Raw = e.JSON()
		}
		fx.users = append(fx.users, user)
		return tx.PutMembership(*m)
	})
	if err != nil || !tell || sender == n.Server() {
		return err
	}
	n.peers.reject(rejection{to: sender, room: r, user: user, reason: reason})
	return nil
}

// rejection tells the server of an inviter that an invite was rejected.
type rejection struct {
	to     event.Server
	room   event.RoomID
	user   event.UserID
	reason string
}

// tellRejection does the handshake of a leave (Server-Server API, Leaving rooms).
func (n *Node) tellRejection(ctx context.Context, x rejection) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	t, err := ask[template](ctx, n, x.to, CallMakeLeave, makeJoinRequest{Room: x.room, User: x.user})
	if err != nil {
		return err
	}
	var extra map[string]json.RawMessage
	if x.reason != "" {
		extra = map[string]json.RawMessage{"reason": quote(x.reason)}
	}
	e, _, err := n.fromTemplate(x.room, x.to, x.user, leave, extra, t)
	if err != nil {
		return err
	}
	answer, err := ask[sendAnswer](ctx, n, x.to, CallSend, sendRequest{Room: x.room, Events: pdus{e.JSON()}})
	if err == nil && len(answer.Codes) == 1 && answer.Codes[0] != "" {
		err = refuse(answer.Codes[0], "the rejection was not accepted")
	}
	return err
}
