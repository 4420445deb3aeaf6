package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Appendices, Cryptographic Test Vectors, JSON Signing.
func TestSignJSONVectors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	} {
		got, err := SignJSON(json.RawMessage(tt.in), specKey)
		if err != nil || string(got) != tt.want {
			t.Errorf("SignJSON(%s) = %s, %v; want %s", tt.in, got, err, tt.want)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", specKey.public()); err != nil {
			t.Error(err)
		}
	}
}

// Appendices, Cryptographic Test Vectors, Event Signing. The vectors are events
// of room version 1, which keeps origin and has ids in the events, so only the
// parts of the work that have not changed since can be held against them.
func TestEventVectors(t *testing.T) {
	for _, tt := range []struct{ event, redacted, hash, signature string }{
		{
			`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3}`,
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
		},
		{
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			`{"content":{},"event_id":"$0:domain","hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},"origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain"}`,
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
		},
	} {
		raw, err := Canonical([]byte(tt.event))
		if err != nil {
			t.Fatal(err)
		}
		hash := sha256.Sum256(appendWithout(nil, raw, func(key []byte) bool {
			return slices.Contains([]string{"hashes", "signatures", "unsigned"}, string(key))
		}))
		if got := base64.RawStdEncoding.EncodeToString(hash[:]); got != tt.hash {
			t.Errorf("content hash of %s is %s, not %s", tt.event, got, tt.hash)
		}
		signed, err := SignJSON(json.RawMessage(tt.redacted), specKey)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := appendUnquoted(nil, find(find(lookup(signed, "signatures"), "domain"), "ed25519:1")); string(got) != tt.signature {
			t.Errorf("signature of %s is %s, not %s", tt.redacted, got, tt.signature)
		}
	}
}

func TestSignJSONKeepsTheRest(t *testing.T) {
	first, err := SignJSON(json.RawMessage(`{"b": 1, "unsigned": {"age": 5}, "a": "x"}`), specKey)
	if err != nil {
		t.Fatal(err)
	}
	both, err := SignJSON(first, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	again, err := SignJSON(both, specKey)
	if err != nil || !bytes.Equal(again, both) {
		t.Errorf("signed again: %s, %v; want %s", again, err, both)
	}
	if !isCanonical(both) || string(lookup(both, "unsigned")) != `{"age":5}` {
		t.Errorf("signed: %s", both)
	}
	other := bytes.Replace(both, []byte(`"age":5`), []byte(`"age":6`), 1)
	for _, k := range []SigningKey{specKey, otherKey} {
		for _, raw := range []json.RawMessage{both, other} {
			if err := VerifyJSON(raw, k.Server, k.ID, k.public()); err != nil {
				t.Errorf("%s: %v", raw, err)
			}
		}
	}
	// A server and a key whose names need escapes.
	odd := SigningKey{Server: "a\"b\\", ID: "ed25519:\n", Private: specKey.Private}
	raw, err := SignJSON(both, odd)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyJSON(raw, odd.Server, odd.ID, odd.public()); err != nil || !isCanonical(raw) {
		t.Errorf("%s: %v", raw, err)
	}
}

func TestSignJSONRefuses(t *testing.T) {
	for _, in := range []string{"", "[]", "7", `{"a":1.5}`, `{"a":1,"a":1}`, `{"signatures":[]}`, `{"signatures":{"a":"b"}}`, `{"signatures":{"a":{"b":1}}}`} {
		if got, err := SignJSON(json.RawMessage(in), specKey); !errors.Is(err, ErrInvalid) || got != nil {
			t.Errorf("SignJSON(%s) = %s, %v; want ErrInvalid", in, got, err)
		}
	}
	if got, err := SignJSON(json.RawMessage("{}"), SigningKey{}); !errors.Is(err, ErrInvalid) || got != nil {
		t.Errorf("SignJSON without a key = %s, %v; want ErrInvalid", got, err)
	}
}

func TestVerifyJSONRefuses(t *testing.T) {
	good, err := SignJSON(json.RawMessage(`{"a":1}`), specKey)
	if err != nil {
		t.Fatal(err)
	}
	signature, _ := appendUnquoted(nil, find(find(lookup(good, "signatures"), "domain"), "ed25519:1"))
	replace := func(old, new string) json.RawMessage {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("no %q in %s", old, good)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	public := specKey.public()
	if err := VerifyJSON(replace(string(signature), string(signature)+"=="), "domain", "ed25519:1", public); err != nil {
		t.Errorf("padded base64: %v", err)
	}
	tests := []struct {
		name   string
		object json.RawMessage
		server Server
		kid    KeyID
		key    []byte
	}{
		{"another server", good, "other", "ed25519:1", public},
		{"another key id", good, "domain", "ed25519:2", public},
		{"another key", good, "domain", "ed25519:1", otherKey.public()},
		{"no key", good, "domain", "ed25519:1", nil},
		{"short key", good, "domain", "ed25519:1", public[:31]},
		{"changed value", replace(`"a":1`, `"a":2`), "domain", "ed25519:1", public},
		{"added value", replace(`"a":1`, `"a":1,"b":1`), "domain", "ed25519:1", public},
		{"no base64", replace(string(signature), "!"), "domain", "ed25519:1", public},
		{"short signature", replace(string(signature), string(signature[:80])), "domain", "ed25519:1", public},
		{"no text", replace(`"`+string(signature)+`"`, "1"), "domain", "ed25519:1", public},
		{"keys are no object", replace(`{"ed25519:1":"`+string(signature)+`"}`, "[]"), "domain", "ed25519:1", public},
		{"no signatures", json.RawMessage(`{"a":1}`), "domain", "ed25519:1", public},
		{"another algorithm", replace("ed25519:1", "rsa:1"), "domain", "rsa:1", public},
		{"no object", json.RawMessage(`[]`), "domain", "ed25519:1", public},
		{"no JSON", json.RawMessage(`{`), "domain", "ed25519:1", public},
		{"nothing", nil, "domain", "ed25519:1", public},
		{"duplicate key", replace(`"a":1`, `"a":1,"a":1`), "domain", "ed25519:1", public},
	}
	for _, tt := range tests {
		if err := VerifyJSON(tt.object, tt.server, tt.kid, tt.key); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v; want ErrSignature", tt.name, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	e := golden(t, "restricted join")
	for _, tt := range []struct {
		name   string
		server Server
		kid    KeyID
		key    []byte
	}{
		{"wrong key", "domain", "ed25519:1", otherKey.public()},
		{"key of another server", otherKey.Server, "ed25519:1", specKey.public()},
		{"unknown server", "example.org", "ed25519:1", specKey.public()},
		{"no server", "", "ed25519:1", specKey.public()},
		{"unknown key id", "domain", "ed25519:2", specKey.public()},
		{"short key", "domain", "ed25519:1", specKey.public()[:5]},
	} {
		if err := e.Verify(tt.server, tt.kid, tt.key); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v; want ErrSignature", tt.name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	e := golden(t, "restricted join")
	second := specKey
	second.ID = "ed25519:\"2\""
	e, err := e.Cosign(second)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Keys("domain"); !slices.Equal(got, []KeyID{"ed25519:\"2\"", "ed25519:1"}) {
		t.Errorf("Keys = %q", got)
	}
	if got := e.Keys(otherKey.Server); !slices.Equal(got, []KeyID{"ed25519:1"}) {
		t.Errorf("Keys of the other server = %q", got)
	}
	if got := e.Keys("example.org"); len(got) != 0 {
		t.Errorf("Keys of a server that did not sign = %q", got)
	}
	strange, err := Parse(with(e, "signatures", `{"domain":{"ed25519:1":"x","rsa:1":"x"}}`))
	if err != nil {
		t.Fatal(err)
	}
	// Keys of unknown algorithms are left out (Appendices, Checking for a Signature, 2).
	if got := strange.Keys("domain"); !slices.Equal(got, []KeyID{"ed25519:1"}) {
		t.Errorf("Keys = %q", got)
	}
}

func TestSigners(t *testing.T) {
	for _, tt := range []struct {
		typ, content string
		want         []Server
	}{
		{"m.room.message", `{"join_authorised_via_users_server":"@x:other"}`, []Server{"domain"}},
		{"m.room.member", `{"membership":"join"}`, []Server{"domain"}},
		{"m.room.member", `{"membership":"join","join_authorised_via_users_server":"@x:other:1"}`, []Server{"domain", "other:1"}},
		{"m.room.member", `{"membership":"leave","join_authorised_via_users_server":"@x:other:1"}`, []Server{"domain", "other:1"}},
		{"m.room.member", `{"membership":"join","join_authorised_via_users_server":"@x:domain"}`, []Server{"domain"}},
		{"m.room.member", `{"membership":"join","join_authorised_via_users_server":7}`, []Server{"domain", ""}},
		{"m.room.member", `{"membership":"join","join_authorised_via_users_server":null}`, []Server{"domain", ""}},
		{"m.room.member", `{"membership":"join","join_authorised_via_users_server":"nobody"}`, []Server{"domain", ""}},
	} {
		e, err := Sign(Body{Room: someRoom, Type: tt.typ, StateKey: ptr("@alice:domain"), Sender: "@alice:domain", Content: json.RawMessage(tt.content)}, specKey)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Signers(); !slices.Equal(got, tt.want) {
			t.Errorf("Signers of %s %s = %q, want %q", tt.typ, tt.content, got, tt.want)
		}
	}
}

func TestFields(t *testing.T) {
	e, err := Sign(Body{Room: someRoom, Type: "m.room.member", StateKey: ptr("@alice:domain"), Sender: "@alice:domain",
		Content: json.RawMessage(`{"membership":"jo\u0069n","redacts":"$x","n":1,"o":{"membership":"ban"},"k\"\n":"v\u0001日","":"empty"}`)}, specKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"membership": "join", "n": "", "o": "", "none": "", "k\"\n": "v\u0001日", "": "empty"} {
		if got := e.Field(name); got != want {
			t.Errorf("Field(%q) = %q, want %q", name, got, want)
		}
	}
	if e.Membership() != "join" || e.Redacts() != "$x" {
		t.Errorf("Membership %q, Redacts %q", e.Membership(), e.Redacts())
	}
	if !e.Is("m.room.member", "@alice:domain") || e.Is("m.room.member", "") || e.Is("m.room.name", "@alice:domain") {
		t.Error("Is is wrong for a state event")
	}
	if m := golden(t, "message"); m.Is("m.room.message", "") || !strings.Contains(m.Field("body"), "😀") {
		t.Errorf("message: Is or Field is wrong: %q", m.Field("body"))
	}
}
