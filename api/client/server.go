// Package client is the Client-Server API: HTTP in, calls of the node and the
// accounts out, no state of its own. One file per chapter of the specification.
//
// routes.go is the one table of operations; errors.go the one table from errors
// to what a client is shown. docs/compliance.tsv says what is there, and a test
// compares it with the table and with the specification's definitions. The
// package starts no goroutine; a request is served on net/http's own.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/store"
)

// Config says what the API serves.
type Config struct {
	Node      *node.Node
	Accounts  *account.Accounts
	Store     *store.Store
	PublicURL string // base URL for well-known, empty: from the request
	Limits    bool   // client rate limits
	Logger    *slog.Logger
}

// Server is the API. It is safe for concurrent use.
type Server struct {
	cfg      Config
	node     *node.Node
	accounts *account.Accounts
	store    *store.Store
	log      *slog.Logger
	mux      *http.ServeMux
	requests atomic.Uint64 // numbers requests for the log
	limits   limits
}

// New returns the API as a handler for /_matrix/ and /.well-known/matrix/.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, node: cfg.Node, accounts: cfg.Accounts, store: cfg.Store, log: cfg.Logger,
		mux: http.NewServeMux(), limits: newLimits(cfg.Limits)}
	for pattern, e := range endpoints(routes()) {
		s.mux.Handle(pattern, &endpointHandler{s, e})
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { s.writeError(w, errUnrecognized) })
	return s
}

// ServeHTTP answers a request. A path that is not in the table is answered 404,
// one that is with another method 405, both M_UNRECOGNIZED (Common error
// codes). No path is ever redirected.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Web Browser Clients: these headers on every answer; OPTIONS runs nothing else.
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization")
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	p := r.URL.EscapedPath()
	if r.Method == http.MethodConnect || !clean(p) {
		s.writeError(w, errUnrecognized)
		return
	}
	s.mux.ServeHTTP(w, markSlashes(r, p))
}

// loneSlash stands for a path segment that is an escaped slash alone, which
// ServeMux would take for a trailing slash. No path parameter holds a NUL.
const loneSlash = "\x00/"

// markSlashes writes loneSlash for each such segment.
func markSlashes(r *http.Request, escaped string) *http.Request {
	segments := strings.Split(escaped, "/")
	marked := false
	for i, seg := range segments {
		if strings.EqualFold(seg, "%2F") {
			segments[i], marked = "%00%2F", true
		}
	}
	if !marked {
		return r
	}
	u := *r.URL
	u.RawPath = strings.Join(segments, "/")
	var err error
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		return r // cannot be: the escaped path was valid
	}
	r = r.WithContext(r.Context())
	r.URL = &u
	return r
}

// clean reports whether a path is one that ServeMux would not redirect.
func clean(p string) bool {
	c := path.Clean(p)
	return strings.HasPrefix(p, "/") && (p == c || c != "/" && p == c+"/")
}

// endpointHandler serves one path.
type endpointHandler struct {
	s *Server
	e *endpoint
}

// ServeHTTP finds the route of the method, and logs the request by its pattern:
// neither ids nor query strings get into the log.
func (h *endpointHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, rt := h.s, h.e.methods[r.Method]
	if r.Method == http.MethodHead { // as GET; net/http leaves the body out
		rt = h.e.methods[http.MethodGet]
	}
	if rt == nil {
		w.Header().Set("Allow", h.e.allow())
		s.writeError(w, fail(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "method not allowed"))
		return
	}
	start, id := time.Now(), s.requests.Add(1)
	body, err := s.run(rt, h.e, &call{ResponseWriter: w, Request: r}, id)
	status := http.StatusOK
	if err != nil {
		status = s.writeError(w, err)
	} else {
		s.write(w, status, body)
	}
	if s.log.Enabled(r.Context(), slog.LevelDebug) {
		s.log.Debug("request", "request", id, "method", r.Method, "route", rt.pattern, "status", status,
			"ms", time.Since(start).Milliseconds())
	}
}

// run checks the path, authenticates and calls the handler. A panic becomes an
// internal error.
func (s *Server) run(rt *route, e *endpoint, c *call, id uint64) (body any, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("panic in a request", "request", id, "route", rt.pattern, "panic", p, "stack", string(debug.Stack()))
			body, err = nil, errPanic
		}
	}()
	for _, name := range e.params {
		v := c.PathValue(name)
		if v == loneSlash {
			c.SetPathValue(name, "/")
			continue
		}
		if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			return nil, fail(http.StatusBadRequest, "M_INVALID_PARAM", "path parameter "+name+" is not valid")
		}
	}
	if rt.access != public {
		if err := s.authenticate(c, rt.access == optional); err != nil {
			return nil, err
		}
	}
	return rt.handle(s, c)
}

// errPanic is what a client sees of a panic; it was logged already.
var errPanic = fail(http.StatusInternalServerError, "M_UNKNOWN", "internal error")

// authenticate sets the session of the access token. Sending it in the query
// string is not supported any more (Using access tokens, changed in v1.20).
func (s *Server) authenticate(c *call, optional bool) error {
	token, ok := bearer(c.Request.Header.Get("Authorization"))
	if !ok {
		if optional {
			return nil
		}
		return fail(http.StatusUnauthorized, "M_MISSING_TOKEN", "access token is missing")
	}
	session, err := s.accounts.Authenticate(c.Context(), token, c.ip())
	if err != nil {
		return err
	}
	c.Session = session
	return nil
}

// bearer returns the token of an Authorization header.
func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxPooled is the largest buffer that is kept for reuse.
const maxPooled = 256 << 10

// write answers with JSON.
func (s *Server) write(w http.ResponseWriter, status int, body any) {
	var raw []byte
	switch b := body.(type) {
	case nil:
		raw = []byte("{}")
	case json.RawMessage:
		raw = b
	default:
		buf := buffers.Get().(*bytes.Buffer)
		buf.Reset()
		defer func() {
			if buf.Cap() <= maxPooled {
				buffers.Put(buf)
			}
		}()
		enc := json.NewEncoder(buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(b); err != nil {
			s.log.Error("answer cannot be encoded", "err", err)
			status, raw = http.StatusInternalServerError, []byte(`{"errcode":"M_UNKNOWN","error":"internal error"}`)
		} else {
			raw = bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	if _, err := w.Write(raw); err != nil && !errors.Is(err, context.Canceled) {
		s.log.Debug("answer not delivered", "err", err)
	}
}
