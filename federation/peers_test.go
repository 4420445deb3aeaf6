package federation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

func TestModes(t *testing.T) {
	id := newIdentity(t, "hq")
	for _, mode := range []string{"vetted", "open", "closd"} {
		if _, err := Open(t.Context(), Config{Identity: id, Mode: mode, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}); !errors.Is(err, ErrMode) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("Open without identity")
	}
	if _, err := Open(t.Context(), Config{Identity: id, Links: []string{"tokenim://peer?n=x"}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}); !errors.Is(err, ErrLink) {
		t.Errorf("a bad link in the configuration: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	a := newTestNode(t, "")
	a.open(t)
	for _, addr := range a.cfg.Listen {
		_, err := Open(t.Context(), Config{Identity: newIdentity(t, ""), Listen: []string{addr}})
		if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "p2p.listen") {
			t.Errorf("%s twice: %v", addr, err)
		}
	}
}

// A network that is opened and never run ends with its context, and lets
// nobody in.
func TestOpenWithoutRun(t *testing.T) {
	h := newTestNode(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	n, err := Open(ctx, h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.SetRoom(testRoom, nil, []event.Server{n.Self()})
	if err := n.Publish(ctx, testRoom, [][]byte{[]byte("{}")}, nil); err != nil {
		t.Errorf("Publish before Run: %v", err)
	}
	stranger := newHostFor(t, nil)
	addr := peer.AddrInfo{ID: h.cfg.Identity.peerID, Addrs: n.host.Network().ListenAddresses()}
	_ = stranger.Connect(ctx, addr)
	cancel()
	nettest.Wait(t, "the network to end", func() bool { return n.ctx.Err() != nil && len(n.host.Network().ListenAddresses()) == 0 })
	n.SetRoom(testRoom, nil, nil)
	if err := n.Publish(t.Context(), testRoom, [][]byte{[]byte("{}")}, nil); err == nil {
		t.Error("Publish after the end")
	}
	if err := n.Run(t.Context(), &nettest.Recorder{}); err == nil {
		t.Error("Run after the end")
	}
}

// newHostFor makes a libp2p host of no node, with the key if one is given.
func newHostFor(t *testing.T, key crypto.PrivKey) host.Host {
	t.Helper()
	if key == nil {
		var err error
		if key, _, err = crypto.GenerateEd25519Key(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.DisableRelay(), libp2p.DisableMetrics(), libp2p.DisableIdentifyAddressDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// Closed mode: who is not pinned gets no connection over any transport, and
// none of its streams is served.
func TestUnpinnedGetsNothing(t *testing.T) {
	a := newTestNode(t, "")
	r := &nettest.Recorder{}
	a.start(t, r)
	nettest.Wait(t, "the network to run", a.n.gate.isOpen)
	for _, addr := range a.n.host.Network().ListenAddresses() {
		stranger := newHostFor(t, nil)
		_ = stranger.Connect(t.Context(), peer.AddrInfo{ID: a.cfg.Identity.peerID, Addrs: []ma.Multiaddr{addr}})
		nettest.Wait(t, "the connection to be refused", func() bool {
			return stranger.Network().Connectedness(a.cfg.Identity.peerID) != network.Connected
		})
		for _, p := range a.n.host.Mux().Protocols() {
			if s, err := stranger.NewStream(network.WithNoDial(t.Context(), "test"), a.cfg.Identity.peerID, p); err == nil {
				_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
				if b, err := io.ReadAll(s); err == nil && len(b) > 0 {
					t.Errorf("%s answers %q", p, b)
				}
			}
		}
		// The node does not dial it either.
		err := a.n.host.Connect(t.Context(), peer.AddrInfo{ID: stranger.ID(), Addrs: stranger.Addrs()})
		if err == nil {
			t.Error("the node dials a stranger")
		}
	}
	if len(a.n.host.Network().Peers()) != 0 {
		t.Error("there are connections")
	}
}

// The one protocol list: nothing of the libraries that nobody asked for.
func TestProtocols(t *testing.T) {
	a := newTestNode(t, "")
	a.start(t, &nettest.Recorder{})
	nettest.Wait(t, "the protocols to be served", func() bool {
		have := map[string]bool{}
		for _, p := range a.n.host.Mux().Protocols() {
			if !strings.HasPrefix(string(p), "/tokenim/") && !strings.HasPrefix(string(p), "/ipfs/id/") {
				t.Errorf("the node speaks %s", p)
			}
			have[string(p)] = true
		}
		return have[string(protoRPC)] && have[string(protoRecord)] && have[string(protoMesh)]
	})
}

// A peer that is pinned under another name is refused by who pinned it so.
func TestPinnedUnderAnotherName(t *testing.T) {
	a, b := newTestNode(t, "hq"), newTestNode(t, "bee")
	ra, rb := &nettest.Recorder{}, &nettest.Recorder{}
	a.start(t, ra)
	b.start(t, rb)
	l, err := b.n.Link()
	if err != nil {
		t.Fatal(err)
	}
	l.Name = "wasp"
	if _, err := a.n.AddPeer(l.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.n.AddPeer(a.link(t)); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the alarm", func() bool { return a.log.has("calls itself by another name") })
	if ra.Connected("wasp") || ra.Connected("bee") || len(a.n.Records([]event.Server{"wasp", "bee"})) != 0 {
		t.Error("it was let in")
	}
	if _, err := a.n.Call(t.Context(), "wasp", "heads", nil); !errors.Is(err, event.ErrUnreachable) {
		t.Errorf("Call: %v", err)
	}
	// With the right name it works at once.
	if err := a.n.RemovePeer("wasp"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.n.AddPeer(b.link(t)); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the connection", func() bool { return ra.Connected("bee") && rb.Connected("hq") })
}

// A pinned peer whose record is not in order is not connected, whatever it
// asks for; nothing it sends is served before its record.
func TestHandshakeRefused(t *testing.T) {
	id, other := newIdentity(t, "bee"), newIdentity(t, "bee")
	good := forge(t, id, 5, nil)
	for name, hello := range map[string][]byte{
		"nothing":         nil,
		"junk":            lengthPrefixed([]byte("junk")),
		"another peer's":  lengthPrefixed(forge(t, other, 5, nil)),
		"another name":    lengthPrefixed(forge(t, id, 5, func(m map[string]any) { m["server_name"] = "wasp" })),
		"damaged":         lengthPrefixed(append(good[:len(good)-1:len(good)-1], good[len(good)-1]^1)),
		"too large":       lengthPrefixed(make([]byte, maxRecordRaw+1)),
		"no instance":     append([]byte{}, lengthPrefixed(good)...),
		"length overflow": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTestNode(t, "")
			r := &nettest.Recorder{}
			a.start(t, r)
			nettest.Wait(t, "the network to run", a.n.gate.isOpen)
			h := newHostFor(t, id.nodeKey)
			link := Link{Name: "bee", PeerID: id.PeerID(), Addrs: []string{"/ip4/127.0.0.1/tcp/1"}}
			if _, err := a.n.AddPeer(link.String()); err != nil {
				t.Fatal(err)
			}
			if err := h.Connect(t.Context(), peer.AddrInfo{ID: a.cfg.Identity.peerID, Addrs: a.n.host.Network().ListenAddresses()}); err != nil {
				t.Fatal(err)
			}
			// Its gossip and calls wait for the record.
			for _, p := range []string{string(protoRPC), string(protoMesh)} {
				s, err := h.NewStream(t.Context(), a.cfg.Identity.peerID, protocol.ID(p))
				if err != nil {
					continue
				}
				_, _ = s.Write([]byte("POST /heads HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"))
			}
			s, err := h.NewStream(t.Context(), a.cfg.Identity.peerID, protoRecord)
			if err != nil {
				t.Fatal(err)
			}
			instance := []byte{0, 0, 0, 0, 0, 0, 0, 1}
			if name == "no instance" {
				instance[7] = 0
			}
			_, _ = s.Write(append(instance, hello...))
			_ = s.CloseWrite()
			nettest.Wait(t, "the connection to end", func() bool {
				return h.Network().Connectedness(a.cfg.Identity.peerID) != network.Connected
			})
			if r.Connected("bee") || len(r.Changes("bee")) != 0 || len(a.n.Records([]event.Server{"bee"})) != 0 {
				t.Error("it counts as connected")
			}
		})
	}
}

// A peer that comes back while its old connection seems alive was started
// anew: it is gone and back, and the dead connection is closed.
func TestRestartBehindDeadConnection(t *testing.T) {
	var told []bool
	p := newPeers(func(_ *remote, up bool) { told = append(told, up) })
	r := &remote{conns: map[network.Conn]*session{}, changed: make(chan struct{})}
	first, second, third := &deadConn{id: 1}, &deadConn{id: 2}, &deadConn{id: 3}
	connect := func(c network.Conn, instance uint64) []network.Conn {
		p.open(r, c)
		dead := p.admit(r, c, instance)
		p.complete(r, c)
		return dead
	}
	if dead := connect(first, 7); len(dead) != 0 {
		t.Errorf("closed %v", dead)
	}
	if dead := connect(second, 7); len(dead) != 0 { // a second connection of the same life
		t.Errorf("closed %v", dead)
	}
	if dead := connect(third, 8); len(dead) != 2 {
		t.Errorf("closed %v", dead)
	}
	p.closed(r, first)
	p.closed(r, second)
	if fmt.Sprint(told) != "[true false true]" || !p.isConnected(r) {
		t.Errorf("told %v", told)
	}
	p.closed(r, third)
	p.closed(r, third)
	if fmt.Sprint(told) != "[true false true false]" {
		t.Errorf("told %v", told)
	}
}

// deadConn is a connection of the library that nothing is asked of.
type deadConn struct {
	network.Conn
	id int
}

// A node that was killed comes back under its port; the other one notices by
// the new connection and gets through at once.
func TestReconnectAfterRestart(t *testing.T) {
	a, b, _ := pair(t)
	for i := range 3 {
		addrs := b.cfg.Listen
		b.stop(t)
		rb := &nettest.Recorder{}
		b.start(t, rb)
		if fmt.Sprint(addrs) != fmt.Sprint(b.cfg.Listen) {
			t.Fatalf("ports %v, then %v", addrs, b.cfg.Listen)
		}
		// Call dials at once and does not wait for the next try.
		if got, err := a.n.Call(t.Context(), b.n.Self(), "heads", []byte("x")); err != nil || string(got) != "x" {
			t.Fatalf("Call = %q, %v", got, err)
		}
		b.n.SetRoom(testRoom, nil, []event.Server{a.n.Self(), b.n.Self()})
		meshed(t, a, b, testRoom)
		say(t, a, rb, testRoom, fmt.Sprintf("after restart %d.", i))
	}
}

// A renewed record reaches connected peers.
func TestRenewedRecord(t *testing.T) {
	a, b, rb := pair(t)
	seq := func() int64 {
		b.n.keys.mu.RLock()
		defer b.n.keys.mu.RUnlock()
		return b.n.keys.byName[a.n.Self()].Seq
	}
	before, saved := seq(), string(rb.Saved(a.n.Self()))
	a.n.renewAndShow()
	nettest.Wait(t, "the new record", func() bool { return seq() > before && string(rb.Saved(a.n.Self())) != saved })
	if len(rb.Changes(a.n.Self())) != 1 {
		t.Errorf("a renewal looks like a reconnection: %v", rb.Changes(a.n.Self()))
	}
}

// write writes a file as an editor would, not by rename.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPeersDir(t *testing.T) {
	a, b := newTestNode(t, "hq"), newTestNode(t, "bee")
	ra := &nettest.Recorder{}
	b.start(t, &nettest.Recorder{})
	dir := a.cfg.PeersDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Nothing in the directory stops a start.
	write(t, filepath.Join(dir, "junk.link"), "this is no link")
	write(t, filepath.Join(dir, "empty.link"), "")
	write(t, filepath.Join(dir, "readme.txt"), b.link(t))
	if err := os.Mkdir(filepath.Join(dir, "folder.link"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.start(t, ra)
	if _, err := b.n.AddPeer(a.link(t)); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the warning", func() bool { return a.log.has("junk.link") })
	// The own link is ignored; so are comments and blank lines.
	write(t, filepath.Join(dir, "self.link"), a.link(t))
	path := filepath.Join(dir, "b.link")
	text := "# our friends\n\n  " + b.link(t) + "  \nwhatever follows\n"
	// Half written, then whole.
	write(t, path, text[:len(text)/2])
	nettest.Wait(t, "the half-written file to be seen", func() bool { return a.log.has("b.link") })
	write(t, path, text)
	nettest.Wait(t, "the peer", func() bool { return ra.Connected("bee") })
	if got := a.n.Peers(); len(got) != 1 || got[0].Name != "bee" {
		t.Errorf("peers %v", got)
	}
	// While it is written anew nothing happens.
	write(t, path, "")
	write(t, path, "#\n"+text)
	// A second link with the name: the first is kept, and an alarm is raised.
	imposter := Link{Name: "bee", PeerID: newIdentity(t, "").PeerID(), Addrs: []string{testAddr}}
	write(t, filepath.Join(dir, "a.link"), imposter.String())
	nettest.Wait(t, "the alarm", func() bool { return a.log.has("two peer links with one name") })
	if !ra.Connected("bee") || len(ra.Changes("bee")) != 1 || a.n.peers.named("bee").id != b.cfg.Identity.peerID {
		t.Errorf("the pin moved: %v", ra.Changes("bee"))
	}
	// Removal disconnects at once; what the peer signed stays verifiable.
	if err := os.Remove(filepath.Join(dir, "a.link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	nettest.Wait(t, "the end", func() bool { return !ra.Connected("bee") && len(a.n.Peers()) == 0 })
	if _, err := a.n.Key("bee", b.cfg.Identity.EventKey.ID, 0); err != nil {
		t.Errorf("history: %v", err)
	}
	if len(a.n.host.Network().Peers()) != 0 {
		t.Error("still connected")
	}
	// A file that stays bad loses its pin after a moment.
	write(t, path, b.link(t))
	nettest.Wait(t, "the peer again", func() bool { return ra.Connected("bee") })
	write(t, path, "gone")
	nettest.Wait(t, "the end of the bad file's pin", func() bool { return !ra.Connected("bee") })
}

func TestAddAndRemovePeer(t *testing.T) {
	a, b, c := newTestNode(t, "hq"), newTestNode(t, "bee"), newTestNode(t, "cat")
	b.open(t)
	c.open(t)
	a.cfg.Links = []string{c.link(t)}
	a.start(t, &nettest.Recorder{})
	file := filepath.Join(a.cfg.PeersDir, "bee.link")
	l, err := a.n.AddPeer(" " + b.link(t) + "\n")
	if err == nil {
		t.Errorf("a link with space around it: %v", l)
	}
	for range 2 {
		if l, err = a.n.AddPeer(b.link(t)); err != nil || l.Name != "bee" {
			t.Fatalf("AddPeer: %v, %v", l, err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != b.link(t)+"\n" {
		t.Errorf("file %q: %v", got, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.n.AddPeer(b.link(t)); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(file); err != nil || !os.SameFile(info, again) {
		t.Errorf("again changed the file: %v", err)
	}
	other := Link{Name: "bee", PeerID: newIdentity(t, "").PeerID(), Addrs: []string{testAddr}}
	renamed := Link{Name: "wasp", PeerID: b.cfg.Identity.PeerID(), Addrs: []string{testAddr}}
	for _, bad := range []string{other.String(), renamed.String(), a.link(t)} {
		if _, err := a.n.AddPeer(bad); !errors.Is(err, ErrPinned) {
			t.Errorf("AddPeer(%s): %v", bad, err)
		}
	}
	if _, err := a.n.AddPeer("nonsense"); !errors.Is(err, ErrLink) {
		t.Errorf("AddPeer(nonsense): %v", err)
	}
	// New addresses replace the old ones.
	moved := Link{Name: "bee", PeerID: b.cfg.Identity.PeerID(), Addrs: []string{"/ip4/127.0.0.1/tcp/9"}}
	if _, err := a.n.AddPeer(moved.String()); err != nil {
		t.Fatal(err)
	}
	if got := a.n.Peers(); len(got) != 2 || got[0].Name != "bee" || got[0].Addresses[0] != moved.Addrs[0] || got[1].Name != "cat" {
		t.Errorf("peers %+v", got)
	}
	if err := a.n.RemovePeer("cat"); !errors.Is(err, ErrPinned) {
		t.Errorf("RemovePeer of the configuration: %v", err)
	}
	if err := a.n.RemovePeer("bee"); err != nil {
		t.Error(err)
	}
	if err := a.n.RemovePeer("bee"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemovePeer again: %v", err)
	}
	if got := a.n.Peers(); len(got) != 1 {
		t.Errorf("peers %+v", got)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file: %v", err)
	}
}

func TestPauses(t *testing.T) {
	for range 1000 {
		if d := jitter(dialMax); d > dialMax || d < dialMax*3/4 {
			t.Fatalf("pause %v", d)
		}
	}
	if jitter(0) != 0 {
		t.Error("the first try waits")
	}
}

// Of a record's addresses only public ones, and those on hosts that the link
// names, are dialed (protocol C12.17).
func TestRecordAddresses(t *testing.T) {
	a := newTestNode(t, "hq")
	a.open(t)
	id := newIdentity(t, "bee")
	link := Link{Name: "bee", PeerID: id.PeerID(), Addrs: []string{"/ip4/10.0.0.1/tcp/1"}}
	if _, err := a.n.AddPeer(link.String()); err != nil {
		t.Fatal(err)
	}
	rec := mustRecord(t, forge(t, id, 1, func(m map[string]any) {
		m["addrs"] = []string{"/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2", "/ip4/10.0.0.2/tcp/1", "/ip4/127.0.0.1/tcp/22", "/ip4/203.0.113.9/udp/5/quic-v1", "/ip4/8.8.8.8/tcp/1"}
	}))
	if err := a.n.keys.accept(rec); err != nil {
		t.Fatal(err)
	}
	want := "[/ip4/10.0.0.1/tcp/1 /ip4/10.0.0.1/tcp/2 /ip4/8.8.8.8/tcp/1]"
	if got := fmt.Sprint(a.n.addrsFor(a.n.peers.named("bee"))); got != want {
		t.Errorf("addresses %s, want %s", got, want)
	}
}
