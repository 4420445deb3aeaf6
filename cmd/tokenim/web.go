package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	headerTimeout = 10 * time.Second // to read a request's header
	idleTimeout   = 2 * time.Minute  // of a connection between requests
	bodyTimeout   = time.Minute      // to read a request's body
	writeTimeout  = 30 * time.Second // of one write of an answer; a long-poll may wait as long as it likes before
	maxHeader     = 64 << 10         // bytes of a request's header
)

// newHTTPServer returns the server for clients and operators. Requests get
// contexts that end with ctx.
func (a *app) newHTTPServer(ctx context.Context) *http.Server {
	return &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(a.log.With("part", "http").Handler(), slog.LevelWarn),
	}
}

// handler joins the APIs, bounds the time of reading and writing, counts
// requests, and lets long-polls end when the node does.
func (a *app) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		a.admin.Begin(r)
		rc := http.NewResponseController(w)
		// A deadline of an earlier request on this connection must not hold.
		rc.SetWriteDeadline(time.Time{}) // fails only where there are no deadlines
		resp := &response{ResponseWriter: w, rc: rc}
		defer func() { a.admin.Observe(r, cmp.Or(resp.status, http.StatusInternalServerError), time.Since(start)) }()
		if r.ContentLength != 0 {
			rc.SetReadDeadline(start.Add(bodyTimeout))
			r.Body = &body{ReadCloser: r.Body, rc: rc}
		}
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/sync") {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(a.polls, cancel)()
			r = r.WithContext(ctx)
		}
		a.route(r.URL.Path).ServeHTTP(resp, r)
		if resp.status == 0 {
			resp.WriteHeader(http.StatusOK)
		}
		if r.Method == http.MethodPost && resp.status == http.StatusOK && strings.HasSuffix(r.URL.Path, "/register") {
			a.accountMade(context.WithoutCancel(r.Context()))
		}
	})
}

// route returns the API that answers a path. It looks at prefixes only, so
// that no path is cleaned or redirected.
func (a *app) route(path string) http.Handler {
	switch {
	case strings.HasPrefix(path, "/_matrix/"), strings.HasPrefix(path, "/.well-known/matrix/"):
		return a.client
	case strings.HasPrefix(path, "/_tokenim/"), strings.HasPrefix(path, "/_synapse/"),
		path == "/healthz", path == "/readyz", path == "/metrics":
		return a.admin
	}
	return http.HandlerFunc(a.home)
}

// home says what this is, to people who open the address in a browser.
func (a *app) home(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`+"\n")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"Method not allowed"}`+"\n")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	fmt.Fprintf(w, "This is the TokenIM node %s.\n\nTo use it, enter this address as the homeserver of a Matrix client,\nsuch as Element, Cinny or FluffyChat.\n", a.identity.Name)
}

// response remembers the status and gives every write its own deadline, so
// that a slow reader cannot hold an answer's memory for ever.
type response struct {
	http.ResponseWriter
	rc     *http.ResponseController
	status int // 0 until the header is written
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 || w.status < 200 {
		w.status = status
	}
	w.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// body lifts the read deadline when the whole body was read: what is read
// afterwards is only the client's hanging up, and a handler may work on.
type body struct {
	io.ReadCloser
	rc *http.ResponseController
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}
