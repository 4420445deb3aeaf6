package federation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	librecord "github.com/libp2p/go-libp2p/core/record"

	"github.com/tokenim/tokenim/node/event"
)

const (
	recordDomain   = "tokenim-server-record"
	recordCodec    = "/tokenim/server-record"
	maxRecord      = 8 << 10         // bytes of the canonical JSON
	maxRecordRaw   = maxRecord + 512 // bytes with the envelope around it
	maxRecordKeys  = 16              // entries of each map of keys
	maxRecordTexts = 32              // entries of protocols and of limits
	maxSafeInt     = 1<<53 - 1
	recordLife     = 7 * 24 * time.Hour
)

// recordBody is the JSON of a server record (protocol C1). Fields that this
// version does not know are kept in the signed bytes and ignored.
type recordBody struct {
	ServerName      event.Server              `json:"server_name"`
	PeerID          string                    `json:"peer_id"`
	Seq             int64                     `json:"seq"` // higher wins
	Incarnation     uint32                    `json:"incarnation"`
	Addrs           []string                  `json:"addrs"`
	VerifyKeys      map[event.KeyID]verifyKey `json:"verify_keys"`
	OldVerifyKeys   map[event.KeyID]oldKey    `json:"old_verify_keys,omitempty"`
	Revoked         map[event.KeyID]revoked   `json:"revoked,omitempty"`
	SuccessorPeerID string                    `json:"successor_peer_id,omitempty"`
	RecoveryHash    string                    `json:"recovery_hash,omitempty"`
	ValidUntil      int64                     `json:"valid_until_ts"` // milliseconds
	Protocols       []string                  `json:"protocols"`
	Limits          map[string]int64          `json:"limits"`
}

type verifyKey struct {
	Key       string `json:"key"` // unpadded base64
	ValidFrom int64  `json:"valid_from"`
}

type oldKey struct {
	Key       string `json:"key"`
	ExpiredTS int64  `json:"expired_ts"`
}

type revoked struct {
	Since int64 `json:"since"`
}

// serverRecord is a record whose signatures hold. It is immutable.
type serverRecord struct {
	recordBody
	peer    peer.ID
	payload []byte // the canonical JSON
	raw     []byte // the envelope in its one encoding
	keys    map[event.KeyID]ed25519.PublicKey
	old     map[event.KeyID]ed25519.PublicKey
}

// sealed adapts the payload to the envelope of libp2p.
type sealed []byte

// Domain implements record.Record.
func (sealed) Domain() string { return recordDomain }

// Codec implements record.Record.
func (sealed) Codec() []byte { return []byte(recordCodec) }

// MarshalRecord implements record.Record.
func (s sealed) MarshalRecord() ([]byte, error) { return s, nil }

// UnmarshalRecord implements record.Record.
func (s sealed) UnmarshalRecord([]byte) error { return nil }

// newRecord makes a record of this node.
func newRecord(i *Identity, seq int64, addrs []string, now time.Time) (*serverRecord, error) {
	raw, err := sealRecord(i, seq, addrs, now)
	if err != nil {
		return nil, err
	}
	return parseRecord(raw)
}

// sealRecord signs a record with every event key and the node key.
func sealRecord(i *Identity, seq int64, addrs []string, now time.Time) ([]byte, error) {
	body := recordBody{
		ServerName: i.Name, PeerID: i.PeerID(), Seq: seq, Incarnation: i.incarnation,
		Addrs: addrs, VerifyKeys: map[event.KeyID]verifyKey{},
		ValidUntil: now.Add(recordLife).UnixMilli(),
		Protocols:  []string{string(protoRPC), string(protoMesh)}, Limits: map[string]int64{},
	}
	for _, k := range i.eventKeys {
		pub := k.Private.Public().(ed25519.PublicKey)
		body.VerifyKeys[k.ID] = verifyKey{Key: base64.RawStdEncoding.EncodeToString(pub)}
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	for _, k := range i.eventKeys {
		if payload, err = event.SignJSON(payload, k); err != nil {
			return nil, err
		}
	}
	if payload, err = event.Canonical(payload); err != nil {
		return nil, err
	}
	env, err := librecord.Seal(sealed(payload), i.nodeKey)
	if err != nil {
		return nil, err
	}
	return env.Marshal()
}

// parseRecord reads a record and verifies everything it proves by itself: the
// signature of the node key that is the peer id, and one by every event key it
// lists. Errors wrap errRecord. Whether the name belongs to the peer is for the
// keyring to say.
func parseRecord(raw []byte) (*serverRecord, error) {
	r, err := readRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	return r, nil
}

func readRecord(raw []byte) (*serverRecord, error) {
	if len(raw) > maxRecordRaw {
		return nil, fmt.Errorf("%d bytes, more than %d", len(raw), maxRecordRaw)
	}
	env, err := librecord.ConsumeTypedEnvelope(raw, sealed(nil))
	if err != nil {
		return nil, err
	}
	if string(env.PayloadType) != recordCodec {
		return nil, fmt.Errorf("payload type %.32q", env.PayloadType)
	}
	if env.PublicKey.Type() != keyEd25519 {
		return nil, fmt.Errorf("node key of type %s", env.PublicKey.Type())
	}
	r := &serverRecord{payload: env.RawPayload}
	if err := r.decode(env.PublicKey); err != nil {
		return nil, err
	}
	for kid, key := range r.keys {
		if err := event.VerifyJSON(r.payload, r.ServerName, kid, key); err != nil {
			return nil, fmt.Errorf("signature by %s: %w", kid, err)
		}
	}
	// The same record has the same bytes whoever hands it on.
	r.raw, err = env.Marshal()
	return r, err
}

// decode reads the payload and checks form and bounds of every field.
func (r *serverRecord) decode(nodeKey crypto.PubKey) error {
	if len(r.payload) > maxRecord {
		return fmt.Errorf("%d bytes of JSON, more than %d", len(r.payload), maxRecord)
	}
	canonical, err := event.Canonical(r.payload)
	if err != nil {
		return err
	}
	if !bytes.Equal(canonical, r.payload) {
		return fmt.Errorf("the JSON is not canonical")
	}
	if err := json.Unmarshal(r.payload, &r.recordBody); err != nil {
		return err
	}
	if _, err := event.ParseServer(string(r.ServerName)); err != nil {
		return err
	}
	if r.peer, err = parsePeerID(r.PeerID); err != nil {
		return err
	}
	if !r.peer.MatchesPublicKey(nodeKey) {
		return fmt.Errorf("peer id %s is not the one of the key that signed", r.PeerID)
	}
	if isSelfName(string(r.ServerName)) && selfName(r.peer) != r.ServerName {
		return fmt.Errorf("the name %s is not the one of the peer id %s", r.ServerName, r.PeerID)
	}
	if r.Seq <= 0 || r.ValidUntil <= 0 {
		return fmt.Errorf("seq %d, valid_until_ts %d", r.Seq, r.ValidUntil)
	}
	if len(r.Addrs) > maxAddresses || len(r.Protocols) > maxRecordTexts || len(r.Limits) > maxRecordTexts ||
		len(r.VerifyKeys) == 0 || len(r.VerifyKeys) > maxRecordKeys ||
		len(r.OldVerifyKeys) > maxRecordKeys || len(r.Revoked) > maxRecordKeys {
		return fmt.Errorf("too many or too few entries")
	}
	for _, a := range r.Addrs {
		if _, err := parseAddr(a); err != nil {
			return err
		}
	}
	return r.decodeKeys()
}

func (r *serverRecord) decodeKeys() error {
	r.keys = make(map[event.KeyID]ed25519.PublicKey, len(r.VerifyKeys))
	r.old = make(map[event.KeyID]ed25519.PublicKey, len(r.OldVerifyKeys))
	for kid, k := range r.VerifyKeys {
		key, err := decodeKey(kid, k.Key)
		if err != nil {
			return err
		}
		r.keys[kid] = key
	}
	for kid, k := range r.OldVerifyKeys {
		key, err := decodeKey(kid, k.Key)
		if err != nil {
			return err
		}
		if _, both := r.keys[kid]; both {
			return fmt.Errorf("key %s is both current and old", kid)
		}
		r.old[kid] = key
	}
	for kid := range r.Revoked {
		if !isKeyID(string(kid)) {
			return fmt.Errorf("key id %.40q", kid)
		}
	}
	return nil
}

func decodeKey(kid event.KeyID, b64 string) (ed25519.PublicKey, error) {
	key, err := base64.RawStdEncoding.Strict().DecodeString(b64)
	if err != nil || len(key) != ed25519.PublicKeySize || !isKeyID(string(kid)) {
		return nil, fmt.Errorf("key %.40q is no Ed25519 key in unpadded base64", kid)
	}
	return key, nil
}

// key returns the key kid if the record says that it was valid at ts; fetched
// is when the record was learned. Both in milliseconds. C1: an event's time must
// not lie behind valid_until_ts, nor more than seven days behind the moment the
// record was fetched; for an old key not behind expired_ts.
func (r *serverRecord) key(kid event.KeyID, ts, fetched int64) (ed25519.PublicKey, bool) {
	if v, ok := r.Revoked[kid]; ok && ts >= v.Since {
		return nil, false
	}
	if k, ok := r.keys[kid]; ok {
		return k, ts <= min(r.ValidUntil, fetched+recordLife.Milliseconds())
	}
	if k, ok := r.old[kid]; ok {
		return k, ts <= r.OldVerifyKeys[kid].ExpiredTS
	}
	return nil, false
}
