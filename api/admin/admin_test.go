package admin

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// links is a real, if small, implementation of Peers: what it pins is in memory.
type links struct {
	mu    sync.Mutex // guards peers
	peers map[event.Server]event.Peer
}

func (l *links) AddPeer(link string) (event.Peer, error) {
	name, id, ok := strings.Cut(strings.TrimPrefix(link, "link:"), "/")
	if !ok || !strings.HasPrefix(link, "link:") {
		return event.Peer{}, fmt.Errorf("%w: it is none", ErrLink)
	}
	if id == "broken-disk" {
		return event.Peer{}, errors.New("write /secret/path: no space")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.peers[event.Server(name)]; ok && p.PeerID != id {
		return event.Peer{}, fmt.Errorf("%w: %s is pinned to another key", ErrLink, name)
	}
	p := event.Peer{Name: event.Server(name), PeerID: id, State: "connecting", Addresses: []string{"/ip4/127.0.0.1/tcp/1"}}
	l.peers[p.Name] = p
	return p, nil
}

func (l *links) RemovePeer(name event.Server) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.peers[name]; !ok {
		return ErrUnknownPeer
	}
	delete(l.peers, name)
	return nil
}

func (l *links) Peers() []event.Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []event.Peer
	for _, p := range l.peers {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b event.Peer) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

// fixture is a node with the API on it, an administrator and a user.
type fixture struct {
	t        testing.TB
	server   *Server
	store    *store.Store
	node     *node.Node
	accounts *account.Accounts
	run      func() // starts the node's work
	admin    string // access tokens
	user     string
	log      *bytes.Buffer
}

const testSecret = "shared secret"

func newFixture(t testing.TB, secret string) *fixture {
	t.Helper()
	st, err := store.Open(store.Options{InMemory: true, Server: "hq"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	key := event.SigningKey{Server: "hq", ID: "ed25519:test", Private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	peer := simnet.New(1).Add("hq", key)
	n, err := node.New(node.Config{Key: key, Store: st, Network: peer})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, store: st, node: n, log: new(bytes.Buffer)}
	f.run = func() {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { peer.Run(ctx, n) })
		wg.Go(func() { n.Run(ctx) })
		t.Cleanup(func() { cancel(); wg.Wait() })
	}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	f.accounts = account.New(account.Config{Server: "hq", Store: st, Mode: "closed", Limits: false, Logger: log})
	f.server = New(Config{
		Node: n, Accounts: f.accounts, Store: st, Peers: &links{peers: map[event.Server]event.Peer{}},
		Version: "1.2.3", SharedSecret: secret, Logger: log,
	})
	f.admin = f.login("root", "administrator")
	f.user = f.login("alice", "user")
	return f
}

func (f *fixture) login(name, role string) string {
	f.t.Helper()
	id, err := f.accounts.Create(context.Background(), account.NewUser{Localpart: name, Role: role})
	if err != nil {
		f.t.Fatal(err)
	}
	l, err := f.accounts.OpenSession(context.Background(), id, "", "")
	if err != nil {
		f.t.Fatal(err)
	}
	return l.Token
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   string
}

// code returns the Matrix error code.
func (a answer) code() string {
	var e struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	if json.Unmarshal([]byte(a.body), &e) != nil || e.Text == "" && e.Code != "" {
		return "not in Matrix form"
	}
	return e.Code
}

// do sends a request from another machine.
func (f *fixture) do(method, path, token, body string, change ...func(*http.Request)) answer {
	f.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = "203.0.113.9:1234"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	f.server.ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

// expect checks the status and the error code, empty for success.
func (f *fixture) expect(a answer, status int, code string) {
	f.t.Helper()
	got := ""
	if a.status >= 400 {
		got = a.code()
	}
	if a.status != status || got != code {
		f.t.Errorf("got %d %s %s, want %d %s", a.status, got, a.body, status, code)
	}
}

// waitFor waits until cond holds, at most ten seconds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s after ten seconds", what)
		}
	}
}

func TestHealth(t *testing.T) {
	f := newFixture(t, "")
	if a := f.do("GET", "/healthz", "", ""); a.status != 200 || a.body != "ok\n" {
		t.Errorf("healthz: %+v", a)
	}
	if a := f.do("GET", "/readyz", "", ""); a.status != 503 || strings.Contains(a.body, "hq") {
		t.Errorf("readyz before the start: %+v", a)
	}
	f.run()
	waitFor(t, "readiness", func() bool { return f.do("GET", "/readyz", "", "").status == 200 })
	if a := f.do("HEAD", "/healthz", "", ""); a.status != 200 {
		t.Errorf("HEAD: %+v", a)
	}
	f.expect(f.do("POST", "/healthz", "", ""), 405, "M_UNRECOGNIZED")
}

// TestRights: every route that is the administrators' refuses everybody else.
func TestRights(t *testing.T) {
	f := newFixture(t, "")
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/_tokenim/admin/v1/stats", ""},
		{"GET", "/_tokenim/admin/v1/peers", ""},
		{"POST", "/_tokenim/admin/v1/peers", `{"link":"link:branch/p1"}`},
		{"DELETE", "/_tokenim/admin/v1/peers/branch", ""},
		{"GET", "/metrics", ""},
	} {
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			f.t = t
			f.expect(f.do(r.method, r.path, "", r.body), 401, "M_MISSING_TOKEN")
			f.expect(f.do(r.method, r.path, "nonsense", r.body), 401, "M_UNKNOWN_TOKEN")
			f.expect(f.do(r.method, r.path, f.user, r.body), 403, "M_FORBIDDEN")
			f.expect(f.do(r.method, r.path+"?access_token="+f.admin, "", r.body), 401, "M_MISSING_TOKEN")
			basic := func(q *http.Request) { q.Header.Set("Authorization", "Basic "+f.admin) }
			f.expect(f.do(r.method, r.path, "", r.body, basic), 401, "M_MISSING_TOKEN")
		})
	}
	if n := len(f.server.cfg.Peers.Peers()); n != 0 {
		t.Errorf("%d peers were pinned by requests that were refused", n)
	}
}

func TestUnknownRoutes(t *testing.T) {
	f := newFixture(t, "")
	f.expect(f.do("GET", "/_tokenim/admin/v1/bogus", f.admin, ""), 404, "M_UNRECOGNIZED")
	f.expect(f.do("GET", "/_synapse/admin/v9/x", f.admin, ""), 404, "M_UNRECOGNIZED")
	f.expect(f.do("GET", "/_tokenim/admin/v1/peers/", f.admin, ""), 404, "M_UNRECOGNIZED")
	a := f.do("PUT", "/_tokenim/admin/v1/peers", f.admin, "")
	f.expect(a, 405, "M_UNRECOGNIZED")
	if a.header.Get("Allow") != "GET, POST" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
	a = f.do("OPTIONS", "/_tokenim/admin/v1/stats", "", "")
	if a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %+v", a)
	}
}

// TestStats checks names and types exactly: scripts depend on them.
func TestStats(t *testing.T) {
	f := newFixture(t, "")
	room, err := f.node.CreateRoom(context.Background(), "@alice:hq", node.CreateRequest{Preset: "private_chat"})
	if err != nil {
		t.Fatal(err)
	}
	f.expect(f.do("POST", "/_tokenim/admin/v1/peers", f.admin, `{"link":"link:branch/p1"}`), 200, "")
	a := f.do("GET", "/_tokenim/admin/v1/stats", f.admin, "")
	f.expect(a, 200, "")
	var s Stats
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		t.Fatal(err)
	}
	var events int64
	err = f.store.View(func(tx *store.Tx) error {
		r, err := tx.Room(room)
		events = r.Events
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if events == 0 || s.Events.Local != events || s.Events.Remote != 0 {
		t.Errorf("events: %+v, the room has %d", s.Events, events)
	}
	if s.Name != "hq" || s.Version != "1.2.3" || s.Uptime < 0 || s.Users.Local != 2 || s.Rooms != (RoomStats{Local: 1}) {
		t.Errorf("%+v", s)
	}
	if len(s.Peers) != 1 || s.Peers[0] != (PeerStats{"branch", "p1", "connecting"}) {
		t.Errorf("peers: %+v", s.Peers)
	}
	var tree map[string]any
	if err := json.Unmarshal([]byte(a.body), &tree); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"name", "version", "uptime_s", "users.local", "users.online", "rooms.local", "rooms.federated", "events.local", "events.remote", "peers", "store.bytes"} {
		var v any = tree
		for _, k := range strings.Split(path, ".") {
			m, ok := v.(map[string]any)
			if !ok || m[k] == nil {
				t.Fatalf("%s is missing in %s", path, a.body)
			}
			v = m[k]
		}
	}
}

func TestPeers(t *testing.T) {
	f := newFixture(t, "")
	const path = "/_tokenim/admin/v1/peers"
	if a := f.do("GET", path, f.admin, ""); a.body != `{"peers":[]}`+"\n" {
		t.Errorf("no peers: %s", a.body)
	}
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{`{"link":"link:branch/p1"}`, 200, ""},
		{`{"link":"link:branch/p1"}`, 200, ""}, // again
		{`{"link":"link:branch/p2"}`, 400, "M_INVALID_PARAM"},
		{`{"link":"http://example.org"}`, 400, "M_INVALID_PARAM"},
		{`{"link":""}`, 400, "M_INVALID_PARAM"},
		{`{}`, 400, "M_MISSING_PARAM"},
		{`{"link":null}`, 400, "M_MISSING_PARAM"},
		{`{"link":1}`, 400, "M_BAD_JSON"},
		{`[]`, 400, "M_BAD_JSON"},
		{`"x"`, 400, "M_BAD_JSON"},
		{`{"link":`, 400, "M_NOT_JSON"},
		{``, 400, "M_NOT_JSON"},
		{`{"link":"` + strings.Repeat("x", maxBody) + `"}`, 413, "M_TOO_LARGE"},
		{`{"link":"link:far/broken-disk"}`, 500, "M_UNKNOWN"},
	} {
		a := f.do("POST", path, f.admin, tt.body)
		f.expect(a, tt.status, tt.code)
		if tt.status == 200 && a.body != `{"name":"branch","peer_id":"p1"}`+"\n" {
			t.Errorf("answer %s", a.body)
		}
		if strings.Contains(a.body, "/secret/path") {
			t.Error("an internal error is shown")
		}
	}
	if !strings.Contains(f.log.String(), "/secret/path") {
		t.Error("an internal error is not logged")
	}
	f.expect(f.do("DELETE", path+"/other", f.admin, ""), 404, "M_NOT_FOUND")
	f.expect(f.do("DELETE", path+"/Not%20A%20Name", f.admin, ""), 400, "M_INVALID_PARAM")
	if a := f.do("DELETE", path+"/branch", f.admin, ""); a.status != 200 || a.body != "{}\n" {
		t.Errorf("%+v", a)
	}
	f.expect(f.do("DELETE", path+"/branch", f.admin, ""), 404, "M_NOT_FOUND")
}

func TestMetrics(t *testing.T) {
	f := newFixture(t, "")
	from := func(addr string, headers ...string) func(*http.Request) {
		return func(r *http.Request) {
			r.RemoteAddr = addr
			for i := 0; i < len(headers); i += 2 {
				r.Header.Set(headers[i], headers[i+1])
			}
		}
	}
	for _, tt := range []struct {
		change func(*http.Request)
		status int
	}{
		{from("127.0.0.1:1"), 200},
		{from("[::1]:1"), 200},
		{from("[::ffff:127.0.0.1]:1"), 200},
		{from("203.0.113.9:1"), 401},
		{from("203.0.113.9:1", "X-Forwarded-For", "127.0.0.1"), 401},
		{from("203.0.113.9:1", "Forwarded", "for=127.0.0.1", "X-Real-IP", "127.0.0.1"), 401},
		{from("127.0.0.1:1", "X-Forwarded-For", "127.0.0.1"), 401}, // a proxy on this machine
		{from("127.0.0.1:1", "Forwarded", "for=203.0.113.9"), 401},
		{from("@"), 401},
	} {
		if a := f.do("GET", "/metrics", "", "", tt.change); a.status != tt.status {
			t.Errorf("status %d, want %d", a.status, tt.status)
		}
	}
	f.expect(f.do("GET", "/metrics", f.user, ""), 403, "M_FORBIDDEN")

	r := httptest.NewRequest("GET", "/_matrix/client/v3/sync", nil)
	other := httptest.NewRequest("GET", "/some/path/of/a/client", nil)
	for _, q := range []*http.Request{r, r, r, other} {
		f.server.Begin(q)
	}
	f.server.Observe(r, 200, time.Millisecond)
	f.server.Observe(r, 200, time.Second)
	f.server.Observe(other, 404, time.Second)
	a := f.do("GET", "/metrics", f.admin, "")
	for _, line := range []string{
		`tokenim_http_requests_total{class="sync",status="200"} 2`,
		`tokenim_http_requests_total{class="other",status="404"} 1`,
		`tokenim_http_requests_open{class="sync"} 1`, `tokenim_http_requests_open{class="other"} 0`,
		`tokenim_users 2`, `tokenim_rooms 0`, `tokenim_events_total{origin="local"} 0`,
		`tokenim_peers{state="connected"} 0`, `tokenim_info{name="hq",version="1.2.3"} 1`,
		"tokenim_store_bytes ", "go_goroutines ", "process_",
	} {
		if !strings.Contains(a.body, "\n"+line) {
			t.Errorf("%q is missing", line)
		}
	}
	if strings.Contains(a.body, "of/a/client") || strings.Contains(a.body, f.admin) {
		t.Error("metrics show what a client wrote")
	}
	var own strings.Builder
	for line := range strings.Lines(a.body) {
		if strings.Contains(line, "tokenim_") {
			own.WriteString(line)
		}
	}
	problems, err := promlint.New(strings.NewReader(own.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestClass(t *testing.T) {
	for _, tt := range []struct{ method, path, want string }{
		{"GET", "/_matrix/client/v3/sync", "sync"},
		{"PUT", "/_matrix/client/v3/rooms/!r/send/m.room.message/1", "send"},
		{"POST", "/_matrix/client/v3/login", "login"},
		{"GET", "/_matrix/client/v3/joined_rooms", "client"},
		{"GET", "/_matrix/media/v3/config", "media"},
		{"GET", "/_tokenim/admin/v1/stats", "admin"},
		{"GET", "/_synapse/admin/v1/register", "admin"},
		{"GET", "/metrics", "health"},
		{"GET", "/", "other"},
	} {
		if got := class(httptest.NewRequest(tt.method, tt.path, nil)); got != tt.want {
			t.Errorf("%s is %s, want %s", tt.path, got, tt.want)
		}
	}
}

// mac computes the MAC as Synapse's documentation describes it.
func mac(secret, nonce, user, password string, admin bool, userType string) string {
	h := hmac.New(sha1.New, []byte(secret))
	role := "notadmin"
	if admin {
		role = "admin"
	}
	io.WriteString(h, nonce+"\x00"+user+"\x00"+password+"\x00"+role)
	if userType != "" {
		io.WriteString(h, "\x00"+userType)
	}
	return hex.EncodeToString(h.Sum(nil))
}

const registerPath = "/_synapse/admin/v1/register"

func (f *fixture) nonce() string {
	f.t.Helper()
	a := f.do("GET", registerPath, "", "")
	f.expect(a, 200, "")
	var out struct{ Nonce string }
	if err := json.Unmarshal([]byte(a.body), &out); err != nil || out.Nonce == "" {
		f.t.Fatalf("%s: %v", a.body, err)
	}
	return out.Nonce
}

func (f *fixture) post(body map[string]any) answer {
	f.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.do("POST", registerPath, "", string(raw))
}

func TestRegister(t *testing.T) {
	f := newFixture(t, testSecret)
	n := f.nonce()
	a := f.post(map[string]any{"nonce": n, "username": "carol", "password": "correct horse", "displayname": "Carol",
		"admin": true, "mac": mac(testSecret, n, "carol", "correct horse", true, "")})
	f.expect(a, 200, "")
	var out struct {
		User   event.UserID `json:"user_id"`
		Home   string       `json:"home_server"`
		Token  string       `json:"access_token"`
		Device string       `json:"device_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatal(err)
	}
	if out.User != "@carol:hq" || out.Home != "hq" || out.Device == "" {
		t.Errorf("%+v", out)
	}
	s, err := f.accounts.Authenticate(context.Background(), out.Token, "")
	if err != nil || s.User != "@carol:hq" || !s.Admin() {
		t.Errorf("session %+v, %v", s, err)
	}
	if err := f.accounts.CheckPassword(context.Background(), "@carol:hq", "correct horse", ""); err != nil {
		t.Error(err)
	}
	f.expect(f.do("GET", "/_tokenim/admin/v1/stats", out.Token, ""), 200, "")

	// With a user type, without administrator's rights, without a session.
	n = f.nonce()
	a = f.post(map[string]any{"nonce": n, "username": "robot", "password": "correct horse", "user_type": "bot",
		"inhibit_login": true, "mac": mac(testSecret, n, "robot", "correct horse", false, "bot")})
	f.expect(a, 200, "")
	if strings.Contains(a.body, "access_token") {
		t.Errorf("a session although none was wanted: %s", a.body)
	}
}

func TestRegisterRefusals(t *testing.T) {
	f := newFixture(t, testSecret)
	good := func(n string) map[string]any {
		return map[string]any{"nonce": n, "username": "carol", "password": "correct horse",
			"mac": mac(testSecret, n, "carol", "correct horse", false, "")}
	}
	for _, tt := range []struct {
		name   string
		change func(b map[string]any)
		status int
		code   string
	}{
		{"no nonce", func(b map[string]any) { delete(b, "nonce") }, 400, "M_MISSING_PARAM"},
		{"no user", func(b map[string]any) { delete(b, "username") }, 400, "M_MISSING_PARAM"},
		{"no password", func(b map[string]any) { delete(b, "password") }, 400, "M_MISSING_PARAM"},
		{"no mac", func(b map[string]any) { delete(b, "mac") }, 400, "M_MISSING_PARAM"},
		{"nonce of somebody else", func(b map[string]any) { b["nonce"] = strings.Repeat("00", 40) }, 400, "M_UNKNOWN"},
		{"no hex", func(b map[string]any) { b["nonce"] = "xyz" }, 400, "M_UNKNOWN"},
		{"capitals", func(b map[string]any) { b["nonce"] = strings.ToUpper(b["nonce"].(string)) }, 400, "M_UNKNOWN"},
		{"other user", func(b map[string]any) { b["username"] = "mallory" }, 403, "M_UNKNOWN"},
		{"other password", func(b map[string]any) { b["password"] = "other password" }, 403, "M_UNKNOWN"},
		{"more rights", func(b map[string]any) { b["admin"] = true }, 403, "M_UNKNOWN"},
		{"other type", func(b map[string]any) { b["user_type"] = "bot" }, 403, "M_UNKNOWN"},
		{"unknown type", func(b map[string]any) { b["user_type"] = "king" }, 400, "M_INVALID_PARAM"},
		{"wrong secret", func(b map[string]any) {
			b["mac"] = mac("guess", b["nonce"].(string), "carol", "correct horse", false, "")
		}, 403, "M_UNKNOWN"},
		{"empty secret", func(b map[string]any) {
			b["mac"] = mac("", b["nonce"].(string), "carol", "correct horse", false, "")
		}, 403, "M_UNKNOWN"},
		{"short mac", func(b map[string]any) { b["mac"] = b["mac"].(string)[:38] }, 403, "M_UNKNOWN"},
		{"zero byte in the name", func(b map[string]any) {
			// The MAC of another split of the same bytes.
			b["username"], b["password"] = "carol\x00correct", "horse"
			b["mac"] = mac(testSecret, b["nonce"].(string), "carol\x00correct", "horse", false, "")
		}, 400, "M_INVALID_USERNAME"},
		{"zero byte in the password", func(b map[string]any) { b["password"] = "a\x00b" }, 400, "M_INVALID_PARAM"},
		{"wrong type", func(b map[string]any) { b["admin"] = "yes" }, 400, "M_BAD_JSON"},
		{"long name", func(b map[string]any) { b["username"] = strings.Repeat("a", 513) }, 400, "M_INVALID_USERNAME"},
		{"taken", func(b map[string]any) {
			b["username"] = "alice"
			b["mac"] = mac(testSecret, b["nonce"].(string), "alice", "correct horse", false, "")
		}, 400, "M_USER_IN_USE"},
		{"no user name", func(b map[string]any) {
			b["username"] = "no user name"
			b["mac"] = mac(testSecret, b["nonce"].(string), "no user name", "correct horse", false, "")
		}, 400, "M_INVALID_USERNAME"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.t = t
			b := good(f.nonce())
			tt.change(b)
			f.expect(f.post(b), tt.status, tt.code)
		})
	}
	f.t = t
	var users int
	if err := f.store.View(func(tx *store.Tx) (err error) { users, err = tx.CountUsers(); return err }); err != nil || users != 2 {
		t.Errorf("%d users, %v: a refused request made one", users, err)
	}
	// The good request works, but only once.
	b := good(f.nonce())
	f.expect(f.post(b), 200, "")
	b["username"] = "dave"
	b["mac"] = mac(testSecret, b["nonce"].(string), "dave", "correct horse", false, "")
	f.expect(f.post(b), 400, "M_UNKNOWN")
}

func TestRegisterWithoutSecret(t *testing.T) {
	f := newFixture(t, "")
	f.expect(f.do("GET", registerPath, "", ""), 404, "M_UNRECOGNIZED")
	f.expect(f.do("POST", registerPath, "", "{}"), 404, "M_UNRECOGNIZED")
	f.expect(f.do("POST", registerPath, f.admin, "{}"), 404, "M_UNRECOGNIZED")
}

func TestNonces(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	n := newNonces()
	n.now = func() time.Time { return now }
	a, b := n.issue(), n.issue()
	if a == b || !n.valid(a) || !n.valid(b) {
		t.Fatal("two nonces are not two valid ones")
	}
	if !n.use(a) || n.use(a) || n.valid(a) {
		t.Error("a nonce can be used more than once")
	}
	for i := range len(b) {
		c := []byte(b)
		c[i] ^= 1
		if n.valid(string(c)) {
			t.Errorf("changed at %d it is still valid", i)
		}
	}
	now = now.Add(nonceLife)
	if !n.valid(b) {
		t.Error("not valid at the end of its life")
	}
	now = now.Add(time.Millisecond)
	if n.valid(b) {
		t.Error("valid after its life")
	}
	now = now.Add(-time.Hour)
	if n.valid(b) {
		t.Error("valid before it was made")
	}
	if newNonces().valid(a) {
		t.Error("valid after a restart")
	}
	// Used ones are bounded, and room is made as they expire.
	clear(n.used)
	for len(n.used) < maxUsed {
		if !n.use(n.issue()) {
			t.Fatal("refused too early")
		}
	}
	if n.use(n.issue()) {
		t.Error("not bounded")
	}
	now = now.Add(nonceLife + time.Second)
	if !n.use(n.issue()) {
		t.Error("expired ones do not make room")
	}
}

// FuzzRegister: no body makes an account without the secret, or an internal error.
func FuzzRegister(f *testing.F) {
	fix := newFixture(f, testSecret)
	f.Add(`{"nonce":"x","username":"a","password":"b","mac":"00"}`)
	f.Add(`{"nonce":null,"admin":1}`)
	f.Add(`[{}]`)
	f.Fuzz(func(t *testing.T, body string) {
		fix.t = t
		a := fix.do("POST", registerPath, "", body)
		if a.status < 400 || a.status >= 500 || !strings.HasPrefix(a.code(), "M_") {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func BenchmarkStats(b *testing.B) {
	f := newFixture(b, "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.server.collect(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	f := newFixture(b, "")
	r := httptest.NewRequest("PUT", "/_matrix/client/v3/rooms/!r/send/m.room.message/1", nil)
	b.ReportAllocs()
	for b.Loop() {
		f.server.Begin(r)
		f.server.Observe(r, 200, time.Millisecond)
	}
}
