package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// routesRooms are Rooms: creation, and sending events.
func routesRooms() []route {
	return []route{
		{"POST", v3 + "/createRoom", user, (*Server).createRoom},
		{"PUT", v3 + "/rooms/{roomId}/send/{eventType}/{txnId}", user, (*Server).send},
		{"PUT", v3 + "/rooms/{roomId}/state/{eventType}/{stateKey}", user, (*Server).putState},
		{"PUT", v3 + "/rooms/{roomId}/redact/{eventId}/{txnId}", user, (*Server).redact},
	}
}

// maxInvites bounds the invites of one createRoom.
const maxInvites = 100

var presets = []string{"", "private_chat", "trusted_private_chat", "public_chat"}

// createRoom implements POST /createRoom (create_room.yaml).
func (s *Server) createRoom(c *call) (any, error) {
	var req struct {
		node.CreateRequest
		Invite3PID []json.RawMessage `json:"invite_3pid"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := checkCreate(&req.CreateRequest); err != nil {
		return nil, err
	}
	if len(req.Invite3PID) > 0 {
		return nil, fail(http.StatusBadRequest, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "invites by email or phone are not supported")
	}
	if err := s.limits.send.take(string(c.Session.User)); err != nil {
		return nil, err
	}
	id, err := s.node.CreateRoom(c.Context(), c.Session.User, req.CreateRequest)
	switch {
	case errors.Is(err, room.ErrForbidden):
		// What the request asks for breaks the room's own rules.
		return nil, fail(http.StatusBadRequest, "M_INVALID_ROOM_STATE", err.Error())
	case errors.Is(err, node.ErrBadRequest):
		return nil, invalidParam(err.Error())
	case err != nil:
		return nil, err
	}
	return map[string]event.RoomID{"room_id": id}, nil
}

// checkCreate validates the fields of createRoom that need no look at the server.
func checkCreate(req *node.CreateRequest) error {
	if req.RoomVersion != "" && req.RoomVersion != "12" {
		return node.ErrRoomVersion
	}
	if req.Visibility != "" && req.Visibility != "public" && req.Visibility != "private" {
		return invalidParam("visibility is neither public nor private")
	}
	if !slices.Contains(presets, req.Preset) {
		return invalidParam("preset is not known")
	}
	if req.AliasName != "" && (strings.ContainsAny(req.AliasName, ":\x00") || len(req.AliasName) > maxAlias) {
		return invalidParam("room_alias_name is not valid")
	}
	if len(req.Invite) > maxInvites {
		return invalidParam("too many invites at once")
	}
	for _, u := range req.Invite {
		if _, err := userID(string(u)); err != nil {
			return err
		}
	}
	for _, raw := range []*json.RawMessage{&req.CreationContent, &req.PowerLevelContent} {
		if string(*raw) == "null" {
			*raw = nil
		}
		if len(*raw) > 0 && (*raw)[0] != '{' {
			return fail(http.StatusBadRequest, "M_BAD_JSON", "creation_content and power_level_content_override are objects")
		}
	}
	for _, e := range req.InitialState {
		if e.Type == "" {
			return missingParam("type of an initial_state event")
		}
		if len(e.Content) == 0 || e.Content[0] != '{' {
			return fail(http.StatusBadRequest, "M_BAD_JSON", "content of an initial_state event is not an object")
		}
	}
	return nil
}

// sent is the answer to what makes an event.
func sent(id event.ID, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return map[string]event.ID{"event_id": id}, nil
}

// maxTxn bounds a transaction id, in bytes.
const maxTxn = 255

// txn returns the transaction id of a path, and its scope: an id counts for one
// device and one path (Transaction identifiers).
func (c *call) txn(endpoint string, parts ...string) (id, scope string, err error) {
	id = c.PathValue("txnId")
	if len(id) > maxTxn {
		return "", "", invalidParam("transaction id is too long")
	}
	return id, strings.Join(append([]string{endpoint}, parts...), "\x00"), nil
}

// send implements PUT /rooms/{roomId}/send/{eventType}/{txnId} (room_send.yaml).
func (s *Server) send(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	content, err := c.body()
	if err != nil {
		return nil, err
	}
	typ := c.PathValue("eventType")
	txn, scope, err := c.txn("send", string(r), typ)
	if err != nil {
		return nil, err
	}
	if err := s.limits.send.take(string(c.Session.User)); err != nil {
		return nil, err
	}
	return sent(s.node.Send(c.Context(), node.SendRequest{User: c.Session.User, Device: c.Session.Device,
		Room: r, Type: typ, Content: content, TxnID: txn, Scope: scope}))
}

// redact implements PUT /rooms/{roomId}/redact/{eventId}/{txnId} (redaction.yaml).
func (s *Server) redact(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	target, err := c.event()
	if err != nil {
		return nil, err
	}
	var req struct {
		Reason *string `json:"reason"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	txn, scope, err := c.txn("redact", string(r), string(target))
	if err != nil {
		return nil, err
	}
	content := map[string]string{"redacts": string(target)}
	if req.Reason != nil {
		content["reason"] = *req.Reason
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	if err := s.limits.send.take(string(c.Session.User)); err != nil {
		return nil, err
	}
	return sent(s.node.Send(c.Context(), node.SendRequest{User: c.Session.User, Device: c.Session.Device,
		Room: r, Type: "m.room.redaction", Content: raw, TxnID: txn, Scope: scope}))
}

// putState implements PUT /rooms/{roomId}/state/{eventType}/{stateKey}
// (room_state.yaml).
func (s *Server) putState(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	content, err := c.body()
	if err != nil {
		return nil, err
	}
	typ, key := c.PathValue("eventType"), c.PathValue("stateKey")
	if err := s.limits.send.take(string(c.Session.User)); err != nil {
		return nil, err
	}
	switch typ {
	case "m.room.canonical_alias":
		if err := s.checkAliases(c, r, key, content); err != nil {
			return nil, err
		}
	case "m.room.member":
		if err := checkMember(key, content); err != nil {
			return nil, err
		}
	}
	return sent(s.node.Send(c.Context(), node.SendRequest{User: c.Session.User, Device: c.Session.Device,
		Room: r, Type: typ, StateKey: &key, Content: content}))
}

// checkMember refuses member events that are of no user or have no form. The
// node gives an invite the way of an invite.
func checkMember(key string, content json.RawMessage) error {
	if _, err := userID(key); err != nil {
		return err
	}
	var member struct {
		Membership string `json:"membership"`
	}
	return unmarshal(content, &member)
}

// checkAliases refuses new aliases of m.room.canonical_alias that are not valid
// or belong to another room (setRoomStateWithKey). Those that are there already
// are not looked at.
func (s *Server) checkAliases(c *call, r event.RoomID, key string, content json.RawMessage) error {
	if key != "" {
		return nil
	}
	fresh, err := aliasesOf(content)
	if err != nil {
		return err
	}
	var old []string
	if e, err := s.node.StateEvent(c.Context(), c.Session.User, r, "m.room.canonical_alias", ""); err == nil {
		old, _ = aliasesOf(e.Content) // what is not valid there was sent by others
	}
	for _, a := range fresh {
		if slices.Contains(old, a) {
			continue
		}
		if _, err := parseAlias(a); err != nil {
			return err
		}
		if id, _, err := s.node.ResolveAlias(c.Context(), a); err != nil || id != r {
			return fail(http.StatusBadRequest, "M_BAD_ALIAS", "an alias does not point to this room")
		}
	}
	return nil
}

// aliasesOf returns the aliases that m.room.canonical_alias lists.
func aliasesOf(content json.RawMessage) ([]string, error) {
	var c struct {
		Alias *string  `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}
	if err := unmarshal(content, &c); err != nil {
		return nil, invalidParam("aliases are not strings")
	}
	if c.Alias != nil && *c.Alias != "" {
		c.Alt = append(c.Alt, *c.Alias)
	}
	return c.Alt, nil
}
