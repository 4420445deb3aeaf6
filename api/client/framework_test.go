package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

func TestUnknownPaths(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	for _, path := range []string{
		"/_matrix/client/v3/nothing", "/_matrix/client", "/_matrix/client/v3/login/", "/_matrix/client/v3//login",
		"/_matrix/client/v3/../v3/login", "/_matrix/client/v3/./login", "/_matrix/client/v3/rooms/x/nothing",
		"/_matrix/client/v3/keys/upload", "/_matrix/client/r0/login", "/.well-known/matrix/nothing", "/", "//",
	} {
		alice.fails(404, "M_UNRECOGNIZED", "GET", path, nil)
		alice.fails(404, "M_UNRECOGNIZED", "POST", path, obj{})
	}
	for _, tt := range []struct{ method, path, allow string }{
		{"DELETE", v3 + "/login", "GET, HEAD, POST, OPTIONS"},
		{"POST", v3 + "/sync", "GET, HEAD, OPTIONS"},
		{"PATCH", v3 + "/profile/@a:hq/displayname", "GET, HEAD, PUT, DELETE, OPTIONS"},
		{"POST", v3 + "/rooms/!a/state/m.room.name/", "GET, HEAD, PUT, OPTIONS"},
	} {
		a := alice.fails(405, "M_UNRECOGNIZED", tt.method, tt.path, obj{})
		if got := a.header.Get("Allow"); got != tt.allow {
			t.Errorf("%s %s: Allow %q, want %q", tt.method, tt.path, got, tt.allow)
		}
	}
}

// HEAD is GET without the body (HTTP Semantics, HEAD); monitors ask that way.
func TestHead(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	for _, path := range []string{"/_matrix/client/versions", v3 + "/account/whoami"} {
		get, head := alice.do("GET", path, nil), alice.do("HEAD", path, nil)
		if head.status != 200 || len(head.raw) != 0 || head.header.Get("Content-Length") != get.header.Get("Content-Length") {
			t.Errorf("%s: %d %q %v", path, head.status, head.raw, head.header)
		}
	}
	if a := s.do("HEAD", v3+"/account/whoami", "", nil); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	if a := alice.do("HEAD", v3+"/logout", nil); a.status != 405 {
		t.Errorf("where there is no GET: %d", a.status)
	}
}

func TestCORS(t *testing.T) {
	s := open(t)
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"OPTIONS", v3 + "/login", 204}, {"OPTIONS", v3 + "/sync", 204}, {"OPTIONS", "/_matrix/client/v3/nothing", 204},
		{"GET", v3 + "/login", 200}, {"GET", v3 + "/sync", 401}, {"GET", v3 + "/nothing", 404}, {"PUT", v3 + "/login", 405},
		{"GET", "/.well-known/matrix/client", 200},
	} {
		a := s.do(tt.method, tt.path, "", nil)
		if a.status != tt.status {
			t.Errorf("%s %s: %d", tt.method, tt.path, a.status)
		}
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin":  "*",
			"Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
			"Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q", tt.method, tt.path, name, got)
			}
		}
		if tt.status != 204 && a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: Content-Type %q", tt.method, tt.path, a.header.Get("Content-Type"))
		}
	}
}

func TestAccessTokens(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	const path = v3 + "/account/whoami"
	for _, tt := range []struct {
		header string
		status int
	}{
		{"Bearer " + alice.token, 200}, {"bearer  " + alice.token + " ", 200},
		{"", 401}, {"Bearer", 401}, {"Bearer ", 401}, {alice.token, 401}, {"Basic " + alice.token, 401}, {"Bearer x" + alice.token, 401},
	} {
		r := httptest.NewRequest("GET", path, nil)
		if tt.header != "" {
			r.Header.Set("Authorization", tt.header)
		}
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%q: %d %s", strings.ReplaceAll(tt.header, alice.token, "TOKEN"), w.Code, w.Body)
		}
	}
	// Not in the query string any more (v1.20).
	s.fails(401, "M_MISSING_TOKEN", "GET", path+"?access_token="+alice.token, "", nil)
}

func TestBodies(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	path := v3 + "/user/" + string(alice.id) + "/account_data/org.example.x"
	for _, tt := range []struct {
		name   string
		body   string
		status int
		code   string
	}{
		{"object", ` {"a":1} `, 200, ""},
		{"the largest", `{"a":"` + strings.Repeat("x", maxBody-8) + `"}`, 200, ""},
		{"larger", `{"a":"` + strings.Repeat("x", maxBody-7) + `"}`, 413, "M_TOO_LARGE"},
		{"empty", "", 400, "M_NOT_JSON"},
		{"broken", `{"a":`, 400, "M_NOT_JSON"},
		{"two values", `{} {}`, 400, "M_NOT_JSON"},
		{"not UTF-8", "{\"a\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"array", `[]`, 400, "M_BAD_JSON"},
		{"string", `"x"`, 400, "M_BAD_JSON"},
		{"null", `null`, 400, "M_BAD_JSON"},
		{"too deep", strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000), 400, "M_NOT_JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := alice.do("PUT", path, tt.body)
			if a.status != tt.status || a.str("errcode") != tt.code {
				t.Errorf("%d %.200s", a.status, a.raw)
			}
		})
	}
}

// Path parameters arrive as the client meant them.
func TestPathParameters(t *testing.T) {
	for _, tt := range []struct{ pattern, path, name, want string }{
		{v3 + "/join/{roomIdOrAlias}", "/join/%23a%2Fb:hq", "roomIdOrAlias", "#a/b:hq"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%21a", "roomIdOrAlias", "!a"},
		{v3 + "/join/{roomIdOrAlias}", "/join/!a", "roomIdOrAlias", "!a"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%2523a", "roomIdOrAlias", "%23a"},
		{v3 + "/join/{roomIdOrAlias}", "/join/a+b%20c", "roomIdOrAlias", "a+b c"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%2E%2E", "roomIdOrAlias", ".."},
		{v3 + "/join/{roomIdOrAlias}", "/join/%2F", "roomIdOrAlias", "/"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%2f", "roomIdOrAlias", "/"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%2F%2F", "roomIdOrAlias", "//"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%252F", "roomIdOrAlias", "%2F"},
		{v3 + "/join/{roomIdOrAlias}", "/join/%E2%82%AC", "roomIdOrAlias", "€"},
	} {
		s := &Server{mux: http.NewServeMux()}
		var got string
		for pattern, e := range endpoints([]route{{"POST", tt.pattern, public, func(_ *Server, c *call) (any, error) {
			got = c.PathValue(tt.name)
			return nil, nil
		}}}) {
			s.mux.Handle(pattern, &endpointHandler{New(Config{}), e})
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", v3+tt.path, nil))
		if w.Code != 200 || got != tt.want {
			t.Errorf("%s: %d, got %q, want %q", tt.path, w.Code, got, tt.want)
		}
	}
	s := open(t)
	alice := s.person("alice")
	room := alice.room(obj{})
	alice.ok("PUT", in(room, "/state/org.example.x/%s", "/"), obj{"slash": true})
	alice.ok("PUT", in(room, "/state/org.example.x/"), obj{"slash": false})
	hold(t, "state key of one slash", alice.ok("GET", in(room, "/state/org.example.x/%s", "/"), nil).json, obj{"slash": true})
	alice.fails(400, "M_INVALID_PARAM", "POST", v3+"/join/%FF", obj{})
	alice.fails(400, "M_INVALID_PARAM", "POST", v3+"/join/a%00b", obj{})
}

// A panic is one failed request, logged, and no more.
func TestPanic(t *testing.T) {
	s := open(t)
	e := &endpoint{methods: map[string]*route{"GET": {"GET", "/x", public, func(*Server, *call) (any, error) { panic("boom") }}}}
	w := httptest.NewRecorder()
	(&endpointHandler{s.api, e}).ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"M_UNKNOWN"`) || strings.Contains(w.Body.String(), "boom") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(s.logs.String(), "boom") {
		t.Error("the panic is not in the log")
	}
	w = httptest.NewRecorder()
	e.methods["GET"].handle = func(*Server, *call) (any, error) { return map[string]any{"f": func() {}}, nil }
	(&endpointHandler{s.api, e}).ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"M_UNKNOWN"`) {
		t.Errorf("what cannot be encoded: %d %s", w.Code, w.Body)
	}
}

func TestErrorTable(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		code   string
		text   string
	}{
		{fail(418, "M_X", "y"), 418, "M_X", "y"},
		{fmt.Errorf("send: %w", &room.RuleError{Rule: "9.1", Reason: "level too low"}), 403, "M_FORBIDDEN", "level too low (rule 9.1)"},
		{fmt.Errorf("send: %w", room.ErrForbidden), 403, "M_FORBIDDEN", ""},
		{event.ErrTooLarge, 413, "M_TOO_LARGE", ""},
		{fmt.Errorf("%w: no", event.ErrInvalid), 400, "M_BAD_JSON", ""},
		{store.ErrNotFound, 404, "M_NOT_FOUND", ""},
		{store.ErrDiskFull, 507, "M_UNKNOWN", ""},
		{node.ErrUnknownRoom, 404, "M_NOT_FOUND", ""},
		{node.ErrNoRoute, 504, "M_UNKNOWN", ""},
		{node.ErrRoomVersion, 400, "M_UNSUPPORTED_ROOM_VERSION", ""},
		{node.ErrAliasInUse, 400, "M_ROOM_IN_USE", ""},
		{node.ErrParam, 400, "M_INVALID_PARAM", ""},
		{&account.LimitError{Wait: 3 * time.Second}, 429, "M_LIMIT_EXCEEDED", ""},
		{account.ErrUnknownToken, 401, "M_UNKNOWN_TOKEN", ""},
		{&event.RemoteError{Code: "M_FORBIDDEN", Message: "no"}, 403, "M_FORBIDDEN", "no"},
		{&event.RemoteError{Code: "M_UNABLE_TO_GRANT_JOIN", Message: "no"}, 400, "M_UNABLE_TO_GRANT_JOIN", "no"},
		{&event.RemoteError{Code: "M_WHATEVER", Message: "no"}, 502, "M_UNKNOWN", ""},
		{context.Canceled, 503, "M_UNKNOWN", ""},
		{errors.New("secret: /var/lib/x"), 500, "M_UNKNOWN", "internal error"},
	} {
		e, known := shown(tt.err)
		if e.status != tt.status || e.code != tt.code || tt.text != "" && e.text != tt.text || e.text == "" {
			t.Errorf("%v: %d %s %q", tt.err, e.status, e.code, e.text)
		}
		if known != (tt.status != 500) {
			t.Errorf("%v: known %v", tt.err, known)
		}
	}
	w := httptest.NewRecorder()
	New(Config{}).writeError(w, node.ErrNoRoute)
	if w.Header().Get("Retry-After") == "" {
		t.Error("no hint when to try again")
	}
}

func TestClientAddress(t *testing.T) {
	for _, tt := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:99", "", "192.0.2.1"},
		{"192.0.2.1:99", "203.0.113.9", "192.0.2.1"}, // not from this machine: not believed
		{"127.0.0.1:99", "", "127.0.0.1"},
		{"127.0.0.1:99", "203.0.113.9", "203.0.113.9"},
		{"[::1]:99", "1.1.1.1, 203.0.113.9", "203.0.113.9"},
		{"127.0.0.1:99", "nonsense", "127.0.0.1"},
		{"@", "", "@"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tt.remote
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		if got := (&call{Request: r}).ip(); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

// Nothing of what people write, and no name, gets into the log (reliability B44).
func TestNothingPrivateInLogs(t *testing.T) {
	s := open(t)
	alice := s.person("canaryalice")
	room := alice.room(obj{"name": "CANARY name", "topic": "CANARY topic", "room_alias_name": "canaryalias"})
	alice.ok("PUT", in(room, "/send/m.room.message/%s", "canarytxn"), obj{"msgtype": "m.text", "body": "CANARY body"})
	alice.do("PUT", in(room, "/send/m.room.message/%s", "canarytxn2"), `{"body":"CANARY broken`)
	alice.do("GET", v3+"/profile/@canaryunknown:hq?q=CANARY", nil)
	s.do("POST", v3+"/login", "", obj{"type": "m.login.password", "user": "canaryalice", "password": "CANARY"})
	s.ok("POST", v3+"/login", "", obj{"type": "m.login.password", "user": "canaryalice", "password": "pw-canaryalice"})
	text := s.logs.String()
	if !strings.Contains(text, `"route":"`+v3+`/login"`) {
		t.Error("requests are not in the log")
	}
	for _, canary := range []string{"CANARY", "canary", alice.token} {
		if i := strings.Index(text, canary); i >= 0 {
			t.Errorf("in the log: %.200s", text[max(0, i-100):])
		}
	}
}

// No route shadows another, and no path is redirected.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range routes() {
		key := r.method + " " + r.pattern
		if seen[key] {
			t.Errorf("%s is in the table twice", key)
		}
		seen[key] = true
		if r.handle == nil || !strings.HasPrefix(r.pattern, "/_matrix/client/") && !strings.HasPrefix(r.pattern, "/.well-known/matrix/") {
			t.Errorf("%s is not a route of this API", key)
		}
	}
	New(Config{}) // ServeMux panics on patterns that conflict
}
