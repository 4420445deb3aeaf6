package federation

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"

	"github.com/tokenim/tokenim/node/event"
)

const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 2 * time.Minute
	// requestMemory bounds the bytes of requests that are read or answered at once.
	requestMemory = 256 << 20
)

type peerKey struct{}

// serveCalls answers calls until the server is closed.
func (n *Network) serveCalls() (*http.Server, error) {
	l, err := gostream.Listen(n.host, protoRPC)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{
		Handler:           http.HandlerFunc(n.serveCall),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return n.ctx },
		// The peer id was proven when the connection was made; nothing in the
		// request says who asks.
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			id, err := peer.Decode(c.RemoteAddr().String())
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peerKey{}, id)
		},
	}
	n.start(func() { _ = srv.Serve(l) })
	return srv, nil
}

// serveCall answers one call of a peer that has shown its record.
func (n *Network) serveCall(w http.ResponseWriter, req *http.Request) {
	id, _ := req.Context().Value(peerKey{}).(peer.ID)
	r := n.peers.get(id)
	if r == nil || !n.peers.wait(req.Context(), r, admitWait, (*remote).isAdmitted) {
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", "not a peer")
		return
	}
	if req.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "calls are made by POST")
		return
	}
	method := strings.TrimPrefix(req.URL.Path, "/")
	m, ok := limitsOf(method)
	if !ok {
		refuse(w, http.StatusNotFound, "M_UNRECOGNIZED", "no such method")
		return
	}
	if !r.budget.allowCall(m) {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "too many calls")
		return
	}
	select {
	case r.budget.calls <- struct{}{}:
		defer func() { <-r.budget.calls }()
	default:
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "too many calls at once")
		return
	}
	body, ok := n.readBody(w, req, m)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), m.timeout)
	defer cancel()
	answer, err := n.answer(ctx, r.name, method, body)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	var refused *event.RemoteError
	switch {
	case errors.As(err, &refused):
		refuse(w, statusOf(refused.Code), refused.Code, refused.Message)
	case err != nil:
		n.log.Warn("a call failed", "peer", r.name, "method", method, "err", err)
		refuse(w, http.StatusInternalServerError, "M_UNKNOWN", "internal error")
	case int64(len(answer)) > m.response:
		n.log.Error("the answer to a call is too large", "peer", r.name, "method", method, "bytes", len(answer))
		refuse(w, http.StatusInternalServerError, "M_TOO_LARGE", "the answer is too large")
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = w.Write(answer)
	}
}

// readBody reads the request within its limits of size, time and memory. If it
// cannot, it has answered.
func (n *Network) readBody(w http.ResponseWriter, req *http.Request, m methodLimits) ([]byte, bool) {
	size := req.ContentLength
	if size > m.request {
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "the request is too large")
		return nil, false
	}
	if size < 0 {
		size = m.request
	}
	if err := n.memory.Acquire(req.Context(), size); err != nil {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "ending")
		return nil, false
	}
	defer n.memory.Release(size)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, m.request))
	if err != nil {
		status, code := http.StatusBadRequest, "M_UNKNOWN"
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			status, code = http.StatusRequestEntityTooLarge, "M_TOO_LARGE"
		}
		w.Header().Set("Connection", "close")
		refuse(w, status, code, "the request cannot be read")
		return nil, false
	}
	// Without this the deadline would end the context of a long answer.
	_ = rc.SetReadDeadline(time.Time{})
	return body, true
}

// answer asks the handler; a panic in it is an error.
func (n *Network) answer(ctx context.Context, from event.Server, method string, body []byte) (answer []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("panic while a call was answered", "peer", from, "method", method, "panic", p)
			answer, err = nil, errors.New("panic")
		}
	}()
	h := n.handler()
	if h == nil {
		return nil, errClosed
	}
	return h.HandleCall(ctx, from, method, body)
}

// refuse answers with a Matrix style error.
func refuse(w http.ResponseWriter, status int, code, message string) {
	b, err := json.Marshal(map[string]string{"errcode": code, "error": message})
	if err != nil {
		b = []byte(`{"errcode":"M_UNKNOWN","error":""}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
