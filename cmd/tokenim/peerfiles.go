package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/node/event"
)

// pinnedLinks returns the pinned peers of the configuration and the peers
// directory, by name. Of several links with one name the first counts, as in a
// running node. Files that hold no link are left out: a running node warns of them.
func pinnedLinks(cfg Config) ([]federation.Link, error) {
	files, err := federation.ReadLinks(cfg.peersDir())
	if err != nil {
		return nil, fmt.Errorf("peers directory: %w", err)
	}
	byName := map[event.Server]federation.Link{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if l := files[file]; byName[l.Name].Name == "" {
			byName[l.Name] = l
		}
	}
	for _, s := range slices.Backward(cfg.Federation.Peers) {
		l, err := federation.ParseLink(s)
		if err != nil {
			return nil, err
		}
		byName[l.Name] = l
	}
	if id, err := federation.LoadIdentity(cfg.Data); err == nil {
		delete(byName, id.Name) // the node's own link is ignored
	}
	var out []federation.Link
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out, nil
}

// pinPeer writes the file of a peer by rename; a running node picks it up.
// Doing it again changes nothing. A name that is pinned to another key stays
// as it is, and so does a key that is pinned under another name.
func pinPeer(cfg Config, link federation.Link) error {
	pinned, err := pinnedLinks(cfg)
	if err != nil {
		return err
	}
	for _, p := range pinned {
		switch {
		case p.Name == link.Name && p.PeerID != link.PeerID:
			return fmt.Errorf("%s is pinned to the key %s, and this link has another: if that is right, `tokenim peer remove %s` first", p.Name, p.PeerID, p.Name)
		case p.Name != link.Name && p.PeerID == link.PeerID:
			return fmt.Errorf("the key of this link is pinned under the name %s: if the new name is right, `tokenim peer remove %s` first", p.Name, p.Name)
		case p.String() == link.String():
			return nil
		}
	}
	if _, err := federation.PinLink(cfg.peersDir(), link.String()); err != nil {
		return fmt.Errorf("peers directory: %w", err)
	}
	return nil
}

// unpinPeer removes the files of a peer and reports whether there were any.
func unpinPeer(cfg Config, name event.Server) (bool, error) {
	for _, s := range cfg.Federation.Peers {
		if link, err := federation.ParseLink(s); err == nil && link.Name == name {
			return false, fmt.Errorf("%s is pinned in the configuration: remove it from federation.peers", name)
		}
	}
	err := federation.UnpinLink(cfg.peersDir(), name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("peers directory: %w", err)
	}
	return true, nil
}
