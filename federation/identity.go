package federation

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"

	"github.com/tokenim/tokenim/node/event"
)

// The files of an identity, in the data directory, each with mode 0600. They
// stand outside the database so that a restored database cannot turn the clock
// of the node's records back (protocol C1).
const (
	fileNodeKey  = "node.key"   // base64 of the libp2p encoding of the node key
	fileEventKey = "event.key"  // "ed25519:ID base64-seed", one key a line, the first one signs
	fileName     = "name"       // the server name; written last
	fileSeq      = "record.seq" // sequence number of the last server record, decimal
	fileEpoch    = "node.epoch" // incarnation, unix seconds, decimal
	filePort     = "p2p.port"   // the port that listens if none is configured, decimal
)

// Identity is who a node is: its name, its node key (libp2p identity) and its
// event keys. The two kinds are apart so that event keys can be replaced.
type Identity struct {
	Name     event.Server
	EventKey event.SigningKey // signs new events; one of eventKeys

	dir         string
	nodeKey     crypto.PrivKey
	peerID      peer.ID
	eventKeys   []event.SigningKey
	incarnation uint32
}

// PeerID returns the libp2p peer id in text form.
func (i *Identity) PeerID() string { return i.peerID.String() }

// CreateIdentity makes the keys of a node in dir (mode 0600) unless they exist,
// and returns them. An empty name makes the self-certifying name, or accepts
// the stored one. A name other than the stored one is refused with ErrName. The
// directory is created with mode 0700 if need be. Nothing is ever overwritten.
func CreateIdentity(dir, name string) (*Identity, error) {
	if name != "" {
		if _, err := event.ParseServer(name); err != nil {
			return nil, err
		}
	}
	stored, err := readLine(filepath.Join(dir, fileName))
	switch {
	case err == nil && name != "" && stored != name:
		return nil, fmt.Errorf("%w: %s belongs to %q, not %q", ErrName, dir, stored, name)
	case err == nil:
		return LoadIdentity(dir)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := createNodeKey(dir)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	self := string(selfName(id))
	if name == "" {
		name = self
	}
	if isSelfName(name) && name != self {
		return nil, fmt.Errorf("%w: the self-certifying name %s needs another node key; the one of this key is %s", ErrName, name, self)
	}
	if err := createRest(dir, name); err != nil {
		return nil, err
	}
	i, err := LoadIdentity(dir)
	if err == nil && string(i.Name) != name { // another process was faster
		return nil, fmt.Errorf("%w: %s belongs to %q, not %q", ErrName, dir, i.Name, name)
	}
	return i, err
}

// createNodeKey returns the node key of dir and makes it if it is missing.
func createNodeKey(dir string) (crypto.PrivKey, error) {
	key, err := readNodeKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, _, err = crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return nil, err
	}
	err = writeNew(filepath.Join(dir, fileNodeKey), []byte(base64.StdEncoding.EncodeToString(raw)+"\n"))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readNodeKey(dir)
}

// createRest writes the files behind the node key, the name last: it marks the
// identity as complete.
func createRest(dir, name string) error {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	now := time.Now()
	for _, f := range []struct{ name, text string }{
		{fileEventKey, "ed25519:" + rand.Text()[:8] + " " + base64.RawStdEncoding.EncodeToString(seed)},
		{fileEpoch, strconv.FormatInt(now.Unix(), 10)},
		{fileSeq, strconv.FormatInt(now.UnixMilli(), 10)},
		{fileName, name},
	} {
		err := writeNew(filepath.Join(dir, f.name), []byte(f.text+"\n"))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// LoadIdentity reads the keys; the error wraps fs.ErrNotExist if there are none
// and ErrIdentity if some are missing or damaged.
func LoadIdentity(dir string) (*Identity, error) {
	name, err := readLine(filepath.Join(dir, fileName))
	if err != nil {
		return nil, fmt.Errorf("no identity in %s: %w", dir, err)
	}
	server, err := event.ParseServer(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrIdentity, filepath.Join(dir, fileName), err)
	}
	i := &Identity{Name: server, dir: dir}
	if i.nodeKey, err = readNodeKey(dir); err != nil {
		return nil, damaged(dir, fileNodeKey, err)
	}
	if i.peerID, err = peer.IDFromPrivateKey(i.nodeKey); err != nil {
		return nil, damaged(dir, fileNodeKey, err)
	}
	if isSelfName(name) && selfName(i.peerID) != server {
		return nil, damaged(dir, fileName, errors.New("it is the self-certifying name of another key"))
	}
	if i.eventKeys, err = readEventKeys(dir, server); err != nil {
		return nil, damaged(dir, fileEventKey, err)
	}
	i.EventKey = i.eventKeys[0]
	epoch, err := readNumber(filepath.Join(dir, fileEpoch))
	if err != nil || epoch <= 0 || epoch > 1<<32-1 {
		return nil, damaged(dir, fileEpoch, err)
	}
	i.incarnation = uint32(epoch)
	return i, nil
}

// damaged hides fs.ErrNotExist: an identity that lost one of its files must
// not be taken for none.
func damaged(dir, file string, err error) error {
	return fmt.Errorf("%w: %s: %v; restore it from a backup", ErrIdentity, filepath.Join(dir, file), err)
}

func readNodeKey(dir string) (crypto.PrivKey, error) {
	text, err := readLine(filepath.Join(dir, fileNodeKey))
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrIdentity, fileNodeKey, err)
	}
	key, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrIdentity, fileNodeKey, err)
	}
	if _, ok := key.(*crypto.Ed25519PrivateKey); !ok {
		return nil, fmt.Errorf("%w: %s is no Ed25519 key", ErrIdentity, fileNodeKey)
	}
	return key, nil
}

func readEventKeys(dir string, server event.Server) ([]event.SigningKey, error) {
	text, err := readLine(filepath.Join(dir, fileEventKey))
	if err != nil {
		return nil, err
	}
	var keys []event.SigningKey
	for line := range strings.Lines(text) {
		id, b64, _ := strings.Cut(strings.TrimSpace(line), " ")
		seed, err := base64.RawStdEncoding.DecodeString(b64)
		if err != nil || len(seed) != ed25519.SeedSize || !isKeyID(id) {
			return nil, errors.New(`a line is not "ed25519:ID base64-seed"`)
		}
		keys = append(keys, event.SigningKey{Server: server, ID: event.KeyID(id), Private: ed25519.NewKeyFromSeed(seed)})
	}
	if len(keys) == 0 || len(keys) > maxRecordKeys {
		return nil, fmt.Errorf("%d keys, not 1 to %d", len(keys), maxRecordKeys)
	}
	return keys, nil
}

func readNumber(path string) (int64, error) {
	text, err := readLine(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// nextSeq returns the sequence number of the next server record and makes it
// durable before it returns. A lost file does no harm: numbers follow the clock.
func (i *Identity) nextSeq(now time.Time) (int64, error) {
	path := filepath.Join(i.dir, fileSeq)
	last, err := readNumber(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, strconv.ErrSyntax) {
		return 0, err
	}
	seq := max(last+1, now.UnixMilli())
	if seq > maxSafeInt {
		return 0, fmt.Errorf("%w: %s holds %d", ErrIdentity, path, last)
	}
	return seq, writeReplace(path, []byte(strconv.FormatInt(seq, 10)+"\n"))
}

// isKeyID reports whether s has the form "ed25519:" and 1 to 32 of [A-Za-z0-9_].
func isKeyID(s string) bool {
	v, ok := strings.CutPrefix(s, "ed25519:")
	if !ok || len(v) == 0 || len(v) > 32 {
		return false
	}
	for i := range len(v) {
		c := v[i]
		if c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// selfName returns the self-certifying server name of a peer: base36 of the
// CIDv1 of its node key (protocol C1).
func selfName(id peer.ID) event.Server {
	s, err := peer.ToCid(id).StringOfBase(multibase.Base36)
	if err != nil {
		return "" // base36 encodes everything
	}
	return event.Server(s)
}

// isSelfName reports whether s has the look of a self-certifying name.
func isSelfName(s string) bool { return len(s) == 62 && strings.HasPrefix(s, "k51") }
