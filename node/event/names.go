package event

import (
	"encoding/base64"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// Limits of names, in bytes. A user id has 255 (Appendices, User Identifiers);
// for server names the specification recommends 230, which a node requires of
// its own kind.
const (
	maxUserID = 255
	maxServer = 230
)

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
// (protocol C1): a base36 libp2p key or a lower-case DNS name without port, of
// at most 230 bytes. A single label is a DNS name too. Errors wrap ErrInvalid.
func ParseServer(s string) (Server, error) {
	if len(s) == 0 || len(s) > maxServer {
		return "", fmt.Errorf("%w: server name of %d bytes, not 1 to %d", ErrInvalid, len(s), maxServer)
	}
	// What has the look of a self-certifying name must be one, or it could be
	// mistaken for a key that nobody holds.
	if len(s) == 62 && s[0] == 'k' && !strings.ContainsAny(s, ".-") {
		if !isKeyName(s) {
			return "", fmt.Errorf("%w: server name %q is not the base36 form of an Ed25519 libp2p key", ErrInvalid, s)
		}
		return Server(s), nil
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return "", fmt.Errorf("%w: server name %q is no lower-case DNS name without port", ErrInvalid, s)
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return "", fmt.Errorf("%w: server name %q ends in a number as IP addresses do", ErrInvalid, s)
	}
	return Server(s), nil
}

// isLabel reports whether s is a label of a lower-case host name (RFC 1123, 2.1).
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// isKeyName reports whether s is multibase base36 of a CIDv1 of the libp2p-key
// codec that holds an Ed25519 public key, identity hash included.
func isKeyName(s string) bool {
	const prefix = "\x01\x72\x00\x24\x08\x01\x12\x20"
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	n, ok := new(big.Int).SetString(s[1:], 36)
	if !ok {
		return false
	}
	b := n.Bytes()
	return len(b) == len(prefix)+32 && string(b[:len(prefix)]) == prefix
}

// ParseUserID validates a user id by the grammar of the specification
// (Appendices, User Identifiers), historical localparts included: at most 255
// bytes, a localpart of any characters but colon and NUL, the empty one too,
// and any server name of Matrix. Errors wrap ErrInvalid.
func ParseUserID(s string) (UserID, error) {
	local, server, ok := strings.Cut(s, ":")
	switch {
	case len(s) > maxUserID:
		return "", fmt.Errorf("%w: user id of %d bytes, more than %d", ErrInvalid, len(s), maxUserID)
	case !ok || local == "" || local[0] != '@':
		return "", fmt.Errorf("%w: user id %q is not of the form @localpart:server", ErrInvalid, s)
	case !utf8.ValidString(local) || strings.IndexByte(local, 0) >= 0:
		return "", fmt.Errorf("%w: localpart of user id %q", ErrInvalid, s)
	case !isServerName(server):
		return "", fmt.Errorf("%w: server name of user id %q", ErrInvalid, s)
	}
	return UserID(s), nil
}

// isServerName reports whether s is a server name by the grammar of the
// specification (Appendices, Server Name).
func isServerName(s string) bool {
	host := s
	if strings.HasPrefix(s, "[") {
		address, rest, ok := strings.Cut(s[1:], "]")
		if !ok || !isIPv6(address) {
			return false
		}
		if rest == "" {
			return true
		}
		return rest[0] == ':' && isPort(rest[1:])
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		if !isPort(s[i+1:]) {
			return false
		}
		host = s[:i]
	}
	// An IPv4 address consists of dns-chars too, so one test covers both.
	for i := range len(host) {
		c := host[i]
		if c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return host != ""
}

func isPort(s string) bool {
	return 1 <= len(s) && len(s) <= 5 && strings.Trim(s, "0123456789") == ""
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && a.Zone() == ""
}

// ParseRoomID validates a room id of room version 12. Errors wrap ErrInvalid.
func ParseRoomID(s string) (RoomID, error) {
	if !isHash(s, '!') {
		return "", fmt.Errorf("%w: no room id of room version 12", ErrInvalid)
	}
	return RoomID(s), nil
}

// ParseID validates an event id. Errors wrap ErrInvalid.
func ParseID(s string) (ID, error) {
	if !isHash(s, '$') {
		return "", fmt.Errorf("%w: no event id", ErrInvalid)
	}
	return ID(s), nil
}

// hashLen is the length of a sigil and 32 bytes in base64.
const hashLen = 1 + 43

// isHash reports whether s is the sigil and the unpadded URL-safe base64 of 32
// bytes. The last of 43 characters carries four bits; the other two are zero in
// every id that can exist.
func isHash[T ~string | ~[]byte](s T, sigil byte) bool {
	if len(s) != hashLen || s[0] != sigil {
		return false
	}
	var v byte
	for i := 1; i < len(s); i++ {
		if v = urlValue[s[i]]; v > 63 {
			return false
		}
	}
	return v&3 == 0
}

// urlValue gives the six bits of a character of URL-safe base64, 255 for others.
var urlValue = func() (t [256]byte) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range t {
		t[i] = 255
	}
	for i := range len(alphabet) {
		t[alphabet[i]] = byte(i)
	}
	return t
}()

// newID returns the event id of a reference hash (room version 4, Event IDs).
func newID(hash [32]byte) ID {
	var b [hashLen]byte
	b[0] = '$'
	base64.RawURLEncoding.Encode(b[1:], hash[:])
	return ID(b[:])
}
