//go:build goexperiment.jsonv2

package event

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/jsontext"
	jsonv2 "encoding/json/v2"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"
	"pgregory.net/rapid"
)

// These tests hold this package against mautrix, a second implementation of the
// same specification.

// failer is what testing.T and rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func decodePDU(t failer, raw []byte) *pdu.PDU {
	t.Helper()
	var p pdu.PDU
	if err := jsonv2.Unmarshal(raw, &p); err != nil {
		t.Fatalf("mautrix does not read %s: %v", raw, err)
	}
	return &p
}

// agree compares what the two say of one event that key has signed.
func agree(t failer, e *Event, key SigningKey) {
	t.Helper()
	p := decodePDU(t, e.JSON())
	if got, err := p.GetEventID(id.RoomV12); err != nil || string(got) != string(e.ID()) {
		t.Fatalf("%s: id %s, mautrix says %s, %v", e.JSON(), e.ID(), got, err)
	}
	if p.VerifyContentHash() == e.Redacted() {
		t.Fatalf("%s: redacted %v, mautrix finds the content hash %v", e.JSON(), e.Redacted(), !e.Redacted())
	}
	if e.Type == "m.room.create" && e.Field("room_version") == "12" {
		if got, err := p.GetRoomID(); err != nil || string(got) != string(e.Room) {
			t.Fatalf("%s: room %s, mautrix says %s, %v", e.JSON(), e.Room, got, err)
		}
	}
	getKey := func(string, id.KeyID, time.Time) (id.SigningKey, time.Time, error) {
		return id.SigningKey(base64.RawStdEncoding.EncodeToString(key.public())), time.UnixMilli(MaxInteger), nil
	}
	if err := p.VerifySignature(id.RoomV12, string(key.Server), getKey); err != nil {
		t.Fatalf("%s: mautrix: %v", e.JSON(), err)
	}
	redacted, err := e.Redact()
	if err != nil {
		t.Fatalf("Redact: %v", err)
	}
	theirs, err := canonicaljson.Marshal(p.Clone().Redact(id.RoomV12))
	if err != nil || !bytes.Equal(theirs, redacted.JSON()) {
		t.Fatalf("redacted: %s, mautrix says %s, %v", redacted.JSON(), theirs, err)
	}
}

func TestOracleGolden(t *testing.T) {
	for _, g := range goldenBodies {
		key := specKey
		if g.body.Sender.Server() == otherKey.Server {
			key = otherKey
		}
		agree(t, signGolden(t, g.body), key)
	}
}

func TestOracleSign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { agree(t, signed(t), specKey) })
}

// What mautrix signs, this package reads and verifies.
func TestOracleParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := decodePDU(t, signed(t).JSON())
		p.Hashes, p.Signatures = nil, nil
		if rapid.Bool().Draw(t, "unknown properties") {
			p.DeprecatedOrigin = jsontext.Value(`"domain"`)
			p.Unknown = jsontext.Value(`{"a":[1,{"b":null}],"zz":"\u0007"}`)
		}
		if err := p.Sign(id.RoomV12, string(specKey.Server), id.KeyID(specKey.ID), ed25519.PrivateKey(specKey.Private)); err != nil {
			t.Fatal(err)
		}
		raw, err := jsonv2.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if e.Redacted() {
			t.Fatalf("%s: content hash does not match", raw)
		}
		if err := e.Verify(specKey.Server, specKey.ID, specKey.public()); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		agree(t, e, specKey)
	})
}

func TestOracleCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := messy(t, value(4).Draw(t, "value"))
		got, err := Canonical(raw)
		if err != nil {
			t.Fatal(err)
		}
		want := jsontext.Value(bytes.Clone(raw))
		err = canonicaljson.Canonicalize(&want)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("Canonical(%s) = %s, mautrix says %s, %v", raw, got, want, err)
		}
	})
}
