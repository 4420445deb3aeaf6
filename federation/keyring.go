package federation

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/tokenim/tokenim/node/event"
)

// maxKnownRecords bounds the records of other servers that are kept (protocol
// C12.17). Pinned servers are let in beyond it.
const maxKnownRecords = 20_000

// keyring knows the newest verified record of every server (protocol C1).
//
// Whose name it is: a self-certifying name proves itself; a pinned name belongs
// to the pinned peer; any other name belongs to the peer whose record was seen
// first, which is good for verifying history and for nothing else: connections
// are made with pinned peers only. A peer has one name.
type keyring struct {
	self event.Server
	log  *slog.Logger
	now  func() time.Time

	mu     sync.RWMutex // guards everything below
	byName map[event.Server]known
	byPeer map[peer.ID]event.Server
	pinned map[event.Server]peer.ID
	unkept map[event.Server]struct{} // records that SaveRecord has not seen yet
	wake   chan struct{}             // capacity 1: unkept is not empty
}

type known struct {
	*serverRecord
	fetched int64 // milliseconds
}

func newKeyring(self event.Server, log *slog.Logger) *keyring {
	return &keyring{
		self: self, log: log, now: time.Now,
		byName: map[event.Server]known{}, byPeer: map[peer.ID]event.Server{},
		pinned: map[event.Server]peer.ID{}, unkept: map[event.Server]struct{}{},
		wake: make(chan struct{}, 1),
	}
}

// pin binds a name to a peer. What was known of the name by way of another
// peer, or of the peer under another name, is forgotten: a pin beats first sight.
func (k *keyring) pin(name event.Server, id peer.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pinned[name] = id
	if old, ok := k.byName[name]; ok && old.peer != id {
		k.log.Error("alarm: a record seen for this name came from another peer than the pinned one; it is dropped", "name", name, "peer_id", old.PeerID)
		k.drop(old)
	}
	if other, ok := k.byPeer[id]; ok && other != name {
		k.log.Error("alarm: a pinned peer showed a record under another name before; it is dropped", "name", name, "other_name", other)
		k.drop(k.byName[other])
	}
}

// drop forgets a record. k.mu is held.
func (k *keyring) drop(r known) {
	delete(k.byName, r.ServerName)
	delete(k.byPeer, r.peer)
	delete(k.unkept, r.ServerName)
}

// unpin ends a binding; the record stays, history needs it.
func (k *keyring) unpin(name event.Server) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pinned, name)
}

// setOwn replaces this node's own record.
func (k *keyring) setOwn(r *serverRecord) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byName[k.self] = known{r, k.now().UnixMilli()}
	k.byPeer[r.peer] = k.self
}

// own returns this node's own record.
func (k *keyring) own() *serverRecord {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.byName[k.self].serverRecord
}

// accept takes a verified record into the keyring. An error wraps errRecord and
// says why it cannot stand beside what is known; an older record is no error.
func (k *keyring) accept(r *serverRecord) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	fresh, err := k.add(r)
	if err == nil && fresh {
		k.unkept[r.ServerName] = struct{}{}
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	return err
}

// add applies the rules of binding and sequence. k.mu is held.
func (k *keyring) add(r *serverRecord) (fresh bool, err error) {
	id, isPinned := k.pinned[r.ServerName]
	if isPinned && id != r.peer {
		k.log.Error("alarm: a record claims a pinned name for another peer", "name", r.ServerName, "peer_id", r.PeerID)
		return false, fmt.Errorf("%w: %s is pinned to another peer", errRecord, r.ServerName)
	}
	if name, ok := k.byPeer[r.peer]; ok && name != r.ServerName {
		k.log.Error("alarm: a peer shows a second name", "name", name, "other_name", r.ServerName)
		return false, fmt.Errorf("%w: peer %s is known as %s", errRecord, r.PeerID, name)
	}
	old, ok := k.byName[r.ServerName]
	switch {
	case !ok:
		if !isPinned && len(k.byName) > maxKnownRecords {
			return false, fmt.Errorf("%w: %d records are known already", errRecord, len(k.byName))
		}
	case old.peer != r.peer:
		k.log.Error("alarm: a record claims a known name for another peer", "name", r.ServerName, "peer_id", r.PeerID)
		return false, fmt.Errorf("%w: %s is known as another peer", errRecord, r.ServerName)
	case r.ServerName == k.self:
		return false, nil // nobody but this node makes its record
	case old.Seq == r.Seq && !bytes.Equal(old.payload, r.payload):
		k.log.Error("alarm: two records with one sequence number", "name", r.ServerName, "seq", r.Seq)
		return false, fmt.Errorf("%w: another record of %s has the sequence number %d", errRecord, r.ServerName, r.Seq)
	case old.Seq >= r.Seq:
		if old.Seq == r.Seq { // shown again: the server still stands by it
			k.byName[r.ServerName] = known{old.serverRecord, k.now().UnixMilli()}
		}
		return false, nil
	}
	k.byName[r.ServerName] = known{r, k.now().UnixMilli()}
	k.byPeer[r.peer] = r.ServerName
	return true, nil
}

// load takes records that were kept before. Bad ones are logged and left out.
func (k *keyring) load(raws [][]byte) {
	for _, raw := range raws {
		r, err := parseRecord(raw)
		if err == nil {
			k.mu.Lock()
			_, err = k.add(r)
			k.mu.Unlock()
		}
		if err != nil {
			k.log.Warn("a stored server record is left out", "err", err)
		}
	}
}

// learn verifies records that a peer handed on and keeps the good ones.
func (k *keyring) learn(raws [][]byte) {
	for _, raw := range raws {
		if k.knows(raw) {
			continue
		}
		r, err := parseRecord(raw)
		if err == nil {
			err = k.accept(r)
		}
		if err != nil {
			k.log.Warn("a server record that was handed on is refused", "err", err)
		}
	}
}

// knows reports cheaply whether raw is the record that is known already. The
// name is taken from the payload without verification, for this comparison only.
func (k *keyring) knows(raw []byte) bool {
	const field = `"server_name":"`
	_, rest, ok := bytes.Cut(raw, []byte(field))
	if !ok {
		return false
	}
	name, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return false
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	old, ok := k.byName[event.Server(name)]
	return ok && bytes.Equal(old.raw, raw)
}

// key implements Network.Key.
func (k *keyring) key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error) {
	k.mu.RLock()
	r, ok := k.byName[s]
	k.mu.RUnlock()
	if ok {
		if key, valid := r.key(kid, ts, r.fetched); valid {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%w: %s of %s at %d", event.ErrUnknownKey, kid, s, ts)
}

// records implements Network.Records.
func (k *keyring) records(servers []event.Server) [][]byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var out [][]byte
	for _, s := range servers {
		if r, ok := k.byName[s]; ok {
			out = append(out, bytes.Clone(r.raw))
		}
	}
	return out
}

// addrs returns the addresses of a server's record.
func (k *keyring) addrs(s event.Server) []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if r, ok := k.byName[s]; ok {
		return slices.Clone(r.Addrs)
	}
	return nil
}

// takeUnkept returns the records to be saved and forgets that they are to be.
func (k *keyring) takeUnkept() map[event.Server][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[event.Server][]byte, len(k.unkept))
	for name := range maps.Keys(k.unkept) {
		out[name] = k.byName[name].raw
	}
	clear(k.unkept)
	return out
}
