package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// SendRequest is an event that a local user sends.
type SendRequest struct {
	User     event.UserID
	Device   string
	Room     event.RoomID
	Type     string
	StateKey *string
	Content  json.RawMessage
	TxnID    string // with Device: a repeated request returns the first event id
	Scope    string // endpoint of the transaction id: "send" or "redact"
}

// Send commits an event of a local user and returns after it is on disk. An
// invite goes the way of Invite.
//
// Errors: ErrForbidden and room.ErrForbidden, event.ErrTooLarge,
// event.ErrInvalid for content that is no canonical JSON object, and for
// redactions store.ErrNotFound if the target is not known in the room.
func (n *Node) Send(ctx context.Context, req SendRequest) (event.ID, error) {
	if req.User.Server() != n.Server() {
		return "", fmt.Errorf("%w: not a user of this server", ErrForbidden)
	}
	if req.Type == typeCreate { // it would make another room (rule 1)
		return "", fmt.Errorf("%w: a group has one create event", ErrForbidden)
	}
	if req.Type == typeMember && req.StateKey != nil {
		if id, done, err := n.sendInvite(ctx, req); done || err != nil {
			return id, err
		}
	}
	var id event.ID
	err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
		if req.TxnID != "" {
			first, err := tx.Txn(req.User, req.Device, req.Scope, req.TxnID)
			if err == nil {
				id = first
				return nil
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		e, err := n.draft(tx, req.Room, req.User, req.Type, req.StateKey, req.Content)
		if err != nil {
			return err
		}
		if e.Type == typeRedaction && e.StateKey == nil {
			if err := mayRedact(tx, e); err != nil {
				return err
			}
		}
		if _, err := n.commit(tx, fx, e, how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}}); err != nil {
			return err
		}
		id = e.ID()
		if req.TxnID == "" {
			return nil
		}
		return tx.PutTxn(req.User, req.Device, req.Scope, req.TxnID, id)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// mayRedact checks what the rules of the room leave to the servers: users may
// redact their own events, and others' with the power to (Client-Server API,
// Redactions). It asks the event itself what it redacts, as every server will:
// a decoder that takes "Redacts" for "redacts" could be shown another event.
func mayRedact(tx *store.Tx, e *event.Event) error {
	if e.Redacts() == "" {
		return fmt.Errorf("%w: a redaction names an event", ErrBadRequest)
	}
	target, err := tx.Event(e.Redacts())
	if err != nil {
		return err
	}
	if target.Room != e.Room {
		return store.ErrNotFound
	}
	levels, err := levelsOf(tx, e.Room)
	if err != nil {
		return err
	}
	if target.Sender != e.Sender && levels.User(e.Sender) < levels.Action("redact") {
		return fmt.Errorf("%w: the event is somebody else's", ErrForbidden)
	}
	return nil
}

// sendInvite handles the invite of a user of another server that a client made as
// a state event: that server must be asked. done says that it was one.
func (n *Node) sendInvite(ctx context.Context, req SendRequest) (id event.ID, done bool, err error) {
	var content map[string]json.RawMessage
	if json.Unmarshal(req.Content, &content) != nil || string(content["membership"]) != `"invite"` {
		return "", false, nil
	}
	target, err := event.ParseUserID(*req.StateKey)
	if err != nil {
		return "", false, nil // the rules of the room refuse it
	}
	if remote, err := n.mustAsk(req.Room, target); err != nil || !remote {
		return "", false, err
	}
	if err := n.Invite(ctx, req.User, req.Room, target, content); err != nil {
		return "", false, err
	}
	err = n.store.View(func(tx *store.Tx) error {
		e, err := currentMember(tx, req.Room, target)
		if err == nil {
			id = e.ID()
		}
		return err
	})
	return id, true, err
}

// ResolveAlias finds the room of an alias, asking its server if that is another,
// and servers to join through. store.ErrNotFound if there is no such alias,
// ErrNoRoute if its server does not answer.
func (n *Node) ResolveAlias(ctx context.Context, alias string) (event.RoomID, []event.Server, error) {
	_, server, err := splitAlias(alias)
	if err != nil {
		return "", nil, err
	}
	if server == n.Server() {
		return n.localAlias(alias)
	}
	a, err := ask[aliasAnswer](ctx, n, server, CallAlias, aliasRequest{Alias: alias})
	switch {
	case isCode(err, codeNotFound):
		return "", nil, fmt.Errorf("alias %s: %w", alias, store.ErrNotFound)
	case isRefusal(err):
		return "", nil, err
	case err != nil:
		return "", nil, fmt.Errorf("%w: %w", ErrNoRoute, err)
	}
	if _, err := event.ParseRoomID(string(a.Room)); err != nil {
		return "", nil, fmt.Errorf("%w: %s answered with no room id", ErrNoRoute, server)
	}
	servers := []event.Server{server}
	for _, s := range a.Servers {
		if _, err := event.ParseServer(string(s)); err == nil && s != server && len(servers) < 20 {
			servers = append(servers, s)
		}
	}
	return a.Room, servers, nil
}

// localAlias resolves an alias of this server.
func (n *Node) localAlias(alias string) (r event.RoomID, servers []event.Server, err error) {
	err = n.store.View(func(tx *store.Tx) (err error) {
		r, _, err = tx.Alias(alias)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	others, here, err := n.servers(r)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", nil, err
	}
	if here {
		servers = append(servers, n.Server())
	}
	return r, append(servers, others[:min(len(others), 20)]...), nil
}

// handleAlias answers for an alias of this server.
func (n *Node) handleAlias(_ context.Context, _ event.Server, body []byte) (any, error) {
	req, err := decode[aliasRequest](body)
	if err != nil {
		return nil, err
	}
	r, servers, err := n.localAlias(req.Alias)
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(codeNotFound, "no such alias")
	} else if err != nil {
		return nil, err
	}
	return aliasAnswer{Room: r, Servers: servers}, nil
}
