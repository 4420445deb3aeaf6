// Package admin is the operator's API: health, metrics, statistics, peers, and
// the Synapse-compatible endpoints that tools use.
package admin

import (
	"log/slog"
	"net/http"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// Peers manages pinned peers. cmd/tokenim implements it with *federation.Network.
type Peers interface {
	// AddPeer pins the peer of a link; again changes nothing.
	AddPeer(link string) (event.Peer, error)
	// RemovePeer unpins a peer and disconnects it.
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
type Server struct{}

// New returns the API as a handler for /healthz, /readyz, /metrics,
// /_tokenim/admin/ and /_synapse/admin/.
func New(cfg Config) *Server { panic("stub") }

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { panic("stub") }
