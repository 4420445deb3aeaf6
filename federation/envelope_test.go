package federation

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
)

func genHash(t *rapid.T, label string) string {
	return base64.RawURLEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, label))
}

func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &envelope{room: event.RoomID("!" + genHash(t, "room")), sent: rapid.Int64Range(0, maxSafeInt).Draw(t, "sent")}
		ephemeral := rapid.Bool().Draw(t, "ephemeral")
		if ephemeral {
			e.edu = rapid.SliceOfN(rapid.Byte(), 1, 5000).Draw(t, "edu")
		} else {
			e.pdus = rapid.SliceOfN(rapid.SliceOfN(rapid.ByteRange('a', 'f'), 1, 400), 1, maxPDUs).Draw(t, "pdus")
			for range rapid.IntRange(0, maxHeads).Draw(t, "heads") {
				e.heads = append(e.heads, event.ID("$"+genHash(t, "head")))
			}
		}
		data, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeEnvelope(data, ephemeral)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%+v, %v; want %+v", got, err, e)
		}
		if _, err := decodeEnvelope(data, !ephemeral); !errors.Is(err, errFrame) {
			t.Fatalf("taken for the other topic: %v", err)
		}
	})
}

func TestEnvelopeRefused(t *testing.T) {
	hash := bytes.Repeat([]byte{1}, 32)
	body := func(parts ...[]byte) []byte {
		return append([]byte{envelopeVersion, codecRaw}, bytes.Join(parts, nil)...)
	}
	room, pdu := appendBytes(nil, fieldRoom, hash), appendBytes(nil, fieldPDU, []byte("{}"))
	if _, err := decodeEnvelope(body(room, pdu), false); err != nil {
		t.Fatal(err)
	}
	// A field of a later version.
	if _, err := decodeEnvelope(body(room, pdu, appendBytes(nil, 9, []byte("new"))), false); err != nil {
		t.Error(err)
	}
	zip := func(b []byte, opts ...zstd.EOption) []byte {
		w, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(b, nil)
	}
	var stream bytes.Buffer // a frame that does not declare its size
	w, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, _ = w.Write(append(room, pdu...))
		_ = w.Flush()
	}
	_ = w.Close()
	bomb := zip(make([]byte, 200<<10))
	for name, data := range map[string][]byte{
		"empty": nil, "version": {2, 0}, "codec": {1, 2}, "no room": body(pdu), "no event": body(room),
		"short room":     body(appendBytes(nil, fieldRoom, hash[:31]), pdu),
		"two rooms":      body(room, room, pdu),
		"empty event":    body(room, appendBytes(nil, fieldPDU, nil)),
		"large event":    body(room, appendBytes(nil, fieldPDU, make([]byte, maxPDU+1))),
		"many events":    body(room, bytes.Repeat(pdu, maxPDUs+1)),
		"large batch":    body(room, bytes.Repeat(appendBytes(nil, fieldPDU, make([]byte, 60_000)), 5)),
		"many heads":     body(room, pdu, bytes.Repeat(appendBytes(nil, fieldHead, hash), maxHeads+1)),
		"short head":     body(room, pdu, appendBytes(nil, fieldHead, hash[:5])),
		"ephemeral":      body(room, pdu, appendBytes(nil, fieldEDU, []byte("{}"))),
		"cut":            body(room, pdu)[:20],
		"zstd junk":      {1, 1, 5, 6, 7},
		"zstd no size":   append([]byte{1, 1}, stream.Bytes()...),
		"zstd ratio":     append([]byte{1, 1}, bomb...),
		"zstd two":       append([]byte{1, 1}, append(zip(append(room, pdu...), zstd.WithSingleSegment(true)), bomb...)...),
		"zstd too large": append([]byte{1, 1}, zip([]byte(strings.Repeat("0123456789abcdefghijklmnop", 20_000)))...),
	} {
		if e, err := decodeEnvelope(data, false); !errors.Is(err, errFrame) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if len(bomb)*maxZstdRatio > 200<<10 {
		t.Errorf("the bomb is none: %d bytes", len(bomb))
	}
	for _, r := range []event.RoomID{"", "!", "!x:old.example", "!" + event.RoomID(strings.Repeat("A", 42)) + "B"} {
		if _, err := (&envelope{room: r, pdus: [][]byte{{1}}}).encode(); err == nil {
			t.Errorf("room %q", r)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	e := &envelope{room: event.RoomID("!" + strings.Repeat("A", 43)), pdus: [][]byte{[]byte(`{"a":1}`)}, heads: []event.ID{event.ID("$" + strings.Repeat("A", 43))}, sent: 1}
	small, err := e.encode()
	if err != nil {
		f.Fatal(err)
	}
	var text []byte
	for i := range 500 {
		text = fmt.Appendf(text, "some text that compresses %d ", i)
	}
	e.pdus = [][]byte{text}
	large, err := e.encode()
	if err != nil {
		f.Fatal(err)
	}
	if large[1] != codecZstd {
		f.Fatal("not compressed")
	}
	f.Add(small, false)
	f.Add(large, false)
	f.Add([]byte{1, 0, 42, 2, '{', '}'}, true)
	f.Fuzz(func(t *testing.T, data []byte, ephemeral bool) {
		e, err := decodeEnvelope(data, ephemeral)
		if err != nil {
			if !errors.Is(err, errFrame) {
				t.Errorf("error %v", err)
			}
			return
		}
		back, err := e.encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeEnvelope(back, ephemeral); err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("%+v, %v; want %+v", again, err, e)
		}
	})
}
