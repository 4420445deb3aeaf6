package main

import (
	_ "embed"
	"path/filepath"
)

// configSource is this file: the comments below are the reference that
// `tokenim config` prints.
//
//go:embed config.go
var configSource string

// Config is the configuration of a node. The comment of each field is its
// documentation for operators.
type Config struct {
	// Name of this node: the part of its users' ids behind the colon. A DNS
	// name or a single label such as "hq", lower case, no port. Empty: a
	// self-certifying name made from the node's key. It is decided when the
	// data directory is made and cannot be changed afterwards.
	Name string `yaml:"name"`

	// Directory of everything the node must not forget: keys, messages,
	// accounts. It belongs to one process at a time.
	Data string `yaml:"data"`

	// Where clients connect.
	HTTP HTTPConfig `yaml:"http"`

	// Where other nodes connect.
	P2P P2PConfig `yaml:"p2p"`

	// Who the other nodes are.
	Federation FederationConfig `yaml:"federation"`

	// How accounts come to be.
	Registration RegistrationConfig `yaml:"registration"`

	// Protection against too many requests.
	Limits LimitsConfig `yaml:"limits"`

	// What is written to standard error. Never message bodies, passwords or
	// access tokens.
	Log LogConfig `yaml:"log"`
}

// HTTPConfig says where clients connect.
type HTTPConfig struct {
	// HOST:PORT that clients connect to. Port 0 takes a free port. Put a
	// reverse proxy with TLS before it to serve anyone but this machine.
	Listen string `yaml:"listen"`

	// URL under which clients reach this node, for example
	// https://chat.example.org. Empty: what the client asked for.
	PublicURL string `yaml:"public_url"`
}

// P2PConfig says where other nodes connect.
type P2PConfig struct {
	// Addresses that other nodes connect to, each HOST:PORT (QUIC and TCP)
	// or a multiaddress such as /ip4/0.0.0.0/udp/8465/quic-v1. Empty:
	// port 8465 on all addresses, or the next free one, which is then kept.
	Listen []string `yaml:"listen"`

	// Addresses that other nodes are told instead of those of the network
	// interfaces, written the same way: needed behind NAT or with port 0.
	Announce []string `yaml:"announce"`
}

// FederationConfig says who the other nodes are.
type FederationConfig struct {
	// Who may connect. closed: pinned peers only.
	Mode string `yaml:"mode"`

	// Links of pinned peers, as `tokenim link` prints them on the other side.
	Peers []string `yaml:"peers"`

	// Directory of further pinned peers, one file NAME.link for each, watched
	// while the node runs. Empty: "peers" in the data directory.
	PeersDir string `yaml:"peers_dir"`
}

// RegistrationConfig says how accounts come to be.
type RegistrationConfig struct {
	// Who may register. closed: only who has a token that an administrator
	// made, such as the one printed at the first start. token: the same, and
	// clients are told so. open: everyone.
	Mode string `yaml:"mode"`

	// Secret of tools that make accounts through
	// /_synapse/admin/v1/register. Empty: that endpoint does not exist.
	SharedSecret string `yaml:"shared_secret"`
}

// LimitsConfig switches the protection against too many requests.
type LimitsConfig struct {
	// Rate limits of clients and budgets of peers. Limits of size always hold.
	Enabled bool `yaml:"enabled"`
}

// LogConfig says what is written to standard error.
type LogConfig struct {
	// debug, info, warn or error.
	Level string `yaml:"level"`

	// text or json.
	Format string `yaml:"format"`
}

// defaultConfig returns the values that hold where nothing else is said.
func defaultConfig() Config {
	return Config{
		Data:         ".tokenim",
		HTTP:         HTTPConfig{Listen: "127.0.0.1:8008"},
		P2P:          P2PConfig{Listen: []string{}, Announce: []string{}},
		Federation:   FederationConfig{Mode: "closed", Peers: []string{}},
		Registration: RegistrationConfig{Mode: "closed"},
		Limits:       LimitsConfig{Enabled: true},
		Log:          LogConfig{Level: "info", Format: "text"},
	}
}

// The names of what lies in the data directory besides what other packages put
// there.
const (
	configFile  = "config.yaml"        // the configuration unless --config names another file
	storeDir    = "db"                 // package store
	peersDir    = "peers"              // links of pinned peers
	tokenFile   = "registration-token" // one-time token of the first administrator, until it is used
	controlFile = "control.sock"       // socket for commands beside a running node
)

// path returns the path of a file of the data directory.
func (c Config) path(name string) string { return filepath.Join(c.Data, name) }

// peersDir returns the directory of pinned peers.
func (c Config) peersDir() string {
	if c.Federation.PeersDir != "" {
		return c.Federation.PeersDir
	}
	return c.path(peersDir)
}
