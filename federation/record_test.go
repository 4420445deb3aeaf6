package federation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	librecord "github.com/libp2p/go-libp2p/core/record"

	"github.com/tokenim/tokenim/node/event"
)

func newIdentity(t testing.TB, name string) *Identity {
	t.Helper()
	id, err := CreateIdentity(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// forge makes a record whose JSON was changed before everything was signed.
func forge(t testing.TB, id *Identity, seq int64, change func(map[string]any)) []byte {
	t.Helper()
	raw, err := sealRecord(id, seq, []string{testAddr}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(r.payload))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	delete(m, "signatures")
	if change != nil {
		change(m)
	}
	signed, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range id.eventKeys {
		if signed, err = event.SignJSON(signed, k); err != nil {
			t.Fatal(err)
		}
	}
	if signed, err = event.Canonical(signed); err != nil {
		t.Fatal(err)
	}
	return seal(t, id.nodeKey, signed)
}

func seal(t testing.TB, key crypto.PrivKey, payload []byte) []byte {
	t.Helper()
	env, err := librecord.Seal(sealed(payload), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := env.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func mustRecord(t testing.TB, raw []byte) *serverRecord {
	t.Helper()
	r, err := parseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecord(t *testing.T) {
	id := newIdentity(t, "hq")
	second := id.EventKey
	second.ID = "ed25519:second"
	second.Private = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	id.eventKeys = append(id.eventKeys, second)
	r, err := newRecord(id, 42, []string{testAddr}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.ServerName != "hq" || r.PeerID != id.PeerID() || r.peer != id.peerID || r.Seq != 42 || len(r.Addrs) != 1 ||
		r.Incarnation == 0 || len(r.keys) != 2 || len(r.Protocols) == 0 {
		t.Errorf("record %+v", r.recordBody)
	}
	for _, k := range id.eventKeys {
		if !bytes.Equal(r.keys[k.ID], k.Private.Public().(ed25519.PublicKey)) {
			t.Errorf("key %s", k.ID)
		}
	}
	if mustRecord(t, r.raw).Seq != 42 {
		t.Error("does not read back")
	}
	// Fields of later versions are no obstacle.
	if _, err := parseRecord(forge(t, id, 43, func(m map[string]any) { m["new"] = []int{1} })); err != nil {
		t.Error(err)
	}
}

func TestRecordRefused(t *testing.T) {
	id, other := newIdentity(t, "hq"), newIdentity(t, "other")
	otherSelf := selfName(other.peerID)
	key := base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	for name, change := range map[string]func(map[string]any){
		"name":         func(m map[string]any) { m["server_name"] = "Bad" },
		"no name":      func(m map[string]any) { delete(m, "server_name") },
		"peer id":      func(m map[string]any) { m["peer_id"] = other.PeerID() },
		"peer id form": func(m map[string]any) { m["peer_id"] = string(selfName(id.peerID)) },
		"self name":    func(m map[string]any) { m["server_name"] = string(otherSelf) },
		"seq zero":     func(m map[string]any) { m["seq"] = 0 },
		"seq float":    func(m map[string]any) { m["seq"] = "1" },
		"no validity":  func(m map[string]any) { delete(m, "valid_until_ts") },
		"no keys":      func(m map[string]any) { m["verify_keys"] = map[string]any{} },
		"unsigned key": func(m map[string]any) { m["verify_keys"].(map[string]any)["ed25519:x"] = map[string]any{"key": key} },
		"short key": func(m map[string]any) {
			m["old_verify_keys"] = map[string]any{"ed25519:x": map[string]any{"key": "AAAA"}}
		},
		"padded key": func(m map[string]any) {
			m["old_verify_keys"] = map[string]any{"ed25519:x": map[string]any{"key": key + "="}}
		},
		"key id": func(m map[string]any) { m["old_verify_keys"] = map[string]any{"rsa:1": map[string]any{"key": key}} },
		"key both": func(m map[string]any) {
			m["old_verify_keys"] = map[string]any{string(id.EventKey.ID): map[string]any{"key": key}}
		},
		"revoked id":      func(m map[string]any) { m["revoked"] = map[string]any{"x": map[string]any{"since": 1}} },
		"address":         func(m map[string]any) { m["addrs"] = []string{"nonsense"} },
		"many addresses":  func(m map[string]any) { m["addrs"] = strings.Split(strings.Repeat(testAddr+" ", 16)+testAddr, " ") },
		"too large":       func(m map[string]any) { m["x"] = strings.Repeat("x", maxRecord) },
		"many old keys":   func(m map[string]any) { m["old_verify_keys"] = manyKeys(key) },
		"incarnation":     func(m map[string]any) { m["incarnation"] = -1 },
		"wrong structure": func(m map[string]any) { m["addrs"] = "x" },
	} {
		raw := forge(t, id, 1, change)
		if r, err := parseRecord(raw); !errors.Is(err, errRecord) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	good := mustRecord(t, forge(t, id, 1, nil))
	if _, err := parseRecord(seal(t, other.nodeKey, good.payload)); !errors.Is(err, errRecord) {
		t.Errorf("signed by another node: %v", err)
	}
	if _, err := parseRecord(seal(t, id.nodeKey, append([]byte(" "), good.payload...))); !errors.Is(err, errRecord) {
		t.Errorf("not canonical: %v", err)
	}
	stranger := *id
	stranger.eventKeys = []event.SigningKey{{Server: "hq", ID: id.EventKey.ID, Private: other.EventKey.Private}}
	if _, err := parseRecord(forgeKeys(t, id, &stranger)); !errors.Is(err, errRecord) {
		t.Errorf("signed by another event key: %v", err)
	}
}

// forgeKeys makes a record of id that lists its keys and is signed by those of by.
func forgeKeys(t *testing.T, id, by *Identity) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(mustRecord(t, forge(t, id, 1, nil)).payload, &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "signatures")
	signed, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = event.SignJSON(signed, by.eventKeys[0]); err != nil {
		t.Fatal(err)
	}
	if signed, err = event.Canonical(signed); err != nil {
		t.Fatal(err)
	}
	return seal(t, id.nodeKey, signed)
}

func manyKeys(key string) map[string]any {
	out := map[string]any{}
	for i := range 17 {
		out[fmt.Sprintf("ed25519:k%d", i)] = map[string]any{"key": key}
	}
	return out
}

func TestRecordKeyValidity(t *testing.T) {
	id := newIdentity(t, "hq")
	old := base64.RawStdEncoding.EncodeToString(make([]byte, 32))
	until := time.Now().Add(48 * time.Hour).UnixMilli()
	r := mustRecord(t, forge(t, id, 1, func(m map[string]any) {
		m["valid_until_ts"] = until
		m["old_verify_keys"] = map[string]any{"ed25519:old": map[string]any{"key": old, "expired_ts": 1000}, "ed25519:stolen": map[string]any{"key": old, "expired_ts": 9000}}
		m["revoked"] = map[string]any{"ed25519:stolen": map[string]any{"since": 500}}
	}))
	now := time.Now().UnixMilli()
	week := recordLife.Milliseconds()
	for _, tt := range []struct {
		kid     event.KeyID
		ts      int64
		fetched int64
		ok      bool
	}{
		{id.EventKey.ID, 0, now, true},
		{id.EventKey.ID, until, now, true},
		{id.EventKey.ID, until + 1, now, false},
		{id.EventKey.ID, until, until - week, true},
		{id.EventKey.ID, until, until - week - 1, false}, // fetched too long ago
		{"ed25519:old", 1000, now, true},
		{"ed25519:old", 1001, now, false},
		{"ed25519:stolen", 499, now, true},
		{"ed25519:stolen", 500, now, false},
		{"ed25519:unknown", 0, now, false},
	} {
		if _, ok := r.key(tt.kid, tt.ts, tt.fetched); ok != tt.ok {
			t.Errorf("key(%s, %d, %d) = %v", tt.kid, tt.ts, tt.fetched, ok)
		}
	}
}

func TestKeyring(t *testing.T) {
	log := &syncBuffer{}
	k := newKeyring("self", slog.New(slog.NewTextHandler(log, nil)))
	one, two, imposter := newIdentity(t, "one"), newIdentity(t, ""), newIdentity(t, "one")
	record := func(id *Identity, seq int64) *serverRecord { return mustRecord(t, forge(t, id, seq, nil)) }
	alarm := func(want bool) {
		t.Helper()
		if log.has("alarm") != want {
			t.Errorf("alarm = %v, want %v", !want, want)
		}
		log.mu.Lock()
		log.b.Reset()
		log.mu.Unlock()
	}
	must := func(r *serverRecord, ok bool) {
		t.Helper()
		if err := k.accept(r); (err == nil) != ok || err != nil && !errors.Is(err, errRecord) {
			t.Errorf("accept: %v", err)
		}
	}
	seq := func(s event.Server) int64 { return k.byName[s].Seq }

	must(record(one, 5), true)
	must(record(two, 5), true)
	alarm(false)
	must(record(one, 4), true) // older: no fault, no effect
	if seq("one") != 5 {
		t.Error("an older record won")
	}
	must(record(one, 6), true)
	if seq("one") != 6 {
		t.Error("a newer record lost")
	}
	alarm(false)
	must(mustRecord(t, forge(t, one, 6, func(m map[string]any) { m["x"] = 1 })), false)
	alarm(true) // one number, two records
	must(record(imposter, 9), false)
	alarm(true) // the first seen keeps the name
	if _, err := k.key("one", one.EventKey.ID, 0); err != nil {
		t.Errorf("key of the first seen: %v", err)
	}

	// A pin beats first sight, and stays.
	k.pin("one", imposter.peerID)
	alarm(true)
	if _, err := k.key("one", one.EventKey.ID, 0); !errors.Is(err, event.ErrUnknownKey) {
		t.Errorf("key of an unpinned imposter: %v", err)
	}
	must(record(one, 10), false)
	alarm(true)
	must(record(imposter, 10), true)
	if key, err := k.key("one", imposter.EventKey.ID, 0); err != nil || key == nil {
		t.Errorf("key of the pinned: %v", err)
	}
	alarm(false)

	// One name per peer.
	renamed := *two
	renamed.Name = "two"
	renamed.eventKeys = []event.SigningKey{{Server: "two", ID: two.EventKey.ID, Private: two.EventKey.Private}}
	must(record(&renamed, 20), false)
	alarm(true)

	// What is known is handed on, once each, and saved once each.
	if got := k.records([]event.Server{"one", two.Name, "nobody", "self"}); len(got) != 2 {
		t.Errorf("%d records", len(got))
	}
	if got := k.takeUnkept(); len(got) != 2 || !bytes.Equal(got["one"], k.byName["one"].raw) {
		t.Errorf("%d records to save", len(got))
	}
	if got := k.takeUnkept(); len(got) != 0 {
		t.Errorf("%d records to save again", len(got))
	}

	// After a restart, with another pin, stored records obey it.
	again := newKeyring("self", slog.New(slog.DiscardHandler))
	again.pin("one", one.peerID)
	again.load(append(k.records([]event.Server{"one", two.Name}), []byte("junk"), nil))
	if _, err := again.key("one", imposter.EventKey.ID, 0); err == nil {
		t.Error("a stored record beat a pin")
	}
	if _, err := again.key(two.Name, two.EventKey.ID, 0); err != nil {
		t.Errorf("a stored record is lost: %v", err)
	}
	if len(again.takeUnkept()) != 0 {
		t.Error("loaded records are saved again")
	}
}

func TestKeyringOwn(t *testing.T) {
	id := newIdentity(t, "self")
	k := newKeyring("self", slog.New(slog.DiscardHandler))
	k.setOwn(mustRecord(t, forge(t, id, 5, nil)))
	k.learn([][]byte{forge(t, id, 9, nil), forge(t, newIdentity(t, "self"), 9, nil)})
	if k.own().Seq != 5 || len(k.takeUnkept()) != 0 {
		t.Error("a peer replaced the own record")
	}
}

func FuzzRecord(f *testing.F) {
	id, err := CreateIdentity(f.TempDir(), "hq")
	if err != nil {
		f.Fatal(err)
	}
	raw := forge(f, id, 1, nil)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("error %v", err)
			}
			return
		}
		if again := mustRecord(t, r.raw); !bytes.Equal(again.payload, r.payload) || !bytes.Equal(again.raw, r.raw) {
			t.Error("does not read back")
		}
	})
}

// FuzzRecordPayload gets behind the signatures.
func FuzzRecordPayload(f *testing.F) {
	id, err := CreateIdentity(f.TempDir(), "hq")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mustRecord(f, forge(f, id, 1, nil)).payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		r := &serverRecord{payload: payload}
		if r.decode(id.nodeKey.GetPublic()) == nil {
			r.key(id.EventKey.ID, 0, 0)
		}
	})
}
