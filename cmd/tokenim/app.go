package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenim/tokenim/api/admin"
	"github.com/tokenim/tokenim/api/client"
	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// shutdownTimeout is how long requests may take to finish after the end was
// asked for; the rest of five seconds is for the layers below.
const shutdownTimeout = 3 * time.Second

// app is an open node: every layer, put together.
type app struct {
	cfg        Config
	log        *slog.Logger
	store      *store.Store
	identity   *federation.Identity
	network    *federation.Network
	accounts   *account.Accounts
	node       *node.Node
	admin      *admin.Server
	client     *client.Server
	listener   net.Listener // of clients
	control    *control
	firstToken string // one-time token of the first administrator, empty once it is dead

	polls     context.Context // ends when long-polls are to be answered
	stopPolls context.CancelFunc

	tokenMu   sync.Mutex // guards tokenOpen
	tokenOpen bool       // the one-time token is not known to be dead
}

// run opens a node, does its work until ctx ends, and closes it. ready, if not
// nil, is called when clients and peers can connect. initial names the keys
// that a new data directory's configuration file gets.
func run(ctx context.Context, cfg Config, initial map[string]bool, log *slog.Logger, ready func(*app)) error {
	a, err := openApp(ctx, cfg, initial, log)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(a)
	}
	return a.Run(ctx)
}

// openApp opens a node from the bottom up: store, identity, network, node,
// servers. What cannot work is found out before anything is made: an error
// leaves a new data directory as it was.
func openApp(ctx context.Context, cfg Config, initial map[string]bool, log *slog.Logger) (_ *app, err error) {
	a := &app{cfg: cfg, log: log}
	a.polls, a.stopPolls = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, a.abandon())
		}
	}()
	known, err := knownIdentity(cfg)
	if err != nil {
		return nil, err
	}
	fresh := !exists(cfg.path(storeDir))
	switch {
	case !fresh && known == nil:
		return nil, fmt.Errorf("%s holds messages but not the node's keys: restore the other files of the directory from a backup", cfg.Data)
	case !fresh:
		if a.store, err = openStore(cfg, known.Name, log); err != nil {
			return nil, err
		}
	}
	if a.listener, err = listenHTTP(cfg.HTTP.Listen); err != nil {
		return nil, err
	}
	if fresh {
		if err := checkP2PPorts(cfg.P2P.Listen); err != nil {
			return nil, err
		}
	}
	if a.identity, err = initData(cfg, initial); err != nil {
		return nil, err
	}
	if fresh {
		if a.store, err = openStore(cfg, a.identity.Name, log); err != nil {
			return nil, err
		}
	}
	if err := a.openNode(ctx); err != nil {
		return nil, err
	}
	if a.control, err = listenControl(a); err != nil {
		return nil, err
	}
	return a, nil
}

// openNode opens what stands on the store: network, accounts, node, handlers.
func (a *app) openNode(ctx context.Context) (err error) {
	cfg := a.cfg
	listen, err := p2pAddrs(cfg.P2P.Listen)
	if err != nil {
		return err
	}
	announce, err := p2pAddrs(cfg.P2P.Announce)
	if err != nil {
		return err
	}
	a.network, err = federation.Open(ctx, federation.Config{
		Identity: a.identity, Listen: listen, Announce: announce, Mode: cfg.Federation.Mode,
		PeersDir: cfg.peersDir(), Links: cfg.Federation.Peers, Limits: cfg.Limits.Enabled,
		Logger: a.log.With("part", "federation"),
	})
	if err != nil {
		return fmt.Errorf("p2p network: %w", err)
	}
	a.accounts = newAccounts(cfg, a.identity, a.store, a.log)
	a.node, err = node.New(node.Config{
		Key: a.identity.EventKey, Store: a.store, Network: a.network, Logger: a.log.With("part", "node"),
	})
	if err != nil {
		return err
	}
	if err := a.offerToken(ctx); err != nil {
		return err
	}
	a.admin = admin.New(admin.Config{
		Node: a.node, Accounts: a.accounts, Store: a.store, Peers: pinnedPeers{a.network},
		Version: version, SharedSecret: cfg.Registration.SharedSecret, Logger: a.log.With("part", "admin"),
	})
	a.client = client.New(client.Config{
		Node: a.node, Accounts: a.accounts, Store: a.store, PublicURL: cfg.HTTP.PublicURL,
		Limits: cfg.Limits.Enabled, Logger: a.log.With("part", "client"),
	})
	return nil
}

// Run does the node's work until ctx ends or a part of it fails, then closes
// everything from the top down: requests are finished first, long-polls are
// answered, then the network and the node end, and the store last.
func (a *app) Run(ctx context.Context) error {
	// The lower layers outlive the servers, which stand on them.
	lower, stopLower := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLower()
	requests, stopRequests := context.WithCancel(lower)
	defer stopRequests()
	web := a.newHTTPServer(requests)
	g, failed := errgroup.WithContext(lower)
	part := func(name string, run func() error) {
		g.Go(func() error {
			if err := run(); err != nil && lower.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("p2p network", func() error { return a.network.Run(failed, a.node) })
	part("node", func() error { return a.node.Run(failed) })
	part("http", func() error { return web.Serve(a.listener) })
	part("control socket", a.control.serve)
	part("store", func() error { // takes no more writes after a failed one: start again
		select {
		case <-a.store.Failed():
			return store.ErrFailed
		case <-failed.Done():
			return nil
		}
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
		a.log.Info("stopping")
		a.stopPolls()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		// Whatever still waits for something when most of the time is over
		// gets the end of its context, so that it can be answered.
		late := time.AfterFunc(shutdownTimeout*2/3, stopRequests)
		defer late.Stop()
		if err := web.Shutdown(grace); err != nil {
			web.Close()
		}
		a.control.shutdown(grace)
		stopLower()
		return nil
	})
	err := g.Wait()
	err = errors.Join(err, a.store.Close())
	a.log.Info("stopped")
	return err
}

// abandon closes what openApp opened before it failed.
func (a *app) abandon() error {
	a.stopPolls()
	if a.listener != nil {
		a.listener.Close()
	}
	if a.network != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		a.network.Run(ended, a.node) // closes; nothing is delivered
	}
	if a.store != nil {
		return a.store.Close()
	}
	return nil
}

// newAccounts returns the account service of a node.
func newAccounts(cfg Config, id *federation.Identity, st *store.Store, log *slog.Logger) *account.Accounts {
	return account.New(account.Config{
		Server: id.Name, Store: st, Mode: cfg.Registration.Mode, Limits: cfg.Limits.Enabled, Logger: log.With("part", "account"),
	})
}

// openStore opens the store of the data directory. The errors say what to do.
func openStore(cfg Config, name event.Server, log *slog.Logger) (*store.Store, error) {
	return store.Open(store.Options{Dir: cfg.path(storeDir), Server: name, Logger: log.With("part", "store")})
}

// listenHTTP listens for clients.
func listenHTTP(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("http address %s is in use: stop the other program or choose another with --http", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	return l, nil
}

// newLogger returns the logger of a configuration.
func newLogger(cfg LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
