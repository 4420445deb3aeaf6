package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tokenim/tokenim/node/event"
)

// Limits of what calls carry.
const (
	maxCall    = 8 << 20 // bytes of a request or an answer
	maxPage    = 1 << 20 // bytes of events in one answer; one event always fits
	maxPageIDs = 1000    // events in one answer
	maxWant    = 50      // ids that a request for missing events wants
	maxHave    = 100     // ids that it names as held
	maxRoots   = 50      // ids that the asker's graph begins with
	maxIDs     = 1000    // ids of a request for single events
	maxRooms   = 100     // rooms of one exchange of heads
	maxLeaves  = 100     // leaves of a room in one exchange of heads, per page
	maxRecords = 1000    // server records in one answer
	maxDirect  = 10      // events handed over directly
	maxInvite  = 20      // events of an invite's stripped state (protocol C5)
	maxInviteB = 32 << 10
)

// Codes of refusals beyond those of the specification.
const (
	codeForbidden   = "M_FORBIDDEN"
	codeNotFound    = "M_NOT_FOUND"
	codeBadJSON     = "M_BAD_JSON"
	codeInvalid     = "M_INVALID_PARAM"
	codeTooLarge    = "M_TOO_LARGE"
	codeMissing     = "M_MISSING_PARAM"
	codeUnknown     = "M_UNKNOWN"
	codeLimit       = "M_LIMIT_EXCEEDED"
	codeUnsupported = "M_UNRECOGNIZED"
	codeVersion     = "M_INCOMPATIBLE_ROOM_VERSION"
	codeNoAuthorise = "M_UNABLE_TO_AUTHORISE_JOIN"
	codeNoGrant     = "M_UNABLE_TO_GRANT_JOIN"
	codeRetry       = "IM.TOKENIM.RETRY"     // what the event refers to is not here yet; ask again
	codeNoCommon    = "IM.TOKENIM.NO_COMMON" // the asker's graph begins with what is not known here
	codeNoEvent     = "IM.TOKENIM.NO_EVENT"  // the event would be known here if it were what the asker takes it for
)

// pdus are events as they were signed.
type pdus []json.RawMessage

// makeJoinRequest asks for what a join must refer to.
type makeJoinRequest struct {
	Room event.RoomID `json:"room_id"`
	User event.UserID `json:"user_id"`
}

// template answers make_join and make_leave. It holds facts, not an event: the
// asking side builds its own event from them and signs nothing that is written
// here (invariant I4).
type template struct {
	Version string          `json:"room_version"`
	Create  json.RawMessage `json:"create"` // proves the room id
	Prev    []event.ID      `json:"prev_events"`
	Auth    pdus            `json:"auth_events"` // whole, so that the asker can see what it refers to
	Depth   int64           `json:"depth"`       // of the event to be made
	Via     event.UserID    `json:"join_authorised_via_users_server,omitempty"`
	Records [][]byte        `json:"records,omitempty"`
	// Redactions are the events that redacted some of Auth: they show that the
	// copies are what is left, and not bad ones. So they do in other answers.
	Redactions pdus `json:"redactions,omitempty"`
}

// sendJoinRequest hands over a join.
type sendJoinRequest struct {
	Event json.RawMessage `json:"event"`
}

// joinAnswer says what the room was like before the join.
type joinAnswer struct {
	Event   json.RawMessage `json:"event"`   // the join, co-signed if it is a restricted one
	State   []event.ID      `json:"state"`   // state before the join
	Auth    []event.ID      `json:"auth"`    // their auth chains, without events of State
	Events  pdus            `json:"events"`  // the first of them; the rest is fetched by id
	Records [][]byte        `json:"records"` // of the servers that signed Events

	Redactions pdus `json:"redactions,omitempty"`
}

// inviteRequest hands over an invite (Server-Server API, invites-v2).
type inviteRequest struct {
	Version string          `json:"room_version"`
	Event   json.RawMessage `json:"event"`
	State   pdus            `json:"invite_room_state"`
	Records [][]byte        `json:"records,omitempty"`
}

// eventAnswer carries one event back.
type eventAnswer struct {
	Event json.RawMessage `json:"event"`
}

// sendRequest hands over events that their receiver must get even if gossip may
// not carry them: the end of a membership of one of its users, or a leave of a
// user of the sender.
type sendRequest struct {
	Room    event.RoomID `json:"room_id"`
	Events  pdus         `json:"events"`
	Records [][]byte     `json:"records,omitempty"`
}

// sendAnswer has one verdict for each event, in order: empty for one that needs
// not be sent again, or a code.
type sendAnswer struct {
	Codes []string `json:"codes"`
}

// headsRequest exchanges the leaves of rooms; the answer has one entry for each.
type headsRequest struct {
	Rooms []heads `json:"rooms"`
}

// headsAnswer answers it in the order of the request.
type headsAnswer struct {
	Rooms []heads `json:"rooms"`
}

// heads describes a room at one node (protocol C4.3).
type heads struct {
	Room event.RoomID `json:"room_id"`
	// Leaves are sync leaves in order, those behind After of the request, at most
	// maxLeaves; More says that there are others.
	Leaves []event.ID `json:"leaves"`
	More   bool       `json:"more,omitempty"`
	After  event.ID   `json:"after,omitempty"`
	// LeafDigest covers all leaves, HeadDigest all forward extremities, StateHash
	// the current state. Only equal HeadDigest makes StateHash comparable.
	LeafDigest digest `json:"leaf_digest"`
	HeadDigest digest `json:"head_digest"`
	StateHash  digest `json:"state_hash"`
	Count      int64  `json:"count"` // accepted events, a hint
	// Removed says in an answer that the asker is not in the room any more. Leaves
	// are then the events that ended the memberships of its users.
	Removed bool   `json:"removed,omitempty"`
	Error   string `json:"error,omitempty"` // code; nothing else is set then
}

// missingRequest asks for the ancestors of Want, and Want itself, that are no
// ancestors of Have, oldest first. The order does not depend on what happens
// meanwhile, so that Offset continues an answer. Roots are events whose own past
// the asker does not hold; it is refused with codeNoCommon if one is not known.
type missingRequest struct {
	Room   event.RoomID `json:"room_id"`
	Want   []event.ID   `json:"want"`
	Have   []event.ID   `json:"have"`
	Roots  []event.ID   `json:"roots,omitempty"`
	Offset int          `json:"offset,omitempty"`
}

// missingAnswer is one page.
type missingAnswer struct {
	Events     pdus     `json:"events"`
	Rest       int      `json:"rest"` // events behind these
	Records    [][]byte `json:"records,omitempty"`
	Redactions pdus     `json:"redactions,omitempty"`
}

// stateRequest asks for an event and the state before it.
type stateRequest struct {
	Room  event.RoomID `json:"room_id"`
	Event event.ID     `json:"event_id"`
	For   []event.ID   `json:"for,omitempty"` // events whose ancestor it is: who was removed must name them
	// Roots are events that the asker's graph begins with, and the event is said to
	// be an ancestor of one. Who holds all their past answers codeNoEvent if not.
	Roots []event.ID `json:"roots,omitempty"`
}

// stateAnswer names the state and its auth chain; events are fetched by id.
type stateAnswer struct {
	Event      json.RawMessage `json:"event"`
	State      []event.ID      `json:"state"`
	Auth       []event.ID      `json:"auth"`
	Records    [][]byte        `json:"records,omitempty"`
	Redactions pdus            `json:"redactions,omitempty"`
}

// eventsRequest asks for events by id.
type eventsRequest struct {
	Room   event.RoomID `json:"room_id"`
	Events []event.ID   `json:"event_ids"`
	For    []event.ID   `json:"for,omitempty"` // as in stateRequest
}

// eventsAnswer holds those that are known, in the order of the request, until
// the answer is full.
type eventsAnswer struct {
	Events     pdus     `json:"events"`
	Records    [][]byte `json:"records,omitempty"`
	Redactions pdus     `json:"redactions,omitempty"`
}

// keysRequest asks for server records.
type keysRequest struct {
	Servers []event.Server `json:"servers"`
}

// keysAnswer holds those that are known.
type keysAnswer struct {
	Records [][]byte `json:"records"`
}

// aliasRequest resolves an alias of the asked server.
type aliasRequest struct {
	Alias string `json:"room_alias"`
}

// aliasAnswer names the room and servers to join through.
type aliasAnswer struct {
	Room    event.RoomID   `json:"room_id"`
	Servers []event.Server `json:"servers"`
}

// profileRequest asks for the profile of a user of the asked server.
type profileRequest struct {
	User event.UserID `json:"user_id"`
}

// profileAnswer is the whole profile.
type profileAnswer struct {
	Profile map[string]json.RawMessage `json:"profile"`
}

// digest is a SHA-256, written in unpadded base64 of the URL alphabet.
type digest [32]byte

// MarshalText implements encoding.TextMarshaler.
func (d digest) MarshalText() ([]byte, error) {
	return base64url.AppendEncode(nil, d[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *digest) UnmarshalText(text []byte) error {
	b, err := base64url.AppendDecode(nil, text)
	if err != nil || len(b) != len(d) {
		return errors.New("not a digest of 32 bytes")
	}
	copy(d[:], b)
	return nil
}

// decode reads one JSON value and nothing behind it. Unknown members are
// ignored, so that newer nodes can say more (protocol C9).
func decode[T any](body []byte) (T, error) {
	var v T
	if len(body) > maxCall {
		return v, refuse(codeTooLarge, "body of %d bytes", len(body))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&v); err != nil {
		return v, refuse(codeBadJSON, "body cannot be read")
	}
	if _, err := d.Token(); err != io.EOF {
		return v, refuse(codeBadJSON, "more than one value")
	}
	return v, nil
}

// refuse makes the refusal of a call.
func refuse(code, format string, args ...any) *event.RemoteError {
	return &event.RemoteError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// isCode reports whether err is a peer's refusal with this code.
func isCode(err error, code string) bool {
	var re *event.RemoteError
	return errors.As(err, &re) && re.Code == code
}

// checkIDs refuses lists that are too long or hold what is no event id.
func checkIDs(ids []event.ID, limit int) error {
	if len(ids) > limit {
		return refuse(codeTooLarge, "%d ids, at most %d are allowed", len(ids), limit)
	}
	for _, id := range ids {
		if _, err := event.ParseID(string(id)); err != nil {
			return refuse(codeInvalid, "not an event id")
		}
	}
	return nil
}

// checkRoom refuses what is no room id.
func checkRoom(r event.RoomID) error {
	if _, err := event.ParseRoomID(string(r)); err != nil {
		return refuse(codeInvalid, "not a room id of room version 12")
	}
	return nil
}
