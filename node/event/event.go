package event

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Limits of an event (Client-Server API, Size limits; Server-Server API, PDU
// format). type, state_key and sender have 255 bytes at most.
const (
	MaxSize = 65536 // bytes of the canonical JSON, signatures included, unsigned not
	MaxPrev = 20    // prev_events
	MaxAuth = 10    // auth_events

	maxText = 255
)

// ErrInvalid says that no correct node made these bytes. Who handed them on
// is at fault, unless the text says otherwise.
var ErrInvalid = errors.New("invalid event")

// ErrTooLarge is an ErrInvalid: a size limit of the specification is exceeded.
var ErrTooLarge = fmt.Errorf("%w: too large", ErrInvalid)

// ErrSignature says that a required signature is missing or wrong. The id does
// not cover signatures, so this is a bad copy and no verdict about the event.
var ErrSignature = errors.New("bad signature")

// Body is what the author of an event decides.
type Body struct {
	Room     RoomID // empty on the wire for m.room.create; filled from the id when read
	Type     string
	StateKey *string // nil for message events
	Sender   UserID
	Content  json.RawMessage
	Prev     []ID
	Auth     []ID
	Depth    int64
	Time     int64 // origin_server_ts, milliseconds since 1970
}

// Event is an immutable event of room version 12.
type Event struct {
	Body
	id       ID
	raw      []byte // canonical JSON, signatures included, unsigned stripped
	redacted bool
	stateKey string // what Body.StateKey points to
}

// ID returns the event id.
func (e *Event) ID() ID { return e.id }

// JSON returns the canonical bytes. The caller must not change them.
func (e *Event) JSON() []byte { return e.raw }

// Redacted reports whether the content hash does not cover the content: this
// is the redacted form of the event that its author made.
func (e *Event) Redacted() bool { return e.redacted }

// Is reports whether e is a state event of this type and state key.
func (e *Event) Is(typ, key string) bool {
	return e.Type == typ && e.StateKey != nil && *e.StateKey == key
}

// Sign completes b with hashes, id and signature. A create event must have no
// Room; the event returned has the one it makes. The content is brought into
// its canonical form. Errors wrap ErrInvalid.
func Sign(b Body, key SigningKey) (*Event, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	content, err := Canonical(b.Content)
	if err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	if content[0] != '{' {
		return nil, fmt.Errorf("%w: content is not an object", ErrInvalid)
	}
	b.Content = content
	if err := b.check(); err != nil {
		return nil, err
	}
	buf := make([]byte, 0, len(content)+1024)
	unhashed := appendBody(buf, &b, "", "")
	hash := sha256.Sum256(unhashed)
	hashes := `{"sha256":"` + base64.RawStdEncoding.EncodeToString(hash[:]) + `"}`
	unsigned := appendBody(make([]byte, 0, len(unhashed)+128), &b, hashes, "")
	payload := appendRedacted(buf[:0], unsigned, b.Type, false)
	keys := appendWith(nil, nil, string(key.ID), appendText(nil, key.sign(payload)))
	signatures := appendWith(nil, nil, string(key.Server), keys)
	id := newID(sha256.Sum256(payload))
	raw := appendBody(make([]byte, 0, len(unsigned)+len(signatures)+16), &b, hashes, string(signatures))
	// The content alone was checked so far; in the event it is nested deeper.
	if !isCanonical(raw) {
		return nil, fmt.Errorf("%w: text that is not UTF-8, or content nested too deeply", ErrInvalid)
	}
	return load(id, raw, false)
}

// appendBody appends the canonical JSON of b, whose content is canonical. Empty
// hashes and signatures are left out.
func appendBody(dst []byte, b *Body, hashes, signatures string) []byte {
	dst = appendIDs(append(dst, `{"auth_events":`...), b.Auth)
	dst = append(append(dst, `,"content":`...), b.Content...)
	dst = strconv.AppendInt(append(dst, `,"depth":`...), b.Depth, 10)
	if hashes != "" {
		dst = append(append(dst, `,"hashes":`...), hashes...)
	}
	dst = strconv.AppendInt(append(dst, `,"origin_server_ts":`...), b.Time, 10)
	dst = appendIDs(append(dst, `,"prev_events":`...), b.Prev)
	if b.Room != "" {
		dst = appendText(append(dst, `,"room_id":`...), string(b.Room))
	}
	dst = appendText(append(dst, `,"sender":`...), string(b.Sender))
	if signatures != "" {
		dst = append(append(dst, `,"signatures":`...), signatures...)
	}
	if b.StateKey != nil {
		dst = appendText(append(dst, `,"state_key":`...), *b.StateKey)
	}
	dst = appendText(append(dst, `,"type":`...), b.Type)
	return append(dst, '}')
}

func appendIDs(dst []byte, ids []ID) []byte {
	dst = append(dst, '[')
	for i, id := range ids {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, string(id))
	}
	return append(dst, ']')
}

// Cosign returns a copy that carries a further signature, or a new one in place
// of an older one by the same key. Errors wrap ErrInvalid.
func (e *Event) Cosign(key SigningKey) (*Event, error) {
	if err := key.check(); err != nil {
		return nil, err
	}
	signature := key.sign(e.appendSigned(nil))
	return load(e.id, appendSigned(make([]byte, 0, len(e.raw)+256), e.raw, key.Server, key.ID, signature), e.redacted)
}

// appendSigned appends what signatures and the reference hash cover.
func (e *Event) appendSigned(dst []byte) []byte { return appendRedacted(dst, e.raw, e.Type, false) }

// Keys returns the key ids of the signatures that e carries for server, of the
// algorithm that can be checked.
func (e *Event) Keys(server Server) []KeyID {
	var keys []KeyID
	for r := read(find(lookup(e.raw, "signatures"), string(server)), '{'); ; {
		key, _, ok := r.member()
		if !ok {
			return keys
		}
		text, _ := appendUnquoted(nil, r.b[r.start:r.start+len(key)+2])
		if kid := KeyID(text); isEd25519(kid) {
			keys = append(keys, kid)
		}
	}
}

// Verify checks the signature that server made with kid. Errors wrap ErrSignature.
func (e *Event) Verify(server Server, kid KeyID, key ed25519.PublicKey) error {
	return verify(lookup(e.raw, "signatures"), server, kid, key, func() []byte {
		return e.appendSigned(make([]byte, 0, 1024))
	})
}

// Signers returns the servers whose signatures the event must carry: the
// sender's, and for a restricted join the authorising user's (v12 rule 5.2.1).
// An authorising user that is no user id gives an empty name, by which nothing
// can be signed.
func (e *Event) Signers() []Server {
	signers := []Server{e.Sender.Server()}
	if e.Type != "m.room.member" {
		return signers
	}
	v := lookup(e.Content, "join_authorised_via_users_server")
	if v == nil {
		return signers
	}
	text, _ := appendUnquoted(nil, v)
	user, _ := ParseUserID(string(text))
	if s := user.Server(); !slices.Contains(signers, s) {
		signers = append(signers, s)
	}
	return signers
}

// Field returns a top-level string property of the content, empty if absent or
// no string.
func (e *Event) Field(name string) string {
	text, _ := appendUnquoted(nil, find(e.Content, name))
	return string(text)
}

// Membership returns content.membership of an m.room.member event.
func (e *Event) Membership() string { return e.Field("membership") }

// Redacts returns content.redacts of an m.room.redaction event.
func (e *Event) Redacts() ID { return ID(e.Field("redacts")) }
