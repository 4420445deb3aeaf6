package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/api/client/spectest"
)

// broken are bodies that no operation with a body accepts.
var broken = []string{"", "{", "}", "[]", `"x"`, "1", "null", `{"a":}`, `{"a":1}x`, "\xff", "{\"a\":\"\xff\"}", strings.Repeat("[", 5000),
	`{"a":"` + strings.Repeat("x", maxBody) + `"}`}

// withoutBody are the operations that need none; what they are sent all the
// same must be good.
var withoutBody = map[string]bool{
	"POST /rooms/{roomId}/receipt/{receiptType}/{eventId}": true,
	"POST /rooms/{roomId}/join":                            true, "POST /join/{roomIdOrAlias}": true,
	"POST /rooms/{roomId}/leave": true, "POST /rooms/{roomId}/forget": true,
}

// value draws a JSON value of any type, keys among those that operations read.
func value(depth int) *rapid.Generator[any] {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "@alice:hq", "!x", "$x", "#a:hq", "m.login.password", "m.login.dummy",
		"m.id.user", "public", "notify", "12", "\x00", "@:", "!" + strings.Repeat("A", 43), "$" + strings.Repeat("A", 43)}))
	leaves := []*rapid.Generator[any]{
		rapid.Map(text, func(s string) any { return s }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64Range(-1e300, 1e300), func(f float64) any { return f }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Just[any](nil),
	}
	if depth > 0 {
		leaves = append(leaves,
			rapid.Map(rapid.SliceOfN(value(depth-1), 0, 4), func(l []any) any { return l }),
			rapid.Map(object(depth-1), func(o map[string]any) any { return o }))
	}
	return rapid.OneOf(leaves...)
}

// fields are the keys that operations read, and some that they don't.
var fields = []string{"auth", "type", "session", "identifier", "user", "password", "username", "device_id", "devices", "display_name",
	"initial_device_display_name", "inhibit_login", "new_password", "logout_devices", "erase", "user_id", "reason", "room_id", "visibility",
	"preset", "name", "topic", "invite", "invite_3pid", "initial_state", "creation_content", "additional_creators", "room_version",
	"room_alias_name", "is_direct", "power_level_content_override", "users", "ban", "content", "state_key", "membership", "alias", "alt_aliases",
	"displayname", "avatar_url", "m.tz", "actions", "conditions", "pattern", "kind", "enabled", "order", "tags", "limit", "since", "filter",
	"generic_search_term", "room_types", "room", "timeline", "types", "event_fields", "event_format", "typing", "timeout", "m.fully_read",
	"m.read", "thread_id", "msgtype", "body", "redacts", "m.relates_to", "event_id", "rel_type", "via", "join_rule", "allow", "x"}

func object(depth int) *rapid.Generator[map[string]any] {
	return rapid.MapOfN(rapid.SampledFrom(fields), value(depth), 0, 5)
}

// aim fills the pattern of a route with values that are or are not good.
func aim(t *rapid.T, pattern, user, room string) string {
	segments := strings.Split(pattern, "/")
	for i, seg := range segments {
		if !strings.HasPrefix(seg, "{") {
			continue
		}
		v := rapid.OneOf(
			rapid.SampledFrom([]string{user, room, "x", "m.room.message", "m.room.member", "m.room.power_levels", "m.room.create", "m.read", "override",
				"displayname", "!" + strings.Repeat("A", 43), "$" + strings.Repeat("A", 43), "#a:hq", "@nobody:hq", "@b:elsewhere", ".", "..", "%", " ",
				"\x00", "\xff", strings.Repeat("x", 300), "!x:y", "#x", "a/b"}),
			rapid.StringN(1, 20, 60)).Draw(t, seg)
		segments[i] = url.PathEscape(v)
		if v == "." || v == ".." {
			segments[i] = strings.ReplaceAll(v, ".", "%2E")
		}
	}
	return strings.Join(segments, "/")
}

// inert are the operations that take no body and end the session of whoever
// calls them.
func inert(r route) bool {
	return strings.HasSuffix(r.pattern, "/logout") || strings.HasSuffix(r.pattern, "/logout/all")
}

// Generated requests over all routes: there is never an internal error, every
// answer has the form of the specification, and what is certainly invalid is
// refused with a 4xx (reliability, target 14).
func TestGeneratedRequests(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	room := alice.room(obj{"preset": "public_chat"})
	var spec *spectest.Spec
	if spectest.Available() {
		spec = spectest.Open(t)
	}
	table := routes()
	ask := func(method, path, token string, body []byte) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, path, bytes.NewReader(body))
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, req)
		return w
	}
	one := func(t *rapid.T) {
		r := rapid.SampledFrom(table).Draw(t, "route")
		path := aim(t, r.pattern, string(alice.id), room)
		query := url.Values{}
		for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"limit", "since", "from", "to", "dir", "filter", "kind", "before", "after",
			"at", "membership", "not_membership", "full_state", "set_presence", "format", "username", "token", "server"}), 0, 3, rapid.ID[string]).Draw(t, "query") {
			query.Set(k, rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"-1", "b", "{}", "{", "99999999999999999999", "s1"})).Draw(t, k))
		}
		token := rapid.SampledFrom([]string{alice.token, alice.token, alice.token, "", "wrong"}).Draw(t, "token")
		if inert(r) && token == alice.token {
			token = ""
		}
		bad := rapid.Bool().Draw(t, "broken body")
		var body []byte
		if bad {
			body = []byte(rapid.SampledFrom(broken).Draw(t, "body"))
		} else {
			var err error
			if body, err = json.Marshal(object(2).Draw(t, "body")); err != nil {
				t.Fatal(err)
			}
		}
		target := path + "?" + query.Encode()
		w := ask(r.method, target, token, body)
		what := fmt.Sprintf("%s %s %.200q: %d %.300s", r.method, target, body, w.Code, w.Body)
		// 504: the request names a server that there is not.
		if w.Code >= 500 && w.Code != http.StatusGatewayTimeout {
			t.Fatal(what)
		}
		var answer any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(what)
		}
		if spec != nil {
			if err := spec.Check(r.method, path, w.Code, w.Body.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
		needsBody := (r.method == "PUT" || r.method == "POST") && !inert(r) && (len(body) > 0 || !withoutBody[r.method+" "+strings.TrimPrefix(r.pattern, v3)])
		switch {
		case bad && needsBody && (w.Code < 400 || w.Code > 499):
			t.Fatal("a broken body was accepted: ", what)
		case r.access == user && token != alice.token && w.Code != http.StatusUnauthorized && w.Code != http.StatusBadRequest:
			t.Fatal("no token was needed: ", what)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 20 {
			one(t)
		}
	})
	// The session has lived through all of it.
	alice.ok("GET", v3+"/account/whoami", nil)
	if s.failures.Load() > 0 {
		t.Error("there were internal errors")
	}
}

// Every operation that needs a token says so, and refuses every broken body.
func TestRefusals(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	room := alice.room(obj{"preset": "public_chat"})
	fill := strings.NewReplacer("{userId}", url.PathEscape(string(alice.id)), "{roomId}", url.PathEscape(room), "{roomIdOrAlias}", url.PathEscape(room),
		"{eventId}", "$"+strings.Repeat("A", 43), "{receiptType}", "m.read", "{kind}", "override", "{ruleId}", "r", "{deviceId}", alice.device,
		"{eventType}", "m.room.message", "{txnId}", "1", "{stateKey}", "", "{roomAlias}", "%23a:hq", "{keyName}", "displayname", "{filterId}", "1",
		"{type}", "a.b", "{tag}", "u.x")
	for _, r := range routes() {
		path := fill.Replace(r.pattern)
		if r.access == user {
			s.fails(401, "M_MISSING_TOKEN", r.method, path, "", nil)
			s.fails(401, "M_UNKNOWN_TOKEN", r.method, path, "wrong", nil)
		}
		short := r.method + " " + strings.TrimPrefix(r.pattern, v3)
		if r.method == "GET" || r.method == "DELETE" || inert(r) {
			continue
		}
		for _, body := range broken {
			if body == "" && withoutBody[short] {
				continue
			}
			a := alice.do(r.method, path, body)
			if a.status != 400 && a.status != 413 || len(body) > maxBody != (a.status == 413) {
				t.Errorf("%s %.30q: %d %.200s", short, body, a.status, a.raw)
			}
		}
	}
	alice.ok("GET", v3+"/account/whoami", nil)
}

// Whatever path and body arrive, with a good session: no panic, no internal
// error, an answer of the specification's form.
func FuzzRequest(f *testing.F) {
	for _, r := range routes() {
		f.Add(r.method, strings.NewReplacer("{", "", "}", "").Replace(r.pattern), `{"user_id":"@bob:hq"}`)
	}
	f.Add("GET", "/_matrix/client/v3/rooms/%21a/state/%2F/%2f", "")
	f.Add("PUT", "/_matrix/client/v3/directory/room/%23a%2Fb:hq?x=%zz", `{"room_id":1}`)
	s := open(f)
	alice := s.person("alice")
	var spec *spectest.Spec
	if spectest.Available() {
		spec = spectest.Open(f)
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || method == "OPTIONS" || strings.Contains(target, "/logout") {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // a long-poll ends then
		defer cancel()
		req := &http.Request{Method: method, URL: u, Header: http.Header{"Authorization": {"Bearer " + alice.token}},
			Body: io.NopCloser(strings.NewReader(body)), RemoteAddr: "192.0.2.1:1", Host: "hq"}
		w := httptest.NewRecorder()
		s.api.ServeHTTP(w, req.WithContext(ctx))
		if w.Code >= 500 && w.Code != http.StatusGatewayTimeout {
			t.Errorf("%s %q: %d %s", method, target, w.Code, w.Body)
		}
		if spec != nil {
			if err := spec.Check(method, u.EscapedPath(), w.Code, w.Body.Bytes()); err != nil {
				t.Error(err)
			}
		}
	})
}
