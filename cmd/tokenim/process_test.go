package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is `tokenim serve` as a process of its own.
type process struct {
	t    testing.TB
	cfg  Config
	env  []string
	cmd  *exec.Cmd
	url  string
	done chan struct{} // closed when it has ended
	err  error         // of its end

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

// Write takes what the process writes to standard error.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// program returns a command that runs the program.
func program(env []string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(append(os.Environ(), runAsProgram+"=1"), env...)
	return cmd
}

// result runs a command of the program to its end and returns its output.
func result(t testing.TB, env []string, args ...string) string {
	t.Helper()
	cmd := program(env, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tokenim %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// newProcess makes a data directory and starts a node on it.
func newProcess(t testing.TB, name string, env ...string) *process {
	t.Helper()
	p := &process{t: t, cfg: Config{Data: filepath.Join(t.TempDir(), name)}, env: env}
	result(t, env, "init", "--data", p.cfg.Data, "--name", name, "--http", "127.0.0.1:0", "--p2p", "127.0.0.1:0")
	t.Cleanup(func() { p.kill() })
	p.start()
	return p
}

// start starts the process and waits until it answers. Ports stay what they
// were before.
func (p *process) start() {
	p.t.Helper()
	args := []string{"serve", "--data", p.cfg.Data}
	if p.url != "" {
		args = append(args, "--http", strings.TrimPrefix(p.url, "http://"), "--p2p", strings.Join(p.cfg.P2P.Listen, ","))
	}
	p.cmd = program(p.env, args...)
	p.cmd.Stderr = p
	must(p.t, p.cmd.Start())
	done := make(chan struct{})
	p.done = done
	go func(cmd *exec.Cmd) {
		p.err = cmd.Wait()
		close(done)
	}(p.cmd)
	var info nodeInfo
	must(p.t, eventually(func() error {
		select {
		case <-done:
			p.t.Fatalf("the process has ended: %v: %s", p.err, p.output())
		default:
		}
		err := callControl(context.Background(), p.cfg, "/node", nil, &info)
		if err == nil && info.PID != p.cmd.Process.Pid {
			err = fmt.Errorf("pid %d answers", info.PID)
		}
		return err
	}))
	p.url = info.URL
	p.cfg.P2P.Listen = nil
	for _, a := range info.Addresses {
		a, _, _ = strings.Cut(a, "/p2p/")
		p.cfg.P2P.Listen = append(p.cfg.P2P.Listen, a)
	}
}

// kill ends the process as a crash does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// terminate asks the process to end and returns how long it took and its exit
// status.
func (p *process) terminate() (time.Duration, error) {
	p.t.Helper()
	start := time.Now()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
		return time.Since(start), p.err
	case <-time.After(waitLimit):
		p.t.Fatalf("does not end on SIGTERM: %s", p.output())
		return 0, nil
	}
}

// login makes a user with the command, beside the running node, and logs in.
func (p *process) login(name string) (token string) {
	p.t.Helper()
	var u struct {
		Password string `json:"password"`
	}
	must(p.t, json.Unmarshal([]byte(result(p.t, p.env, "user", "create", name, "--data", p.cfg.Data)), &u))
	var out struct {
		Token string `json:"access_token"`
	}
	status, err := p.call("", "POST", "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "password": u.Password, "identifier": map[string]string{"type": "m.id.user", "user": name},
	}, &out)
	if err != nil || status != 200 || out.Token == "" {
		p.t.Fatalf("login: %d %v", status, err)
	}
	return out.Token
}

// call asks the node's API and decodes a good answer into out.
func (p *process) call(token, method, path string, in, out any) (int, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if in == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Timeout: waitLimit, Transport: processTransport}).Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode != 200 {
		return resp.StatusCode, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, raw)
	}
	return 200, json.Unmarshal(raw, out)
}

var processTransport = &http.Transport{MaxIdleConnsPerHost: 32}

// TestTerminate: SIGTERM ends a node within five seconds, and a long-poll that
// is open gets its answer.
func TestTerminate(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "hq")
	token := p.login("alice")
	var first struct {
		Next string `json:"next_batch"`
	}
	if _, err := p.call(token, "GET", "/_matrix/client/v3/sync", nil, &first); err != nil {
		t.Fatal(err)
	}
	type poll struct {
		status int
		next   string
		err    error
	}
	const polls = 5
	answers := make(chan poll, polls)
	for range polls {
		go func() {
			var out struct {
				Next string `json:"next_batch"`
			}
			status, err := p.call(token, "GET", "/_matrix/client/v3/sync?timeout=30000&since="+url.QueryEscape(first.Next), nil, &out)
			answers <- poll{status, out.Next, err}
		}()
	}
	must(t, eventually(func() error { // until all of them wait
		var stats bytes.Buffer
		resp, err := http.Get(p.url + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := stats.ReadFrom(resp.Body); err != nil {
			return err
		}
		if !strings.Contains(stats.String(), "\ntokenim_http_requests_open{class=\"sync\"} 5\n") {
			return errors.New("the long-polls are not open")
		}
		return nil
	}))
	took, err := p.terminate()
	if err != nil {
		t.Errorf("exit: %v: %s", err, p.output())
	}
	if took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	for range polls {
		if a := <-answers; a.err != nil || a.status != 200 || a.next == "" {
			t.Errorf("long-poll: %+v", a)
		}
	}
	if exists(p.cfg.path(controlFile)) {
		t.Error("the control socket is left behind")
	}
}

// TestNothingPersonalInLogs: at the most talkative level neither logs nor
// metrics show what users write, their passwords or their tokens (reliability B44).
func TestNothingPersonalInLogs(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "hq", "TOKENIM_LOG_LEVEL=debug", "TOKENIM_REGISTRATION_MODE=open", "TOKENIM_REGISTRATION_SHARED_SECRET=canary-secret")
	var who struct {
		Token string `json:"access_token"`
	}
	_, err := p.call("", "POST", "/_matrix/client/v3/register", map[string]any{
		"username": "canary-user", "password": "canary-password", "initial_device_display_name": "canary-device",
		"auth": map[string]string{"type": "m.login.dummy"},
	}, &who)
	must(t, err)
	var room struct {
		ID string `json:"room_id"`
	}
	_, err = p.call(who.Token, "POST", "/_matrix/client/v3/createRoom?q=canary-query", map[string]any{"name": "canary-name", "topic": "canary-topic"}, &room)
	must(t, err)
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room.ID) + "/send/m.room.message/canary-txn"
	_, err = p.call(who.Token, "PUT", path, map[string]string{"msgtype": "m.text", "body": "canary-body"}, &struct{}{})
	must(t, err)
	for _, bad := range []struct{ token, method, path, body string }{
		{who.Token, "PUT", path + "2", `"canary-json"`},
		{"canary-token", "GET", "/_matrix/client/v3/account/whoami", ""},
		{who.Token, "GET", "/_tokenim/admin/v1/stats?canary-query", ""},
		{who.Token, "POST", "/_matrix/client/v3/canary-path", ""},
		{who.Token, "POST", "/_matrix/client/v3/join/canary-room", "{}"},
		{"", "POST", "/_matrix/client/v3/login", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"canary-user"},"password":"canary-wrong"}`},
	} {
		if status, err := p.call(bad.token, bad.method, bad.path, json.RawMessage(cmp.Or(bad.body, "null")), nil); status < 400 || status >= 500 {
			t.Errorf("%s %s: %d %v", bad.method, bad.path, status, err)
		}
	}
	resp, err := http.Get(p.url + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	must(t, err)
	if _, err := p.terminate(); err != nil {
		t.Error(err)
	}
	out := p.output() + string(metrics)
	if !strings.Contains(out, "level=DEBUG") && !strings.Contains(out, "level=INFO") || !strings.Contains(out, "tokenim_users 1\n") {
		t.Fatalf("there is no log to look into: %s", out)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "canary") || strings.Contains(line, who.Token) {
			t.Errorf("shown: %s", line)
		}
	}
}

// message is one of TestKill's, and what became of it.
type message struct {
	sender int
	n      int
	acked  map[string]bool // event ids that the node answered with
}

// TestKill kills one of two federated nodes again and again while users of
// both send. Clients repeat what was not acknowledged under the same
// transaction id, as they must. In the end every message stands exactly once
// on both nodes, with the id that was acknowledged.
func TestKill(t *testing.T) {
	t.Parallel()
	hq := newProcess(t, "hq", "TOKENIM_LIMITS_ENABLED=false")
	branch := newProcess(t, "branch", "TOKENIM_LIMITS_ENABLED=false")
	for _, p := range [][2]*process{{hq, branch}, {branch, hq}} {
		result(t, nil, "peer", "add", "--data", p[0].cfg.Data, result(t, nil, "link", "--data", p[1].cfg.Data))
	}
	nodes := []*process{hq, branch}
	tokens := []string{hq.login("alice"), branch.login("bob")}
	var room struct {
		ID string `json:"room_id"`
	}
	_, err := hq.call(tokens[0], "POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"}, &room)
	must(t, err)
	join := "/_matrix/client/v3/join/" + url.PathEscape(room.ID) + "?via=hq&server_name=hq"
	must(t, eventually(func() error {
		_, err := branch.call(tokens[1], "POST", join, map[string]any{}, &struct{}{})
		return err
	}))

	const senders = 4 // at each node
	stop := make(chan struct{})
	var mu sync.Mutex // guards up and sent
	up := sync.NewCond(&mu)
	alive := []bool{true, true}
	var sent []*message
	var wg sync.WaitGroup
	for s := range senders * len(nodes) {
		wg.Go(func() {
			node, token := nodes[s%len(nodes)], tokens[s%len(nodes)]
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				m := &message{sender: s, n: n, acked: map[string]bool{}}
				mu.Lock()
				sent = append(sent, m)
				mu.Unlock()
				for len(m.acked) == 0 { // again until it is acknowledged
					var out struct {
						ID string `json:"event_id"`
					}
					path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/%d-%d", url.PathEscape(room.ID), s, n)
					status, err := node.call(token, "PUT", path, map[string]string{"msgtype": "m.text", "body": fmt.Sprintf("%d-%d", s, n)}, &out)
					switch {
					case err == nil:
						m.acked[out.ID] = true
					case status >= 400 && status < 500:
						t.Errorf("sending: %v", err)
						return
					}
					mu.Lock()
					for !alive[s%len(nodes)] {
						up.Wait()
					}
					mu.Unlock()
				}
			}
		})
	}
	for round := range 6 {
		victim := round % len(nodes)
		mu.Lock()
		goal := len(sent) + 100 + rand.IntN(100)
		mu.Unlock()
		must(t, eventually(func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(sent) < goal {
				return fmt.Errorf("only %d messages were sent: %s", len(sent), nodes[victim].output())
			}
			return nil
		}))
		nodes[victim].kill()
		mu.Lock()
		alive[victim] = false
		mu.Unlock()
		nodes[victim].start()
		mu.Lock()
		alive[victim] = true
		up.Broadcast()
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d messages", len(sent))
	if t.Failed() {
		return
	}
	for i, node := range nodes {
		must(t, eventually(func() error { return holdsExactly(node, tokens[i], room.ID, sent) }))
	}
	for _, node := range nodes {
		if _, err := node.terminate(); err != nil {
			t.Errorf("exit: %v: %s", err, node.output())
		}
		if out := result(t, nil, "check", "--data", node.cfg.Data); !strings.Contains(out, `"ok":true`) {
			t.Errorf("check: %s", out)
		}
	}
}

// holdsExactly reads the whole history and compares it with what was sent.
func holdsExactly(p *process, token, room string, sent []*message) error {
	found := map[string][]string{} // body -> event ids
	from := ""
	for {
		var page struct {
			End   string `json:"end"`
			Chunk []struct {
				ID      string `json:"event_id"`
				Type    string `json:"type"`
				Content struct {
					Body string `json:"body"`
				} `json:"content"`
			} `json:"chunk"`
		}
		path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/messages?dir=b&limit=500"
		if from != "" {
			path += "&from=" + url.QueryEscape(from)
		}
		if _, err := p.call(token, "GET", path, nil, &page); err != nil {
			return err
		}
		for _, e := range page.Chunk {
			if e.Type == "m.room.message" {
				found[e.Content.Body] = append(found[e.Content.Body], e.ID)
			}
		}
		if page.End == "" || page.End == from {
			break
		}
		from = page.End
	}
	for _, m := range sent {
		body := fmt.Sprintf("%d-%d", m.sender, m.n)
		ids := found[body]
		switch {
		case len(ids) == 0:
			return fmt.Errorf("%s: %s was acknowledged and is lost (%d of %d are there)", p.cfg.Data, body, len(found), len(sent))
		case len(ids) > 1:
			return fmt.Errorf("%s: %s is there %d times", p.cfg.Data, body, len(ids))
		case !m.acked[ids[0]]:
			return fmt.Errorf("%s: %s has another id than was acknowledged", p.cfg.Data, body)
		}
		delete(found, body)
	}
	if len(found) != 0 {
		return fmt.Errorf("%s: %d messages that nobody sent", p.cfg.Data, len(found))
	}
	return nil
}

// TestLeftSocket: a killed node leaves its socket behind; the next start takes
// its place, and without one the commands work on the store.
func TestLeftSocket(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "hq")
	p.kill()
	if !exists(p.cfg.path(controlFile)) {
		t.Fatal("the socket went away by itself; the test shows nothing")
	}
	result(t, nil, "user", "create", "alice", "--data", p.cfg.Data)
	p.start()
	result(t, nil, "user", "create", "bob", "--data", p.cfg.Data)
	if _, err := p.terminate(); err != nil {
		t.Error(err)
	}
}

// TestLongPath: a data directory whose path is too long for a socket.
func TestLongPath(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	env := "TMPDIR=" + tmp
	p := &process{t: t, cfg: Config{Data: filepath.Join(t.TempDir(), strings.Repeat("long-", 20), "hq")}, env: []string{env}}
	result(t, p.env, "init", "--data", p.cfg.Data, "--name", "hq", "--http", "127.0.0.1:0", "--p2p", "127.0.0.1:0")
	p.start()
	t.Cleanup(func() { p.kill() })
	result(t, p.env, "user", "create", "alice", "--data", p.cfg.Data)
	p.kill() // leaves the socket and its directory behind
	p.start()
	result(t, p.env, "user", "create", "bob", "--data", p.cfg.Data)
	if _, err := p.terminate(); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(tmp, socketDirPrefix+"*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
