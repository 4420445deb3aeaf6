package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// Leave leaves a room or rejects an invite. Leaving a room one has left is no
// error. ErrForbidden if the user has nothing to do with the room or is banned.
func (n *Node) Leave(ctx context.Context, user event.UserID, r event.RoomID, reason string) error {
	others, here, err := n.servers(r)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err != nil || !here && len(others) > 0 { // what is known of the room is an invite
		if err := n.rejectInvite(ctx, user, r, reason); !errors.Is(err, errJoinedMeanwhile) {
			return err
		}
	}
	err = n.update(ctx, func(tx *store.Tx, fx *effects) error {
		now, err := currentMembership(tx, r, user)
		if err != nil {
			return err
		}
		if now == leave {
			m, err := tx.Membership(user, r)
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("%w: you are not in the group", ErrForbidden)
			} else if err == nil && m.Membership != leave {
				return errBeside
			}
			return err
		}
		return n.sendMember(tx, fx, r, user, user, endContent(leave, reason))
	})
	if errors.Is(err, errBeside) {
		return n.rejectInvite(ctx, user, r, reason)
	}
	return err
}

var (
	// errBeside says that an invite stands beside the graph: the room does not know it.
	errBeside = errors.New("the group does not know the invite")
	// errJoinedMeanwhile says that what was an invite is a membership now.
	errJoinedMeanwhile = errors.New("the user has joined meanwhile")
)

// endContent is the content of a member event that ends a membership.
func endContent(membership, reason string) json.RawMessage {
	content := map[string]string{"membership": membership}
	if reason != "" {
		content["reason"] = reason
	}
	b, _ := json.Marshal(content) // strings always have a JSON form
	return b
}

// Kick makes target leave. ErrBadRequest if target is not in the room.
func (n *Node) Kick(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, reason string) error {
	return n.end(ctx, by, r, target, leave, reason, func(now string) error {
		if now != join && now != invite && now != knock {
			return fmt.Errorf("%w: %s is not in the group", ErrBadRequest, target)
		}
		return nil
	})
}

// Ban bans target. Banning who is banned changes nothing.
func (n *Node) Ban(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, reason string) error {
	return n.end(ctx, by, r, target, ban, reason, func(now string) error {
		if now == ban {
			return errUnchanged
		}
		return nil
	})
}

// Unban lifts a ban. ErrForbidden if target is not banned.
func (n *Node) Unban(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, reason string) error {
	return n.end(ctx, by, r, target, leave, reason, func(now string) error {
		if now != ban {
			return fmt.Errorf("%w: %s is not banned", ErrForbidden, target)
		}
		return nil
	})
}

// errUnchanged says that there is nothing to do.
var errUnchanged = errors.New("nothing to do")

// end commits a member event with which a user ends another one's membership,
// if check has no objection to what it is now.
func (n *Node) end(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, membership, reason string, check func(now string) error) error {
	if _, err := event.ParseUserID(string(target)); err != nil {
		return fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
		mine, err := currentMembership(tx, r, by)
		if errors.Is(err, store.ErrNotFound) || err == nil && mine != join {
			return errNotMember
		} else if err != nil {
			return err
		}
		now, err := currentMembership(tx, r, target)
		if err != nil {
			return err
		}
		if err := check(now); err != nil {
			return err
		}
		return n.sendMember(tx, fx, r, by, target, endContent(membership, reason))
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// Forget hides a room that the user has left. ErrBadRequest while still in it.
// Forgetting a room that one never was in changes nothing.
func (n *Node) Forget(ctx context.Context, user event.UserID, r event.RoomID) error {
	return n.update(ctx, func(tx *store.Tx, fx *effects) error {
		m, err := tx.Membership(user, r)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Membership != leave && m.Membership != ban {
			return fmt.Errorf("%w: you are in the group", ErrBadRequest)
		}
		if m.Forgotten {
			return nil
		}
		m.Forgotten = true
		return tx.PutMembership(*m)
	})
}

// direct makes the parcels that a local member event needs because gossip does
// not reach those it concerns: the end of a membership of a server that has
// nobody else in the room, and this node's own last leave (protocol C12.3).
func (fx *effects) direct(tx *store.Tx, st *store.Stored, self event.Server) error {
	if st.Membership() == join || st.Membership() == invite {
		return nil
	}
	servers, err := tx.Servers(st.Room)
	if err != nil {
		return err
	}
	target := event.UserID(*st.StateKey).Server()
	if target != self && servers[target] > 0 || target == self && (servers[self] > 0 || len(servers) == 0) {
		return nil
	}
	body, err := json.Marshal(sendRequest{Room: st.Room, Events: pdus{st.JSON()}})
	if err != nil {
		return err
	}
	if target != self {
		fx.parcels = append(fx.parcels, parcel{to: target, method: CallSend, body: body, what: st.ID()})
		return nil
	}
	g := goodbye{room: st.Room, body: body, what: st.ID()}
	for s := range servers {
		g.to = append(g.to, s)
	}
	fx.goodbyes = append(fx.goodbyes, g)
	return nil
}

// handleSend takes member events that gossip may not carry: the end of the
// membership of a user of this server by the sender's, or the end of one of the
// sender's users.
func (n *Node) handleSend(ctx context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[sendRequest](body)
	if err != nil {
		return nil, err
	}
	if err := checkRoom(req.Room); err != nil {
		return nil, err
	}
	if len(req.Events) > maxDirect {
		return nil, refuse(codeTooLarge, "%d events", len(req.Events))
	}
	n.learn(req.Records)
	answer := sendAnswer{Codes: make([]string, len(req.Events))}
	for i, raw := range req.Events {
		err := n.takeDirect(ctx, from, req.Room, raw)
		var re *event.RemoteError
		if errors.As(err, &re) {
			answer.Codes[i] = re.Code
		} else if err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// takeDirect takes one such event.
func (n *Node) takeDirect(ctx context.Context, from event.Server, r event.RoomID, raw json.RawMessage) error {
	e, err := event.Parse(raw)
	switch {
	case err != nil:
		return refuse(codeInvalid, "%v", err)
	case e.Room != r || e.Redacted() || e.Type != typeMember || e.StateKey == nil || e.Sender.Server() != from:
		return refuse(codeInvalid, "not a member event of a user of yours in this room")
	case e.Membership() != leave && e.Membership() != ban:
		return refuse(codeInvalid, "not the end of a membership")
	}
	target := event.UserID(*e.StateKey)
	if target.Server() != n.Server() && target.Server() != from {
		return refuse(codeForbidden, "neither yours nor mine")
	}
	if err := n.verify(e); errors.Is(err, event.ErrUnknownKey) {
		n.peers.wantKeys(from, e.Signers())
		return refuse(codeRetry, "the key is not known")
	} else if err != nil {
		return refuse(codeInvalid, "%v", err)
	}
	if target.Server() == n.Server() {
		if done, err := n.endInvite(ctx, from, e, target); done || err != nil {
			return err
		}
	}
	// Who is not in the room, as it is seen here, has no more to say than what the
	// room allows now, and can have no more fetched than a stranger can.
	resident, err := n.isResident(r, from)
	if err == nil {
		err = n.update(ctx, func(tx *store.Tx, fx *effects) error {
			_, err := n.commit(tx, fx, e, how{forward: true, refuse: !resident})
			return err
		})
	}
	var missing *missingError
	switch {
	case errors.As(err, &missing):
		// The sender lets its receiver fetch what led to the event.
		if resident {
			n.peers.want(from, r, []event.ID{e.ID()}, 0)
		} else if n.strangers.allow(string(from)) {
			n.peers.want(from, r, []event.ID{e.ID()}, strangerPages)
		}
		return refuse(codeRetry, "what the event refers to is not here")
	case errors.Is(err, ErrUnknownRoom), errors.Is(err, store.ErrNotFound):
		return errNotHere
	}
	return refusal(err)
}

// endInvite takes back an invite to a room of which no more is known here than
// the invite. done says that this was the case: only the inviter's server can.
func (n *Node) endInvite(ctx context.Context, from event.Server, e *event.Event, target event.UserID) (done bool, err error) {
	if _, here, err := n.servers(e.Room); err == nil && here {
		return false, nil
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	err = n.update(ctx, func(tx *store.Tx, fx *effects) error {
		done = false
		m, err := tx.Membership(target, e.Room)
		if errors.Is(err, store.ErrNotFound) || err == nil && len(m.Raw) == 0 {
			return nil // no invite beside the graph
		} else if err != nil {
			return err
		}
		if m.Event == e.ID() {
			done = true
			return nil
		}
		if m.Membership != invite || m.Sender.Server() != from {
			return nil
		}
		done = true
		m.Membership, m.Event, m.Sender, m.Position = e.Membership(), e.ID(), e.Sender, 0
		m.Stripped, m.Raw = nil, e.JSON()
		fx.users = append(fx.users, target)
		return tx.PutMembership(*m)
	})
	return done, err
}

// levelsOf returns the power levels of a room now.
func levelsOf(tx *store.Tx, r event.RoomID) (room.Levels, error) {
	rm, err := tx.Room(r)
	if err != nil {
		return room.Levels{}, err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return room.Levels{}, err
	}
	create, err := tx.Event(r.Create())
	if err != nil {
		return room.Levels{}, err
	}
	return room.LevelsOf(create.Event, st)
}
