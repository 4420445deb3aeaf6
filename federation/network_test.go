package federation

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNode is a network in a directory of its own that can be stopped and
// started again.
type testNode struct {
	dir    string
	cfg    Config
	log    *syncBuffer
	n      *Network
	cancel context.CancelFunc
	ended  chan error
}

// syncBuffer collects a log.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) has(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.b.Bytes(), []byte(text))
}

// newTestNode makes the identity of a node; it listens on a loopback port that
// stays the same when it is started again.
func newTestNode(t testing.TB, name string) *testNode {
	t.Helper()
	dir := t.TempDir()
	id, err := CreateIdentity(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	h := &testNode{dir: dir, log: log, cfg: Config{
		Identity: id, PeersDir: filepath.Join(dir, "peers"), Limits: true,
		Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"},
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}}
	t.Cleanup(func() {
		h.stop(t)
		if t.Failed() {
			t.Logf("log of %s:\n%s", id.Name, log.b.String())
		}
	})
	return h
}

// open opens the network and keeps the addresses it got.
func (h *testNode) open(t testing.TB) *Network {
	t.Helper()
	n, err := Open(context.WithoutCancel(t.Context()), h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.n = n
	h.cfg.Listen = nil
	addrs := n.host.Network().ListenAddresses()
	sortAddrs(addrs)
	for _, a := range addrs {
		h.cfg.Listen = append(h.cfg.Listen, a.String())
	}
	return n
}

// start opens the network if need be and runs it.
func (h *testNode) start(t testing.TB, handler Handler) *Network {
	t.Helper()
	if h.n == nil {
		h.open(t)
	}
	n := h.n
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	h.cancel, h.ended = cancel, make(chan error, 1)
	go func() { h.ended <- n.Run(ctx, handler) }()
	return n
}

func (h *testNode) stop(t testing.TB) {
	t.Helper()
	if h.n == nil {
		return
	}
	if h.cancel == nil {
		h.n.shut(nil)
		h.n = nil
		return
	}
	h.cancel()
	select {
	case err := <-h.ended:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Run did not end")
	}
	if h.log.has("did not end in time") {
		t.Error("the network did not end within two seconds")
	}
	h.n, h.cancel = nil, nil
}

func (h *testNode) link(t testing.TB) string {
	t.Helper()
	l, err := h.n.Link()
	if err != nil {
		t.Fatal(err)
	}
	return l.String()
}

// cluster implements nettest.Cluster on real networks over loopback.
type cluster struct{ nodes map[int]*testNode }

func (c *cluster) node(t testing.TB, i int) *testNode {
	t.Helper()
	if c.nodes[i] == nil {
		c.nodes[i] = newTestNode(t, "")
	}
	return c.nodes[i]
}

// Start implements nettest.Cluster.
func (c *cluster) Start(t testing.TB, i int, h nettest.Handler) (nettest.Network, event.SigningKey) {
	t.Helper()
	node := c.node(t, i)
	return node.start(t, h), node.cfg.Identity.EventKey
}

// Stop implements nettest.Cluster.
func (c *cluster) Stop(t testing.TB, i int) { c.nodes[i].stop(t) }

// Link implements nettest.Cluster.
func (c *cluster) Link(t testing.TB, i, j int) {
	t.Helper()
	a, b := c.nodes[i], c.nodes[j]
	if _, err := a.n.AddPeer(b.link(t)); err != nil {
		t.Error(err)
	}
	if _, err := b.n.AddPeer(a.link(t)); err != nil {
		t.Error(err)
	}
}

// Unlink implements nettest.Cluster.
func (c *cluster) Unlink(t testing.TB, i, j int) {
	t.Helper()
	a, b := c.nodes[i], c.nodes[j]
	if err := a.n.RemovePeer(b.n.Self()); err != nil {
		t.Error(err)
	}
	if err := b.n.RemovePeer(a.n.Self()); err != nil {
		t.Error(err)
	}
}

// Forge implements nettest.Cluster.
func (c *cluster) Forge(t testing.TB, victim, by int) []byte {
	t.Helper()
	forger := *c.nodes[by].cfg.Identity
	forger.Name = c.nodes[victim].cfg.Identity.Name
	for i, k := range forger.eventKeys {
		k.Server = forger.Name
		forger.eventKeys = append(forger.eventKeys[:i:i], k)
	}
	raw, err := sealRecord(&forger, maxSafeInt-1, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestContract(t *testing.T) {
	nettest.Test(t, func(*testing.T) nettest.Cluster { return &cluster{nodes: map[int]*testNode{}} })
}
