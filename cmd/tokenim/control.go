package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// maxSocketPath is the longest path of a Unix socket on every platform.
const maxSocketPath = 100

// socketDirPrefix names the directories of sockets whose data directory's path
// is too long for one.
const socketDirPrefix = "tokenim-control-"

// control is the server behind the socket in the data directory, through which
// commands talk to the running node. Only the owner of the files can open it.
type control struct {
	app      *app
	link     string // path in the data directory
	dir      string // directory of the real socket if link is a symbolic link to it
	listener net.Listener
	server   *http.Server
}

// nodeInfo is what the running node says of itself.
type nodeInfo struct {
	Name      event.Server `json:"name"`
	PeerID    string       `json:"peer_id"`
	Addresses []string     `json:"addresses"`
	Link      string       `json:"link"`
	URL       string       `json:"url"`
	PID       int          `json:"pid"`
}

// userRequest asks for an account.
type userRequest struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Admin    bool   `json:"admin"`
}

// userAnswer is the account made.
type userAnswer struct {
	UserID event.UserID `json:"user_id"`
}

// controlError is the answer to a request that failed.
type controlError struct {
	Error string `json:"error"`
}

// listenControl opens the socket. The caller holds the store's lock, so a
// socket that is there already was left behind by a process that was killed.
func listenControl(a *app) (*control, error) {
	c := &control{app: a, link: a.cfg.path(controlFile)}
	c.removeFiles()
	l, err := c.listen()
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	c.listener = l
	mux := http.NewServeMux()
	mux.HandleFunc("GET /node", answerJSON(c.node))
	mux.HandleFunc("GET /peers", answerJSON(c.peers))
	mux.HandleFunc("POST /users", answerJSON(c.createUser))
	c.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(a.log.With("part", "control").Handler(), slog.LevelWarn),
	}
	return c, nil
}

// listen makes the socket in a directory that only the owner can enter, and
// moves it to its place with its mode set: at no time can others open it.
func (c *control) listen() (net.Listener, error) {
	abs, err := filepath.Abs(c.link)
	if err != nil {
		return nil, err
	}
	short := len(filepath.Dir(abs))+len("/.c4294967295/s") <= maxSocketPath
	parent, pattern := "", socketDirPrefix+"*"
	if short {
		parent, pattern = filepath.Dir(c.link), ".c*"
	}
	dir, err := os.MkdirTemp(parent, pattern)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(path, 0o600); err == nil {
		if short {
			err = os.Rename(path, c.link)
		} else {
			c.dir = dir
			err = os.Symlink(path, c.link)
		}
	}
	if short || err != nil {
		os.RemoveAll(dir)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// removeFiles removes the socket, whoever left it.
func (c *control) removeFiles() {
	if target, err := os.Readlink(c.link); err == nil && strings.HasPrefix(filepath.Base(filepath.Dir(target)), socketDirPrefix) {
		os.Remove(target)
		os.Remove(filepath.Dir(target))
	}
	os.Remove(c.link)
}

func (c *control) serve() error { return c.server.Serve(c.listener) }

// shutdown ends the server and removes the socket.
func (c *control) shutdown(ctx context.Context) {
	c.removeFiles()
	if err := c.server.Shutdown(ctx); err != nil {
		c.server.Close()
	}
}

func (c *control) node(*http.Request) (any, error) {
	link, err := c.app.network.Link()
	if err != nil {
		return nil, err
	}
	return nodeInfo{
		Name: c.app.identity.Name, PeerID: c.app.identity.PeerID(), Addresses: withPeerID(link.Addrs, link.PeerID),
		Link: link.String(), URL: c.app.url(), PID: os.Getpid(),
	}, nil
}

func (c *control) peers(*http.Request) (any, error) { return c.app.network.Peers(), nil }

func (c *control) createUser(r *http.Request) (any, error) {
	var req userRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&req); err != nil {
		return nil, err
	}
	id, err := createUser(r.Context(), c.app.accounts, req)
	if err != nil {
		return nil, err
	}
	c.app.accountMade(r.Context())
	return userAnswer{id}, nil
}

// answerJSON makes a handler from a function.
func answerJSON(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			v = controlError{oneLine(err)}
		}
		json.NewEncoder(w).Encode(v) // nobody is left to tell
	}
}

// errNotRunning says that no node runs on the data directory.
var errNotRunning = errors.New("no node is running")

// callControl asks the running node. in is the body of a POST, nil for a GET.
// errNotRunning if there is none.
func callControl(ctx context.Context, cfg Config, path string, in, out any) error {
	socket := cfg.path(controlFile)
	if target, err := os.Readlink(socket); err == nil {
		socket = target
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	method, body := http.MethodGet, io.Reader(nil)
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EINVAL):
		return errNotRunning
	case err != nil:
		return fmt.Errorf("asking the running node: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e controlError
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Error == "" {
			return fmt.Errorf("the running node answered %s", resp.Status)
		}
		return errors.New(e.Error)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// withPeerID appends /p2p/ID to addresses that lack it.
func withPeerID(addrs []string, id string) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a
		if !strings.Contains(a, "/p2p/") {
			out[i] = a + "/p2p/" + id
		}
	}
	return out
}
