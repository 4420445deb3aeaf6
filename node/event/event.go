package event

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
)

// ErrInvalid says that no correct node made these bytes. Who handed them on
// is at fault, unless the text says otherwise.
var ErrInvalid = errors.New("invalid event")

// ErrTooLarge is an ErrInvalid: a size limit of the specification is exceeded.
var ErrTooLarge = errors.New("event too large")

// ErrSignature says that a required signature is missing or wrong. The id does
// not cover signatures, so this is a bad copy and no verdict about the event.
var ErrSignature = errors.New("bad signature")

// SigningKey is an event key of a server, able to sign.
type SigningKey struct {
	Server  Server
	ID      KeyID
	Private ed25519.PrivateKey
}

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

// Sign completes b with hashes, id and signature.
func Sign(b Body, key SigningKey) (*Event, error) { panic("stub") }

// Parse reads an event from outside: strict JSON, sizes, fields, id. An event
// whose content hash does not match is returned in its redacted form with
// Redacted true. Signatures are not checked. Errors wrap ErrInvalid.
func Parse(raw []byte) (*Event, error) { panic("stub") }

// Load reads an event that this node has parsed or signed before and trusts.
// redacted is what Redacted reported when it was stored.
func Load(id ID, raw []byte, redacted bool) (*Event, error) { panic("stub") }

// Redact returns the redacted form; the id stays (room version 12, Redactions).
func (e *Event) Redact() (*Event, error) { panic("stub") }

// Cosign returns a copy that carries a further signature.
func (e *Event) Cosign(key SigningKey) (*Event, error) { panic("stub") }

// Keys returns the key ids of the signatures that e carries for server.
func (e *Event) Keys(server Server) []KeyID { panic("stub") }

// Verify checks the signature that server made with kid. Errors wrap ErrSignature.
func (e *Event) Verify(server Server, kid KeyID, key ed25519.PublicKey) error { panic("stub") }

// Signers returns the servers whose signatures the event must carry: the
// sender's, and for a restricted join the authorising user's (v12 rule 5.2.1).
func (e *Event) Signers() []Server { panic("stub") }

// Field returns a top-level string property of the content, empty if absent or
// no string.
func (e *Event) Field(name string) string { panic("stub") }

// Membership returns content.membership of an m.room.member event.
func (e *Event) Membership() string { return e.Field("membership") }

// Redacts returns content.redacts of an m.room.redaction event.
func (e *Event) Redacts() ID { return ID(e.Field("redacts")) }
