package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/node/event"
)

// linkExt is the end of the names of files that pin a peer.
const linkExt = ".link"

// linkFile is a pinned peer of the peers directory.
type linkFile struct {
	federation.Link
	path string
}

// linkFiles reads the peers directory in the order of the names. Files that
// hold no link are left out: a running node warns of them.
func linkFiles(dir string) ([]linkFile, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("peers directory: %w", err)
	}
	var out []linkFile
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), linkExt) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("peers directory: %w", err)
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if link, err := federation.ParseLink(line); err == nil {
				out = append(out, linkFile{link, path})
			}
			break
		}
	}
	return out, nil
}

// pinnedLinks returns the pinned peers of the configuration and the peers
// directory, by name.
func pinnedLinks(cfg Config) ([]federation.Link, error) {
	files, err := linkFiles(cfg.peersDir())
	if err != nil {
		return nil, err
	}
	byName := map[event.Server]federation.Link{}
	for _, s := range cfg.Federation.Peers {
		link, err := federation.ParseLink(s)
		if err != nil {
			return nil, err
		}
		byName[link.Name] = link
	}
	for _, f := range files {
		if _, ok := byName[f.Name]; !ok {
			byName[f.Name] = f.Link
		}
	}
	if id, err := federation.LoadIdentity(cfg.Data); err == nil {
		delete(byName, id.Name) // the node's own link is ignored
	}
	out := make([]federation.Link, 0, len(byName))
	for _, l := range byName {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b federation.Link) int { return strings.Compare(string(a.Name), string(b.Name)) })
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
		case p.Name == link.Name && p.String() == link.String():
			return nil
		}
	}
	dir := cfg.peersDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("peers directory: %w", err)
	}
	err = writeFile(filepath.Join(dir, string(link.Name)+linkExt), func(f *os.File) error {
		_, err := f.WriteString(link.String() + "\n")
		return err
	})
	if err != nil {
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
	files, err := linkFiles(cfg.peersDir())
	if err != nil {
		return false, err
	}
	removed := false
	for _, f := range files {
		if f.Name != name {
			continue
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("peers directory: %w", err)
		}
		removed = true
	}
	return removed, nil
}
