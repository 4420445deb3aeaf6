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
		return fail(http.StatusBadRequest, "M_BAD_JSON", "value of "+wrong.Field+" has the wrong type")
	case err != nil:
		return fail(http.StatusBadRequest, "M_BAD_JSON", "body does not have the expected form")
	}
	return nil
}

// room returns the path parameter roomId.
func (c *call) room() (event.RoomID, error) {
	r, err := event.ParseRoomID(c.PathValue("roomId"))
	if err != nil {
		return "", invalidParam("room id is not valid")
	}
	return r, nil
}

// event returns the path parameter eventId.
func (c *call) event() (event.ID, error) {
	id, err := event.ParseID(c.PathValue("eventId"))
	if err != nil {
		return "", invalidParam("event id is not valid")
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
