// Package simnet is a network of nodes in one process, for tests: it does what
// package federation does over libp2p, with faults that a seed decides.
//
// A Net holds Peers, which implement node.Network. Gossip floods: who accepts a
// frame hands it on to every connected member of the room, and a frame that was
// seen within two minutes is dropped, as gossipsub does it. Frames may be lost,
// repeated and delayed, each differently, so that they overtake one another;
// calls arrive in full or fail. Peers can be stopped and started, links cut and
// restored, the net split, and frames injected that no correct node would send.
//
// Time is read and waited for through package time alone, so a Net runs inside
// testing/synctest, if it was made in the bubble, as well as on the real clock.
//
// The seed decides the fate of the n-th frame on each link in each direction,
// and of the n-th call, whatever other links carry. What the seed cannot decide
// is which of two goroutines is first to send on one link, and which of two
// frames that are due at the same moment over different links; a test in which
// nodes act one after the other repeats exactly.
//
// Goroutines: Peer.Run owns one that delivers gossip, in order of arrival, and
// one that reports peers, losses and records, in order of events; each Call owns
// one, in which the other side's handler runs and for which that side's Run
// waits. One mutex, Net.mu, guards everything; it is never held while a
// handler runs.
package simnet

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// Handler receives what peers send. It has the methods and the contract of
// federation.Handler.
type Handler interface {
	HandleGossip(ctx context.Context, from event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error
	HandleEphemeral(ctx context.Context, from event.Server, r event.RoomID, edu []byte) error
	HandleCall(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error)
	HandlePeer(s event.Server, connected bool)
	HandleLoss(r event.RoomID)
	LoadRecords() ([][]byte, error)
	SaveRecord(s event.Server, raw []byte) error
}

// Faults says what goes wrong. Chances are from 0 to 1 for each frame or call on
// each link. The zero value is a perfect network.
type Faults struct {
	Loss       float64       // chance that a gossip frame is lost
	Repeat     float64       // chance that it is delivered a second time, past the check for repeats
	MinDelay   time.Duration // each frame, request and answer takes MinDelay to MaxDelay
	MaxDelay   time.Duration // less than MinDelay counts as MinDelay
	CallLoss   float64       // chance that a call fails: half of them before the handler ran, half after
	NoticeLoss bool          // the receiver's HandleLoss is told of frames lost and of frames from servers it does not list
}

// Net is a simulated network.
type Net struct {
	seed uint64

	mu     sync.Mutex
	faults Faults
	peers  map[event.Server]*Peer           // the present life of each node
	keys   map[event.Server]map[string]bool // record signing keys each name ever had: the pins of all nodes
	seqs   map[event.Server]int64           // newest sequence number of each name's records
	cut    map[[2]event.Server]bool         // links taken away, smaller name first
	sides  map[event.Server]int             // of the partition; nil: none
	conns  map[[2]event.Server]*conn        // links in use, smaller name first
	dice   map[[2]event.Server]*rand.Rand   // by direction
	frames uint64                           // order of frames that are due at the same moment
}

// conn is a connection; ctx ends with it.
type conn struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// New makes an empty network. The same seed gives the same faults.
func New(seed uint64) *Net {
	return &Net{
		seed:  seed,
		peers: map[event.Server]*Peer{},
		keys:  map[event.Server]map[string]bool{},
		seqs:  map[event.Server]int64{},
		cut:   map[[2]event.Server]bool{},
		conns: map[[2]event.Server]*conn{},
		dice:  map[[2]event.Server]*rand.Rand{},
	}
}

// Add makes a node known under this name. It takes part once it runs. A name
// that was there before begins a new life, which remembers nothing; its former
// life must have ended. Add panics if it has not, or if the key is unusable.
func (n *Net) Add(s event.Server, key event.SigningKey) *Peer {
	key.Server = s
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.peers[s]; old != nil && old.handler != nil {
		panic("simnet: " + s + " is running")
	}
	p := &Peer{
		net:     n,
		name:    s,
		key:     key,
		rooms:   map[event.RoomID]*roomSet{},
		seen:    map[[32]byte]time.Time{},
		records: map[event.Server]*record{},
		refused: map[event.Server]int{},
		wake:    make(chan struct{}, 1),
		notify:  make(chan struct{}, 1),
	}
	if old := n.peers[s]; old != nil {
		old.over = true
	}
	n.peers[s] = p
	if n.keys[s] == nil {
		n.keys[s] = map[string]bool{}
	}
	n.keys[s][string(p.public())] = true
	p.renew()
	return p
}

// SetFaults changes what goes wrong with frames and calls from now on.
func (n *Net) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Link lets two nodes reach each other, as all can unless Unlink said otherwise.
func (n *Net) Link(a, b event.Server) { n.setLink(a, b, false) }

// Unlink cuts what is between two nodes and keeps it cut. They may still hear of
// each other through others.
func (n *Net) Unlink(a, b event.Server) { n.setLink(a, b, true) }

func (n *Net) setLink(a, b event.Server, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[pair(a, b)] = cut
	n.connect()
}

// Partition splits the net: servers of different groups cannot reach each
// other. Those that no group names are one more group. It replaces an earlier
// partition.
func (n *Net) Partition(groups ...[]event.Server) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sides = map[event.Server]int{}
	for i, g := range groups {
		for _, s := range g {
			n.sides[s] = i + 1
		}
	}
	n.connect()
}

// Heal ends the partition. Links cut by Unlink stay cut.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sides = nil
	n.connect()
}

// pair orders two names.
func pair(a, b event.Server) [2]event.Server {
	if b < a {
		a, b = b, a
	}
	return [2]event.Server{a, b}
}

// connect makes the connections what links, partition and running peers say,
// and tells both sides of each change. The caller holds mu.
func (n *Net) connect() {
	names := make([]event.Server, 0, len(n.peers))
	for s := range n.peers {
		names = append(names, s)
	}
	slices.Sort(names)
	for i, a := range names {
		for _, b := range names[i+1:] {
			n.connectPair(n.peers[a], n.peers[b])
		}
	}
}

func (n *Net) connectPair(a, b *Peer) {
	key := pair(a.name, b.name)
	up := a.handler != nil && b.handler != nil && !n.cut[key] && n.sides[a.name] == n.sides[b.name]
	c := n.conns[key]
	switch {
	case up && c == nil:
		c = &conn{}
		c.ctx, c.cancel = context.WithCancel(context.Background())
		n.conns[key] = c
		for _, p := range [][2]*Peer{{a, b}, {b, a}} {
			p[1].renew()
			p[0].learn(p[1].records[p[1].name])
			p[0].report(report{peer: p[1].name, connected: true})
		}
	case !up && c != nil:
		c.cancel()
		delete(n.conns, key)
		a.report(report{peer: b.name, gone: true})
		b.report(report{peer: a.name, gone: true})
	}
}

// connected reports whether two nodes can reach each other. The caller holds mu.
func (n *Net) connected(a, b event.Server) bool { return n.conns[pair(a, b)] != nil }

// die returns the source of chance of one direction. The caller holds mu.
func (n *Net) die(from, to event.Server) *rand.Rand {
	key := [2]event.Server{from, to}
	if n.dice[key] == nil {
		h := fnv.New64a()
		fmt.Fprintf(h, "%q %q", from, to)
		n.dice[key] = rand.New(rand.NewPCG(n.seed, h.Sum64()))
	}
	return n.dice[key]
}

// delay draws how long something takes. The caller holds mu.
func (n *Net) delay(r *rand.Rand) time.Duration {
	d := n.faults.MinDelay
	spread := n.faults.MaxDelay - d
	x := r.Float64() // drawn always, so that it does not depend on the configuration
	if spread > 0 {
		d += time.Duration(x * float64(spread))
	}
	return d
}

// record is a server record: {server_name, seq, valid_until_ts, verify_keys:
// {kid: {key}}}, signed by the key it lists.
type record struct {
	Name       event.Server              `json:"server_name"`
	Seq        int64                     `json:"seq"`
	ValidUntil int64                     `json:"valid_until_ts"` // milliseconds
	VerifyKeys map[event.KeyID]recordKey `json:"verify_keys"`

	raw []byte
}

type recordKey struct {
	Key []byte `json:"key"`
}

// parseRecord verifies a record. The caller holds mu.
func (n *Net) parseRecord(raw []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	for kid, k := range r.VerifyKeys {
		if !n.keys[r.Name][string(k.Key)] {
			return nil, fmt.Errorf("record of %s lists a key that is not its own", r.Name)
		}
		if err := event.VerifyJSON(raw, r.Name, kid, k.Key); err != nil {
			return nil, fmt.Errorf("record of %s: %w", r.Name, err)
		}
	}
	if len(r.VerifyKeys) == 0 {
		return nil, fmt.Errorf("record of %s lists no key", r.Name)
	}
	r.raw = slices.Clone(raw)
	return &r, nil
}
