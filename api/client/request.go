package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
)

// maxBody is the largest JSON body of a request, in bytes. An event may have
// 64 KiB; initial states and account data are larger.
const maxBody = 256 << 10

// body reads a required JSON object. Errors: 413 M_TOO_LARGE, 400 M_NOT_JSON for
// what is no JSON and 400 M_BAD_JSON for what is no object.
func (c *call) body() (json.RawMessage, error) {
	raw, err := c.rawBody()
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, fail(http.StatusBadRequest, "M_NOT_JSON", "body is not JSON")
	}
	if raw[0] != '{' {
		return nil, fail(http.StatusBadRequest, "M_BAD_JSON", "body is not an object")
	}
	return raw, nil
}

// rawBody reads the body without the space around it.
func (c *call) rawBody() ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(c.ResponseWriter, c.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, fail(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "body is larger than "+strconv.Itoa(maxBody)+" bytes")
	case err != nil:
		return nil, fail(http.StatusBadRequest, "M_NOT_JSON", "body ended early")
	}
	return bytes.TrimSpace(raw), nil
}

// decode reads a required JSON object into v. Values of the wrong type are
// M_BAD_JSON; unknown keys are ignored, as the specification asks.
func (c *call) decode(v any) error {
	raw, err := c.body()
	if err != nil {
		return err
	}
	return unmarshal(raw, v)
}

// decodeOptional is decode for operations that clients call without a body.
func (c *call) decodeOptional(v any) error {
	raw, err := c.rawBody()
	if err != nil || len(raw) == 0 {
		return err
	}
	c.Body = io.NopCloser(bytes.NewReader(raw))
	return c.decode(v)
}

// unmarshal decodes valid JSON.
func unmarshal(raw []byte, v any) error {
	err := json.Unmarshal(raw, v)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		field := wrong.Field[strings.LastIndexByte(wrong.Field, '.')+1:] // before it may stand the name of a Go type
		return fail(http.StatusBadRequest, "M_BAD_JSON", "value of "+field+" has the wrong type")
	case err != nil:
		return fail(http.StatusBadRequest, "M_BAD_JSON", "body does not have the expected form")
	}
	return nil
}

// errOtherVersion answers for the ids of rooms of other room versions, which
// links on the web are full of: they are valid, and nobody here is in such a room.
var errOtherVersion = forbidden("you are not in the room: only rooms of version 12 are supported")

// parseRoom parses a room id; errOtherVersion.
func parseRoom(text string) (event.RoomID, error) {
	r, err := event.ParseRoomID(text)
	if err == nil {
		return r, nil
	}
	// Before room version 12: !opaque_id:domain (Appendices, Room IDs).
	local, server, ok := strings.Cut(strings.TrimPrefix(text, "!"), ":")
	if ok && strings.HasPrefix(text, "!") && local != "" && server != "" && len(text) <= 255 {
		return "", errOtherVersion
	}
	return "", invalidParam("room id is not valid")
}

// room returns the path parameter roomId.
func (c *call) room() (event.RoomID, error) { return parseRoom(c.PathValue("roomId")) }

// heldRoom is room for operations that answer 404 for rooms that are not known.
func (c *call) heldRoom() (event.RoomID, error) {
	r, err := c.room()
	if errors.Is(err, errOtherVersion) {
		return "", node.ErrUnknownRoom
	}
	return r, err
}

// event returns the path parameter eventId.
func (c *call) event() (event.ID, error) {
	id, err := event.ParseID(c.PathValue("eventId"))
	if err != nil {
		return "", invalidParam("event id is not valid")
	}
	return id, nil
}

// shownEvent is event for operations that read an event: what can be no event's
// id is none that the user may see.
func (c *call) shownEvent() (event.ID, error) {
	id, err := c.event()
	if err != nil {
		return "", notFound("event is not known")
	}
	return id, nil
}

// self checks that the path parameter userId is who makes the request.
func (c *call) self() (event.UserID, error) {
	if c.PathValue("userId") != string(c.Session.User) {
		return "", fail(http.StatusForbidden, "M_FORBIDDEN", "this belongs to another user")
	}
	return c.Session.User, nil
}

// number reads a query parameter that is an integer from low up; larger values
// than high become high. Absent: def.
func (c *call) number(name string, def, low, high int) (int, error) {
	text := c.URL.Query().Get(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if errors.Is(err, strconv.ErrRange) && n > 0 { // larger than any number, which n is the largest of
		err = nil
	}
	if err != nil || n < low {
		return 0, invalidParam("query parameter " + name + " is not valid")
	}
	return min(n, high), nil
}

// userID parses a user id that a body or a path names.
func userID(text string) (event.UserID, error) {
	if text == "" {
		return "", missingParam("user_id")
	}
	u, err := event.ParseUserID(text)
	if err != nil {
		return "", invalidParam("user id is not valid")
	}
	return u, nil
}

// ip returns the address of the client. A proxy on this machine says it in
// X-Forwarded-For, whose last entry is the one that the proxy itself saw.
func (c *call) ip() string {
	host, _, err := net.SplitHostPort(c.RemoteAddr)
	if err != nil {
		host = c.RemoteAddr
	}
	if addr := net.ParseIP(host); addr == nil || !addr.IsLoopback() {
		return host
	}
	list := c.Request.Header.Values("X-Forwarded-For")
	if len(list) == 0 {
		return host
	}
	parts := strings.Split(list[len(list)-1], ",")
	if last := strings.TrimSpace(parts[len(parts)-1]); net.ParseIP(last) != nil {
		return last
	}
	return host
}
