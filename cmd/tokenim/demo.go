package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

const (
	demoPause    = 3 * time.Second        // between two messages
	demoMessages = 30                     // of the conversation of --exit
	demoDeadline = 30 * time.Second       // for the nodes to agree
	demoPoll     = 50 * time.Millisecond  // between two looks whether they do
	demoRetry    = 250 * time.Millisecond // between two attempts to join
)

// demoOrgs are the organizations of the demonstration and their people.
var demoOrgs = []struct {
	name  string
	users []string
}{
	{"acme", []string{"anna", "arun"}},
	{"birch", []string{"bea", "bruno"}},
	{"cedar", []string{"chen", "clara"}},
}

// demoLines are what they say, in turn.
var demoLines = []string{
	"Good morning from our side. Is everybody in?",
	"We are. The group came over without any server in between.",
	"Same here. Who has the agenda?",
	"I do: the delivery dates first, then the open questions.",
	"Our first batch leaves on Thursday.",
	"Then we can take it over on Friday morning.",
	"Friday works. Do you need papers from us?",
	"Only the usual list. I will send it around.",
	"Thanks. And if one of our nodes is down meanwhile?",
	"Then it catches up when it is back; nothing is lost.",
}

// demoUser is a login of the demonstration.
type demoUser struct {
	UserID   event.UserID `json:"user_id"`
	Password string       `json:"password"`
}

// demoNode is one organization as it is printed.
type demoNode struct {
	Name  event.Server `json:"name"`
	URL   string       `json:"url"`
	Users []demoUser   `json:"users"`
}

// demoInfo is what `demo` prints.
type demoInfo struct {
	Group event.RoomID `json:"group"`
	Alias string       `json:"alias"`
	Nodes []demoNode   `json:"nodes"`
}

// demoResult is what `demo --exit` prints.
type demoResult struct {
	OK        bool   `json:"ok"`
	Nodes     int    `json:"nodes"`
	Members   int    `json:"members"`
	Messages  int    `json:"messages"`
	Events    int    `json:"events"`
	StateHash string `json:"state_hash"`
	Millis    int64  `json:"ms"`
}

// demoCommand runs three organizations in one process.
func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run three organizations on this machine that talk in one group",
		Args:  noArgs,
	}
	exit := cmd.Flags().Bool("exit", false, "run the conversation, check that all three hold it, and end")
	verbose := cmd.Flags().Bool("verbose", false, "show the nodes' logs on standard error")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		log := slog.New(slog.DiscardHandler)
		if *verbose {
			log = newLogger(LogConfig{Level: "info"}, cmd.ErrOrStderr())
		}
		return runDemo(cmd.Context(), *exit, log, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

// demo is the running demonstration.
type demo struct {
	apps []*app
	ends []chan error // results of the apps' Run
	info demoInfo
	stop context.CancelFunc
}

// runDemo makes everything in a temporary directory, which it removes.
func runDemo(ctx context.Context, exit bool, log *slog.Logger, stdout, stderr io.Writer) (err error) {
	start := time.Now()
	dir, err := os.MkdirTemp("", "tokenim-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx, stop := context.WithCancel(ctx)
	d := &demo{stop: stop}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx, dir, log); err != nil {
		return err
	}
	if err := d.makeGroup(ctx); err != nil {
		return fmt.Errorf("making the group: %w", err)
	}
	if exit {
		if err := d.talk(ctx, demoMessages, 0); err != nil {
			return err
		}
		result, err := d.agree(ctx)
		if err != nil {
			return err
		}
		result.Millis = time.Since(start).Milliseconds()
		return printJSON(stdout, result)
	}
	if err := printJSON(stdout, d.info); err != nil {
		return err
	}
	d.explain(stderr)
	err = d.talk(ctx, -1, demoPause)
	if ctx.Err() != nil { // the way this ends
		return nil
	}
	return err
}

// open starts the nodes and lets each pin the others.
func (d *demo) open(ctx context.Context, dir string, log *slog.Logger) error {
	for _, org := range demoOrgs {
		cfg := defaultConfig()
		cfg.Name, cfg.Data = org.name, filepath.Join(dir, org.name)
		cfg.HTTP.Listen = "127.0.0.1:0"
		cfg.P2P.Listen = []string{"127.0.0.1:0"}
		a, err := openApp(ctx, cfg, nil, log.With("node", org.name))
		if err != nil {
			return err
		}
		end := make(chan error, 1)
		go func() {
			defer d.stop() // without one of them there is no demonstration
			end <- a.Run(ctx)
		}()
		d.apps, d.ends = append(d.apps, a), append(d.ends, end)
		n := demoNode{Name: a.identity.Name, URL: a.url()}
		for _, name := range org.users {
			password := rand.Text()[:12]
			id, err := a.accounts.Create(ctx, account.NewUser{Localpart: name, Password: password, Role: "user"})
			if err != nil {
				return err
			}
			n.Users = append(n.Users, demoUser{id, password})
		}
		d.info.Nodes = append(d.info.Nodes, n)
	}
	for _, a := range d.apps {
		for _, b := range d.apps {
			if a == b {
				continue
			}
			link, err := b.network.Link()
			if err != nil {
				return err
			}
			if _, err := a.network.AddPeer(link.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeGroup makes the group at the first node, and everybody joins it.
func (d *demo) makeGroup(ctx context.Context) error {
	first := d.info.Nodes[0]
	creator := first.Users[0].UserID
	room, err := d.apps[0].node.CreateRoom(ctx, creator, node.CreateRequest{
		Preset: "public_chat", Visibility: "public", AliasName: "demo",
		Name: "Demo of three organizations", Topic: "Delivery of the first batch",
	})
	if err != nil {
		return err
	}
	d.info.Group, d.info.Alias = room, "#demo:"+string(first.Name)
	for i, n := range d.info.Nodes {
		for _, u := range n.Users {
			if u.UserID == creator {
				continue
			}
			if err := d.join(ctx, d.apps[i], u.UserID, first.Name); err != nil {
				return err
			}
		}
	}
	return d.assemble(ctx)
}

// assemble waits until every node knows that everybody has joined.
func (d *demo) assemble(ctx context.Context) error {
	want := 0
	for _, n := range d.info.Nodes {
		want += len(n.Users)
	}
	deadline := time.Now().Add(demoDeadline)
	for i := 0; i < len(d.apps); {
		h, err := d.apps[i].holding(d.info.Group)
		if err != nil {
			return err
		}
		if h.members == want {
			i++
			continue
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s knows of %d members, not %d", d.info.Nodes[i].Name, h.members, want)
		}
		if err := pause(ctx, demoPoll); err != nil {
			return err
		}
	}
	return nil
}

// join joins a user, again while the nodes do not reach each other yet.
func (d *demo) join(ctx context.Context, a *app, user event.UserID, via event.Server) error {
	deadline := time.Now().Add(demoDeadline)
	for {
		err := a.node.Join(ctx, user, d.info.Group, []event.Server{via}, nil)
		again := errors.Is(err, node.ErrNoRoute) || errors.Is(err, event.ErrUnreachable)
		if !again || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, demoRetry); err != nil {
			return err
		}
	}
}

// talk lets the members speak in turn, the organizations one after the other;
// count < 0 means until ctx ends.
func (d *demo) talk(ctx context.Context, count int, wait time.Duration) error {
	for i := 0; count < 0 || i < count; i++ {
		n := i % len(d.apps)
		users := d.info.Nodes[n].Users
		content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": demoLines[i%len(demoLines)]})
		if err != nil {
			return err
		}
		_, err = d.apps[n].node.Send(ctx, node.SendRequest{
			User: users[i/len(d.apps)%len(users)].UserID, Room: d.info.Group, Type: "m.room.message", Content: content,
		})
		if err != nil {
			return fmt.Errorf("sending at %s: %w", d.info.Nodes[n].Name, err)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// holding is what one node holds of the group.
type holding struct {
	events   map[event.ID]bool
	messages int
	members  int
	heads    []event.ID // forward extremities, sorted
	state    [32]byte
}

// agrees reports whether o, which may have joined earlier and then has the
// history before too, holds everything that h does, and they continue it from
// the same heads and the same state.
func (h holding) agrees(o holding) bool {
	for id := range h.events {
		if !o.events[id] {
			return false
		}
	}
	return h.messages == o.messages && h.state == o.state && slices.Equal(h.heads, o.heads)
}

// agree waits until all nodes hold all messages, every event since the last of
// them has joined, and the same state.
func (d *demo) agree(ctx context.Context) (demoResult, error) {
	deadline := time.Now().Add(demoDeadline)
	for {
		var held []holding
		for _, a := range d.apps {
			h, err := a.holding(d.info.Group)
			if err != nil {
				return demoResult{}, err
			}
			held = append(held, h)
		}
		last := held[len(held)-1] // joined last
		same := last.messages == demoMessages
		for _, h := range held {
			same = same && last.agrees(h)
		}
		if same {
			return demoResult{
				OK: true, Nodes: len(held), Members: last.members, Messages: last.messages,
				Events: len(last.events), StateHash: hex.EncodeToString(last.state[:]),
			}, nil
		}
		if time.Now().After(deadline) {
			text := "the nodes do not agree:"
			for i, h := range held {
				text += fmt.Sprintf(" %s has %d events, %d messages, state %x;", d.info.Nodes[i].Name, len(h.events), h.messages, h.state[:4])
			}
			return demoResult{}, errors.New(text + " run it again with --verbose")
		}
		if err := pause(ctx, demoPoll); err != nil {
			return demoResult{}, err
		}
	}
}

// holding reads what the node holds of a room.
func (a *app) holding(r event.RoomID) (h holding, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		room, err := tx.Room(r)
		if err != nil {
			return err
		}
		h.members, h.heads, h.events = room.Joined, room.Heads, map[event.ID]bool{}
		state, err := tx.State(room.State)
		if err != nil {
			return err
		}
		if h.state, err = state.Hash(); err != nil {
			return err
		}
		last, err := tx.Position()
		if err != nil {
			return err
		}
		for after, more := store.Position(0), true; more; {
			var page []*store.Stored
			if page, more, err = tx.Timeline(r, after, last, 500); err != nil {
				return err
			}
			for _, e := range page {
				after = e.Position
				h.events[e.ID()] = true
				if e.Type == "m.room.message" {
					h.messages++
				}
			}
		}
		return nil
	})
	return h, err
}

// explain says to people what the line on standard output says to programs.
func (d *demo) explain(w io.Writer) {
	fmt.Fprintf(w, "\nThree organizations share the group %s. Log in with a Matrix client:\n\n", d.info.Alias)
	for _, n := range d.info.Nodes {
		fmt.Fprintf(w, "  %-6s %s\n", n.Name, n.URL)
		for _, u := range n.Users {
			fmt.Fprintf(w, "         %-14s password %s\n", u.UserID, u.Password)
		}
	}
	fmt.Fprintf(w, "\nThey go on talking until you press Ctrl-C; nothing is kept.\n")
}

// close ends all nodes.
func (d *demo) close() error {
	d.stop()
	var errs []error
	for _, end := range d.ends {
		errs = append(errs, <-end)
	}
	return errors.Join(errs...)
}

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
