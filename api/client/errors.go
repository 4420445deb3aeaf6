package client

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// apiError is an error as a client sees it.
type apiError struct {
	status int
	code   string
	text   string
	retry  time.Duration // Retry-After; 0 none
	body   any           // instead of code and text, for 401 with flows
}

// Error returns the code and the text.
func (e *apiError) Error() string { return e.code + ": " + e.text }

// errorBody is the standard error response.
type errorBody struct {
	Code  string `json:"errcode"`
	Text  string `json:"error"`
	Retry int64  `json:"retry_after_ms,omitempty"`
}

// fail makes an error with a status and a code of the specification. The text
// is for people and holds no personal data.
func fail(status int, code, text string) *apiError {
	return &apiError{status: status, code: code, text: text}
}

func invalidParam(text string) error { return fail(http.StatusBadRequest, "M_INVALID_PARAM", text) }

func missingParam(name string) error {
	return fail(http.StatusBadRequest, "M_MISSING_PARAM", name+" is missing")
}

func forbidden(text string) error { return fail(http.StatusForbidden, "M_FORBIDDEN", text) }

func notFound(text string) error { return fail(http.StatusNotFound, "M_NOT_FOUND", text) }

var errUnrecognized = fail(http.StatusNotFound, "M_UNRECOGNIZED", "unknown endpoint")

// limited is 429 with the time after which the request can succeed.
func limited(wait time.Duration) *apiError {
	return &apiError{status: http.StatusTooManyRequests, code: "M_LIMIT_EXCEEDED", text: "too many requests",
		retry: max(wait, time.Millisecond)}
}

// outside is the table from errors to what a client sees. The first that
// errors.Is finds decides. An empty text shows the error's own.
var outside = []struct {
	is     error
	status int
	code   string
	text   string
	retry  time.Duration
}{
	{account.ErrUnknownToken, 401, "M_UNKNOWN_TOKEN", "access token is not known", 0},
	{account.ErrLimited, 429, "M_LIMIT_EXCEEDED", "too many attempts", loginRetry},
	{account.ErrCredentials, 403, "M_FORBIDDEN", "user name or password is wrong", 0},
	{account.ErrDeactivated, 403, "M_USER_DEACTIVATED", "account is deactivated", 0},
	{account.ErrUserInUse, 400, "M_USER_IN_USE", "user name is taken", 0},
	{account.ErrInvalidUsername, 400, "M_INVALID_USERNAME", "user name is not valid", 0},
	{account.ErrExclusive, 400, "M_EXCLUSIVE", "user name is reserved", 0},
	{account.ErrWeakPassword, 400, "M_WEAK_PASSWORD", "", 0},
	{account.ErrRegistration, 403, "M_FORBIDDEN", "registration is closed", 0},
	{account.ErrRegToken, 401, "M_UNAUTHORIZED", "registration token is not valid", 0},
	{node.ErrRoomVersion, 400, "M_UNSUPPORTED_ROOM_VERSION", "only room version 12 is supported", 0},
	{node.ErrAliasInUse, 400, "M_ROOM_IN_USE", "alias is in use", 0},
	{node.ErrForbidden, 403, "M_FORBIDDEN", "", 0},
	{room.ErrForbidden, 403, "M_FORBIDDEN", "", 0},
	{node.ErrUnknownRoom, 404, "M_NOT_FOUND", "room is not known here", 0},
	{node.ErrParam, 400, "M_INVALID_PARAM", "", 0},
	// What has no code of its own is M_UNKNOWN: clients go by the status then.
	{node.ErrNoRoute, 504, "M_UNKNOWN", "no server of the group can be reached, try again later", remoteRetry},
	{event.ErrUnreachable, 504, "M_UNKNOWN", "the other server cannot be reached, try again later", remoteRetry},
	{node.ErrBadRequest, 400, "M_UNKNOWN", "", 0},
	{event.ErrTooLarge, 413, "M_TOO_LARGE", "event is too large", 0},
	{event.ErrInvalid, 400, "M_BAD_JSON", "", 0},
	{store.ErrNotFound, 404, "M_NOT_FOUND", "not found", 0},
	{store.ErrTooBig, 413, "M_TOO_LARGE", "too many changes at once", 0},
	{store.ErrDiskFull, 507, "M_UNKNOWN", "the server's disk is full", 0},
	{store.ErrFailed, 503, "M_UNKNOWN", "the server cannot write and must be restarted", 0},
	{store.ErrClosed, 503, "M_UNKNOWN", "the server is shutting down", remoteRetry},
	{context.Canceled, 503, "M_UNKNOWN", "request was cancelled", 0},
	{context.DeadlineExceeded, 504, "M_UNKNOWN", "request took too long", remoteRetry},
}

const (
	loginRetry  = 10 * time.Second // when no better time is known
	remoteRetry = 5 * time.Second
)

// remote are the codes of peers that clients are shown as they are.
var remote = map[string]int{
	"M_FORBIDDEN":                 403,
	"M_INVITE_BLOCKED":            403,
	"M_NOT_FOUND":                 404,
	"M_BAD_STATE":                 400,
	"M_UNSUPPORTED_ROOM_VERSION":  400,
	"M_INCOMPATIBLE_ROOM_VERSION": 400,
	"M_UNABLE_TO_AUTHORISE_JOIN":  400,
	"M_UNABLE_TO_GRANT_JOIN":      400,
	"M_LIMIT_EXCEEDED":            429,
}

// shown maps any error to what a client sees; known is false for errors that
// the table does not hold, whose text stays inside.
func shown(err error) (e *apiError, known bool) {
	if errors.As(err, &e) {
		return e, true
	}
	var wait *account.LimitError
	if errors.As(err, &wait) {
		return limited(wait.Wait), true
	}
	var rule *room.RuleError
	if errors.As(err, &rule) {
		return fail(http.StatusForbidden, "M_FORBIDDEN", rule.Error()), true
	}
	var peer *event.RemoteError
	if errors.As(err, &peer) {
		if status, ok := remote[peer.Code]; ok {
			return fail(status, peer.Code, peer.Message), true
		}
		return fail(http.StatusBadGateway, "M_UNKNOWN", "the other server refused: "+peer.Error()), true
	}
	for _, o := range outside {
		if errors.Is(err, o.is) {
			e := &apiError{status: o.status, code: o.code, text: o.text, retry: o.retry}
			if e.text == "" {
				e.text = err.Error()
			}
			return e, true
		}
	}
	return fail(http.StatusInternalServerError, "M_UNKNOWN", "internal error"), false
}

// writeError answers with an error and returns its status.
func (s *Server) writeError(w http.ResponseWriter, err error) int {
	e, known := shown(err)
	if !known {
		s.log.Error("request failed", "err", err)
	}
	body := errorBody{Code: e.code, Text: e.text}
	if e.retry > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.retry.Seconds())), 10))
		if e.status == http.StatusTooManyRequests {
			body.Retry = e.retry.Milliseconds()
		}
	}
	if e.body != nil {
		s.write(w, e.status, e.body)
	} else {
		s.write(w, e.status, body)
	}
	return e.status
}
