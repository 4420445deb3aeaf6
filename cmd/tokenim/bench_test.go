package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
)

// benchClient is a session, as bare as possible: what is measured is the node.
type benchClient struct {
	b     *testing.B
	base  string
	token string
	http  *http.Client
}

// benchNode starts a node without limits.
func benchNode(b *testing.B, name string) *testNode {
	b.Helper()
	return newTestNode(b, name, func(c *Config) { c.Limits.Enabled = false })
}

// client makes a user with a session.
func (n *testNode) client(b *testing.B, name string) *benchClient {
	b.Helper()
	ctx := context.Background()
	id, err := n.app.accounts.Create(ctx, account.NewUser{Localpart: name})
	must(b, err)
	login, err := n.app.accounts.OpenSession(ctx, id, "", "")
	must(b, err)
	tr := &http.Transport{MaxIdleConnsPerHost: 1024}
	b.Cleanup(tr.CloseIdleConnections)
	return &benchClient{b, n.app.url() + "/_matrix/client/v3", login.Token, &http.Client{Transport: tr}}
}

// call asks and decodes the answer into out.
func (c *benchClient) call(method, path, body string, out any) {
	raw := c.raw(method, path, body)
	if raw != nil && out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			c.b.Error(err)
		}
	}
}

// raw asks and returns the answer, nil if it is no good one.
func (c *benchClient) raw(method, path, body string) []byte {
	req, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.b.Error(err)
		return nil
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		c.b.Error(err)
		return nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		c.b.Errorf("%s %s: %d %s %v", method, path, resp.StatusCode, raw, err)
		return nil
	}
	return raw
}

func (c *benchClient) createRoom() string {
	var out struct {
		ID string `json:"room_id"`
	}
	c.call("POST", "/createRoom", `{"preset":"public_chat"}`, &out)
	return out.ID
}

var benchTxn atomic.Int64

// text is a message of about a hundred bytes.
var text = `{"msgtype":"m.text","body":"` + strings.Repeat("x", 100) + `"}`

func (c *benchClient) send(room string) {
	c.call("PUT", fmt.Sprintf("/rooms/%s/send/m.room.message/t%d", url.PathEscape(room), benchTxn.Add(1)), text, nil)
}

// wait syncs from a position until something is in the room's timeline.
func (c *benchClient) wait(since, room string) (next string) {
	for {
		var out struct {
			Next  string `json:"next_batch"`
			Rooms struct {
				Join map[string]struct {
					Timeline struct {
						Events []json.RawMessage `json:"events"`
					} `json:"timeline"`
				} `json:"join"`
			} `json:"rooms"`
		}
		path := "/sync?timeout=10000"
		if since != "" {
			path += "&since=" + url.QueryEscape(since)
		}
		c.call("GET", path, "", &out)
		since = out.Next
		if c.b.Failed() || len(out.Rooms.Join[room].Timeline.Events) > 0 {
			return since
		}
	}
}

// reportTimes adds percentiles to a benchmark of single operations.
func reportTimes(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	if len(times) > 0 {
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
	}
}

// BenchmarkSend: durable sends over HTTP, each sender in a group of its own or
// all in one.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 16, 64} {
		for _, shared := range []bool{false, true} {
			name := fmt.Sprintf("senders=%d/rooms=own", senders)
			if shared {
				name = fmt.Sprintf("senders=%d/rooms=one", senders)
			}
			b.Run(name, func(b *testing.B) { benchmarkSend(b, senders, shared) })
		}
	}
}

func benchmarkSend(b *testing.B, senders int, shared bool) {
	n := benchNode(b, "hq")
	c := n.client(b, "alice")
	rooms := []string{c.createRoom()}
	for !shared && len(rooms) < senders {
		rooms = append(rooms, c.createRoom())
	}
	times := make([][]time.Duration, senders)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				start := time.Now()
				c.send(rooms[s%len(rooms)])
				times[s] = append(times[s], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	reportTimes(b, slices.Concat(times...))
}

// BenchmarkWake: from sending until another client of the node has it.
func BenchmarkWake(b *testing.B) {
	n := benchNode(b, "hq")
	alice, bob := n.client(b, "alice"), n.client(b, "bob")
	room := alice.createRoom()
	bob.call("POST", "/join/"+url.PathEscape(room), "{}", nil)
	benchmarkSeen(b, alice, bob, room)
}

// BenchmarkDelivery: from sending at one node until a client of the other has it.
func BenchmarkDelivery(b *testing.B) {
	hq, branch := benchNode(b, "hq"), benchNode(b, "branch")
	pin(hq, branch)
	alice, bob := hq.client(b, "alice"), branch.client(b, "bob")
	room := alice.createRoom()
	bob.call("POST", "/join/"+url.PathEscape(room)+"?via=hq&server_name=hq", "{}", nil)
	must(b, eventually(func() error { // until both know of each other
		h, err := hq.app.holding(event.RoomID(room))
		if err == nil && h.members < 2 {
			err = fmt.Errorf("%d members", h.members)
		}
		return err
	}))
	benchmarkSeen(b, alice, bob, room)
}

// benchmarkSeen measures single messages on an idle node: the reader's
// long-poll is open before the message is sent.
func benchmarkSeen(b *testing.B, from, to *benchClient, room string) {
	since := to.wait("", room)
	from.send(room)
	since = to.wait(since, room)
	var times []time.Duration
	seen := make(chan string)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		go func() { seen <- to.wait(since, room) }()
		start := time.Now()
		from.send(room)
		since = <-seen
		times = append(times, time.Since(start))
	}
	b.StopTimer()
	reportTimes(b, times)
}

// BenchmarkStart: from nothing in memory to the first answer, on a data
// directory that is there.
func BenchmarkStart(b *testing.B) {
	cfg := defaultConfig()
	cfg.Name, cfg.Data = "hq", filepath.Join(b.TempDir(), "hq")
	cfg.HTTP.Listen, cfg.P2P.Listen = "127.0.0.1:0", []string{"127.0.0.1:0"}
	var out bytes.Buffer
	for b.Loop() {
		ctx, cancel := context.WithCancel(context.Background())
		a, err := openApp(ctx, cfg, nil, newLogger(LogConfig{Level: "error"}, &out))
		must(b, err)
		end := make(chan error, 1)
		go func() { end <- a.Run(ctx) }()
		resp, err := http.Get(a.url() + "/_matrix/client/versions")
		must(b, err)
		resp.Body.Close()
		b.StopTimer()
		cancel()
		must(b, <-end)
		b.StartTimer()
	}
}
