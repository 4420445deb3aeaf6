package node

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// heavyCalls is how many calls that read much are answered at once.
const heavyCalls = 8

// call is one method.
type call struct {
	handle func(n *Node, ctx context.Context, from event.Server, body []byte) (any, error)
	heavy  bool // reads much: few at a time
}

// calls are the methods of HandleCall.
var calls = map[string]call{
	CallMakeJoin:  {(*Node).handleMakeJoin, false},
	CallSendJoin:  {(*Node).handleSendJoin, true},
	CallInvite:    {(*Node).handleInvite, false},
	CallMakeLeave: {(*Node).handleMakeLeave, false},
	CallSend:      {(*Node).handleSend, false},
	CallHeads:     {(*Node).handleHeads, false},
	CallMissing:   {(*Node).handleMissing, true},
	CallState:     {(*Node).handleState, true},
	CallEvents:    {(*Node).handleEvents, true},
	CallKeys:      {(*Node).handleKeys, false},
	CallAlias:     {(*Node).handleAlias, false},
	CallProfile:   {(*Node).handleProfile, false},
}

// HandleCall implements federation.Handler. from is who is at the other end of
// the connection; nothing in a body can claim to be somebody else.
func (n *Node) HandleCall(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error) {
	c, ok := calls[method]
	if !ok {
		return nil, refuse(codeUnsupported, "unknown method")
	}
	if len(body) > maxCall {
		return nil, refuse(codeTooLarge, "body of %d bytes", len(body))
	}
	if c.heavy {
		select {
		case n.heavy <- struct{}{}:
			defer func() { <-n.heavy }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	answer, err := c.handle(n, ctx, from, body)
	if err != nil {
		return nil, outside(err)
	}
	return json.Marshal(answer)
}

// outside turns errors that a peer may know into refusals; the others are for
// the log here.
func outside(err error) error {
	var re *event.RemoteError
	switch {
	case errors.As(err, &re):
		return re
	case errors.Is(err, room.ErrForbidden), errors.Is(err, ErrForbidden):
		return refuse(codeForbidden, "%v", err)
	case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrUnknownRoom):
		return refuse(codeNotFound, "not known here")
	case errors.Is(err, event.ErrTooLarge):
		return refuse(codeTooLarge, "%v", err)
	case errors.Is(err, event.ErrInvalid), errors.Is(err, event.ErrSignature):
		return refuse(codeInvalid, "%v", err)
	}
	return err
}

// LoadRecords implements federation.Handler.
func (n *Node) LoadRecords() (records [][]byte, err error) {
	err = n.store.View(func(tx *store.Tx) error {
		all, err := tx.ServerRecords()
		records = records[:0]
		for _, raw := range all {
			records = append(records, raw)
		}
		return err
	})
	return records, err
}

// SaveRecord implements federation.Handler.
func (n *Node) SaveRecord(s event.Server, raw []byte) error {
	return n.store.Update(context.Background(), func(tx *store.Tx) error { return tx.PutServerRecord(s, raw) })
}
