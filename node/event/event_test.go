package event

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write testdata/golden.txt")

// specKey is the key of the specification's vectors (Appendices, Cryptographic
// Test Vectors); otherKey belongs to another server.
var (
	specKey  = testKey("domain", "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	otherKey = testKey("other.example:8448", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
)

func testKey(s Server, seed string) SigningKey {
	b, err := base64.RawStdEncoding.DecodeString(seed)
	if err != nil {
		panic(err)
	}
	return SigningKey{Server: s, ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(b)}
}

func (k SigningKey) public() ed25519.PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// Ids that belong to no event.
const (
	someID    = ID("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	anotherID = ID("$-_89ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklg")
	someRoom  = RoomID("!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
)

func ptr(s string) *string { return &s }

// goldenBodies are events of each kind that redaction treats in its own way.
var goldenBodies = []struct {
	name string
	body Body
}{
	{"create", Body{Type: "m.room.create", StateKey: ptr(""), Sender: "@alice:domain", Depth: 1, Time: 1000000,
		Content: json.RawMessage(`{"room_version":"12","additional_creators":["@bob:other.example:8448"],"im.tokenim.topic_salt":"c2FsdA","m.federate":true}`)}},
	{"join", Body{Type: "m.room.member", StateKey: ptr("@alice:domain"), Sender: "@alice:domain", Depth: 2,
		Content: json.RawMessage(`{"membership":"join","displayname":"Alice \"日本語\"","avatar_url":"mxc://domain/a"}`)}},
	{"restricted join", Body{Type: "m.room.member", StateKey: ptr("@bob:other.example:8448"), Sender: "@bob:other.example:8448", Depth: 2,
		Content: json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@alice:domain","reason":"x"}`)}},
	{"third party invite", Body{Type: "m.room.member", StateKey: ptr("@bob:other.example:8448"), Sender: "@alice:domain", Depth: 3,
		Content: json.RawMessage(`{"membership":"invite","third_party_invite":{"display_name":"b","signed":{"mxid":"@bob:other.example:8448","token":"t","signatures":{"x":{"ed25519:0":"s"}}}}}`)}},
	{"third party invite without signed", Body{Type: "m.room.member", StateKey: ptr("@bob:other.example:8448"), Sender: "@alice:domain", Depth: 3,
		Content: json.RawMessage(`{"membership":"invite","third_party_invite":{"display_name":"b"}}`)}},
	{"kick", Body{Type: "m.room.member", StateKey: ptr("@bob:other.example:8448"), Sender: "@alice:domain", Depth: 4,
		Content: json.RawMessage(`{"membership":"leave","reason":"spam"}`)}},
	{"join rules", Body{Type: "m.room.join_rules", StateKey: ptr(""), Sender: "@alice:domain", Depth: 5,
		Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!x"}],"other":1}`)}},
	{"power levels", Body{Type: "m.room.power_levels", StateKey: ptr(""), Sender: "@alice:domain", Depth: 6,
		Content: json.RawMessage(`{"ban":50,"events":{"m.room.name":50},"events_default":0,"invite":0,"kick":50,"notifications":{"room":50},"redact":50,"state_default":50,"users":{"@bob:other.example:8448":9007199254740991},"users_default":-1}`)}},
	{"history visibility", Body{Type: "m.room.history_visibility", StateKey: ptr(""), Sender: "@alice:domain", Depth: 7,
		Content: json.RawMessage(`{"history_visibility":"shared","other":null}`)}},
	{"third party invite token", Body{Type: "m.room.third_party_invite", StateKey: ptr("t"), Sender: "@alice:domain", Depth: 8,
		Content: json.RawMessage(`{"display_name":"b","public_key":"k","key_validity_url":"https://x"}`)}},
	{"name", Body{Type: "m.room.name", StateKey: ptr(""), Sender: "@alice:domain", Depth: 9, Content: json.RawMessage(`{"name":"Group"}`)}},
	{"message", Body{Type: "m.room.message", Sender: "@alice:domain", Depth: 10, Prev: []ID{someID, anotherID}, Auth: []ID{anotherID},
		Content: json.RawMessage(`{"msgtype":"m.text","body":"Line\nof \"text\" \u0007 \\ 日本語 😀 </script>"}`)}},
	{"encrypted", Body{Type: "m.room.encrypted", Sender: "@alice:domain", Depth: 11, Prev: []ID{someID},
		Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgA","session_id":"s","sender_key":"k","device_id":"D"}`)}},
	{"redaction", Body{Type: "m.room.redaction", Sender: "@alice:domain", Depth: 12, Prev: []ID{someID},
		Content: json.RawMessage(`{"redacts":"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","reason":"spam"}`)}},
	{"historical user id", Body{Type: "m.room.message", Sender: "@A \"b\" \u00e9\n:domain", Depth: 0, Content: json.RawMessage(`{}`)}},
	{"escaped names", Body{Type: "t\"\\\u0001", StateKey: ptr("s\t\u007f日"), Sender: "@alice:domain", Depth: MaxInteger, Time: MaxInteger,
		Content: json.RawMessage(`{"a\\b":1,"a\"b":[{}],"":{"\u0000":""}}`)}},
}

// golden returns the golden event of this name.
func golden(t testing.TB, name string) *Event {
	t.Helper()
	for _, g := range goldenBodies {
		if g.name == name {
			return signGolden(t, g.body)
		}
	}
	t.Fatalf("no golden event %q", name)
	return nil
}

func signGolden(t testing.TB, b Body) *Event {
	t.Helper()
	if b.Type != "m.room.create" {
		b.Room = someRoom
	}
	key := specKey
	if b.Sender.Server() == otherKey.Server {
		key = otherKey
	}
	e, err := Sign(b, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Signers()) > 1 {
		if e, err = e.Cosign(specKey); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// The bytes of events of every kind never change. oracle_test.go holds the same
// events against a second implementation.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, g := range goldenBodies {
		e := signGolden(t, g.body)
		r, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "== %s\nid %s\nroom %s\n%s\nredacted\n%s\n\n", g.name, e.ID(), e.Room, e.JSON(), r.JSON())
	}
	const file = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("events differ from %s; got\n%s", file, b.String())
	}
}

func TestCreateMakesItsRoom(t *testing.T) {
	e := golden(t, "create")
	if e.Room != e.ID().Room() || e.Room.Create() != e.ID() || len(e.Room) != 44 || e.Room[0] != '!' {
		t.Errorf("create event %s has room %s", e.ID(), e.Room)
	}
	if bytes.Contains(e.JSON(), []byte("room_id")) {
		t.Errorf("create event with a room_id: %s", e.JSON())
	}
	parsed, err := Parse(e.JSON())
	if err != nil || parsed.Room != e.Room {
		t.Errorf("parsed: room %s, %v", parsed.Room, err)
	}
}

// equal compares all that there is in two events.
func equal(a, b *Event) bool {
	return a.id == b.id && a.redacted == b.redacted && bytes.Equal(a.raw, b.raw) &&
		a.Room == b.Room && a.Type == b.Type && reflect.DeepEqual(a.StateKey, b.StateKey) && a.Sender == b.Sender &&
		bytes.Equal(a.Content, b.Content) && slices.Equal(a.Prev, b.Prev) && slices.Equal(a.Auth, b.Auth) &&
		a.Depth == b.Depth && a.Time == b.Time
}

// body generates what an author may decide.
func body() *rapid.Generator[Body] {
	id := rapid.Custom(func(t *rapid.T) ID {
		return newID([32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash")))
	})
	return rapid.Custom(func(t *rapid.T) Body {
		types := []string{"m.room.create", "m.room.member", "m.room.join_rules", "m.room.power_levels", "m.room.history_visibility",
			"m.room.redaction", "m.room.message", "m.room.aliases", "m.room.third_party_invite", "im.tokenim.other"}
		keys := []string{"membership", "join_authorised_via_users_server", "third_party_invite", "join_rule", "allow", "ban", "events",
			"events_default", "invite", "kick", "redact", "state_default", "users", "users_default", "history_visibility", "redacts",
			"notifications", "creator", "aliases", "signed", "body"}
		content := map[string]any{}
		for _, k := range rapid.SliceOfN(rapid.SampledFrom(keys), 0, 6).Draw(t, "keys") {
			content[k] = value(2).Draw(t, k)
		}
		if rapid.Bool().Draw(t, "third party") {
			content["third_party_invite"] = map[string]any{"signed": value(1).Draw(t, "signed"), "x": 1}
		}
		for _, k := range rapid.SliceOfN(text(), 0, 3).Draw(t, "more keys") {
			content[k] = value(2).Draw(t, "value")
		}
		b := Body{
			Type:    rapid.SampledFrom(types).Draw(t, "type"),
			Sender:  UserID(rapid.SampledFrom([]string{"@alice:domain", "@:domain", "@A b\u0001\"\\日:domain"}).Draw(t, "sender")),
			Content: messy(t, content),
			Prev:    rapid.SliceOfN(id, 0, MaxPrev).Draw(t, "prev"),
			Auth:    rapid.SliceOfN(id, 0, MaxAuth).Draw(t, "auth"),
			Depth:   rapid.Int64Range(0, MaxInteger).Draw(t, "depth"),
			Time:    rapid.Int64Range(0, MaxInteger).Draw(t, "time"),
		}
		if b.Type != "m.room.create" {
			b.Room = RoomID("!" + id.Draw(t, "room")[1:])
		}
		if rapid.Bool().Draw(t, "state") {
			b.StateKey = ptr(text().Draw(t, "state key"))
		}
		return b
	})
}

func signed(t *rapid.T) *Event {
	e, err := Sign(body().Draw(t, "body"), specKey)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := body().Draw(t, "body")
		e, err := Sign(b, specKey)
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != b.Type || e.Sender != b.Sender || !reflect.DeepEqual(e.StateKey, b.StateKey) || e.Depth != b.Depth ||
			e.Time != b.Time || !slices.Equal(e.Prev, b.Prev) || !slices.Equal(e.Auth, b.Auth) || !sameJSON(e.Content, b.Content) {
			t.Fatalf("signed another event: %s", e.raw)
		}
		parsed, err := Parse(e.JSON())
		if err != nil || !equal(parsed, e) {
			t.Fatalf("Parse(Sign) = %+v, %v", parsed, err)
		}
		loaded, err := Load(e.ID(), e.JSON(), e.Redacted())
		if err != nil || !equal(loaded, e) {
			t.Fatalf("Load(Sign) = %+v, %v", loaded, err)
		}
		if err := parsed.Verify(specKey.Server, specKey.ID, specKey.public()); err != nil {
			t.Fatal(err)
		}
	})
}

// Any writing of the event, with any unsigned, is the same event.
func TestParseMessy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := signed(t)
		var v map[string]any
		d := json.NewDecoder(bytes.NewReader(e.raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "with unsigned") {
			v["unsigned"] = map[string]any{"age": value(2).Draw(t, "age")}
		}
		got, err := Parse(messy(t, v))
		if err != nil || !equal(got, e) {
			t.Fatalf("Parse = %+v, %v; want %s", got, err, e.raw)
		}
	})
}

// The id covers neither what redaction drops nor signatures.
func TestIDIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := signed(t)
		redacted, err := e.Redact()
		if err != nil || redacted.ID() != e.ID() || redacted.Redacted() == bytes.Equal(redacted.raw, e.raw) {
			t.Fatalf("Redact = %+v, %v", redacted, err)
		}
		again, err := redacted.Redact()
		if err != nil || !equal(again, redacted) {
			t.Fatalf("Redact is not idempotent: %s", again.raw)
		}
		parsed, err := Parse(redacted.JSON())
		if err != nil || !equal(parsed, redacted) {
			t.Fatalf("Parse(Redact) = %+v, %v; want %s", parsed, err, redacted.raw)
		}
		cosigned, err := redacted.Cosign(otherKey)
		if err != nil || cosigned.ID() != e.ID() || cosigned.Redacted() != redacted.Redacted() {
			t.Fatalf("Cosign = %+v, %v", cosigned, err)
		}
		for _, k := range []SigningKey{specKey, otherKey} {
			if err := cosigned.Verify(k.Server, k.ID, k.public()); err != nil {
				t.Fatal(err)
			}
		}
		// other.example has no part in the event: what Parse keeps is without it.
		if parsed, err = Parse(cosigned.JSON()); err != nil || parsed.ID() != e.ID() || len(parsed.Keys(specKey.Server)) != 1 {
			t.Fatalf("Parse(Cosign) = %+v, %v", parsed, err)
		}
		bare := appendWith(nil, e.raw, "signatures", []byte("{}"))
		if parsed, err = Parse(bare); err != nil || parsed.ID() != e.ID() || len(parsed.Keys(specKey.Server)) != 0 {
			t.Fatalf("without signatures: %+v, %v", parsed, err)
		}
	})
}

// Content that the hash does not cover is worth nothing: what is left is what
// the author's redacted event says, and its signature holds.
func TestParseTamperedContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := signed(t)
		if e.Type == "m.room.create" {
			return // all of its content is under the id
		}
		content := appendWith(nil, e.Content, "im.tokenim.added", []byte(`"x"`))
		got, err := Parse(appendWith(nil, e.raw, "content", content))
		if err != nil {
			t.Fatal(err)
		}
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if !equal(got, redacted) {
			t.Fatalf("Parse gave %+v, not the redacted form %+v", got, redacted)
		}
		if err := got.Verify(specKey.Server, specKey.ID, specKey.public()); err != nil {
			t.Fatal(err)
		}
		// The same with a property beside the content.
		if got, err = Parse(appendWith(nil, e.raw, "origin", []byte(`"x"`))); err != nil || !equal(got, redacted) {
			t.Fatalf("Parse with an added property = %+v, %v", got, err)
		}
	})
}

// A change of what the id covers makes another event, which nobody signed.
func TestParseTamperedEssentials(t *testing.T) {
	e := golden(t, "power levels")
	for _, tt := range []struct{ key, value string }{
		{"depth", "7"},
		{"origin_server_ts", "7"},
		{"sender", `"@mallory:domain"`},
		{"state_key", `"x"`},
		{"type", `"m.room.join_rules"`},
		{"room_id", `"!BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`},
		{"prev_events", `["` + string(someID) + `"]`},
		{"auth_events", `["` + string(someID) + `"]`},
		{"hashes", `{"sha256":"x"}`},
		{"hashes", string(appendWith(nil, lookup(e.raw, "hashes"), "sha512", []byte(`"x"`)))},
		{"content", string(appendWith(nil, e.Content, "users", []byte(`{"@mallory:domain":100}`)))},
		{"event_id", `"$x"`}, // survives redaction by the specification's list
	} {
		got, err := Parse(appendWith(nil, e.raw, tt.key, []byte(tt.value)))
		if err != nil {
			t.Errorf("%s: %v", tt.key, err)
			continue
		}
		if got.ID() == e.ID() {
			t.Errorf("%s = %s does not change the id", tt.key, tt.value)
		}
		if err := got.Verify(specKey.Server, specKey.ID, specKey.public()); !errors.Is(err, ErrSignature) {
			t.Errorf("%s = %s: signature: %v", tt.key, tt.value, err)
		}
	}
}

func TestParseOwnsItsBytes(t *testing.T) {
	e := golden(t, "message")
	raw := bytes.Clone(e.JSON())
	parsed, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(e.ID(), raw, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] = 'x'
	}
	if !equal(parsed, e) || !equal(loaded, e) {
		t.Error("the event changed with the caller's bytes")
	}
}
