package federation

import (
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// methodLimits bounds one method of Call.
type methodLimits struct {
	request  int64         // bytes
	response int64         // bytes
	timeout  time.Duration // for the whole call, apart from connecting
	bucket   string        // calls of the methods of one bucket are counted together
	rate     rate.Limit    // calls a second of one peer, with limits on
	burst    int
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// methods is the table of what is known of methods here: sizes, times and
// rates. What they mean is for the handler to know; a method that is not in the
// table gets otherMethod, and the handler's refusal if it does not exist.
var methods = map[string]methodLimits{
	"make_join":  {64 * kib, 4 * mib, 15 * time.Second, "join", 50, 500},
	"send_join":  {256 * kib, 64 * mib, 60 * time.Second, "join", 50, 500},
	"invite":     {mib, mib, 20 * time.Second, "invite", 20, 200},
	"make_leave": {64 * kib, mib, 15 * time.Second, "join", 50, 500},
	"send":       {8 * mib, mib, 30 * time.Second, "send", 100, 1000},
	"heads":      {4 * mib, 8 * mib, 20 * time.Second, "heads", 200, 4000},
	"missing":    {mib, 16 * mib, 30 * time.Second, "fetch", 200, 4000},
	"events":     {mib, 16 * mib, 30 * time.Second, "fetch", 200, 4000},
	"state":      {mib, 64 * mib, 60 * time.Second, "state", 20, 200},
	"keys":       {mib, 8 * mib, 15 * time.Second, "keys", 50, 500},
	"alias":      {64 * kib, mib, 15 * time.Second, "ask", 50, 500},
	"profile":    {64 * kib, mib, 15 * time.Second, "ask", 50, 500},
}

var otherMethod = methodLimits{mib, mib, 30 * time.Second, "other", 50, 500}

// limitsOf returns the limits of a method; ok is false if it is no name of one.
func limitsOf(method string) (m methodLimits, ok bool) {
	if m, ok = methods[method]; ok {
		return m, true
	}
	if len(method) == 0 || len(method) > 64 {
		return m, false
	}
	for i := range len(method) {
		if c := method[i]; c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return m, false
		}
	}
	return otherMethod, true
}

// statusOf returns the HTTP status under which a refusal travels. The code in
// the body is what counts.
func statusOf(code string) int {
	switch code {
	case "M_FORBIDDEN", "M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN":
		return http.StatusForbidden
	case "M_NOT_FOUND", "M_UNRECOGNIZED":
		return http.StatusNotFound
	case "M_LIMIT_EXCEEDED":
		return http.StatusTooManyRequests
	case "M_TOO_LARGE":
		return http.StatusRequestEntityTooLarge
	case "M_UNKNOWN":
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}
