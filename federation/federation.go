package federation

import (
	"context"
	"crypto/ed25519"
	"log/slog"

	"github.com/tokenim/tokenim/node/event"
)

// Config says how to open a network.
type Config struct {
	Identity *Identity
	Listen   []string // multiaddresses; empty: the default port on all addresses, QUIC and TCP
	Announce []string // multiaddresses that peers are told instead of the interfaces' own
	Mode     string   // "closed" (default); "vetted" and "open" are refused for now
	PeersDir string   // directory of *.link files, watched
	Links    []string // pinned peers of the configuration
	Limits   bool     // per-peer budgets
	Logger   *slog.Logger
}

// Identity is who a node is: its name, its node key (libp2p identity) and its
// event key.
type Identity struct {
	Name event.Server
	// further fields hold the libp2p key
	EventKey event.SigningKey
}

// PeerID returns the libp2p peer id in text form.
func (i *Identity) PeerID() string { panic("stub") }

// CreateIdentity makes the keys of a node in dir (mode 0600) unless they exist,
// and returns them. An empty name makes the self-certifying name. A name other
// than the stored one is refused with ErrName.
func CreateIdentity(dir, name string) (*Identity, error) { panic("stub") }

// LoadIdentity reads the keys; the error wraps fs.ErrNotExist if there are none.
func LoadIdentity(dir string) (*Identity, error) { panic("stub") }

// Link is how a peer is pinned: "tokenim://peer?n=NAME&p=PEERID&a=ADDR...".
type Link struct {
	Name   event.Server
	PeerID string
	Addrs  []string
}

// ParseLink reads a link.
func ParseLink(s string) (Link, error) { panic("stub") }

// String returns the link in its one form.
func (l Link) String() string { panic("stub") }

// Addresses returns the addresses under which a node with this configuration
// can be dialed, without starting it: announce, or listen with unspecified
// addresses replaced by those of the interfaces. An error says what to set
// where that is impossible (port 0 and no announce).
func Addresses(dir string, listen, announce []string) ([]string, error) { panic("stub") }

// Network is the running libp2p host with its topics and calls.
type Network struct{}

// Open listens; it delivers nothing before Run.
func Open(ctx context.Context, cfg Config) (*Network, error) { panic("stub") }

// Run delivers to h until ctx ends, then closes everything.
func (n *Network) Run(ctx context.Context, h Handler) error { panic("stub") }

// Addrs returns the addresses it listens on, each with /p2p/PEERID.
func (n *Network) Addrs() []string { panic("stub") }

// Link returns this node's own link.
func (n *Network) Link() (Link, error) { panic("stub") }

// AddPeer pins a peer: writes PeersDir/NAME.link by rename and dials at once.
// Again changes nothing.
func (n *Network) AddPeer(link string) (Link, error) { panic("stub") }

// RemovePeer unpins a peer and disconnects it.
func (n *Network) RemovePeer(name event.Server) error { panic("stub") }

// Self implements node.Network.
func (n *Network) Self() event.Server { panic("stub") }

// SetRoom implements node.Network.
func (n *Network) SetRoom(r event.RoomID, salt []byte, members []event.Server) { panic("stub") }

// Publish implements node.Network.
func (n *Network) Publish(ctx context.Context, r event.RoomID, pdus [][]byte, heads []event.ID) error {
	panic("stub")
}

// PublishEphemeral implements node.Network.
func (n *Network) PublishEphemeral(ctx context.Context, r event.RoomID, edu []byte) error {
	panic("stub")
}

// Call implements node.Network.
func (n *Network) Call(ctx context.Context, to event.Server, method string, body []byte) ([]byte, error) {
	panic("stub")
}

// Peers implements node.Network.
func (n *Network) Peers() []event.Peer { panic("stub") }

// Key implements node.Network.
func (n *Network) Key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error) {
	panic("stub")
}

// Records implements node.Network.
func (n *Network) Records(servers []event.Server) [][]byte { panic("stub") }

// Learn implements node.Network.
func (n *Network) Learn(records [][]byte) { panic("stub") }
