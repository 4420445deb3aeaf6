package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/feed"
	"github.com/tokenim/tokenim/store"
)

// Errors that callers tell apart. room.ErrForbidden, store.ErrNotFound,
// event.ErrInvalid, event.ErrTooLarge and *event.RemoteError pass through too.
var (
	// ErrForbidden: the user may not do this, for a reason other than the room's rules.
	ErrForbidden = errors.New("forbidden")
	// ErrUnknownRoom: the room is not known here and nobody could be asked.
	ErrUnknownRoom = errors.New("unknown room")
	// ErrNoRoute: no server of the room could be reached; try again later (504).
	ErrNoRoute = errors.New("no server of the group can be reached")
	// ErrBadRequest: the request makes no sense.
	ErrBadRequest = errors.New("bad request")
)

const (
	headsEvery = 15 * time.Second
	activeFor  = time.Hour // rooms with an event since are compared in every period
	allEvery   = 20        // periods after which all rooms are compared

	strangerEvery = 10 * time.Second
	strangerBurst = 10
	strangerPages = 5
)

// Config is what a node is made from.
type Config struct {
	Key     event.SigningKey // signs this node's events; names the server
	Store   *store.Store
	Network Network
	Logger  *slog.Logger
	Now     func() time.Time // nil: time.Now
	// HeadsEvery is the period of the heads exchange (protocol C4.3), 0: 15 s.
	HeadsEvery time.Duration
}

// Node is one organization's node. All methods may be called from any goroutine.
type Node struct {
	Feed *feed.Feed // wakes those who wait for changes

	cfg    Config
	store  *store.Store
	net    Network
	log    *slog.Logger
	typing *typing
	clientSide
	residents *residents
	publisher *publisher
	peers     *peers
	inbox     *inbox
	suspects  *suspects
	horizons  *horizons
	strangers *budgets // what is fetched from servers that are not in the room as it is seen here
	joins     turns

	hashes      *lru.Cache[store.StateID, digest] // hashes of states
	gaps        *lru.Cache[string, gap]           // answers that are handed out in pages
	heavy       chan struct{}                     // limits calls that read much
	bundleBytes int                               // bytes of events from a peer that wait for their check
	divergences atomic.Int64
	mergeAfter  time.Duration // how long many forward extremities are left alone
	ready       atomic.Bool
	ran         atomic.Bool
}

// New makes a node; Run starts its work. Methods for clients can be used before Run.
func New(cfg Config) (*Node, error) {
	switch {
	case cfg.Store == nil || cfg.Network == nil:
		return nil, errors.New("a node needs a store and a network")
	case cfg.Key.Server != cfg.Network.Self():
		return nil, fmt.Errorf("the signing key is that of %s, the network that of %s", cfg.Key.Server, cfg.Network.Self())
	}
	if _, err := event.ParseServer(string(cfg.Key.Server)); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.HeadsEvery <= 0 {
		cfg.HeadsEvery = headsEvery
	}
	n := &Node{
		Feed: feed.New(), cfg: cfg, store: cfg.Store, net: cfg.Network, log: cfg.Logger,
		typing: newTyping(), clientSide: newClientSide(), residents: newResidents(), suspects: newSuspects(), horizons: newHorizons(),
		strangers: newBudgets(strangerEvery, strangerBurst),
		joins:     turns{busy: map[event.RoomID]chan struct{}{}}, heavy: make(chan struct{}, heavyCalls), bundleBytes: bundleBytes,
	}
	n.mergeAfter = mergeAfter
	n.publisher = &publisher{node: n, wakeup: make(chan struct{}, 1)}
	n.peers = newPeers(n)
	n.inbox = newInbox(n)
	n.typing.wake, n.typing.flush = n.wakeRoom, n.flushReceipts
	var err error
	if n.hashes, err = lru.New[store.StateID, digest](4096); err != nil {
		return nil, err
	}
	n.gaps, err = lru.New[string, gap](8)
	return n, err
}

// Run does the node's work until ctx ends: publisher, catch-up, ingest workers.
// It returns nil then, and an error if the store failed. It can be called once.
func (n *Node) Run(ctx context.Context) error {
	if n.ran.Swap(true) {
		return errors.New("the node has run before")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := n.tellAll(ctx); err != nil {
		return ended(ctx, err)
	}
	n.peers.start(ctx)
	var wg sync.WaitGroup
	for range inboxCrew {
		wg.Go(func() { n.inbox.run(ctx) })
	}
	wg.Go(func() { n.typing.run(ctx) })
	wg.Go(func() { n.tick(ctx) })
	err := n.publisher.recover(ctx)
	if err == nil {
		n.ready.Store(true)
		err = n.publisher.run(ctx)
	}
	n.ready.Store(false)
	err = ended(ctx, err)
	cancel()
	wg.Wait()
	n.inbox.stop()
	n.peers.stop()
	return err
}

// ended drops errors that come from the end of a context.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tick compares rooms with peers from time to time (protocol C4.3) and looks
// after heads that were named and did not come.
func (n *Node) tick(ctx context.Context) {
	period := func() time.Duration {
		d := n.cfg.HeadsEvery
		return d - d/4 + rand.N(d/2+1)
	}
	compare := time.NewTimer(period())
	defer compare.Stop()
	look := time.NewTicker(suspectWait / 2)
	defer look.Stop()
	for round := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			n.checkSuspects()
		case <-compare.C:
			n.compareRooms(round%allEvery == 0)
			n.mergeForks(ctx)
			round++
			compare.Reset(period())
		}
	}
}

// compareRooms has the active rooms compared with some residents each, or all.
func (n *Node) compareRooms(all bool) {
	rooms := n.activeRooms(n.cfg.Now().Add(-activeFor))
	if all {
		var err error
		if rooms, err = n.sharedRooms(""); err != nil {
			n.log.Warn("rooms could not be listed", "error", err)
			return
		}
	}
	for _, r := range rooms {
		n.peers.doubt(r, "")
	}
}

// Ready reports whether start-up recovery is done: the network knows who may see
// which room, and what a stop left unpublished is published.
func (n *Node) Ready() bool { return n.ready.Load() }

// Server returns the node's name.
func (n *Node) Server() event.Server { return n.cfg.Key.Server }
