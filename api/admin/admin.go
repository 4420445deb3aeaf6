// Package admin is the operator's API: health, metrics, statistics, peers, and
// the Synapse-compatible endpoints that tools use.
package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// Errors of Peers that the API tells its callers about.
var (
	// ErrLink says that a link is not valid or contradicts a pinned peer; the
	// text says how.
	ErrLink = errors.New("link cannot be used")
	// ErrUnknownPeer says that no peer of that name is pinned.
	ErrUnknownPeer = errors.New("no such peer is pinned")
)

// Peers manages pinned peers. cmd/tokenim implements it with *federation.Network.
type Peers interface {
	// AddPeer pins the peer of a link; again changes nothing. Errors that are
	// the link's fault wrap ErrLink.
	AddPeer(link string) (event.Peer, error)
	// RemovePeer unpins a peer and disconnects it. ErrUnknownPeer if it is not pinned.
	RemovePeer(name event.Server) error
	// Peers returns what is known of every pinned or connected peer.
	Peers() []event.Peer
}

// Config says what the API serves.
type Config struct {
	Node         *node.Node
	Accounts     *account.Accounts
	Store        *store.Store
	Peers        Peers
	Version      string
	SharedSecret string // registration.shared_secret, empty: endpoint answers 404
	Logger       *slog.Logger
}

// Server is the API.
type Server struct {
	cfg     Config
	log     *slog.Logger
	mux     *http.ServeMux
	metrics *metrics
	nonces  *nonces
	started time.Time
}

// New returns the API as a handler for /healthz, /readyz, /metrics,
// /_tokenim/admin/ and /_synapse/admin/.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Logger, mux: http.NewServeMux(), nonces: newNonces(), started: time.Now()}
	s.metrics = newMetrics(s)
	s.routes()
	return s
}

// routes is the table of everything the API answers.
func (s *Server) routes() {
	s.open("/healthz", methods{http.MethodGet: s.healthz})
	s.open("/readyz", methods{http.MethodGet: s.readyz})
	s.open("/metrics", methods{http.MethodGet: s.serveMetrics})
	s.json("/_tokenim/admin/v1/stats", methods{http.MethodGet: s.admins(s.stats)})
	s.json("/_tokenim/admin/v1/peers", methods{http.MethodGet: s.admins(s.listPeers), http.MethodPost: s.admins(s.addPeer)})
	s.json("/_tokenim/admin/v1/peers/{name}", methods{http.MethodDelete: s.admins(s.removePeer)})
	if s.cfg.SharedSecret != "" {
		s.json("/_synapse/admin/v1/register", methods{http.MethodGet: s.registerNonce, http.MethodPost: s.register})
	}
	s.json("/", nil)
}

// healthz says that the process lives.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) error {
	return plain(w, http.StatusOK, "ok\n")
}

// readyz says whether start-up recovery is done. The store is open and the
// network listens before this API exists.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	if !s.cfg.Node.Ready() {
		return plain(w, http.StatusServiceUnavailable, "starting\n")
	}
	return plain(w, http.StatusOK, "ok\n")
}
