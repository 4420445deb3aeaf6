package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"maunium.net/go/mautrix"
	mevent "maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/tokenim/tokenim/api/admin"
	"github.com/tokenim/tokenim/api/client/spectest"
	"github.com/tokenim/tokenim/node/event"
)

// validated returns a transport that checks every answer against the
// specification's definitions, if these are there; the subtest says if not.
func validated(t *testing.T) http.RoundTripper {
	var spec *spectest.Spec
	t.Run("definitions", func(t *testing.T) { spec = spectest.Open(t) })
	base := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	if spec == nil {
		return base
	}
	return spec.Transport(t, base)
}

// TestTwoOrganizations drives two nodes with an independent client library
// through the main job: register, create a group, join it across the
// federation, talk both ways, miss messages and have them afterwards.
func TestTwoOrganizations(t *testing.T) {
	ctx := context.Background()
	tr := validated(t)
	hq := newTestNode(t, "hq", nil)
	branch := newTestNode(t, "branch", func(c *Config) { c.Registration.Mode = "open" })

	alice := registerWithToken(t, hq, tr)
	bob := newClient(t, branch.app.url(), tr)
	bob.registered(bob.cli.RegisterDummy(ctx, &mautrix.ReqRegister[any]{Username: "bob", Password: "correct horse"}))
	carol := newClient(t, branch.app.url(), tr)
	carol.registered(oneRequest(ctx, carol, "carol"))
	pinByAPI(t, hq, alice, branch)

	// A private group; bob is invited across the federation.
	created, err := alice.cli.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Name: "Delivery", Topic: "The first batch", Invite: []id.UserID{"@bob:branch"},
	})
	must(t, err)
	room := created.RoomID
	bob.until(room, "the invite", func(s *seenRoom) bool { return s.membership == "invite" })
	_, err = bob.cli.JoinRoom(ctx, string(room), &mautrix.ReqJoinRoom{Via: []string{"hq"}})
	must(t, err)
	alice.until(room, "bob's joining", func(s *seenRoom) bool {
		return slices.ContainsFunc(s.timeline, func(e *mevent.Event) bool {
			return e.Type == mevent.StateMember && e.GetStateKey() == "@bob:branch" && e.Content.Raw["membership"] == "join"
		})
	})
	if _, err := carol.cli.JoinRoom(ctx, string(room), &mautrix.ReqJoinRoom{Via: []string{"hq"}}); code(err) != "M_FORBIDDEN" {
		t.Errorf("carol was not invited, but: %v", err)
	}
	_, err = bob.cli.InviteUser(ctx, room, &mautrix.ReqInviteUser{UserID: "@carol:branch"})
	must(t, err)
	_, err = carol.cli.JoinRoomByID(ctx, room)
	must(t, err)

	// Messages both ways, and within one node.
	alice.say(room, "hello from hq")
	sees(bob, room, "hello from hq")
	sees(carol, room, "hello from hq")
	last := bob.say(room, "hello from branch")
	sees(alice, room, "hello from branch")
	sees(carol, room, "hello from branch")

	// Receipts and typing notices.
	must(t, alice.cli.MarkRead(ctx, room, last))
	bob.until(room, "alice's receipt", func(s *seenRoom) bool { return slices.Contains(s.receipts[last], "@alice:hq") })
	_, err = bob.cli.UserTyping(ctx, room, true, waitLimit)
	must(t, err)
	alice.until(room, "bob typing", func(s *seenRoom) bool { return slices.Contains(s.typing, "@bob:branch") })
	_, err = bob.cli.UserTyping(ctx, room, false, 0)
	must(t, err)
	alice.until(room, "bob not typing", func(s *seenRoom) bool { return len(s.typing) == 0 })

	// Branch is down, misses messages, and has them after its restart.
	txn := mautrix.ReqSendEvent{TransactionID: "before-the-restart"}
	text := map[string]string{"msgtype": "m.text", "body": "sent twice"}
	first, err := bob.cli.SendMessageEvent(ctx, room, mevent.EventMessage, text, txn)
	must(t, err)
	sees(alice, room, "sent twice")
	sees(bob, room, "sent twice")
	branch.end()
	var missed []string
	for i := range 25 {
		missed = append(missed, fmt.Sprintf("missed %d", i))
		alice.say(room, missed[i])
	}
	branch.start()
	sees(bob, room, missed...)
	again, err := bob.cli.SendMessageEvent(ctx, room, mevent.EventMessage, text, txn)
	must(t, err)
	if again.EventID != first.EventID {
		t.Errorf("a repeated transaction id made %s after %s", again.EventID, first.EventID)
	}
	bob.say(room, "we are back")
	sees(alice, room, "we are back")

	// Now the other one, which holds the group's creator.
	hq.end()
	bob.say(room, "is anybody there?")
	hq.start()
	sees(alice, room, "is anybody there?")
	sameHoldings(t, event.RoomID(room), hq, branch)
	checkStats(t, hq, alice)

	// Everybody has seen the same messages once, in the same order.
	want := slices.Concat([]string{"hello from hq", "hello from branch", "sent twice"}, missed, []string{"we are back", "is anybody there?"})
	sees(bob, room, "is anybody there?")
	for _, u := range []*user{alice, bob} {
		if got := u.room(room).bodies(); !slices.Equal(got, want) {
			t.Errorf("%s has seen %q\nwant %q", u.cli.UserID, got, want)
		}
	}
}

// registerWithToken registers alice at a node that has no user yet, with the
// one-time token, in two requests as clients do.
func registerWithToken(t *testing.T, n *testNode, tr http.RoundTripper) *user {
	t.Helper()
	raw, err := os.ReadFile(n.cfg.path(tokenFile))
	must(t, err)
	alice := newClient(t, n.app.url(), tr)
	req := &mautrix.ReqRegister[any]{Username: "alice", Password: "correct horse"}
	_, uia, err := alice.cli.Register(context.Background(), req)
	if err != nil || uia == nil || !uia.HasSingleStageFlow("m.login.registration_token") {
		t.Fatalf("no flow with a token: %v, %+v", err, uia)
	}
	req.Auth = map[string]string{"type": "m.login.registration_token", "session": uia.Session, "token": strings.TrimSpace(string(raw))}
	resp, _, err := alice.cli.Register(context.Background(), req)
	alice.registered(resp, err)
	must(t, eventually(func() error {
		if n.fileExists(tokenFile) {
			return fmt.Errorf("%s is still there after its use", tokenFile)
		}
		return nil
	}))
	who, err := alice.cli.Whoami(context.Background())
	must(t, err)
	if who.UserID != "@alice:hq" {
		t.Errorf("whoami: %+v", who)
	}
	return alice
}

// oneRequest registers in open mode without asking for the flows first.
func oneRequest(ctx context.Context, u *user, name string) (*mautrix.RespRegister, error) {
	r, _, err := u.cli.Register(ctx, &mautrix.ReqRegister[any]{Username: name, Password: "correct horse", Auth: map[string]string{"type": "m.login.dummy"}})
	return r, err
}

// pinByAPI lets hq pin branch through the administrator's API and branch pin
// hq through a file, while both run.
func pinByAPI(t *testing.T, hq *testNode, root *user, branch *testNode) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"link": branch.link()})
	must(t, err)
	status, answer := root.admin("POST", hq.app.url()+"/_tokenim/admin/v1/peers", string(body))
	if want := fmt.Sprintf(`{"name":"branch","peer_id":%q}`, branch.app.identity.PeerID()); status != 200 || strings.TrimSpace(answer) != want {
		t.Fatalf("%d %s, want %s", status, answer, want)
	}
	peers := hq.app.url() + "/_tokenim/admin/v1/peers"
	for _, tt := range []struct {
		method, url, body string
		status            int
	}{
		{"POST", peers, string(body), 200}, // again
		{"POST", peers, `{"link":"` + hq.link() + `"}`, 400},
		{"POST", peers, `{"link":"` + strings.Replace(branch.link(), "n=branch", "n=other", 1) + `"}`, 400},
		{"DELETE", peers + "/nobody", "", 404},
	} {
		if status, answer := root.admin(tt.method, tt.url, tt.body); status != tt.status {
			t.Errorf("%s %s %s: %d %s, want %d", tt.method, tt.url, tt.body, status, answer, tt.status)
		}
	}
	l, err := hq.app.network.Link()
	must(t, err)
	must(t, pinPeer(branch.cfg, l))
	waitConnected(hq, branch)
	waitConnected(branch, hq)
}

// admin asks the administrator's API with the user's token.
func (u *user) admin(method, url, body string) (int, string) {
	u.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	must(u.t, err)
	req.Header.Set("Authorization", "Bearer "+u.cli.AccessToken)
	resp, err := http.DefaultClient.Do(req)
	must(u.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(u.t, err)
	return resp.StatusCode, string(raw)
}

// checkStats compares the statistics with what the test did.
func checkStats(t *testing.T, hq *testNode, root *user) {
	t.Helper()
	waitConnected(hq, &testNode{cfg: Config{Name: "branch"}})
	status, body := root.admin("GET", hq.app.url()+"/_tokenim/admin/v1/stats", "")
	var s admin.Stats
	if err := json.Unmarshal([]byte(body), &s); err != nil || status != 200 {
		t.Fatalf("%d %s: %v", status, body, err)
	}
	if s.Name != "hq" || s.Users.Local != 1 || s.Users.Online != 1 || s.Rooms.Federated != 1 || s.Events.Local < 30 || s.Events.Remote < 5 || s.Store.Bytes == 0 {
		t.Errorf("stats: %s", body)
	}
	if len(s.Peers) != 1 || s.Peers[0].Name != "branch" || s.Peers[0].State != "connected" {
		t.Errorf("peers in stats: %+v", s.Peers)
	}
}

// sees waits until the user has seen all texts.
func sees(u *user, room id.RoomID, texts ...string) {
	u.t.Helper()
	u.until(room, fmt.Sprintf("%q", texts), func(s *seenRoom) bool {
		bodies := s.bodies()
		for _, text := range texts {
			if !slices.Contains(bodies, text) {
				return false
			}
		}
		return true
	})
}

// sameHoldings waits until the nodes have the same current state of the room,
// and checks that they hold the same messages.
func sameHoldings(t *testing.T, room event.RoomID, nodes ...*testNode) {
	t.Helper()
	must(t, eventually(func() error {
		first, err := nodes[0].app.holding(room)
		if err != nil {
			return err
		}
		for _, n := range nodes[1:] {
			h, err := n.app.holding(room)
			if err != nil {
				return err
			}
			if h.state != first.state || h.messages != first.messages || h.members != first.members {
				return fmt.Errorf("%s: %d messages, %d members, state %x; %s: %d messages, %d members, state %x", nodes[0].cfg.Name,
					first.messages, first.members, first.state[:4], n.cfg.Name, h.messages, h.members, h.state[:4])
			}
		}
		return nil
	}))
}

// TestNoGoroutineLeft: a node that has ended has ended all its goroutines.
func TestNoGoroutineLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	n := newTestNode(t, "hq", nil)
	tr := &http.Transport{}
	resp, err := (&http.Client{Transport: tr}).Get(n.app.url() + "/healthz")
	must(t, err)
	resp.Body.Close()
	tr.CloseIdleConnections()
	n.end()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
