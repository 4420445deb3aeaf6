package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenim/tokenim/api/client/spectest"
	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// server is a whole server for tests: real store, node and handler, on a
// simulated network.
type server struct {
	t        testing.TB
	name     event.Server
	store    *store.Store
	node     *node.Node
	accounts *account.Accounts
	api      *Server
	url      string
	http     *http.Client
	failures atomic.Int32 // answers of 500 and more
	logs     *syncBuffer
}

// syncBuffer collects what a server logs.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written.
func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startServer runs a server until the test ends. Every answer that its client
// gets is validated against the specification. mode is who may register.
func startServer(t testing.TB, net *simnet.Net, name event.Server, mode string, cfg Config) *server {
	t.Helper()
	buf := &syncBuffer{}
	logger := slog.New(slog.NewJSONHandler(buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	seed := sha256.Sum256([]byte(name))
	key := event.SigningKey{Server: name, ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed[:])}
	peer := net.Add(name, key)
	st, err := store.Open(store.Options{InMemory: true, Server: name})
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(node.Config{Key: key, Store: st, Network: peer, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- peer.Run(ctx, n) }()
	go func() { done <- n.Run(ctx) }()
	s := &server{t: t, name: name, store: st, node: n, logs: buf}
	s.accounts = account.New(account.Config{Server: name, Store: st, Mode: mode, Limits: cfg.Limits, Logger: logger})
	cfg.Node, cfg.Accounts, cfg.Store, cfg.Logger = n, s.accounts, st, logger
	s.api = New(cfg)
	web := httptest.NewServer(s.api)
	s.url = web.URL
	transport := &http.Transport{}
	s.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// Without the definitions these tests run all the same; spectest's own say
	// that they are missing.
	if spectest.Available() {
		s.http.Transport = spectest.Open(t).Transport(t, transport)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		web.Close()
		cancel()
		for range 2 {
			if err := <-done; err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// open starts a single server where everyone may register.
func open(t testing.TB) *server {
	t.Helper()
	return startServer(t, simnet.New(1), "hq", "open", Config{})
}

// answer is an answer of the API.
type answer struct {
	status int
	header http.Header
	raw    []byte
	json   map[string]any
}

// str returns a string of the answer, by a path of keys.
func (a answer) str(keys ...string) string {
	s, _ := a.at(keys...).(string)
	return s
}

// at walks the answer.
func (a answer) at(keys ...string) any {
	var v any = a.json
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

// do sends a request. body: nil none, string as it is, else JSON.
func (s *server) do(method, path, token string, body any) answer {
	s.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, s.url+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	_ = json.Unmarshal(a.raw, &a.json) // arrays stay in raw
	if a.status >= 500 {
		s.failures.Add(1)
	}
	return a
}

// ok sends a request that must succeed.
func (s *server) ok(method, path, token string, body any) answer {
	s.t.Helper()
	a := s.do(method, path, token, body)
	if a.status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
	}
	return a
}

// fails sends a request that must fail with this status and code.
func (s *server) fails(status int, code, method, path, token string, body any) answer {
	s.t.Helper()
	a := s.do(method, path, token, body)
	if a.status != status || a.str("errcode") != code {
		s.t.Errorf("%s %s: %d %.300s, want %d %s", method, path, a.status, a.raw, status, code)
	}
	return a
}

// person is a user who is logged in.
type person struct {
	s      *server
	id     event.UserID
	token  string
	device string
}

// person makes an account and logs it in, past the API.
func (s *server) person(name string) *person {
	s.t.Helper()
	id, err := s.accounts.Create(s.t.Context(), account.NewUser{Localpart: name, Password: "pw-" + name})
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := s.accounts.OpenSession(s.t.Context(), id, "", name+"'s phone")
	if err != nil {
		s.t.Fatal(err)
	}
	return &person{s: s, id: id, token: l.Token, device: l.Device}
}

func (p *person) do(method, path string, body any) answer {
	p.s.t.Helper()
	return p.s.do(method, path, p.token, body)
}

func (p *person) ok(method, path string, body any) answer {
	p.s.t.Helper()
	return p.s.ok(method, path, p.token, body)
}

func (p *person) fails(status int, code, method, path string, body any) answer {
	p.s.t.Helper()
	return p.s.fails(status, code, method, path, p.token, body)
}

// room creates a room.
func (p *person) room(body any) string {
	p.s.t.Helper()
	return p.ok("POST", v3+"/createRoom", body).str("room_id")
}

// in writes a path below a room; each %s in it becomes the next of args, escaped.
func in(room, path string, args ...any) string {
	for _, a := range args {
		path = strings.Replace(path, "%s", url.PathEscape(fmt.Sprint(a)), 1)
	}
	return v3 + "/rooms/" + url.PathEscape(room) + path
}

// obj is a JSON object.
type obj = map[string]any

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("did not happen: ", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// errorer is what a test and a property test have in common.
type errorer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// hold fails the test unless got and want are the same as JSON.
func hold(t errorer, what string, got, want any) {
	t.Helper()
	g, err1 := json.Marshal(got)
	w, err2 := json.Marshal(want)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if !bytes.Equal(g, w) {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}
