package node

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// roomVersion is the one version of rooms that is made and joined.
const roomVersion = "12"

// CreateRequest describes a new room (Client-Server API, createRoom). Fields
// are those of the specification.
type CreateRequest struct {
	Visibility        string          `json:"visibility"`
	AliasName         string          `json:"room_alias_name"`
	Name              string          `json:"name"`
	Topic             string          `json:"topic"`
	Invite            []event.UserID  `json:"invite"`
	RoomVersion       string          `json:"room_version"`
	CreationContent   json.RawMessage `json:"creation_content"`
	InitialState      []InitialState  `json:"initial_state"`
	Preset            string          `json:"preset"`
	IsDirect          bool            `json:"is_direct"`
	PowerLevelContent json.RawMessage `json:"power_level_content_override"`
}

// InitialState is one entry of initial_state.
type InitialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// ErrRoomVersion refuses room versions other than 12.
var ErrRoomVersion = errors.New("unsupported room version")

// ErrAliasInUse says that a room alias is taken.
var ErrAliasInUse = errors.New("alias is in use")

// ErrRoomState says that a new room's rules refuse what the request puts into
// it (M_INVALID_ROOM_STATE). It wraps room.ErrForbidden.
var ErrRoomState = fmt.Errorf("%w: the initial state is not possible", room.ErrForbidden)

// stateContent is a state event to be sent.
type stateContent struct {
	typ, key string
	content  json.RawMessage
}

// CreateRoom makes a room and returns after all of it is on disk, in one commit.
// Users of other servers are invited once their servers answer.
//
// Errors: ErrRoomVersion, ErrAliasInUse, ErrBadRequest, ErrRoomState,
// event.ErrInvalid and event.ErrTooLarge; nothing is made then.
func (n *Node) CreateRoom(ctx context.Context, user event.UserID, req CreateRequest) (event.RoomID, error) {
	if user.Server() != n.Server() {
		return "", fmt.Errorf("%w: not a user of this server", ErrForbidden)
	}
	if err := req.check(user); err != nil {
		return "", err
	}
	alias := ""
	if req.AliasName != "" {
		alias = "#" + req.AliasName + ":" + string(n.Server())
		if _, _, err := splitAlias(alias); err != nil {
			return "", err
		}
	}
	content, creators, err := req.creation(user)
	if err != nil {
		return "", err
	}
	none := ""
	create, err := event.Sign(event.Body{
		Type: typeCreate, StateKey: &none, Sender: user, Content: content,
		Prev: []event.ID{}, Auth: []event.ID{}, Depth: 1, Time: n.cfg.Now().UnixMilli(),
	}, n.cfg.Key)
	if err != nil {
		return "", err
	}
	id := create.ID().Room()
	state, err := req.state(alias, creators)
	if err != nil {
		return "", err
	}
	err = n.update(ctx, func(tx *store.Tx, fx *effects) error {
		return n.makeRoom(tx, fx, user, create, state, req, alias)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// check validates what does not depend on anything stored.
func (req *CreateRequest) check(user event.UserID) error {
	if req.RoomVersion != "" && req.RoomVersion != roomVersion {
		return fmt.Errorf("%w: %.20q", ErrRoomVersion, req.RoomVersion)
	}
	switch req.Visibility {
	case "", "public", "private":
	default:
		return fmt.Errorf("%w: visibility %.20q", ErrBadRequest, req.Visibility)
	}
	switch req.Preset {
	case "private_chat", "public_chat", "trusted_private_chat":
	case "":
		req.Preset = "private_chat"
		if req.Visibility == "public" {
			req.Preset = "public_chat"
		}
	default:
		return fmt.Errorf("%w: preset %.40q", ErrBadRequest, req.Preset)
	}
	for _, u := range req.Invite {
		if _, err := event.ParseUserID(string(u)); err != nil {
			return fmt.Errorf("%w: %w", ErrBadRequest, err)
		}
		if u == user {
			return fmt.Errorf("%w: you cannot invite yourself", ErrBadRequest)
		}
	}
	for _, s := range req.InitialState {
		if s.Type == "" || s.Type == typeCreate || len(s.Content) == 0 {
			return fmt.Errorf("%w: an entry of initial_state has type %.60q", ErrBadRequest, s.Type)
		}
	}
	return nil
}

// splitAlias checks a room alias and returns its parts (Appendices, Room aliases).
func splitAlias(alias string) (local string, server event.Server, err error) {
	local, name, ok := strings.Cut(strings.TrimPrefix(alias, "#"), ":")
	if !ok || len(alias) > 255 || !strings.HasPrefix(alias, "#") || local == "" || strings.ContainsAny(local, "\x00 \t\r\n") {
		return "", "", fmt.Errorf("%w: %.60q is no room alias", ErrBadRequest, alias)
	}
	if server, err = event.ParseServer(name); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	return local, server, nil
}

// creation makes the content of the create event and lists the creators.
func (req *CreateRequest) creation(user event.UserID) (json.RawMessage, []event.UserID, error) {
	content := map[string]json.RawMessage{}
	if err := object(req.CreationContent, &content); err != nil {
		return nil, nil, err
	}
	var more []event.UserID
	if raw := content["additional_creators"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &more); err != nil {
			return nil, nil, fmt.Errorf("%w: additional_creators is not a list of users", ErrBadRequest)
		}
	}
	if req.Preset == "trusted_private_chat" {
		more = append(more, req.Invite...)
	}
	creators := []event.UserID{user}
	for _, u := range more {
		if !slices.Contains(creators, u) {
			creators = append(creators, u)
		}
	}
	delete(content, "additional_creators")
	if len(creators) > 1 {
		raw, err := json.Marshal(creators[1:])
		if err != nil {
			return nil, nil, err
		}
		content["additional_creators"] = raw
	}
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails
	delete(content, "creator")
	content["room_version"] = quote(roomVersion)
	content[saltKey] = quote(base64.RawStdEncoding.EncodeToString(salt))
	raw, err := json.Marshal(content)
	return raw, creators, err
}

// object reads an optional JSON object.
func object(raw json.RawMessage, into *map[string]json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil || *into == nil {
		return fmt.Errorf("%w: not an object", ErrBadRequest)
	}
	return nil
}

// powerLevels makes the content of the power levels. Creators are above all
// levels and must not be listed (room version 12).
func (req *CreateRequest) powerLevels(creators []event.UserID) (json.RawMessage, error) {
	inviteLevel := "0"
	if req.Preset == "public_chat" {
		inviteLevel = "50"
	}
	content := map[string]json.RawMessage{
		"users": json.RawMessage(`{}`), "users_default": json.RawMessage(`0`),
		"events": json.RawMessage(`{"m.room.name":50,"m.room.avatar":50,"m.room.canonical_alias":50,` +
			`"m.room.power_levels":100,"m.room.history_visibility":100,"m.room.encryption":100,` +
			`"m.room.server_acl":100}`),
		"events_default": json.RawMessage(`0`), "state_default": json.RawMessage(`50`),
		"ban": json.RawMessage(`50`), "kick": json.RawMessage(`50`), "redact": json.RawMessage(`50`),
		"invite": json.RawMessage(inviteLevel),
	}
	override := map[string]json.RawMessage{}
	if err := object(req.PowerLevelContent, &override); err != nil {
		return nil, err
	}
	for k, v := range override {
		content[k] = v
	}
	var users map[string]json.RawMessage
	if json.Unmarshal(content["users"], &users) == nil && len(users) > 0 {
		for _, u := range creators {
			delete(users, string(u))
		}
		raw, err := json.Marshal(users)
		if err != nil {
			return nil, err
		}
		content["users"] = raw
	}
	// The level for tombstones must be higher than state_default, unless the
	// client says otherwise.
	var events map[string]json.RawMessage
	var state int64
	if json.Unmarshal(content["events"], &events) == nil && events != nil && events["m.room.tombstone"] == nil &&
		json.Unmarshal(content["state_default"], &state) == nil {
		events["m.room.tombstone"] = json.RawMessage(fmt.Sprint(max(150, state+1)))
		raw, err := json.Marshal(events)
		if err != nil {
			return nil, err
		}
		content["events"] = raw
	}
	return json.Marshal(content)
}

// presets are the state events that each preset sets.
var presets = map[string][]stateContent{
	"private_chat": {
		{typ: typeJoinRules, content: json.RawMessage(`{"join_rule":"invite"}`)},
		{typ: typeVisibility, content: json.RawMessage(`{"history_visibility":"shared"}`)},
		{typ: "m.room.guest_access", content: json.RawMessage(`{"guest_access":"can_join"}`)},
	},
	"public_chat": {
		{typ: typeJoinRules, content: json.RawMessage(`{"join_rule":"public"}`)},
		{typ: typeVisibility, content: json.RawMessage(`{"history_visibility":"shared"}`)},
		{typ: "m.room.guest_access", content: json.RawMessage(`{"guest_access":"forbidden"}`)},
	},
}

// state lists the state events behind the creator's join, in the order of the
// specification: power levels, canonical alias, preset, initial_state, name and
// topic. initial_state takes precedence over the preset, name and topic over it.
func (req *CreateRequest) state(alias string, creators []event.UserID) ([]stateContent, error) {
	levels, err := req.powerLevels(creators)
	if err != nil {
		return nil, err
	}
	out := []stateContent{{typ: typePowerLevels, content: levels}}
	if alias != "" {
		out = append(out, stateContent{typ: typeAlias, content: marshalled(map[string]string{"alias": alias})})
	}
	preset := req.Preset
	if preset == "trusted_private_chat" {
		preset = "private_chat"
	}
	for _, s := range presets[preset] {
		if !slices.ContainsFunc(req.InitialState, func(i InitialState) bool { return i.Type == s.typ && i.StateKey == "" }) {
			out = append(out, s)
		}
	}
	for _, s := range req.InitialState {
		if s.StateKey == "" && (s.Type == typeName && req.Name != "" || s.Type == typeTopic && req.Topic != "") {
			continue
		}
		out = append(out, stateContent{s.Type, s.StateKey, s.Content})
	}
	if req.Name != "" {
		out = append(out, stateContent{typ: typeName, content: marshalled(map[string]string{"name": req.Name})})
	}
	if req.Topic != "" {
		plain := []map[string]string{{"body": req.Topic, "mimetype": "text/plain"}}
		out = append(out, stateContent{typ: typeTopic, content: marshalled(map[string]any{
			"topic": req.Topic, "m.topic": map[string]any{"m.text": plain},
		})})
	}
	return out, nil
}

// marshalled returns the JSON of strings in maps and lists, which always have one.
func marshalled(v any) json.RawMessage {
	b, _ := json.Marshal(v)
	return b
}

// makeRoom commits all events of a new room.
func (n *Node) makeRoom(tx *store.Tx, fx *effects, user event.UserID, create *event.Event, state []stateContent, req CreateRequest, alias string) error {
	id := create.ID().Room()
	if alias != "" {
		if _, _, err := tx.Alias(alias); err == nil {
			return fmt.Errorf("%w: %s", ErrAliasInUse, alias)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	own := how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}}
	if _, err := n.commit(tx, fx, create, own); err != nil {
		return roomState(err)
	}
	content, err := n.memberContent(tx, user, join, nil, "")
	if err != nil {
		return err
	}
	if err := n.sendMember(tx, fx, id, user, user, content); err != nil {
		return roomState(err)
	}
	for _, s := range state {
		e, err := n.draft(tx, id, user, s.typ, &s.key, s.content)
		if err != nil {
			return err
		}
		if _, err := n.commit(tx, fx, e, own); err != nil {
			return roomState(err)
		}
	}
	if alias != "" {
		if err := tx.PutAlias(alias, id, user); err != nil {
			return err
		}
	}
	if req.Visibility == "public" {
		if err := tx.SetPublished(id, true); err != nil {
			return err
		}
	}
	return n.makeInvites(tx, fx, user, id, req)
}

// makeInvites commits the invites of a new room. Those for other servers go to
// them once the room is durable.
func (n *Node) makeInvites(tx *store.Tx, fx *effects, user event.UserID, id event.RoomID, req CreateRequest) error {
	var extra map[string]json.RawMessage
	if req.IsDirect {
		extra = map[string]json.RawMessage{"is_direct": json.RawMessage(`true`)}
	}
	for _, target := range req.Invite {
		e, err := n.draftInvite(tx, user, id, target, extra)
		if err != nil {
			return err
		}
		if e == nil { // named twice
			continue
		}
		if _, err := n.commit(tx, fx, e, how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}}); err != nil {
			return roomState(err)
		}
		if target.Server() == n.Server() {
			continue
		}
		request, err := n.inviteRequest(tx, e)
		if err != nil {
			return err
		}
		body, err := json.Marshal(request)
		if err != nil {
			return err
		}
		fx.parcels = append(fx.parcels, parcel{to: target.Server(), method: CallInvite, body: body, what: e.ID()})
	}
	return nil
}

// roomState turns a refusal by the rules into ErrRoomState.
func roomState(err error) error {
	if errors.Is(err, room.ErrForbidden) {
		return fmt.Errorf("%w: %w", ErrRoomState, err)
	}
	return err
}
