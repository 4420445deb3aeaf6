package event

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// benchEvent is an encrypted message of 959 bytes, the usual size.
func benchEvent(b *testing.B) *Event {
	b.Helper()
	body := Body{
		Room: someRoom, Type: "m.room.encrypted", Sender: "@alice:domain", Depth: 1234, Time: 1700000000000,
		Prev: []ID{someID}, Auth: []ID{someID, anotherID, someID},
	}
	content := func(n int) json.RawMessage {
		return fmt.Appendf(nil, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":%q,"device_id":"ABCDEFGHIJ","session_id":%q}`, strings.Repeat("x", n), strings.Repeat("y", 43))
	}
	body.Content = content(0)
	e, err := Sign(body, specKey)
	if err != nil {
		b.Fatal(err)
	}
	body.Content = content(959 - len(e.JSON()))
	if e, err = Sign(body, specKey); err != nil || len(e.JSON()) != 959 {
		b.Fatalf("%d bytes, %v", len(e.JSON()), err)
	}
	b.ReportAllocs()
	return e
}

func BenchmarkCanonicalCheck(b *testing.B) {
	e := benchEvent(b)
	b.SetBytes(int64(len(e.JSON())))
	for b.Loop() {
		if _, err := Canonical(e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCanonicalSlow(b *testing.B) {
	e := benchEvent(b)
	raw := append([]byte(" "), e.JSON()...)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := Canonical(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	e := benchEvent(b)
	for b.Loop() {
		if _, err := Parse(e.JSON()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	e := benchEvent(b)
	for b.Loop() {
		if _, err := Load(e.ID(), e.JSON(), false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	e := benchEvent(b)
	for b.Loop() {
		if _, err := Sign(e.Body, specKey); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	e := benchEvent(b)
	key := specKey.public()
	for b.Loop() {
		if err := e.Verify(specKey.Server, specKey.ID, key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReceive does all that this package does for an event from a peer.
func BenchmarkReceive(b *testing.B) {
	raw := benchEvent(b).JSON()
	key := specKey.public()
	for b.Loop() {
		e, err := Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range e.Signers() {
			for _, kid := range e.Keys(s) {
				if err := e.Verify(s, kid, key); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}
