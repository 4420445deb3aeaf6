package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/feed"
	"github.com/tokenim/tokenim/store"
)

// Errors that callers tell apart. room.ErrForbidden, store.ErrNotFound,
// event.ErrInvalid, event.ErrTooLarge and *event.RemoteError pass through too.
var (
	// ErrForbidden: the user may not do this, for a reason other than the room's rules.
	ErrForbidden = errors.New("forbidden")
	// ErrUnknownRoom: the room is not known here and nobody could be asked.
	ErrUnknownRoom = errors.New("unknown room")
	// ErrNoRoute: no server of the room could be reached; try again later (504).
	ErrNoRoute = errors.New("no server of the group can be reached")
	// ErrBadRequest: the request makes no sense.
	ErrBadRequest = errors.New("bad request")
)

// Config is what a node is made from.
type Config struct {
	Key     event.SigningKey // signs this node's events; names the server
	Store   *store.Store
	Network Network
	Logger  *slog.Logger
	Now     func() time.Time // nil: time.Now
	// HeadsEvery is the period of the heads exchange (protocol C4.3), 0: 15 s.
	HeadsEvery time.Duration
}

// Node is one organization's node.
type Node struct {
	Feed *feed.Feed // wakes those who wait for changes
}

// New makes a node; Run starts its work. Methods for clients can be used before Run.
func New(cfg Config) (*Node, error) { panic("stub") }

// Run does the node's work until ctx ends: publisher, catch-up, ingest workers.
func (n *Node) Run(ctx context.Context) error { panic("stub") }

// Ready reports whether start-up recovery is done.
func (n *Node) Ready() bool { panic("stub") }

// Server returns the node's name.
func (n *Node) Server() event.Server { panic("stub") }

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

// Send commits an event of a local user and returns after it is on disk.
func (n *Node) Send(ctx context.Context, req SendRequest) (event.ID, error) { panic("stub") }

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

// CreateRoom makes a room and returns after all of it is on disk, in one commit.
func (n *Node) CreateRoom(ctx context.Context, user event.UserID, req CreateRequest) (event.RoomID, error) {
	panic("stub")
}

// Join joins a local user to a room, through one of via if the room is not held
// here. content holds further keys of the member event's content ("reason", ...).
func (n *Node) Join(ctx context.Context, user event.UserID, r event.RoomID, via []event.Server, content map[string]json.RawMessage) error {
	panic("stub")
}

// Invite invites a user of any server.
func (n *Node) Invite(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, content map[string]json.RawMessage) error {
	panic("stub")
}

// Leave leaves a room or rejects an invite. Leaving a room one has left is no error.
func (n *Node) Leave(ctx context.Context, user event.UserID, r event.RoomID, reason string) error {
	panic("stub")
}

// Kick makes target leave. ErrBadRequest if target is not in the room.
func (n *Node) Kick(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, reason string) error {
	panic("stub")
}

// Ban bans target.
func (n *Node) Ban(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, reason string) error {
	panic("stub")
}

// Unban lifts a ban. ErrForbidden if target is not banned.
func (n *Node) Unban(ctx context.Context, by event.UserID, r event.RoomID, target event.UserID, reason string) error {
	panic("stub")
}

// Forget hides a room that the user has left. ErrBadRequest while still in it.
func (n *Node) Forget(ctx context.Context, user event.UserID, r event.RoomID) error { panic("stub") }

// ResolveAlias finds the room of an alias, asking its server if that is another,
// and servers to join through.
func (n *Node) ResolveAlias(ctx context.Context, alias string) (event.RoomID, []event.Server, error) {
	panic("stub")
}

// SetProfile changes a field of a local user's profile and the member events of
// the rooms the user is joined to. value nil removes the field.
func (n *Node) SetProfile(ctx context.Context, user event.UserID, field string, value json.RawMessage) error {
	panic("stub")
}

// Profile returns the profile of a user of any server.
func (n *Node) Profile(ctx context.Context, user event.UserID) (map[string]json.RawMessage, error) {
	panic("stub")
}

// HandleGossip implements federation.Handler.
func (n *Node) HandleGossip(ctx context.Context, from event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	panic("stub")
}

// HandleEphemeral implements federation.Handler.
func (n *Node) HandleEphemeral(ctx context.Context, from event.Server, r event.RoomID, edu []byte) error {
	panic("stub")
}

// HandleCall implements federation.Handler.
func (n *Node) HandleCall(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error) {
	panic("stub")
}

// HandlePeer implements federation.Handler.
func (n *Node) HandlePeer(s event.Server, connected bool) { panic("stub") }

// HandleLoss implements federation.Handler.
func (n *Node) HandleLoss(r event.RoomID) { panic("stub") }

// LoadRecords implements federation.Handler.
func (n *Node) LoadRecords() ([][]byte, error) { panic("stub") }

// SaveRecord implements federation.Handler.
func (n *Node) SaveRecord(s event.Server, raw []byte) error { panic("stub") }
