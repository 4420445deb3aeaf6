package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/tokenim/tokenim/node/event"
)

const (
	linkSuffix   = ".link"
	sourceConfig = "the configuration"
	rescanEvery  = 5 * time.Second
	scanDelay    = 20 * time.Millisecond // several events of one change
	badGrace     = 2 * time.Second       // how long a file that turned bad keeps its pin
	maxLinkFiles = 10_000
)

// linkFile is what is known of one *.link file.
type linkFile struct {
	link  Link
	good  bool      // link is what it said last
	since time.Time // when it turned bad; zero while it is good
	text  string    // the content that was warned about
}

// pinboard decides who is pinned: the links of the configuration, then those of
// the files. Its fields belong to the holder of Network.scanning.
type pinboard struct {
	config []Link
	dir    string
	files  map[string]*linkFile
	warned map[string]string // conflicts that were reported, by source
}

// linkOf returns the link in the content of a file: the first line that is
// neither blank nor a comment. ok is false if there is no such line.
func linkOf(content string) (l Link, ok bool, err error) {
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		l, err = ParseLink(line)
		return l, err == nil, err
	}
	return Link{}, false, nil
}

// rescan reads the directory and brings the pinned peers in line with it.
func (n *Network) rescan() {
	n.scanning <- struct{}{}
	defer func() { <-n.scanning }()
	n.pins.read(n)
	n.applyPins()
}

// read takes note of the files as they are now. A bad file keeps the pin it had
// for a moment, since it may be half written.
func (p *pinboard) read(n *Network) {
	names, err := linkFiles(p.dir)
	if err != nil {
		n.log.Warn("the directory of peer links cannot be read", "dir", p.dir, "err", err)
		return
	}
	seen := map[string]bool{}
	for _, name := range names {
		seen[name] = true
		content, err := readLine(filepath.Join(p.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			delete(seen, name)
			continue
		}
		var link Link
		ok := false
		if err == nil {
			link, ok, err = linkOf(content)
		}
		f := p.files[name]
		if f == nil {
			f = &linkFile{}
			p.files[name] = f
		}
		if ok {
			*f = linkFile{link: link, good: true}
			continue
		}
		if f.since.IsZero() {
			f.since = time.Now()
		}
		if err != nil && f.text != content {
			f.text = content
			n.log.Warn("a peer link file is bad", "file", filepath.Join(p.dir, name), "err", err)
		}
		if f.good && time.Since(f.since) >= badGrace {
			f.good = false
		}
	}
	for name := range p.files {
		if !seen[name] {
			delete(p.files, name)
		}
	}
}

// linkFiles lists the link files of a directory by name. No directory: none.
func linkFiles(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), linkSuffix) && !strings.HasPrefix(e.Name(), ".") && len(names) < maxLinkFiles {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// pinned is a link with where it comes from.
type pinned struct {
	link   Link
	source string
}

// wanted returns the pins that hold. Of two links with one name, or with one
// peer id, the one that is in effect already is kept, then the one of the
// configuration, then the first file by name; the other raises an alarm.
func (p *pinboard) wanted(n *Network) []pinned {
	var all []pinned
	for _, l := range p.config {
		all = append(all, pinned{l, sourceConfig})
	}
	for name, f := range p.files {
		if f.good {
			all = append(all, pinned{f.link, name})
		}
	}
	rank := func(c pinned) int {
		switch {
		case c.source == sourceConfig:
			return 0
		case n.peers.sourceOf(c.link.Name) == c.source:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b pinned) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.source, b.source))
	})
	names, ids := map[event.Server]pinned{}, map[string]pinned{}
	warned := map[string]string{}
	var out []pinned
	for _, c := range all {
		if c.link.Name == n.id.Name || c.link.PeerID == n.id.PeerID() {
			continue // this node's own link
		}
		first, taken := names[c.link.Name]
		if !taken {
			first, taken = ids[c.link.PeerID]
		}
		if taken {
			key := c.source + " " + c.link.String()
			warned[key] = first.source
			if first.link.String() != c.link.String() && p.warned[key] != first.source {
				n.log.Error("alarm: two peer links with one name or one peer id; the first is kept",
					"name", c.link.Name, "kept", first.source, "ignored", c.source)
			}
			continue
		}
		names[c.link.Name], ids[c.link.PeerID] = c, c
		out = append(out, c)
	}
	p.warned = warned
	return out
}

// applyPins adds, changes and removes peers. The holder of scanning calls it.
func (n *Network) applyPins() {
	keep := map[event.Server]bool{}
	list := n.pins.wanted(n)
	for _, c := range list {
		keep[c.link.Name] = true
	}
	for _, r := range n.peers.all() {
		if !keep[r.name] {
			n.removePin(r)
		}
	}
	for _, c := range list {
		id, addrs, err := c.link.check()
		if err != nil {
			continue // was checked when it was read
		}
		if r := n.peers.named(c.link.Name); r != nil {
			if r.id == id {
				if n.peers.update(r, c.link, addrs, c.source) {
					r.hurry()
				}
				continue
			}
			n.log.Warn("a peer's pin moves to another peer id", "name", r.name, "peer_id", c.link.PeerID)
			n.removePin(r)
		}
		r := &remote{
			name: c.link.Name, id: id, budget: newBudget(n.cfg.Limits), kick: make(chan struct{}, 1),
			link: c.link, addrs: addrs, source: c.source,
			conns: map[network.Conn]*session{}, changed: make(chan struct{}),
		}
		r.ctx, r.cancel = context.WithCancel(n.ctx)
		n.keys.pin(r.name, r.id)
		n.peers.add(r)
		n.log.Info("a peer is pinned", "name", r.name, "peer_id", c.link.PeerID, "by", c.source)
		n.start(func() { n.dialLoop(r) })
	}
}

// hurry makes the dial loop dial at once.
func (r *remote) hurry() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// removePin forgets a peer and disconnects it. What it signed stays verifiable.
func (n *Network) removePin(r *remote) {
	n.peers.remove(r) // from here on the gate is shut
	r.cancel()
	n.keys.unpin(r.name)
	n.log.Info("a peer is no longer pinned", "name", r.name)
	_ = n.host.Network().ClosePeer(r.id)
	n.peers.gone(r)
}

// watchPins follows the directory until the network ends.
func (n *Network) watchPins() {
	var events chan fsnotify.Event
	var errs chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		events, errs = watcher.Events, watcher.Errors
		err = watcher.Add(n.pins.dir)
	}
	if err != nil {
		n.log.Warn("the directory of peer links is not watched but read every few seconds", "dir", n.pins.dir, "err", err)
	}
	tick := time.NewTicker(rescanEvery)
	defer tick.Stop()
	for {
		// A bad file is looked at again when its grace ends.
		var again <-chan time.Time
		if n.anyBad() {
			again = time.After(badGrace / 4)
		}
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
			if watcher != nil {
				_ = watcher.Add(n.pins.dir) // the directory may have been made anew
			}
		case <-again:
		case err := <-errs: // an overflow, for example: the scan below makes up for it
			n.log.Debug("watching the directory of peer links", "err", err)
		case <-events:
			settled := time.After(scanDelay)
			for waiting := true; waiting; {
				select {
				case <-events:
				case <-settled:
					waiting = false
				}
			}
		}
		n.rescan()
	}
}

func (n *Network) anyBad() bool {
	n.scanning <- struct{}{}
	defer func() { <-n.scanning }()
	for _, f := range n.pins.files {
		if f.good && !f.since.IsZero() {
			return true
		}
	}
	return false
}

// PinLink writes dir/NAME.link by rename and returns the link. A link that is
// there already changes nothing; one of another peer id is ErrPinned.
func PinLink(dir, link string) (Link, error) {
	l, err := ParseLink(strings.TrimSpace(link))
	if err != nil {
		return Link{}, err
	}
	old, err := ReadLinks(dir)
	if err != nil {
		return Link{}, err
	}
	for file, o := range old {
		switch {
		case o.Name == l.Name && o.PeerID == l.PeerID && slices.Equal(o.Addrs, l.Addrs):
			return l, nil
		case (o.Name == l.Name) != (o.PeerID == l.PeerID):
			return Link{}, fmt.Errorf("%w: %s says that %s is peer %s; remove it first", ErrPinned, filepath.Join(dir, file), o.Name, o.PeerID)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Link{}, err
	}
	return l, writeReplace(filepath.Join(dir, string(l.Name)+linkSuffix), []byte(l.String()+"\n"))
}

// UnpinLink removes the files of dir that hold a link with this name. If there
// is none the error wraps fs.ErrNotExist.
func UnpinLink(dir string, name event.Server) error {
	links, err := ReadLinks(dir)
	if err != nil {
		return err
	}
	found := false
	for file, l := range links {
		if l.Name != name {
			continue
		}
		found = true
		if err := os.Remove(filepath.Join(dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no link of %q in %s: %w", name, dir, fs.ErrNotExist)
	}
	return syncDir(dir)
}

// ReadLinks returns the good links of a directory by file name. Bad files are
// left out; a directory that is not there holds none.
func ReadLinks(dir string) (map[string]Link, error) {
	names, err := linkFiles(dir)
	if err != nil {
		return nil, err
	}
	out := make(map[string]Link, len(names))
	for _, name := range names {
		content, err := readLine(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if l, ok, _ := linkOf(content); ok {
			out[name] = l
		}
	}
	return out, nil
}
