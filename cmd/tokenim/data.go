package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/tokenim/tokenim/federation"
)

// knownIdentity returns the identity of the data directory, nil if it has none
// yet. A name other than the one that the directory has is refused.
func knownIdentity(cfg Config) (*federation.Identity, error) {
	id, err := federation.LoadIdentity(cfg.Data)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if cfg.Name != "" && cfg.Name != string(id.Name) {
		return nil, fmt.Errorf("the node in %s is named %s, not %s: leave the name out or use another --data", cfg.Data, id.Name, cfg.Name)
	}
	return id, nil
}

// loadIdentity returns the identity of a data directory that must have one.
func loadIdentity(cfg Config) (*federation.Identity, error) {
	id, err := knownIdentity(cfg)
	if err == nil && id == nil {
		err = fmt.Errorf("there is no node in %s: make one with `tokenim init`", cfg.Data)
	}
	return id, err
}

// initData makes the data directory, the identity and the configuration file
// unless they are there, and returns the identity. The file holds the keys of
// initial; nil makes no file.
func initData(cfg Config, initial map[string]bool) (*federation.Identity, error) {
	if _, err := knownIdentity(cfg); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w: choose another with --data", err)
	}
	file := cfg.path(configFile)
	if initial != nil && !exists(file) {
		if err := writeConfigFile(file, cfg, initial); err != nil {
			return nil, fmt.Errorf("data directory: %w: choose another with --data", err)
		}
	}
	id, err := federation.CreateIdentity(cfg.Data, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("identity in %s: %w", cfg.Data, err)
	}
	return id, nil
}

// writeConfigFile writes the documented configuration file.
func writeConfigFile(file string, cfg Config, set map[string]bool) error {
	return writeFile(file, func(f *os.File) error { return printConfig(f, cfg, set) })
}

// writeFile writes a file that only its owner can read, whole or not at all.
func writeFile(path string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// checkP2PPorts finds out whether the ports for other nodes are free, before a
// new data directory is made for a node that could not start.
func checkP2PPorts(list []string) error {
	addrs, err := p2pAddrs(list)
	if err != nil {
		return err
	}
	for _, s := range addrs {
		m, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return err
		}
		network, addr, err := manet.DialArgs(m)
		if err != nil {
			continue // a transport of its own; the network will say
		}
		var c interface{ Close() error }
		switch network {
		case "tcp", "tcp4", "tcp6":
			c, err = net.Listen(network, addr)
		case "udp", "udp4", "udp6":
			c, err = net.ListenPacket(network, addr)
		default:
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("p2p address %s is in use: stop the other program or choose another with --p2p", s)
		}
		if err != nil {
			return fmt.Errorf("p2p.listen %s: %w", s, err)
		}
		c.Close()
	}
	return nil
}

// offerToken finds or makes the one-time registration token of the first
// administrator and puts it into its file; without one the file is removed.
func (a *app) offerToken(ctx context.Context) error {
	t, err := a.accounts.FirstToken(ctx)
	if err != nil {
		return fmt.Errorf("registration token: %w", err)
	}
	a.firstToken, a.tokenOpen = t, t != ""
	return keepTokenFile(a.cfg, t)
}

// keepTokenFile makes the token's file say what is true.
func keepTokenFile(cfg Config, token string) error {
	file := cfg.path(tokenFile)
	if token == "" {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("registration token: %w", err)
		}
		return nil
	}
	err := writeFile(file, func(f *os.File) error {
		_, err := f.WriteString(token + "\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("registration token: %w", err)
	}
	return nil
}

// accountMade is called when an account may have been made: once there is an
// administrator the token is dead, and its file goes.
func (a *app) accountMade(ctx context.Context) {
	a.tokenMu.Lock()
	open := a.tokenOpen
	a.tokenMu.Unlock()
	if !open {
		return
	}
	t, err := a.accounts.FirstToken(ctx)
	if err != nil || t != "" {
		return
	}
	a.tokenMu.Lock()
	a.tokenOpen = false
	a.tokenMu.Unlock()
	if err := keepTokenFile(a.cfg, ""); err != nil {
		a.log.Warn("the used registration token's file stays", "err", err)
	}
}
