package client

import (
	"strings"
	"testing"

	"github.com/tokenim/tokenim/federation/simnet"
)

func TestDiscovery(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	if got := s.ok("GET", "/.well-known/matrix/client", "", nil).str("m.homeserver", "base_url"); got != s.url {
		t.Errorf("base URL %q, want %q", got, s.url)
	}
	s.fails(404, "M_NOT_FOUND", "GET", "/.well-known/matrix/support", "", nil)
	if !strings.Contains(string(s.ok("GET", "/_matrix/client/versions", "", nil).raw), `"v1.1"`) {
		t.Error("v1.1 is not announced")
	}
	s.ok("GET", "/_matrix/client/versions", alice.token, nil)
	s.fails(401, "M_UNKNOWN_TOKEN", "GET", "/_matrix/client/versions", "x", nil)
	caps := alice.ok("GET", v3+"/capabilities", nil)
	hold(t, "room versions", caps.at("capabilities", "m.room_versions"), obj{"default": "12", "available": obj{"12": "stable"}})
	s.fails(401, "M_MISSING_TOKEN", "GET", v3+"/capabilities", "", nil)
	alice.ok("GET", v3+"/voip/turnServer", nil)
	hold(t, "protocols", alice.ok("GET", v3+"/thirdparty/protocols", nil).json, obj{})
	hold(t, "3pids", alice.ok("GET", v3+"/account/3pid", nil).json, obj{"threepids": []any{}})
}

func TestPublicURL(t *testing.T) {
	s := startServer(t, simnet.New(1), "hq", "open", Config{PublicURL: "https://chat.example/"})
	if got := s.ok("GET", "/.well-known/matrix/client", "", nil).str("m.homeserver", "base_url"); got != "https://chat.example" {
		t.Errorf("base URL %q", got)
	}
	s.person("alice")
	a := s.ok("POST", v3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "pw-alice"})
	if got := a.str("well_known", "m.homeserver", "base_url"); got != "https://chat.example" {
		t.Errorf("well_known of a login: %q", got)
	}
}

func TestRegisterOpen(t *testing.T) {
	s := open(t)
	const register = v3 + "/register"

	// As 401, then a second request with the session.
	a := s.do("POST", register, "", obj{"username": "alice", "password": "pw"})
	if a.status != 401 || a.str("session") == "" || !strings.Contains(string(a.raw), `"m.login.dummy"`) || a.at("errcode") != nil {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	got := s.ok("POST", register, "", obj{"username": "alice", "password": "pw", "device_id": "PHONE",
		"initial_device_display_name": "Phone", "auth": obj{"type": "m.login.dummy", "session": a.str("session")}})
	if got.str("user_id") != "@alice:hq" || got.str("device_id") != "PHONE" {
		t.Errorf("%s", got.raw)
	}
	who := s.ok("GET", v3+"/account/whoami", got.str("access_token"), nil)
	hold(t, "whoami", who.json, obj{"user_id": "@alice:hq", "device_id": "PHONE", "is_guest": false})
	// The session of a client is given back.
	again := s.do("POST", register, "", obj{"username": "carol", "auth": obj{"session": a.str("session")}})
	if again.status != 401 || again.str("session") != a.str("session") {
		t.Errorf("%d %s", again.status, again.raw)
	}

	// In one request, without a session, upper case, a made-up device.
	got = s.ok("POST", register, "", obj{"username": "Bob", "password": "pw", "auth": obj{"type": "m.login.dummy"}})
	if got.str("user_id") != "@bob:hq" || got.str("device_id") == "" || got.str("access_token") == "" {
		t.Errorf("%s", got.raw)
	}
	// Without a name, without a login.
	got = s.ok("POST", register, "", obj{"inhibit_login": true, "auth": obj{"type": "m.login.dummy"}})
	if got.str("user_id") == "" || got.at("access_token") != nil || got.at("device_id") != nil {
		t.Errorf("%s", got.raw)
	}

	for _, tt := range []struct {
		name   string
		status int
		code   string
		body   any
	}{
		{"taken, before authentication", 400, "M_USER_IN_USE", obj{"username": "alice"}},
		{"not valid, before authentication", 400, "M_INVALID_USERNAME", obj{"username": "a b"}},
		{"reserved", 400, "M_EXCLUSIVE", obj{"username": "_irc"}},
		{"empty password", 400, "M_WEAK_PASSWORD", obj{"username": "dan", "password": "", "auth": obj{"type": "m.login.dummy"}}},
		{"device id", 400, "M_INVALID_PARAM", obj{"username": "dan", "device_id": strings.Repeat("x", 256), "auth": obj{"type": "m.login.dummy"}}},
		{"another kind of authentication", 401, "M_UNAUTHORIZED", obj{"username": "dan", "auth": obj{"type": "m.login.recaptcha"}}},
		{"token flow that is not offered", 401, "M_UNAUTHORIZED", obj{"username": "dan", "auth": obj{"type": "m.login.registration_token", "token": "x"}}},
		{"wrong type", 400, "M_BAD_JSON", obj{"username": 7}},
		{"auth of the wrong type", 400, "M_BAD_JSON", obj{"auth": "x"}},
		{"not JSON", 400, "M_NOT_JSON", "{"},
		{"no body", 400, "M_NOT_JSON", nil},
		{"not an object", 400, "M_BAD_JSON", "[]"},
	} {
		t.Run(tt.name, func(t *testing.T) { s.fails(tt.status, tt.code, "POST", register, "", tt.body) })
	}
	s.fails(403, "M_GUEST_ACCESS_FORBIDDEN", "POST", register+"?kind=guest", "", obj{})
	s.fails(400, "M_INVALID_PARAM", "POST", register+"?kind=king", "", obj{})

	const available = register + "/available?username="
	hold(t, "available", s.ok("GET", available+"dan", "", nil).json, obj{"available": true})
	s.fails(400, "M_USER_IN_USE", "GET", available+"alice", "", nil)
	s.fails(400, "M_INVALID_USERNAME", "GET", available+"a%20b", "", nil)
	s.fails(400, "M_MISSING_PARAM", "GET", available, "", nil)
	s.fails(403, "M_FORBIDDEN", "GET", v1+"/register/m.login.registration_token/validity?token=x", "", nil)
}

// Who registers finds the default push rules in the account data.
func TestPushRulesOfNewUsers(t *testing.T) {
	s := open(t)
	for _, inhibit := range []bool{false, true} {
		a := s.ok("POST", v3+"/register", "", obj{"inhibit_login": inhibit, "auth": obj{"type": "m.login.dummy"}})
		u, ok := s.accounts.Normalize(a.str("user_id"))
		if !ok {
			t.Fatal(a.str("user_id"))
		}
		if raw, err := s.api.accountData(u, "", typePushRules); err != nil || !strings.Contains(string(raw), string(u)) {
			t.Errorf("inhibit_login %v: %.80s, %v", inhibit, raw, err)
		}
	}
}

func TestRegisterClosed(t *testing.T) {
	s := startServer(t, simnet.New(1), "hq", "closed", Config{})
	const register, validity = v3 + "/register", v1 + "/register/m.login.registration_token/validity?token="
	dummy := obj{"username": "alice", "password": "pw", "auth": obj{"type": "m.login.dummy"}}
	s.fails(403, "M_FORBIDDEN", "POST", register, "", dummy)
	s.fails(403, "M_FORBIDDEN", "GET", register+"/available?username=alice", "", nil)
	s.fails(403, "M_FORBIDDEN", "GET", validity+"x", "", nil)

	// The first administrator's token opens one flow, once.
	token, err := s.accounts.FirstToken(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := s.do("POST", register, "", obj{"username": "alice"})
	if a.status != 401 || !strings.Contains(string(a.raw), "registration_token") || strings.Contains(string(a.raw), "dummy") {
		t.Errorf("%d %s", a.status, a.raw)
	}
	s.fails(401, "M_UNAUTHORIZED", "POST", register, "", dummy)
	hold(t, "wrong token", s.ok("GET", validity+"x", "", nil).json, obj{"valid": false})
	hold(t, "right token", s.ok("GET", validity+token, "", nil).json, obj{"valid": true})
	s.fails(400, "M_MISSING_PARAM", "GET", validity, "", nil)
	with := func(name, token string) obj {
		return obj{"username": name, "password": "pw", "auth": obj{"type": "m.login.registration_token", "token": token}}
	}
	s.fails(401, "M_UNAUTHORIZED", "POST", register, "", with("alice", "wrong"))
	got := s.ok("POST", register, "", with("alice", token))
	session, err := s.accounts.Authenticate(t.Context(), got.str("access_token"), "")
	if err != nil || session.Role != "owner" || !session.Admin() {
		t.Errorf("%+v, %v", session, err)
	}
	s.fails(403, "M_FORBIDDEN", "POST", register, "", with("bob", token))
}

func TestLogin(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	const login = v3 + "/login"
	hold(t, "flows", s.ok("GET", login, "", nil).json, obj{"flows": []any{obj{"type": "m.login.password"}}})
	for _, who := range []obj{
		{"identifier": obj{"type": "m.id.user", "user": "alice"}},
		{"identifier": obj{"type": "m.id.user", "user": "@alice:hq"}},
		{"identifier": obj{"type": "m.id.user", "user": "ALICE"}},
		{"user": "alice"},
		{"user": "@alice:hq"},
	} {
		who["type"], who["password"] = "m.login.password", "pw-alice"
		who["initial_device_display_name"] = "Tablet"
		a := s.ok("POST", login, "", who)
		if a.str("user_id") != "@alice:hq" || a.str("device_id") == "" {
			t.Errorf("%v: %s", who, a.raw)
		}
		s.ok("GET", v3+"/account/whoami", a.str("access_token"), nil)
	}
	for _, tt := range []struct {
		name   string
		status int
		code   string
		body   any
	}{
		{"wrong password", 403, "M_FORBIDDEN", obj{"type": "m.login.password", "user": "alice", "password": "x"}},
		{"unknown user", 403, "M_FORBIDDEN", obj{"type": "m.login.password", "user": "nobody", "password": "pw-alice"}},
		{"user of another server", 403, "M_FORBIDDEN", obj{"type": "m.login.password", "user": "@alice:other", "password": "pw-alice"}},
		{"third-party identifier", 403, "M_FORBIDDEN", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}, "password": "x"}},
		{"older third-party identifier", 403, "M_FORBIDDEN", obj{"type": "m.login.password", "medium": "email", "address": "a@b", "password": "x"}},
		{"unknown identifier", 400, "M_UNKNOWN", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.fax"}, "password": "x"}},
		{"unknown type", 400, "M_UNKNOWN", obj{"type": "m.login.token", "token": "x"}},
		{"no type", 400, "M_MISSING_PARAM", obj{}},
		{"no password", 400, "M_MISSING_PARAM", obj{"type": "m.login.password", "user": "alice"}},
		{"no user", 400, "M_MISSING_PARAM", obj{"type": "m.login.password", "password": "x"}},
		{"wrong types", 400, "M_BAD_JSON", obj{"type": 1}},
		{"not JSON", 400, "M_NOT_JSON", "type=m.login.password"},
	} {
		t.Run(tt.name, func(t *testing.T) { s.fails(tt.status, tt.code, "POST", login, "", tt.body) })
	}

	// A device that logs in again has one token.
	in := obj{"type": "m.login.password", "user": "alice", "password": "pw-alice", "device_id": "DESK"}
	one := s.ok("POST", login, "", in).str("access_token")
	two := s.ok("POST", login, "", in).str("access_token")
	s.fails(401, "M_UNKNOWN_TOKEN", "GET", v3+"/account/whoami", one, nil)
	s.ok("POST", v3+"/logout", two, nil)
	s.fails(401, "M_UNKNOWN_TOKEN", "POST", v3+"/logout", two, nil)
	s.fails(401, "M_MISSING_TOKEN", "POST", v3+"/logout", "", nil)
	three := s.ok("POST", login, "", in).str("access_token")
	alice.ok("POST", v3+"/logout/all", obj{})
	s.fails(401, "M_UNKNOWN_TOKEN", "GET", v3+"/account/whoami", three, nil)
	alice.fails(401, "M_UNKNOWN_TOKEN", "GET", v3+"/account/whoami", nil)
}

// password is the auth property that gives a password.
func password(user, pw string) obj {
	return obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user}, "password": pw}
}

func TestPassword(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	other, err := s.accounts.OpenSession(t.Context(), alice.id, "OTHER", "")
	if err != nil {
		t.Fatal(err)
	}
	const path = v3 + "/account/password"
	a := alice.do("POST", path, obj{"new_password": "new"})
	if a.status != 401 || a.str("session") == "" || !strings.Contains(string(a.raw), "m.login.password") {
		t.Errorf("%d %s", a.status, a.raw)
	}
	alice.fails(401, "M_FORBIDDEN", "POST", path, obj{"new_password": "new", "auth": password("alice", "wrong")})
	alice.fails(401, "M_FORBIDDEN", "POST", path, obj{"new_password": "new", "auth": password("bob", "pw-alice")})
	alice.fails(401, "M_UNAUTHORIZED", "POST", path, obj{"new_password": "new", "auth": obj{"type": "m.login.dummy"}})
	for _, id := range []obj{{"type": "m.id.user", "user": "@alice:other"}, {"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"}, {"type": "m.id.phone", "country": "DE", "phone": "1"}} {
		a := alice.fails(401, "M_FORBIDDEN", "POST", path, obj{"new_password": "new", "auth": obj{"type": "m.login.password", "identifier": id, "password": "pw-alice"}})
		if a.at("flows") == nil || a.str("session") == "" {
			t.Errorf("%v: nothing to go on with: %s", id, a.raw)
		}
	}
	alice.fails(400, "M_MISSING_PARAM", "POST", path, obj{"auth": password("alice", "pw-alice")})
	alice.fails(400, "M_WEAK_PASSWORD", "POST", path, obj{"new_password": "", "auth": password("alice", "pw-alice")})
	s.fails(401, "M_MISSING_TOKEN", "POST", path, "", obj{"new_password": "new"})

	alice.ok("POST", path, obj{"new_password": "new", "logout_devices": false, "auth": password("@alice:hq", "pw-alice")})
	s.ok("GET", v3+"/account/whoami", other.Token, nil)
	alice.ok("POST", path, obj{"new_password": "newer", "auth": obj{"type": "m.login.password", "user": "alice", "password": "new", "session": a.str("session")}})
	s.fails(401, "M_UNKNOWN_TOKEN", "GET", v3+"/account/whoami", other.Token, nil)
	alice.ok("GET", v3+"/account/whoami", nil)
	s.fails(403, "M_FORBIDDEN", "POST", v3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "pw-alice"})
	s.ok("POST", v3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "newer"})
}

func TestDeactivate(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := bob.room(obj{"preset": "public_chat"})
	alice.ok("POST", in(room, "/join"), obj{})
	invited := bob.room(obj{"invite": []string{string(alice.id)}})
	const path = v3 + "/account/deactivate"
	if a := alice.do("POST", path, obj{}); a.status != 401 || a.str("session") == "" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	alice.fails(401, "M_FORBIDDEN", "POST", path, obj{"auth": password("alice", "wrong")})
	a := alice.ok("POST", path, obj{"auth": password("alice", "pw-alice"), "erase": true})
	hold(t, "answer", a.json, obj{"id_server_unbind_result": "success"})
	alice.fails(401, "M_UNKNOWN_TOKEN", "GET", v3+"/account/whoami", nil)
	s.fails(403, "M_USER_DEACTIVATED", "POST", v3+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "pw-alice"})
	s.fails(400, "M_USER_IN_USE", "GET", v3+"/register/available?username=alice", "", nil)
	for _, r := range []string{room, invited} {
		if got := bob.ok("GET", in(r, "/state/m.room.member/%s", alice.id), nil).str("membership"); got != "leave" {
			t.Errorf("membership is %q", got)
		}
	}
}

func TestDevices(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	for _, id := range []string{"A/B", "TWO", "THREE"} {
		if _, err := s.accounts.OpenSession(t.Context(), alice.id, id, "Old"); err != nil {
			t.Fatal(err)
		}
	}
	if list, _ := alice.ok("GET", v3+"/devices", nil).at("devices").([]any); len(list) != 4 {
		t.Errorf("%d devices", len(list))
	}
	own := alice.ok("GET", v3+"/devices/"+alice.device, nil)
	if own.str("device_id") != alice.device || own.str("last_seen_ip") == "" || own.at("last_seen_ts") == nil {
		t.Errorf("%s", own.raw)
	}
	// A slash in an id stays where it is.
	alice.ok("PUT", v3+"/devices/A%2FB", obj{"display_name": "New"})
	if got := alice.ok("GET", v3+"/devices/A%2FB", nil); got.str("display_name") != "New" || got.str("device_id") != "A/B" {
		t.Errorf("%s", got.raw)
	}
	alice.ok("PUT", v3+"/devices/A%2FB", obj{})
	bob.fails(404, "M_NOT_FOUND", "GET", v3+"/devices/TWO", nil)
	bob.fails(404, "M_NOT_FOUND", "PUT", v3+"/devices/TWO", obj{"display_name": "Mine"})
	bob.fails(404, "M_NOT_FOUND", "PUT", v3+"/devices/TWO", obj{})
	alice.fails(400, "M_INVALID_PARAM", "PUT", v3+"/devices/TWO", obj{"display_name": strings.Repeat("x", 513)})
	alice.fails(400, "M_BAD_JSON", "PUT", v3+"/devices/TWO", obj{"display_name": 1})

	if a := alice.do("DELETE", v3+"/devices/TWO", nil); a.status != 401 || a.str("session") == "" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	alice.fails(401, "M_FORBIDDEN", "DELETE", v3+"/devices/TWO", obj{"auth": password("alice", "x")})
	alice.ok("DELETE", v3+"/devices/TWO", obj{"auth": password("alice", "pw-alice")})
	alice.fails(404, "M_NOT_FOUND", "GET", v3+"/devices/TWO", nil)
	alice.ok("DELETE", v3+"/devices/TWO", obj{"auth": password("alice", "pw-alice")})
	alice.fails(400, "M_MISSING_PARAM", "POST", v3+"/delete_devices", obj{"auth": password("alice", "pw-alice")})
	if a := alice.do("POST", v3+"/delete_devices", obj{"devices": []string{"THREE"}}); a.status != 401 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	alice.ok("POST", v3+"/delete_devices", obj{"devices": []string{"THREE", "A/B", "GONE"}, "auth": password("alice", "pw-alice")})
	if list, _ := alice.ok("GET", v3+"/devices", nil).at("devices").([]any); len(list) != 1 {
		t.Errorf("%d devices left", len(list))
	}
}

func TestLimits(t *testing.T) {
	s := startServer(t, simnet.New(1), "hq", "open", Config{Limits: true})
	s.person("alice")
	in := obj{"type": "m.login.password", "user": "alice", "password": "wrong"}
	var last answer
	for range 20 {
		if last = s.do("POST", v3+"/login", "", in); last.status == 429 {
			break
		}
	}
	if last.status != 429 || last.str("errcode") != "M_LIMIT_EXCEEDED" || last.header.Get("Retry-After") == "" || last.at("retry_after_ms") == nil {
		t.Errorf("%d %v %s", last.status, last.header, last.raw)
	}
	for range registerBurst + 1 {
		if last = s.do("POST", v3+"/register", "", obj{"auth": obj{"type": "m.login.dummy"}}); last.status == 429 {
			break
		}
	}
	if last.status != 429 {
		t.Errorf("accounts without end: %d", last.status)
	}
	// Each key has a bucket of its own.
	bucket := newLimiter(1, 1)
	if bucket.take("a") != nil || bucket.take("a") == nil || bucket.take("b") != nil {
		t.Error("a bucket of one has not one")
	}
}
