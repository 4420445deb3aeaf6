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

// handleMakeJoin tells a joiner what its join must refer to.
func (n *Node) handleMakeJoin(_ context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[makeJoinRequest](body)
	if err != nil {
		return nil, err
	}
	return n.makeTemplate(from, req, join)
}

// handleMakeLeave tells the server of an invited user what the rejection must
// refer to.
func (n *Node) handleMakeLeave(_ context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[makeJoinRequest](body)
	if err != nil {
		return nil, err
	}
	return n.makeTemplate(from, req, leave)
}

// makeTemplate answers make_join and make_leave. Who is not known here may learn
// nothing of a room but that it is not to be entered.
func (n *Node) makeTemplate(from event.Server, req makeJoinRequest, membership string) (any, error) {
	if err := checkRoom(req.Room); err != nil {
		return nil, err
	}
	if _, err := event.ParseUserID(string(req.User)); err != nil || req.User.Server() != from {
		return nil, refuse(codeForbidden, "not a user of your server")
	}
	if err := n.isHere(req.Room); err != nil {
		return nil, err
	}
	t := template{Version: roomVersion}
	err := n.store.View(func(tx *store.Tx) error {
		var err error
		if membership == join {
			if t.Via, err = n.mayJoin(tx, req.Room, req.User); err != nil {
				return refusal(err)
			}
		} else if now, err := currentMembership(tx, req.Room, req.User); err != nil {
			return err
		} else if now != invite && now != knock && now != join {
			return refuse(codeForbidden, "the user is not in the group")
		}
		content, err := n.memberContent(tx, req.User, membership, nil, t.Via)
		if err != nil {
			return err
		}
		key := string(req.User)
		b, err := n.draftBody(tx, req.Room, req.User, typeMember, &key, content)
		if err != nil {
			return err
		}
		create, err := tx.Event(req.Room.Create())
		if err != nil {
			return err
		}
		c, err := loadFrom(tx, req.Room, b.Auth, len(b.Auth), maxPage)
		if err != nil {
			return err
		}
		t.Create, t.Prev, t.Depth = create.JSON(), b.Prev, b.Depth
		t.Auth, t.Redactions, t.Records = raws(c.events), raws(c.redactions), c.records(n)
		return nil
	})
	return t, err
}

// refusal makes what a peer is told of an error; errors that are no refusal stay.
func refusal(err error) error {
	if errors.Is(err, ErrForbidden) || errors.Is(err, room.ErrForbidden) {
		return refuse(codeForbidden, "%v", err)
	}
	return err
}

// isHere checks that this node is in a room: what it holds of one that it left
// is old.
func (n *Node) isHere(r event.RoomID) error {
	_, here, err := n.servers(r)
	if err == nil && !here || errors.Is(err, store.ErrNotFound) {
		return refuse(codeNotFound, "this server is not in the group")
	}
	return err
}

// handleSendJoin takes a join and answers with the room before it. The same join
// again gets the same answer.
func (n *Node) handleSendJoin(ctx context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[sendJoinRequest](body)
	if err != nil {
		return nil, err
	}
	e, err := n.memberFrom(from, req.Event, join)
	if err != nil {
		return nil, err
	}
	if err := n.isHere(e.Room); err != nil {
		return nil, err
	}
	var known bool
	err = n.store.View(func(tx *store.Tx) error {
		if known, err = tx.Has(e.ID()); err != nil || known {
			return err
		}
		e, err = n.authorise(tx, e)
		return err
	})
	if err != nil {
		return nil, refusal(err)
	}
	if !known {
		if err := n.verify(e); err != nil {
			return nil, refuse(codeInvalid, "%v", err)
		}
		if err := n.takeMember(ctx, e); err != nil {
			return nil, err
		}
	}
	return n.joinAnswer(e.ID())
}

// memberFrom reads a membership event that a peer hands over for one of its own
// users: type, room version, sender and target are checked, and the peer's
// signature.
func (n *Node) memberFrom(from event.Server, raw json.RawMessage, membership string) (*event.Event, error) {
	e, err := event.Parse(raw)
	if err != nil {
		return nil, refuse(codeInvalid, "%v", err)
	}
	switch {
	case e.Redacted():
		return nil, refuse(codeInvalid, "the content hash does not match")
	case e.Type != typeMember || e.StateKey == nil || e.Membership() != membership:
		return nil, refuse(codeInvalid, "not a member event with membership %s", membership)
	case e.Sender.Server() != from:
		return nil, refuse(codeForbidden, "not a user of your server")
	case membership != invite && *e.StateKey != string(e.Sender):
		return nil, refuse(codeInvalid, "sender and state_key differ")
	}
	if err := n.verifyBy(e, from); err != nil {
		return nil, refuse(codeInvalid, "%v", err)
	}
	return e, nil
}

// authorise co-signs a restricted join that names a user of this server, after
// checking all that the signature vouches for (protocol C12.16): the sender is
// the joining user of the connection's server (memberFrom), the room's conditions
// are met, and the named user may let others in. Other joins are returned as they
// are.
func (n *Node) authorise(tx *store.Tx, e *event.Event) (*event.Event, error) {
	by := event.UserID(e.Field("join_authorised_via_users_server"))
	if by == "" || by.Server() != n.Server() {
		return e, nil
	}
	if _, err := n.mayJoin(tx, e.Room, e.Sender); err != nil {
		return nil, err
	}
	rm, err := tx.Room(e.Room)
	if err != nil {
		return nil, err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return nil, err
	}
	create, err := tx.Event(e.Room.Create())
	if err != nil {
		return nil, err
	}
	levels, err := room.LevelsOf(create.Event, st)
	if err != nil {
		return nil, err
	}
	m, err := room.Membership(st, by)
	if err != nil {
		return nil, err
	}
	if m != join || levels.User(by) < levels.Action("invite") {
		return nil, refuse(codeNoGrant, "the named user cannot let others in")
	}
	return e.Cosign(n.cfg.Key)
}

// takeMember commits a member event of a peer's user that came by a call. It must
// be accepted, and is handed on to the room from here.
func (n *Node) takeMember(ctx context.Context, e *event.Event) error {
	err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
		_, err := n.commit(tx, fx, e, how{refuse: true, forward: true})
		return err
	})
	var missing *missingError
	if errors.As(err, &missing) {
		return refuse(codeRetry, "what the event refers to is not here")
	}
	return refusal(err)
}

// joinAnswer describes a room before a join that is in the graph.
func (n *Node) joinAnswer(id event.ID) (any, error) {
	var answer joinAnswer
	err := n.store.View(func(tx *store.Tx) error {
		e, err := tx.Event(id)
		if err != nil {
			return err
		}
		if e.Status != store.Accepted {
			return refuse(codeForbidden, "the join was not accepted")
		}
		answer = joinAnswer{Event: e.JSON()}
		if answer.State, answer.Auth, err = stateIDs(tx, e.Before, e.Auth); err != nil {
			return err
		}
		c, err := loadFrom(tx, e.Room, slices.Concat(answer.Auth, answer.State), maxState, maxPage)
		if err != nil {
			return err
		}
		answer.Events, answer.Redactions, answer.Records = raws(c.events), raws(c.redactions), c.records(n)
		return nil
	})
	return answer, err
}
