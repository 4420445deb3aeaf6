package event

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"unicode/utf8"
)

// maxInput limits what Parse looks at: the escapes, spaces and unsigned data of
// a correct event fit, and nothing larger is worth reading.
const maxInput = 4 * MaxSize

// Parse reads an event from outside: strict JSON, sizes, fields, id. An event
// whose content hash does not match is returned in its redacted form with
// Redacted true. Signatures are not checked. unsigned is dropped, and so are
// signatures by servers that have no reason to sign this event: they are not
// covered by the id, and whoever hands the event on could add them at will.
// raw is not kept. Errors wrap ErrInvalid.
func Parse(raw []byte) (*Event, error) {
	if len(raw) > maxInput {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(raw))
	}
	var err error
	if isCanonical(raw) {
		raw = bytes.Clone(raw)
	} else if raw, err = canonicalize(raw); err != nil {
		return nil, err
	}
	e, err := decode(raw)
	if err != nil {
		return nil, err
	}
	if e, err = e.strip(); err != nil {
		return nil, err
	}
	if len(e.raw) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrTooLarge, len(e.raw), MaxSize)
	}
	if !e.covered() {
		raw := appendRedacted(make([]byte, 0, len(e.raw)), e.raw, e.Type, true)
		if e, err = decode(raw); err != nil {
			return nil, err
		}
		// If the author's event had nothing to redact, what was added to it is
		// gone and the event is whole.
		e.redacted = !e.covered()
	}
	var scratch [2048]byte
	e.setID(newID(sha256.Sum256(e.appendSigned(scratch[:0]))))
	return e, nil
}

// covered reports whether the content hash is the one of these bytes.
func (e *Event) covered() bool {
	var scratch [2048]byte
	content := appendWithout(scratch[:0], e.raw, func(key []byte) bool {
		return string(key) == "hashes" || string(key) == "signatures"
	})
	return matches(lookup(lookup(e.raw, "hashes"), "sha256"), sha256.Sum256(content))
}

// Load reads an event that this node has parsed or signed before and trusts.
// redacted is what Redacted reported when it was stored. raw is not kept.
// Errors wrap ErrInvalid and mean that the bytes were damaged.
func Load(id ID, raw []byte, redacted bool) (*Event, error) {
	if !isHash(id, '$') {
		return nil, fmt.Errorf("%w: no event id", ErrInvalid)
	}
	return load(id, bytes.Clone(raw), redacted)
}

// load is Load for bytes that nobody else holds.
func load(id ID, raw []byte, redacted bool) (*Event, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrTooLarge, len(raw), MaxSize)
	}
	e, err := decode(raw)
	if err != nil {
		return nil, err
	}
	e.redacted = redacted
	e.setID(id)
	return e, nil
}

func (e *Event) setID(id ID) {
	e.id = id
	if e.Type == "m.room.create" {
		e.Room = id.Room()
	}
}

// matches reports whether the JSON string v is the base64 of hash.
func matches(v []byte, hash [32]byte) bool {
	var want [43]byte
	base64.RawStdEncoding.Encode(want[:], hash[:])
	if len(v) == len(want)+2 && string(v[1:len(v)-1]) == string(want[:]) {
		return true
	}
	text, _ := appendUnquoted(nil, v)
	got, err := decodeBase64(text)
	return err == nil && subtle.ConstantTimeCompare(got, hash[:]) == 1
}

// strip returns e without unsigned and without signatures by servers that have
// no part in it: the sender's, the authorising user's (rule 5.2.1), and for
// m.room.member the one of the user it is about, which signs invites.
func (e *Event) strip() (*Event, error) {
	signatures := lookup(e.raw, "signatures")
	signers := e.Signers()
	if e.Type == "m.room.member" && e.StateKey != nil {
		signers = append(signers, UserID(*e.StateKey).Server())
	}
	foreign := func(server []byte) bool {
		return !slices.ContainsFunc(signers, func(s Server) bool { return string(server) == string(s) })
	}
	strange := false
	for r := read(signatures, '{'); ; {
		server, _, ok := r.member()
		if !ok {
			break
		}
		strange = strange || foreign(server)
	}
	raw := e.raw
	if strange {
		raw = appendWith(make([]byte, 0, len(raw)), raw, "signatures", appendWithout(nil, signatures, foreign))
	}
	if lookup(raw, "unsigned") != nil {
		raw = appendWithout(make([]byte, 0, len(raw)), raw, func(key []byte) bool { return string(key) == "unsigned" })
	}
	if len(raw) == len(e.raw) {
		return e, nil
	}
	return decode(raw)
}

// fields are the values of the properties of an event, nil where absent.
type fields struct {
	auth, content, depth, hashes, time, prev, room, sender, signatures, stateKey, typ, unsigned []byte
}

// decode reads the properties of the event that raw encodes, and keeps raw. The
// id is not set.
func decode(raw []byte) (*Event, error) {
	f, err := split(raw)
	if err != nil {
		return nil, err
	}
	e := &Event{raw: raw}
	e.Content = f.content
	var ok bool
	if e.Depth, ok = number(f.depth); !ok {
		return nil, fmt.Errorf("%w: depth is not an integer from 0", ErrInvalid)
	}
	if e.Time, ok = number(f.time); !ok {
		return nil, fmt.Errorf("%w: origin_server_ts is not an integer from 0", ErrInvalid)
	}
	if err := e.decodeTexts(&f); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

// split finds the properties and checks the types of those that are objects.
func split(raw []byte) (f fields, err error) {
	r := read(raw, '{')
	for {
		key, value, ok := r.member()
		if !ok {
			break
		}
		switch string(key) {
		case "auth_events":
			f.auth = value
		case "content":
			f.content = value
		case "depth":
			f.depth = value
		case "hashes":
			f.hashes = value
		case "origin_server_ts":
			f.time = value
		case "prev_events":
			f.prev = value
		case "room_id":
			f.room = value
		case "sender":
			f.sender = value
		case "signatures":
			f.signatures = value
		case "state_key":
			f.stateKey = value
		case "type":
			f.typ = value
		case "unsigned":
			f.unsigned = value
		}
	}
	switch {
	case r.bad:
		return f, fmt.Errorf("%w: not a JSON object", ErrInvalid)
	case len(f.content) == 0 || f.content[0] != '{':
		return f, fmt.Errorf("%w: content is not an object", ErrInvalid)
	case f.unsigned != nil && f.unsigned[0] != '{':
		return f, fmt.Errorf("%w: unsigned is not an object", ErrInvalid)
	case !isTexts(f.hashes) || lookup(f.hashes, "sha256") == nil:
		return f, fmt.Errorf("%w: hashes is not an object of strings with sha256", ErrInvalid)
	case !isSignatures(f.signatures):
		return f, fmt.Errorf("%w: signatures are not of the form {server: {key: text}}", ErrInvalid)
	}
	return f, nil
}

// decodeTexts sets the properties that are strings or made of strings. They
// share one piece of memory, so that an event costs few allocations.
func (e *Event) decodeTexts(f *fields) error {
	var scratch [2048]byte
	text := scratch[:0]
	var ends [4]int
	for i, v := range [...][]byte{f.typ, f.sender, f.room, f.stateKey} {
		var ok bool
		if text, ok = appendUnquoted(text, v); !ok && (v != nil || i < 2) {
			return fmt.Errorf("%w: type, sender, room_id and state_key must be strings, the first two be present", ErrInvalid)
		}
		ends[i] = len(text)
	}
	if ends[3] > 4*maxText {
		return fmt.Errorf("%w: type, sender, room_id and state_key have %d bytes", ErrTooLarge, ends[3])
	}
	text, prev, ok := appendHashes(text, f.prev, MaxPrev)
	if !ok {
		return fmt.Errorf("%w: prev_events is not a list of at most %d event ids", ErrInvalid, MaxPrev)
	}
	text, auth, ok := appendHashes(text, f.auth, MaxAuth)
	if !ok {
		return fmt.Errorf("%w: auth_events is not a list of at most %d event ids", ErrInvalid, MaxAuth)
	}
	s := string(text)
	e.Type = s[:ends[0]]
	e.Sender = UserID(s[ends[0]:ends[1]])
	e.Room = RoomID(s[ends[1]:ends[2]])
	if f.stateKey != nil {
		e.stateKey = s[ends[2]:ends[3]]
		e.StateKey = &e.stateKey
	}
	// An empty list is not nil and the two never share room to grow.
	ids := make([]ID, prev+auth)
	for i := range ids {
		ids[i] = ID(s[ends[3]+i*hashLen:][:hashLen])
	}
	e.Prev, e.Auth = ids[:prev:prev], ids[prev:]
	if f.room != nil && e.Type == "m.room.create" {
		// Rule 1.2 of room version 12.
		return fmt.Errorf("%w: m.room.create with a room_id", ErrInvalid)
	}
	return nil
}

// appendHashes appends the event ids of the list v without separators and
// returns how many they are.
func appendHashes(dst, v []byte, limit int) ([]byte, int, bool) {
	r := read(v, '[')
	for n := 0; ; n++ {
		id, ok := r.element()
		if !ok {
			return dst, n, !r.bad
		}
		if n == limit || len(id) != hashLen+2 || id[0] != '"' || !isHash(id[1:len(id)-1], '$') {
			return dst, n, false
		}
		dst = append(dst, id[1:len(id)-1]...)
	}
}

// number reads a canonical integer that is not negative.
func number(v []byte) (n int64, ok bool) {
	if len(v) == 0 || len(v) > 16 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n <= MaxInteger
}

// check holds for every event, read or made here.
func (b *Body) check() error {
	key := ""
	if b.StateKey != nil {
		key = *b.StateKey
	}
	switch {
	case len(b.Type) > maxText || len(key) > maxText || len(b.Sender) > maxUserID:
		return fmt.Errorf("%w: type of %d, state_key of %d, sender of %d bytes", ErrTooLarge, len(b.Type), len(key), len(b.Sender))
	case !utf8.ValidString(b.Type) || !utf8.ValidString(key):
		return fmt.Errorf("%w: type or state_key is not UTF-8", ErrInvalid)
	case len(b.Prev) > MaxPrev || len(b.Auth) > MaxAuth:
		return fmt.Errorf("%w: %d prev_events, %d auth_events", ErrTooLarge, len(b.Prev), len(b.Auth))
	case b.Depth < 0 || b.Depth > MaxInteger || b.Time < 0 || b.Time > MaxInteger:
		return fmt.Errorf("%w: depth %d or time %d is out of range", ErrInvalid, b.Depth, b.Time)
	case b.Type == "m.room.create" && b.Room != "":
		return fmt.Errorf("%w: m.room.create with a room", ErrInvalid)
	case b.Type != "m.room.create" && !isHash(b.Room, '!'):
		return fmt.Errorf("%w: room_id is no room id of room version 12", ErrInvalid)
	}
	for _, ids := range [...][]ID{b.Prev, b.Auth} {
		for _, id := range ids {
			if !isHash(id, '$') {
				return fmt.Errorf("%w: no event id", ErrInvalid)
			}
		}
	}
	_, err := ParseUserID(string(b.Sender))
	return err
}
