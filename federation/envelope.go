package federation

import (
	"encoding/base64"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tokenim/tokenim/node/event"
)

// Limits of what one gossip message carries (protocol C3).
const (
	maxPDUs      = 50        // events of a message
	maxPDUBytes  = 256 << 10 // bytes of the events of a message together
	maxPDU       = event.MaxSize
	maxHeads     = 10       // forward extremities of a message
	maxEDU       = 32 << 10 // bytes of an ephemeral message
	maxPlain     = maxPDUBytes + maxPDUs*4 + maxHeads*36 + 256
	maxZstdRatio = 100
	minZstd      = 4 << 10 // a single message is sent as it is: 50 us for a few hundred bytes do not pay
)

const (
	envelopeVersion = 0x01
	codecRaw        = 0
	codecZstd       = 1
)

// The fields of the protobuf message inside.
const (
	fieldRoom  protowire.Number = 1 // 32 bytes, the hash of the create event
	fieldPDU   protowire.Number = 2 // repeated: JSON as signed
	fieldHead  protowire.Number = 3 // repeated: 32 bytes, the hash of an event
	fieldSent  protowire.Number = 4 // varint, milliseconds
	fieldEDU   protowire.Number = 5 // JSON of an ephemeral message
	hashLength                  = 32
)

// envelope is a gossip message: version byte, codec byte, protobuf.
type envelope struct {
	room  event.RoomID
	pdus  [][]byte
	heads []event.ID
	edu   []byte
	sent  int64 // milliseconds; makes equal content another message
}

// Encoder and decoder of zstd; both are safe for concurrent use and start no
// goroutine in the forms that are used here.
var (
	zstdEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	zstdDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxPlain), zstd.WithDecoderMaxWindow(maxPlain*2))
)

// checkBatch enforces the limits of Publish.
func checkBatch(pdus [][]byte, heads []event.ID) error {
	if len(pdus) == 0 || len(pdus) > maxPDUs {
		return fmt.Errorf("%d events, not 1 to %d", len(pdus), maxPDUs)
	}
	total := 0
	for _, p := range pdus {
		if len(p) == 0 || len(p) > maxPDU {
			return fmt.Errorf("event of %d bytes, not 1 to %d", len(p), maxPDU)
		}
		total += len(p)
	}
	if total > maxPDUBytes {
		return fmt.Errorf("%d bytes of events, more than %d", total, maxPDUBytes)
	}
	if len(heads) > maxHeads {
		return fmt.Errorf("%d heads, more than %d", len(heads), maxHeads)
	}
	return nil
}

// encode returns the bytes that go to the topic.
func (e *envelope) encode() ([]byte, error) {
	room, err := hashOf(string(e.room), '!')
	if err != nil {
		return nil, err
	}
	size := 2 + 2 + hashLength + 11 + len(e.edu) + 6 + len(e.heads)*(hashLength+2)
	for _, p := range e.pdus {
		size += len(p) + 5
	}
	b := make([]byte, 2, size)
	b[0], b[1] = envelopeVersion, codecRaw
	b = appendBytes(b, fieldRoom, room)
	for _, p := range e.pdus {
		b = appendBytes(b, fieldPDU, p)
	}
	for _, h := range e.heads {
		hash, err := hashOf(string(h), '$')
		if err != nil {
			return nil, err
		}
		b = appendBytes(b, fieldHead, hash)
	}
	b = protowire.AppendTag(b, fieldSent, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(e.sent))
	if e.edu != nil {
		b = appendBytes(b, fieldEDU, e.edu)
	}
	if len(b) < minZstd {
		return b, nil
	}
	z := make([]byte, 2, len(b)/2)
	z[0], z[1] = envelopeVersion, codecZstd
	z = zstdEncoder.EncodeAll(b[2:], z)
	if len(z) >= len(b) || len(b) > len(z)*maxZstdRatio {
		return b, nil
	}
	return z, nil
}

func appendBytes(b []byte, f protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, f, protowire.BytesType), v)
}

// decodeEnvelope reads a gossip message of the event topic, or of the ephemeral
// topic. Errors wrap errFrame: no correct node sends such a message. The events
// are only counted and measured. The result shares memory with data unless it
// was compressed.
func decodeEnvelope(data []byte, ephemeral bool) (*envelope, error) {
	e, err := readEnvelope(data)
	if err == nil {
		err = e.check(ephemeral)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return e, nil
}

func readEnvelope(data []byte) (*envelope, error) {
	if len(data) < 2 || data[0] != envelopeVersion {
		return nil, fmt.Errorf("%d bytes of another version", len(data))
	}
	body := data[2:]
	switch data[1] {
	case codecRaw:
	case codecZstd:
		var err error
		if body, err = decompress(body); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("codec %d", data[1])
	}
	if len(body) > maxPlain {
		return nil, fmt.Errorf("%d bytes, more than %d", len(body), maxPlain)
	}
	e := &envelope{}
	for len(body) > 0 {
		f, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(f, typ, body[n:])
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		if err := e.field(f, typ, body[n:n+size]); err != nil {
			return nil, err
		}
		body = body[n+size:]
	}
	return e, nil
}

// field takes one field; value is still in its wire form.
func (e *envelope) field(f protowire.Number, typ protowire.Type, value []byte) error {
	if f == fieldSent && typ == protowire.VarintType {
		v, _ := protowire.ConsumeVarint(value)
		if v > maxSafeInt {
			return fmt.Errorf("sent_ms %d", v)
		}
		e.sent = int64(v)
		return nil
	}
	if f > fieldEDU { // of a later version
		return nil
	}
	if typ != protowire.BytesType {
		return fmt.Errorf("field %d has wire type %d", f, typ)
	}
	b, _ := protowire.ConsumeBytes(value)
	switch f {
	case fieldRoom:
		if len(b) != hashLength || e.room != "" {
			return fmt.Errorf("room of %d bytes, or a second one", len(b))
		}
		e.room = event.RoomID("!" + base64.RawURLEncoding.EncodeToString(b))
	case fieldPDU:
		if len(b) == 0 || len(b) > maxPDU || len(e.pdus) == maxPDUs {
			return fmt.Errorf("event of %d bytes after %d others", len(b), len(e.pdus))
		}
		e.pdus = append(e.pdus, b)
	case fieldHead:
		if len(b) != hashLength || len(e.heads) == maxHeads {
			return fmt.Errorf("head of %d bytes after %d others", len(b), len(e.heads))
		}
		e.heads = append(e.heads, event.ID("$"+base64.RawURLEncoding.EncodeToString(b)))
	case fieldEDU:
		if len(b) == 0 || len(b) > maxEDU || e.edu != nil {
			return fmt.Errorf("ephemeral message of %d bytes, or a second one", len(b))
		}
		e.edu = b
	default:
		return fmt.Errorf("field %d has wire type %d", f, typ)
	}
	return nil
}

func (e *envelope) check(ephemeral bool) error {
	if e.room == "" {
		return fmt.Errorf("no room")
	}
	if ephemeral {
		if e.edu == nil || len(e.pdus) > 0 || len(e.heads) > 0 {
			return fmt.Errorf("not exactly one ephemeral message")
		}
		return nil
	}
	if e.edu != nil {
		return fmt.Errorf("an ephemeral message among events")
	}
	return checkBatch(e.pdus, e.heads)
}

// decompress undoes zstd within the caps of size and ratio. The size must be
// declared, so that it is known before memory is spent.
func decompress(b []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return nil, err
	}
	if !h.HasFCS || h.FrameContentSize > maxPlain || h.FrameContentSize > uint64(len(b))*maxZstdRatio {
		return nil, fmt.Errorf("%d bytes decompress to %d", len(b), h.FrameContentSize)
	}
	out, err := zstdDecoder.DecodeAll(b, make([]byte, 0, h.FrameContentSize))
	if err == nil && uint64(len(out)) != h.FrameContentSize { // a second frame behind the first
		err = fmt.Errorf("%d bytes, not the declared %d", len(out), h.FrameContentSize)
	}
	return out, err
}

// hashOf returns the 32 bytes that a room id or an event id carries.
func hashOf(id string, sigil byte) ([]byte, error) {
	if len(id) != 44 || id[0] != sigil {
		return nil, fmt.Errorf("%.60q is no id of room version 12", id)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(id[1:])
	if err != nil {
		return nil, fmt.Errorf("%q is no id of room version 12", id)
	}
	return b, nil
}
