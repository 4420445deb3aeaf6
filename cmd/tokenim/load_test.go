//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// These benchmarks run nodes as processes, so that their processor time and
// memory are told apart from those of the clients. The clients are this process
// and share the machine.

// talk says who talks to whom.
type talk struct {
	nodes   int // the members of each group are spread over them
	groups  int
	members int // of each group; all hold a long-poll open
	senders int // spread over the groups
}

// BenchmarkLoad sends durable messages of a hundred bytes as fast as they are
// answered, while every member of the groups reads with /sync. seen-p50-ms and
// seen-p99-ms are from sending until a member at the last node has it, wherever
// it was sent. cpu-ms/msg is user and system time of all nodes, until
// everything was seen. disk-B/msg is what the messages left in the data
// directory of a node after its end; it says something from 100,000 on.
func BenchmarkLoad(b *testing.B) {
	for _, l := range []talk{
		{1, 5, 10, 1}, {1, 5, 10, 10}, {1, 5, 10, 50}, {1, 1, 50, 50}, {1, 5, 1, 50},
		{2, 5, 10, 1}, {2, 5, 10, 10}, {2, 5, 10, 50}, {2, 5, 2, 50},
		{3, 5, 9, 9},
	} {
		b.Run(fmt.Sprintf("nodes=%d/groups=%dx%d/senders=%d", l.nodes, l.groups, l.members, l.senders), func(b *testing.B) { l.run(b) })
	}
}

// loadNode starts a node without limits where anybody may register.
func loadNode(b *testing.B, name string) *process {
	return newProcess(b, name, "TOKENIM_LIMITS_ENABLED=false", "TOKENIM_REGISTRATION_MODE=open", "TOKENIM_LOG_LEVEL=warn")
}

// loadMember is a user and what it saw.
type loadMember struct {
	*benchClient
	node  int // its index
	group string
	since string          // token of its /sync
	seen  []time.Duration // of each message, from sending to seeing
	count int             // messages seen
}

func (p *process) register(b *testing.B, name string) *benchClient {
	var out struct {
		Token string `json:"access_token"`
	}
	_, err := p.call("", "POST", "/_matrix/client/v3/register", map[string]any{
		"username": name, "password": "a long password", "auth": map[string]string{"type": "m.login.dummy"},
	}, &out)
	must(b, err)
	tr := &http.Transport{MaxIdleConnsPerHost: 1024}
	b.Cleanup(tr.CloseIdleConnections)
	return &benchClient{b, p.url + "/_matrix/client/v3", out.Token, &http.Client{Transport: tr}}
}

func (l talk) start(b *testing.B) (nodes []*process, members []*loadMember) {
	for i := range l.nodes {
		nodes = append(nodes, loadNode(b, fmt.Sprint("node", i)))
	}
	for _, p := range nodes {
		for _, q := range nodes {
			if p != q {
				result(b, nil, "peer", "add", "--data", p.cfg.Data, result(b, nil, "link", "--data", q.cfg.Data))
			}
		}
	}
	for g := range l.groups {
		var room string
		for m := range l.members {
			at := m % l.nodes
			c := &loadMember{benchClient: nodes[at].register(b, fmt.Sprintf("user-%d-%d", g, m)), node: at}
			if room == "" {
				room = c.createRoom()
			} else {
				must(b, eventually(func() error { // until the peers know each other
					_, err := nodes[at].call(c.token, "POST", "/_matrix/client/v3/join/"+url.PathEscape(room)+"?via=node0&server_name=node0", map[string]any{}, &struct{}{})
					return err
				}))
			}
			c.group = room
			members = append(members, c)
		}
	}
	// A group works when a message of each node was seen at every other.
	for _, m := range members {
		m.since = m.wait("", m.group)
	}
	for i, m := range members {
		if i%l.members >= l.nodes {
			continue
		}
		m.sendMark(b)
		for _, other := range members {
			for other.group == m.group && other.count == 0 {
				other.read(b, true)
			}
			other.count = 0
		}
	}
	for _, m := range members {
		for m.read(b, false) > 0 {
		}
		m.seen, m.count = nil, 0
	}
	return nodes, members
}

// allOfTimeline is a filter: no gap in what a reader sees, however much is said.
var allOfTimeline = url.QueryEscape(`{"room":{"timeline":{"limit":1000}}}`)

// mark stands before the time of sending in a message's body.
const mark = "sent at "

func (m *loadMember) sendMark(b *testing.B) {
	body := fmt.Sprintf(`{"msgtype":"m.text","body":"%s%020d%s"}`, mark, time.Now().UnixNano(), strings.Repeat("x", 72))
	path := fmt.Sprintf("/rooms/%s/send/m.room.message/t%d", url.PathEscape(m.group), benchTxn.Add(1))
	m.call("PUT", path, body, nil)
}

// read syncs once and notes what it sees. It looks for the marks in the bytes:
// decoding would cost more than the node's part.
func (m *loadMember) read(b *testing.B, poll bool) (n int) {
	path := "/sync?filter=" + allOfTimeline + "&since=" + url.QueryEscape(m.since)
	if poll {
		path += "&timeout=2000"
	}
	raw := m.raw("GET", path, "")
	now := time.Now()
	_, rest, ok := bytes.Cut(raw, []byte(`"next_batch":"`))
	next, _, _ := bytes.Cut(rest, []byte(`"`))
	if !ok {
		b.Errorf("an answer without next_batch: %s", raw)
		return 0
	}
	m.since = string(next)
	for {
		_, after, ok := bytes.Cut(raw, []byte(mark))
		if !ok || len(after) < 20 {
			m.count += n
			return n
		}
		at, err := strconv.ParseInt(string(after[:20]), 10, 64)
		must(b, err)
		m.seen = append(m.seen, now.Sub(time.Unix(0, at)))
		raw = after
		n++
	}
}

func (l talk) run(b *testing.B) {
	nodes, members := l.start(b)
	before := make([]int64, len(nodes))
	for i, p := range nodes {
		before[i] = p.disk(b)
	}
	work := make(chan struct{})
	times := make([][]time.Duration, l.senders)
	var sent, seen atomic.Int64
	var send, read sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for _, m := range members {
		read.Go(func() {
			for ctx.Err() == nil && !b.Failed() {
				seen.Add(int64(m.read(b, true)))
			}
		})
	}
	for s := range l.senders {
		m := members[(s%l.groups*l.members+s/l.groups)%len(members)]
		send.Go(func() {
			for range work {
				start := time.Now()
				m.sendMark(b)
				times[s] = append(times[s], time.Since(start))
				sent.Add(1)
			}
		})
	}
	var cpu time.Duration
	for _, p := range nodes {
		cpu -= p.cpu(b)
	}
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	send.Wait()
	took := b.Elapsed()
	must(b, eventually(func() error {
		if n := sent.Load() * int64(l.members); seen.Load() != n {
			return fmt.Errorf("%d of %d were seen", seen.Load(), n)
		}
		return nil
	}))
	for _, p := range nodes {
		cpu += p.cpu(b)
	}
	stop()
	read.Wait()
	n := float64(sent.Load())
	b.ReportMetric(n/took.Seconds(), "msg/s")
	b.ReportMetric(float64(cpu.Microseconds())/1000/n, "cpu-ms/msg")
	b.ReportMetric(nodes[0].memory(b)/1024, "anon-MiB")
	reportTimes(b, slices.Concat(times...))
	l.reportSeen(b, members)
	var disk int64
	for i, p := range nodes {
		_, err := p.terminate()
		must(b, err)
		disk += p.disk(b) - before[i]
	}
	b.ReportMetric(float64(disk)/float64(len(nodes))/n, "disk-B/msg")
}

// reportSeen reports how long messages took to members of the last node.
func (l talk) reportSeen(b *testing.B, members []*loadMember) {
	var all []time.Duration
	for _, m := range members {
		if m.node == l.nodes-1 {
			all = append(all, m.seen...)
		}
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "seen-p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "seen-p99-ms")
}

// disk is the size of the data directory.
func (p *process) disk(b *testing.B) (sum int64) {
	must(b, filepath.WalkDir(p.cfg.Data, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	}))
	return sum
}

// cpu is the processor time that the process took so far, in steps of 10 ms.
func (p *process) cpu(b *testing.B) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	must(b, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	user, err := strconv.Atoi(f[11])
	must(b, err)
	system, err := strconv.Atoi(f[12])
	must(b, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory is the anonymous resident memory in KiB.
func (p *process) memory(b *testing.B) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	must(b, err)
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			must(b, err)
			return float64(n)
		}
	}
	b.Fatal("no RssAnon")
	return 0
}

// BenchmarkProcessStart is from starting the program on a data directory that
// is there until it answers, and its anonymous memory then.
func BenchmarkProcessStart(b *testing.B) {
	p := loadNode(b, "hq")
	var memory float64
	for b.Loop() {
		b.StopTimer()
		_, err := p.terminate()
		must(b, err)
		cmd := program(p.env, "serve", "--data", p.cfg.Data, "--http", strings.TrimPrefix(p.url, "http://"), "--p2p", strings.Join(p.cfg.P2P.Listen, ","))
		b.StartTimer()
		must(b, cmd.Start())
		for {
			resp, err := http.Get(p.url + "/_matrix/client/versions")
			if err == nil {
				resp.Body.Close()
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		done := make(chan struct{})
		p.cmd, p.done = cmd, done
		go func() {
			p.err = cmd.Wait()
			close(done)
		}()
		memory = p.memory(b)
		b.StartTimer()
	}
	b.ReportMetric(memory/1024, "anon-MiB")
}
