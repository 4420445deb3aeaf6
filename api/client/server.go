// Package client is the Client-Server API: HTTP in, calls of the node and the
// accounts out, no state of its own. One file per chapter of the specification.
package client

import (
	"log/slog"
	"net/http"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/store"
)

// Config says what the API serves.
type Config struct {
	Node         *node.Node
	Accounts     *account.Accounts
	Store        *store.Store
	PublicURL    string // base URL for well-known, empty: from the request
	Registration string // closed, token, open
	Limits       bool   // client rate limits
	Logger       *slog.Logger
}

// Server is the API.
type Server struct{}

// New returns the API as a handler for /_matrix/ and /.well-known/matrix/.
func New(cfg Config) *Server { panic("stub") }

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { panic("stub") }
