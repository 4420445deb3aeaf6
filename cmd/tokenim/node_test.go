package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	mevent "maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// testNode is a whole node in this process, which can be stopped and started.
type testNode struct {
	t    testing.TB
	cfg  Config
	app  *app
	stop func() // ends it and waits; nil while it does not run
}

// newTestNode makes a data directory and starts a node on it, on loopback and
// free ports. change may change the configuration.
func newTestNode(t testing.TB, name string, change func(*Config)) *testNode {
	t.Helper()
	cfg := defaultConfig()
	cfg.Name, cfg.Data = name, filepath.Join(t.TempDir(), name)
	cfg.HTTP.Listen = "127.0.0.1:0"
	cfg.P2P.Listen = []string{"127.0.0.1:0"}
	if change != nil {
		change(&cfg)
	}
	n := &testNode{t: t, cfg: cfg}
	t.Cleanup(func() { n.end() })
	n.start()
	return n
}

// start opens and runs the node. From the second time on it has the ports of
// the first.
func (n *testNode) start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := openApp(ctx, n.cfg, nil, testLog(n.t, n.cfg.Name))
	if err != nil {
		cancel()
		n.t.Fatal(err)
	}
	n.app = a
	n.cfg.HTTP.Listen = a.listener.Addr().String()
	n.cfg.P2P.Listen = nil
	for _, addr := range a.network.Addrs() {
		addr, _, _ = strings.Cut(addr, "/p2p/")
		n.cfg.P2P.Listen = append(n.cfg.P2P.Listen, addr)
	}
	end := make(chan error, 1)
	go func() { end <- a.Run(ctx) }()
	n.stop = func() {
		cancel()
		select {
		case err := <-end:
			if err != nil {
				n.t.Errorf("%s ended: %v", n.cfg.Name, err)
			}
		case <-time.After(waitLimit):
			n.t.Fatalf("%s does not end", n.cfg.Name)
		}
	}
}

func (n *testNode) end() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

// link returns the node's link.
func (n *testNode) link() string {
	n.t.Helper()
	l, err := n.app.network.Link()
	if err != nil {
		n.t.Fatal(err)
	}
	return l.String()
}

// pin lets both nodes pin each other and waits until they are connected.
func pin(a, b *testNode) {
	a.t.Helper()
	for _, p := range [][2]*testNode{{a, b}, {b, a}} {
		if _, err := p[0].app.network.AddPeer(p[1].link()); err != nil {
			a.t.Fatal(err)
		}
	}
	waitConnected(a, b)
	waitConnected(b, a)
}

// waitConnected waits until a is connected to b.
func waitConnected(a, b *testNode) {
	a.t.Helper()
	must(a.t, eventually(func() error {
		for _, p := range a.app.network.Peers() {
			if string(p.Name) == b.cfg.Name && p.State == "connected" {
				return nil
			}
		}
		return fmt.Errorf("%s is not connected to %s: %+v", a.cfg.Name, b.cfg.Name, a.app.network.Peers())
	}))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testLog shows a node's warnings in the test's log.
func testLog(t testing.TB, name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", name)
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// user is a Matrix client of a user, with what it has seen by /sync.
type user struct {
	t     testing.TB
	cli   *mautrix.Client
	since string
	rooms map[id.RoomID]*seenRoom
}

// seenRoom is what a client has been shown of a room.
type seenRoom struct {
	membership string // "join", "invite" or "leave": where the last answer had the room
	timeline   []*mevent.Event
	typing     []id.UserID
	receipts   map[id.EventID][]id.UserID // m.read
}

// newClient returns a client without a session.
func newClient(t testing.TB, url string, tr http.RoundTripper) *user {
	t.Helper()
	cli, err := mautrix.NewClient(url, "", "")
	must(t, err)
	cli.Client = &http.Client{Transport: tr, Timeout: time.Minute}
	cli.DefaultHTTPRetries = 0
	cli.IgnoreRateLimit = true
	return &user{t: t, cli: cli, rooms: map[id.RoomID]*seenRoom{}}
}

// registered gives the client the session of a registration.
func (u *user) registered(r *mautrix.RespRegister, err error) *user {
	u.t.Helper()
	must(u.t, err)
	u.cli.UserID, u.cli.AccessToken, u.cli.DeviceID = r.UserID, r.AccessToken, r.DeviceID
	return u
}

// sync asks once and waits at most for the time given.
func (u *user) sync(wait time.Duration) error {
	r, err := u.cli.SyncRequest(context.Background(), int(wait.Milliseconds()), u.since, "", false, "")
	if err != nil {
		return err
	}
	u.since = r.NextBatch
	for room, j := range r.Rooms.Join {
		seen := u.room(room)
		seen.membership = "join"
		seen.timeline = append(seen.timeline, j.Timeline.Events...)
		for _, e := range j.Ephemeral.Events {
			if err := e.Content.ParseRaw(e.Type); err != nil {
				return err
			}
			switch e.Type.Type {
			case "m.typing":
				seen.typing = e.Content.AsTyping().UserIDs
			case "m.receipt":
				for ev, receipts := range *e.Content.AsReceipt() {
					for who := range receipts[mevent.ReceiptTypeRead] {
						seen.receipts[ev] = append(seen.receipts[ev], who)
					}
				}
			}
		}
	}
	for room := range r.Rooms.Invite {
		u.room(room).membership = "invite"
	}
	for room := range r.Rooms.Leave {
		u.room(room).membership = "leave"
	}
	return nil
}

func (u *user) room(r id.RoomID) *seenRoom {
	if u.rooms[r] == nil {
		u.rooms[r] = &seenRoom{receipts: map[id.EventID][]id.UserID{}}
	}
	return u.rooms[r]
}

// until goes on syncing until what was seen of the room satisfies check.
func (u *user) until(r id.RoomID, what string, check func(*seenRoom) bool) {
	u.t.Helper()
	deadline := time.Now().Add(waitLimit)
	for !check(u.room(r)) {
		if time.Now().After(deadline) {
			u.t.Fatalf("%s: did not see %s; has seen %s", u.cli.UserID, what, u.room(r))
		}
		must(u.t, u.sync(time.Second))
	}
}

// bodies returns the bodies of the messages seen, in order.
func (s *seenRoom) bodies() []string {
	var out []string
	for _, e := range s.timeline {
		if e.Type.Type == "m.room.message" {
			body, _ := e.Content.Raw["body"].(string)
			out = append(out, body)
		}
	}
	return out
}

// String describes what was seen, for failures.
func (s *seenRoom) String() string {
	return fmt.Sprintf("membership %q, %d events, messages %q, typing %v, receipts %v", s.membership, len(s.timeline), s.bodies(), s.typing, s.receipts)
}

// say sends a text message and returns its event id.
func (u *user) say(r id.RoomID, text string) id.EventID {
	u.t.Helper()
	resp, err := u.cli.SendText(context.Background(), r, text)
	must(u.t, err)
	return resp.EventID
}

// code returns the Matrix error code of a client's error.
func code(err error) string {
	var e mautrix.HTTPError
	if errors.As(err, &e) && e.RespError != nil {
		return e.RespError.ErrCode
	}
	return fmt.Sprint(err)
}

// fileExists reports whether a file of the data directory is there.
func (n *testNode) fileExists(name string) bool {
	_, err := os.Stat(n.cfg.path(name))
	return err == nil
}
