package event

import "strings"

// Server is a server name: the part of a user id behind the first colon.
type Server string

// UserID is a fully qualified user id, "@localpart:server".
type UserID string

// Server returns the part behind the first colon, empty if there is none.
func (u UserID) Server() Server {
	_, s, _ := strings.Cut(string(u), ":")
	return Server(s)
}

// Localpart returns the part between the sigil and the first colon.
func (u UserID) Localpart() string {
	l, _, _ := strings.Cut(strings.TrimPrefix(string(u), "@"), ":")
	return l
}

// RoomID names a room: "!" and the unpadded URL-safe base64 of the reference
// hash of its create event (room version 12).
type RoomID string

// Create returns the id of the room's create event.
func (r RoomID) Create() ID { return ID("$" + strings.TrimPrefix(string(r), "!")) }

// ID is an event id: "$" and the unpadded URL-safe base64 of the event's
// reference hash.
type ID string

// Room returns the id of the room that the create event with this id makes.
func (id ID) Room() RoomID { return RoomID("!" + strings.TrimPrefix(string(id), "$")) }

// KeyID names a signing key of a server, "ed25519:" and a version.
type KeyID string

// ParseServer accepts the names that a node of this federation can have
// (protocol C1): a base36 libp2p key or a lower-case DNS name without port.
func ParseServer(s string) (Server, error) { panic("stub") }

// ParseUserID validates a user id by the grammar of the specification
// (Appendices, User Identifiers), historical localparts included.
func ParseUserID(s string) (UserID, error) { panic("stub") }

// ParseRoomID validates a room id of room version 12.
func ParseRoomID(s string) (RoomID, error) { panic("stub") }

// ParseID validates an event id.
func ParseID(s string) (ID, error) { panic("stub") }
