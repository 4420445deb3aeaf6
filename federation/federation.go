package federation

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/semaphore"

	"github.com/tokenim/tokenim/node/event"
)

// closeTimeout bounds the end of Run.
const closeTimeout = 2 * time.Second

// Config says how to open a network.
type Config struct {
	Identity *Identity
	Listen   []string // multiaddresses; empty: DefaultPort on all addresses, TCP and QUIC
	Announce []string // multiaddresses that peers are told instead of the interfaces' own
	Mode     string   // "closed" (default); "vetted" and "open" are refused for now
	PeersDir string   // directory of *.link files, watched; empty: none
	Links    []string // pinned peers of the configuration
	Limits   bool     // per-peer budgets
	Logger   *slog.Logger
}

// Network is the running libp2p host with its topics and calls. It implements
// node.Network. All methods may be called from any goroutine, from Open on.
type Network struct {
	cfg      Config
	id       *Identity
	announce []ma.Multiaddr
	log      *slog.Logger
	quiet    *slog.Logger // for the libraries: their warnings are no events of ours
	instance uint64       // drawn at every start; tells peers a restart from a second connection

	host      host.Host
	gate      *gater
	gated     *gatedHost
	gossip    *gossip
	transport *http.Transport
	memory    *semaphore.Weighted

	peers  *peers
	keys   *keyring
	access *access
	loss   *losses
	tracer *lossTracer
	told   *notifier

	pins     *pinboard
	scanning chan struct{}   // capacity 1: held by who reads the directory or changes pins
	changes  chan roomChange // to keepRooms

	ctx     context.Context
	cancel  context.CancelFunc
	handled atomic.Pointer[Handler]

	mu      sync.Mutex // guards the next two fields
	ending  bool
	started bool
	wg      sync.WaitGroup // every goroutine of the package
}

// Open listens; it delivers nothing and lets nobody in before Run. When ctx
// ends before Run is called, everything is closed.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	if cfg.Identity == nil {
		return nil, errors.New("federation: no identity")
	}
	switch cfg.Mode {
	case "", "closed":
	case "vetted", "open":
		return nil, fmt.Errorf("%w: federation.mode %q comes with a later version; use closed", ErrMode, cfg.Mode)
	default:
		return nil, fmt.Errorf("%w: %q; federation.mode is closed, vetted or open", ErrMode, cfg.Mode)
	}
	n := &Network{
		cfg: cfg, id: cfg.Identity, log: cmp.Or(cfg.Logger, slog.Default()),
		quiet:  slog.New(slog.DiscardHandler),
		memory: semaphore.NewWeighted(requestMemory),
		access: newAccess(), loss: newLosses(),
		scanning: make(chan struct{}, 1), changes: make(chan roomChange),
	}
	n.instance = newInstance()
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.told, n.tracer = newNotifier(n), newLossTracer(n)
	n.peers = newPeers(n.reportPeer)
	n.keys = newKeyring(n.id.Name, n.log)
	n.gate = &gater{ctx: n.ctx, open: make(chan struct{}), peers: n.peers}
	if err := n.open(ctx); err != nil {
		n.shut(nil)
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		n.mu.Lock()
		running := n.started
		n.mu.Unlock()
		if !running {
			n.shut(nil)
		}
	})
	return n, nil
}

func newInstance() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// open does the part of Open that can fail.
func (n *Network) open(ctx context.Context) error {
	var links []Link
	for _, text := range n.cfg.Links {
		l, err := ParseLink(text)
		if err != nil {
			return fmt.Errorf("federation.peers: %w", err)
		}
		links = append(links, l)
	}
	var err error
	if n.announce, err = parseAddrs("p2p.announce", n.cfg.Announce, n.id.PeerID()); err != nil {
		return err
	}
	if len(n.cfg.Listen) == 0 {
		if err := claimPort(n.id.dir, n.log); err != nil {
			return err
		}
	}
	addrs, err := listenAddrs(n.id.dir, n.cfg.Listen)
	if err != nil {
		return err
	}
	if n.host, err = newHost(n.id, n.announce, n.gate); err != nil {
		return err
	}
	n.host.Network().Notify(n.notifiee())
	if err := listen(n.host, addrs); err != nil {
		return err
	}
	if err := n.renewRecord(); err != nil {
		return err
	}
	if n.gated, err = newGatedHost(n, n.host); err != nil {
		return err
	}
	if n.gossip, err = newGossip(n.ctx, n, n.gated); err != nil {
		return err
	}
	n.transport = newTransport(n.host)
	n.start(n.keepRooms)
	n.pins = &pinboard{config: links, dir: n.cfg.PeersDir, files: map[string]*linkFile{}}
	if n.cfg.PeersDir != "" {
		if err := os.MkdirAll(n.cfg.PeersDir, 0o700); err != nil {
			n.log.Warn("the directory of peer links cannot be made", "dir", n.cfg.PeersDir, "err", err)
		}
	}
	n.rescan()
	return ctx.Err()
}

// start runs f as a goroutine that the end of Run waits for; false, and no
// goroutine, if the network is ending.
func (n *Network) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ending {
		return false
	}
	n.wg.Go(f)
	return true
}

// handler returns the handler, nil before Run.
func (n *Network) handler() Handler {
	if h := n.handled.Load(); h != nil {
		return *h
	}
	return nil
}

// Run delivers to h until ctx ends, then closes everything within two seconds.
// It is called once.
func (n *Network) Run(ctx context.Context, h Handler) error {
	n.mu.Lock()
	if n.started || n.ending {
		n.mu.Unlock()
		return errClosed
	}
	n.started = true
	n.mu.Unlock()
	raws, err := h.LoadRecords()
	if err != nil {
		n.shut(nil)
		return fmt.Errorf("load server records: %w", err)
	}
	n.keys.load(raws)
	n.handled.Store(&h)
	srv, err := n.serveCalls()
	if err != nil {
		n.shut(nil)
		return err
	}
	n.host.SetStreamHandler(protoRecord, n.serveRecord)
	n.start(func() { n.loss.run(n.ctx, h) })
	n.start(func() { n.saveRecords(h) })
	n.start(n.renewLoop)
	n.start(n.watch)
	if n.cfg.PeersDir != "" {
		n.start(n.watchPins)
	}
	close(n.gate.open)
	select {
	case <-ctx.Done():
	case <-n.ctx.Done():
	}
	n.shut(srv)
	return nil
}

// shut ends everything and waits for it.
func (n *Network) shut(srv *http.Server) {
	n.mu.Lock()
	n.ending = true
	n.mu.Unlock()
	n.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if srv != nil {
			_ = srv.Close()
		}
		if n.transport != nil {
			n.transport.CloseIdleConnections()
		}
		if n.host != nil {
			_ = n.host.Close()
		}
		n.wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		n.log.Warn("the network did not end in time", "limit", closeTimeout)
	}
}

// saveRecords hands new records to the handler, which keeps them for good.
func (n *Network) saveRecords(h Handler) {
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.keys.wake:
		}
		for name, raw := range n.keys.takeUnkept() {
			if err := h.SaveRecord(name, raw); err != nil {
				n.log.Error("a server record cannot be kept", "name", name, "err", err)
			}
		}
	}
}

// Addrs returns the addresses it listens on, each with /p2p/PEERID; unspecified
// ones are replaced by those of all interfaces.
func (n *Network) Addrs() []string {
	addrs, err := n.host.Network().InterfaceListenAddresses()
	if err != nil {
		addrs = n.host.Network().ListenAddresses()
	}
	sortAddrs(addrs)
	return withPeer(addrs, n.id.PeerID())
}

// Link returns this node's own link.
func (n *Network) Link() (Link, error) {
	addrs, err := n.dialableAddrs()
	if err != nil {
		return Link{}, err
	}
	l := Link{Name: n.id.Name, PeerID: n.id.PeerID()}
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		l.Addrs = append(l.Addrs, a.String())
	}
	return l, nil
}

// AddPeer pins a peer: writes PeersDir/NAME.link by rename and dials at once.
// Again changes nothing. A name or peer id that is pinned otherwise is ErrPinned.
func (n *Network) AddPeer(link string) (Link, error) {
	l, err := ParseLink(link)
	if err != nil {
		return Link{}, err
	}
	if l.Name == n.id.Name || l.PeerID == n.id.PeerID() {
		return Link{}, fmt.Errorf("%w: this is the link of the node itself", ErrPinned)
	}
	for _, r := range n.peers.all() {
		switch {
		case r.name == l.Name && r.id.String() == l.PeerID:
			if n.peers.linkOf(r).String() == l.String() {
				r.hurry()
				return l, nil
			}
		case r.name == l.Name || r.id.String() == l.PeerID:
			return Link{}, fmt.Errorf("%w: %s is peer %s; remove it first", ErrPinned, r.name, r.id)
		}
	}
	if n.cfg.PeersDir == "" {
		return Link{}, errors.New("there is no directory of peer links: set federation.peers_dir")
	}
	if l, err = PinLink(n.cfg.PeersDir, link); err != nil {
		return Link{}, err
	}
	n.rescan()
	if r := n.peers.named(l.Name); r != nil {
		r.hurry()
	}
	return l, nil
}

// RemovePeer unpins a peer and disconnects it. The error wraps fs.ErrNotExist if
// there is no such peer and ErrPinned if the configuration names it.
func (n *Network) RemovePeer(name event.Server) error {
	switch n.peers.sourceOf(name) {
	case sourceConfig:
		return fmt.Errorf("%w: %s stands in federation.peers", ErrPinned, name)
	case "":
		if n.cfg.PeersDir == "" {
			return fmt.Errorf("%s is not pinned: %w", name, fs.ErrNotExist)
		}
	}
	err := UnpinLink(n.cfg.PeersDir, name)
	n.rescan()
	return err
}

// Self implements node.Network.
func (n *Network) Self() event.Server { return n.id.Name }

// SetRoom implements node.Network.
func (n *Network) SetRoom(r event.RoomID, salt []byte, members []event.Server) {
	c := roomChange{r, slices.Clone(salt), slices.Clone(members), make(chan struct{})}
	select {
	case n.changes <- c:
	case <-n.ctx.Done():
		return
	}
	select {
	case <-c.done:
	case <-n.ctx.Done():
	}
}

// Publish implements node.Network.
func (n *Network) Publish(ctx context.Context, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	if err := checkBatch(pdus, heads); err != nil {
		return fmt.Errorf("publish in %s: %w", r, err)
	}
	return n.gossip.publish(ctx, 0, &envelope{room: r, pdus: pdus, heads: heads})
}

// PublishEphemeral implements node.Network. At most 32 KiB.
func (n *Network) PublishEphemeral(ctx context.Context, r event.RoomID, edu []byte) error {
	if len(edu) == 0 || len(edu) > maxEDU {
		return fmt.Errorf("publish in %s: ephemeral message of %d bytes, not 1 to %d", r, len(edu), maxEDU)
	}
	return n.gossip.publish(ctx, 1, &envelope{room: r, edu: edu})
}

// Peers implements node.Network.
func (n *Network) Peers() []event.Peer { return n.peers.list() }

// Key implements node.Network.
func (n *Network) Key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error) {
	return n.keys.key(s, kid, ts)
}

// Records implements node.Network.
func (n *Network) Records(servers []event.Server) [][]byte { return n.keys.records(servers) }

// Learn implements node.Network.
func (n *Network) Learn(records [][]byte) { n.keys.learn(records) }
