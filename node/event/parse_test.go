package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// with returns the event's JSON with a property set to value, or without it if
// value is empty.
func with(e *Event, key, value string) []byte {
	if value == "" {
		return appendWithout(nil, e.raw, func(k []byte) bool { return string(k) == key })
	}
	return appendWith(nil, e.raw, key, []byte(value))
}

func ids(n int) string {
	return "[" + strings.Repeat(`"`+string(someID)+`",`, n-1) + `"` + string(someID) + `"]`
}

func TestParseRefuses(t *testing.T) {
	message, create := golden(t, "message"), golden(t, "create")
	long := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	tests := []struct {
		key, value string
		want       error
	}{
		{"auth_events", "", ErrInvalid},
		{"auth_events", "null", ErrInvalid},
		{"auth_events", "{}", ErrInvalid},
		{"auth_events", ids(MaxAuth + 1), ErrInvalid},
		{"auth_events", `["$x"]`, ErrInvalid},
		{"auth_events", `[1]`, ErrInvalid},
		{"prev_events", "", ErrInvalid},
		{"prev_events", `"x"`, ErrInvalid},
		{"prev_events", ids(MaxPrev + 1), ErrInvalid},
		{"prev_events", `[["$x",{}]]`, ErrInvalid},
		{"prev_events", `["!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]`, ErrInvalid},
		{"prev_events", `["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB"]`, ErrInvalid},
		{"content", "", ErrInvalid},
		{"content", "null", ErrInvalid},
		{"content", "[]", ErrInvalid},
		{"content", `"x"`, ErrInvalid},
		{"depth", "", ErrInvalid},
		{"depth", "null", ErrInvalid},
		{"depth", `"1"`, ErrInvalid},
		{"depth", "-1", ErrInvalid},
		{"depth", "9007199254740992", ErrInvalid},
		{"depth", "1.0", ErrInvalid},
		{"depth", "true", ErrInvalid},
		{"origin_server_ts", "", ErrInvalid},
		{"origin_server_ts", "-1", ErrInvalid},
		{"origin_server_ts", `"1"`, ErrInvalid},
		{"origin_server_ts", "1e3", ErrInvalid},
		{"hashes", "", ErrInvalid},
		{"hashes", "{}", ErrInvalid},
		{"hashes", "[]", ErrInvalid},
		{"hashes", `{"sha256":1}`, ErrInvalid},
		{"hashes", `{"sha256":"x","md5":{}}`, ErrInvalid},
		{"signatures", "", ErrInvalid},
		{"signatures", "[]", ErrInvalid},
		{"signatures", `{"domain":"x"}`, ErrInvalid},
		{"signatures", `{"domain":{"ed25519:1":1}}`, ErrInvalid},
		{"room_id", "", ErrInvalid},
		{"room_id", "null", ErrInvalid},
		{"room_id", `"!x:domain"`, ErrInvalid},
		{"room_id", `"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`, ErrInvalid},
		{"room_id", long(256), ErrInvalid},
		{"sender", "", ErrInvalid},
		{"sender", "7", ErrInvalid},
		{"sender", `"alice"`, ErrInvalid},
		{"sender", `"@alice"`, ErrInvalid},
		{"sender", `"@alice:"`, ErrInvalid},
		{"sender", `"@alice:do main"`, ErrInvalid},
		{"sender", `"@` + strings.Repeat("x", 248) + `:domain"`, ErrTooLarge},
		{"state_key", "null", ErrInvalid},
		{"state_key", "1", ErrInvalid},
		{"state_key", long(256), ErrTooLarge},
		{"state_key", long(60000), ErrTooLarge},
		{"type", "", ErrInvalid},
		{"type", "null", ErrInvalid},
		{"type", "{}", ErrInvalid},
		{"type", long(256), ErrTooLarge},
		{"type", `"` + strings.Repeat("日", 86) + `"`, ErrTooLarge},
		{"type", `"m.room.create"`, ErrInvalid}, // with a room_id
		{"unsigned", "[]", ErrInvalid},
		{"content", `{"x":"` + strings.Repeat("x", MaxSize) + `"}`, ErrTooLarge},
		{"content", strings.Repeat(`{"a":`, MaxNesting) + "1" + strings.Repeat("}", MaxNesting), ErrInvalid},
		{"unsigned", `{"x":"` + strings.Repeat("x", maxInput) + `"}`, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s=%.40s", tt.key, tt.value), func(t *testing.T) {
			e, err := Parse(with(message, tt.key, tt.value))
			if !errors.Is(err, tt.want) || !errors.Is(err, ErrInvalid) || e != nil {
				t.Errorf("Parse = %v, %v; want %v", e, err, tt.want)
			}
		})
	}
	for _, raw := range [][]byte{
		nil, []byte("null"), []byte("[]"), []byte("{}"), []byte(`"x"`), []byte("7"),
		message.raw[:len(message.raw)-1], append(bytes.Clone(message.raw), '}'),
		with(create, "room_id", `"`+string(create.Room)+`"`),
		bytes.Replace(message.raw, []byte(`"depth"`), []byte(`"depth":1,"depth"`), 1),
	} {
		if e, err := Parse(raw); !errors.Is(err, ErrInvalid) || e != nil {
			t.Errorf("Parse(%.60q) = %v, %v; want ErrInvalid", raw, e, err)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	message := golden(t, "message")
	for _, tt := range []struct{ key, value string }{
		{"auth_events", "[]"},
		{"auth_events", ids(MaxAuth)},
		{"prev_events", ids(MaxPrev)},
		{"content", "{}"},
		{"content", strings.Repeat(`{"a":`, MaxNesting-1) + "1" + strings.Repeat("}", MaxNesting-1)},
		{"depth", "0"},
		{"depth", "9007199254740991"},
		{"origin_server_ts", "0"},
		{"origin_server_ts", "9007199254740991"},
		{"signatures", "{}"},
		{"signatures", `{"domain":{}}`},
		{"sender", `"@` + strings.Repeat("x", 247) + `:domain"`},
		{"sender", `"@:[2001:db8::1]:8448"`},
		{"state_key", `""`},
		{"state_key", `"` + strings.Repeat("x", 255) + `"`},
		{"type", `""`},
		{"type", `"` + strings.Repeat("日", 85) + `"`},
		{"unsigned", "{}"},
		{"unsigned", `{"age":1,"prev_content":{"x":"` + strings.Repeat("x", MaxSize) + `"}}`},
		{"another property", `[{"x":[]}]`},
	} {
		t.Run(fmt.Sprintf("%s=%.40s", tt.key, tt.value), func(t *testing.T) {
			e, err := Parse(with(message, tt.key, tt.value))
			if err != nil {
				t.Fatal(err)
			}
			if lookup(e.JSON(), "unsigned") != nil {
				t.Errorf("unsigned is still there: %s", e.JSON())
			}
			if tt.key == "unsigned" && !equal(e, message) {
				t.Errorf("unsigned changed the event: %s", e.JSON())
			}
		})
	}
}

// The limit holds for the canonical bytes as they are stored.
func TestSizeLimit(t *testing.T) {
	b := Body{Room: someRoom, Type: "m.room.message", Sender: "@alice:domain"}
	size := func(n int) (*Event, error) {
		b.Content = fmt.Appendf(nil, `{"body":%q}`, strings.Repeat("x", n))
		return Sign(b, specKey)
	}
	empty, err := size(0)
	if err != nil {
		t.Fatal(err)
	}
	largest, err := size(MaxSize - len(empty.JSON()))
	if err != nil || len(largest.JSON()) != MaxSize {
		t.Fatalf("Sign of the largest event: %v", err)
	}
	spaced := append([]byte("  \n"), with(largest, "unsigned", `{"age":1}`)...)
	if e, err := Parse(spaced); err != nil || !equal(e, largest) {
		t.Errorf("Parse of the largest event: %v", err)
	}
	if _, err := size(MaxSize - len(empty.JSON()) + 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Sign of a larger event: %v", err)
	}
	if _, err := largest.Cosign(otherKey); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Cosign beyond the limit: %v", err)
	}
	larger := bytes.Replace(largest.JSON(), []byte("xxx"), []byte("xxxx"), 1)
	if _, err := Parse(larger); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Parse of a larger event: %v", err)
	}
	if _, err := Load(largest.ID(), larger, false); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Load of a larger event: %v", err)
	}
}

// Signatures that nobody asked for are dropped: whoever hands the event on
// could have put them there.
func TestParseDropsForeignSignatures(t *testing.T) {
	stranger := testKey("stranger.example", "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	for _, name := range []string{"message", "restricted join", "third party invite", "create"} {
		e := golden(t, name)
		padded, err := e.Cosign(stranger)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Parse(padded.JSON()); err != nil || !equal(got, e) {
			t.Errorf("%s: Parse = %+v, %v", name, got, err)
		}
	}
	// The invited user's server has a reason to sign.
	invite, err := golden(t, "third party invite").Cosign(otherKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(invite.JSON()); err != nil || !equal(got, invite) {
		t.Errorf("invite: Parse = %+v, %v", got, err)
	}
}

func TestHashesPadded(t *testing.T) {
	e := golden(t, "message")
	var hashes struct{ SHA256 string }
	if err := json.Unmarshal(lookup(e.raw, "hashes"), &hashes); err != nil {
		t.Fatal(err)
	}
	// Another text for the same hash makes another id, but covers the content.
	got, err := Parse(with(e, "hashes", `{"sha256":"`+hashes.SHA256+`="}`))
	if err != nil || got.Redacted() || got.ID() == e.ID() {
		t.Errorf("Parse with a padded hash = %+v, %v", got, err)
	}
}

func TestSignRefuses(t *testing.T) {
	good := Body{Room: someRoom, Type: "m.room.message", Sender: "@alice:domain", Content: json.RawMessage(`{}`)}
	tests := []struct {
		name   string
		change func(b *Body, k *SigningKey)
	}{
		{"no room", func(b *Body, _ *SigningKey) { b.Room = "" }},
		{"old room id", func(b *Body, _ *SigningKey) { b.Room = "!x:domain" }},
		{"create with a room", func(b *Body, _ *SigningKey) { b.Type = "m.room.create" }},
		{"no content", func(b *Body, _ *SigningKey) { b.Content = nil }},
		{"content is no object", func(b *Body, _ *SigningKey) { b.Content = json.RawMessage(`[]`) }},
		{"content with a fraction", func(b *Body, _ *SigningKey) { b.Content = json.RawMessage(`{"a":1.5}`) }},
		{"content too deep", func(b *Body, _ *SigningKey) {
			b.Content = json.RawMessage(strings.Repeat(`{"a":`, MaxNesting) + "1" + strings.Repeat("}", MaxNesting))
		}},
		{"no sender", func(b *Body, _ *SigningKey) { b.Sender = "" }},
		{"sender without server", func(b *Body, _ *SigningKey) { b.Sender = "@alice" }},
		{"type too long", func(b *Body, _ *SigningKey) { b.Type = strings.Repeat("x", 256) }},
		{"type not UTF-8", func(b *Body, _ *SigningKey) { b.Type = "\xff" }},
		{"state key too long", func(b *Body, _ *SigningKey) { b.StateKey = ptr(strings.Repeat("x", 256)) }},
		{"state key not UTF-8", func(b *Body, _ *SigningKey) { b.StateKey = ptr("\xff") }},
		{"too many prev", func(b *Body, _ *SigningKey) { b.Prev = make([]ID, MaxPrev+1) }},
		{"too many auth", func(b *Body, _ *SigningKey) { b.Auth = make([]ID, MaxAuth+1) }},
		{"prev is no id", func(b *Body, _ *SigningKey) { b.Prev = []ID{"$x"} }},
		{"auth is no id", func(b *Body, _ *SigningKey) { b.Auth = []ID{ID(someRoom)} }},
		{"negative depth", func(b *Body, _ *SigningKey) { b.Depth = -1 }},
		{"depth too large", func(b *Body, _ *SigningKey) { b.Depth = MaxInteger + 1 }},
		{"negative time", func(b *Body, _ *SigningKey) { b.Time = -1 }},
		{"time too large", func(b *Body, _ *SigningKey) { b.Time = MaxInteger + 1 }},
		{"no key", func(_ *Body, k *SigningKey) { k.Private = nil }},
		{"no key id", func(_ *Body, k *SigningKey) { k.ID = "" }},
		{"key id of another algorithm", func(_ *Body, k *SigningKey) { k.ID = "rsa:1" }},
		{"key id without version", func(_ *Body, k *SigningKey) { k.ID = "ed25519:" }},
		{"no server", func(_ *Body, k *SigningKey) { k.Server = "" }},
	}
	if _, err := Sign(good, specKey); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, k := good, specKey
			tt.change(&b, &k)
			if e, err := Sign(b, k); !errors.Is(err, ErrInvalid) || e != nil {
				t.Errorf("Sign = %v, %v; want ErrInvalid", e, err)
			}
		})
	}
}

func TestLoadDamaged(t *testing.T) {
	e := golden(t, "message")
	if _, err := Load("x", e.JSON(), false); !errors.Is(err, ErrInvalid) {
		t.Errorf("Load with a bad id: %v", err)
	}
	for i := range e.raw {
		if _, err := Load(e.ID(), e.raw[:i], false); !errors.Is(err, ErrInvalid) {
			t.Fatalf("Load of the first %d bytes: %v", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, g := range goldenBodies {
		e := signGolden(f, g.body)
		f.Add(e.JSON())
		f.Add(with(e, "unsigned", `{"age":1}`))
		f.Add(with(e, "content", `{"membership":"join","x":[1,2,{"y":"z"}]}`))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Parse(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || e != nil {
				t.Fatalf("Parse = %v, %v", e, err)
			}
			return
		}
		if !isCanonical(e.JSON()) || len(e.JSON()) > MaxSize {
			t.Fatalf("%q is not canonical, or too large", e.JSON())
		}
		again, err := Parse(e.JSON())
		if err != nil || !equal(again, e) {
			t.Fatalf("parsed again: %+v, %v; want %+v", again, err, e)
		}
		loaded, err := Load(e.ID(), e.JSON(), e.Redacted())
		if err != nil || !equal(loaded, e) {
			t.Fatalf("loaded: %+v, %v; want %+v", loaded, err, e)
		}
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if again, err = Parse(redacted.JSON()); err != nil || !equal(again, redacted) {
			t.Fatalf("redacted and parsed: %+v, %v; want %+v", again, err, redacted)
		}
		if cosigned, err := e.Cosign(specKey); err == nil {
			if again, err = Parse(cosigned.JSON()); err != nil || again.ID() != e.ID() {
				t.Fatalf("cosigned and parsed: %+v, %v", again, err)
			}
			if err := cosigned.Verify(specKey.Server, specKey.ID, specKey.public()); err != nil {
				t.Fatal(err)
			}
		}
		e.Signers()
		e.Keys(specKey.Server)
		e.Membership()
	})
}
