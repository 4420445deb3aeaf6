package event

import (
	"errors"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"
)

// keyName makes the self-certifying name of a key, with another prefix if asked.
func keyName(prefix string, key byte) string {
	b := append([]byte(prefix), make([]byte, 32)...)
	b[len(b)-1] = key
	return "k" + new(big.Int).SetBytes(b).Text(36)
}

const keyPrefix = "\x01\x72\x00\x24\x08\x01\x12\x20"

func TestParseServer(t *testing.T) {
	good := []string{
		"hq", "a", "example.org", "matrix-1.example.org", "xn--bcher-kva.example", "1password.com", "3com", "a.b.c.d.e.f", "127.0.0.1.example",
		strings.Repeat("a", 63), strings.Repeat("a.", 114) + "bb", "k51", "k51.example", "k51-" + strings.Repeat("z", 58), "k5" + strings.Repeat("1", 60) + "a",
		// Names of two real keys, as libp2p prints them in base36.
		"k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8",
		"k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r",
		keyName(keyPrefix, 0), keyName(keyPrefix, 255),
	}
	for _, s := range good {
		if got, err := ParseServer(s); err != nil || string(got) != s {
			t.Errorf("ParseServer(%q) = %q, %v", s, got, err)
		}
	}
	bad := []string{
		"", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "A", "Example.org", "a_b", "a b", "a:1", "example.org:8448", "[::1]", "::1",
		"1.2.3.4", "1", "a.1", "127.0.0.1", "999.999.999.999", "bücher.example", "a\x00", "a\n", "@a", "a/b", "*",
		strings.Repeat("a", 64), strings.Repeat("a.", 115) + "b", strings.Repeat("a", 1<<16),
		"k51" + strings.Repeat("z", 59),                // the form of a key name, and none
		keyName("\x01\x70\x00\x24\x08\x01\x12\x20", 1), // another codec
		keyName("\x01\x72\x12\x24\x08\x01\x12\x20", 1), // another hash
		keyName("\x01\x72\x00\x24\x08\x02\x12\x20", 1), // another kind of key
		strings.ToUpper(keyName(keyPrefix, 1)),
		"12D3KooWGzBxNpWTVY4FHFWZVpqWpAqYtPCrHXKtRBKsmXhKHJrW",
	}
	for _, s := range bad {
		if got, err := ParseServer(s); !errors.Is(err, ErrInvalid) || got != "" {
			t.Errorf("ParseServer(%.80q) = %.80q, %v; want ErrInvalid", s, got, err)
		}
	}
}

func TestParseUserID(t *testing.T) {
	good := []struct{ in, local, server string }{
		{"@alice:example.org", "alice", "example.org"},
		{"@alice:hq", "alice", "hq"},
		{"@a.b_c=d-e/f+0:example.org", "a.b_c=d-e/f+0", "example.org"},
		{"@alice:example.org:8448", "alice", "example.org:8448"},
		{"@alice:1.2.3.4", "alice", "1.2.3.4"},
		{"@alice:1.2.3.4:80", "alice", "1.2.3.4:80"},
		{"@alice:[1234:5678::abcd]", "alice", "[1234:5678::abcd]"},
		{"@alice:[1234:5678::ABCD]:5678", "alice", "[1234:5678::ABCD]:5678"},
		{"@alice:[::ffff:1.2.3.4]", "alice", "[::ffff:1.2.3.4]"},
		{"@alice:EXAMPLE.ORG", "alice", "EXAMPLE.ORG"},
		// Historical localparts.
		{"@:example.org", "", "example.org"},
		{"@Alice Smith:example.org", "Alice Smith", "example.org"},
		{"@日本語😀:example.org", "日本語😀", "example.org"},
		{"@\x01\n\x7f@@:example.org", "\x01\n\x7f@@", "example.org"},
		{"@" + strings.Repeat("x", 242) + ":example.org", strings.Repeat("x", 242), "example.org"},
	}
	for _, tt := range good {
		got, err := ParseUserID(tt.in)
		if err != nil || string(got) != tt.in || got.Localpart() != tt.local || string(got.Server()) != tt.server {
			t.Errorf("ParseUserID(%q) = %q (%q, %q), %v", tt.in, got, got.Localpart(), got.Server(), err)
		}
	}
	bad := []string{
		"", "@", ":", "@:", "alice", "@alice", "@alice:", "alice:example.org", "!alice:example.org", ":example.org",
		"@a\x00b:example.org", "@\xff:example.org", "@\xed\xa0\x80:example.org",
		"@alice:example.org:", "@alice:example.org:123456", "@alice:example.org:8a", "@alice:example.org:1:2", "@alice::80",
		"@alice:exa mple", "@alice:exämple", "@alice:example_org", "@alice:example.org/", "@alice:\xff",
		"@alice:[]", "@alice:[::1", "@alice:::1", "@alice:[::1]x", "@alice:[::1]:", "@alice:[::1]:x", "@alice:[1.2.3.4]", "@alice:[::1%eth0]", "@alice:[g::1]", "@alice:[1]",
		"@" + strings.Repeat("x", 243) + ":example.org", "@alice:" + strings.Repeat("x", 249),
	}
	for _, s := range bad {
		if got, err := ParseUserID(s); !errors.Is(err, ErrInvalid) || got != "" {
			t.Errorf("ParseUserID(%.80q) = %q, %v; want ErrInvalid", s, got, err)
		}
	}
}

func TestParseIDs(t *testing.T) {
	const hash = "Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg" // from room version 4, Event IDs
	if got, err := ParseID("$" + hash); err != nil || got != "$"+hash || got.Room() != "!"+hash {
		t.Errorf("ParseID = %q, %v", got, err)
	}
	if got, err := ParseRoomID("!" + hash); err != nil || got != "!"+hash || got.Create() != "$"+hash {
		t.Errorf("ParseRoomID = %q, %v", got, err)
	}
	for _, s := range []string{
		"", "$", hash, "$" + hash[1:], "$" + hash + "A", "$" + hash + ":example.org", "#" + hash, "@" + hash, "$" + hash[:42] + "h",
		"$" + hash[:42] + "=", "$" + hash[:42] + "+", "$" + hash[:42] + "/", "$" + hash[:42] + " ", "$" + hash[:41] + "é", "$$" + hash[:42],
		"!x:example.org", "$143273582443PhrSn:example.org", strings.Repeat("$", 1<<16),
	} {
		if got, err := ParseID(s); !errors.Is(err, ErrInvalid) || got != "" {
			t.Errorf("ParseID(%.80q) = %q, %v; want ErrInvalid", s, got, err)
		}
		room := strings.Replace(s, "$", "!", 1)
		if got, err := ParseRoomID(room); !errors.Is(err, ErrInvalid) || got != "" {
			t.Errorf("ParseRoomID(%.80q) = %q, %v; want ErrInvalid", room, got, err)
		}
	}
	if _, err := ParseID("!" + hash); !errors.Is(err, ErrInvalid) {
		t.Errorf("ParseID of a room id: %v", err)
	}
	if _, err := ParseRoomID("$" + hash); !errors.Is(err, ErrInvalid) {
		t.Errorf("ParseRoomID of an event id: %v", err)
	}
}

func FuzzParseUserID(f *testing.F) {
	for _, s := range []string{"@alice:example.org", "@:a", "@a:[::1]:1", "@a:1.2.3.4", "@日\n:x:1", "@a", "a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUserID(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || u != "" {
				t.Fatalf("%q, %v", u, err)
			}
			return
		}
		if string(u) != s || "@"+u.Localpart()+":"+string(u.Server()) != s || len(s) > 255 || !utf8.ValidString(s) || u.Server() == "" {
			t.Fatalf("ParseUserID(%q) = %q, %q, %q", s, u, u.Localpart(), u.Server())
		}
		// Such a user can send events.
		e, err := Sign(Body{Room: someRoom, Type: "x", Sender: u, Content: []byte("{}")}, specKey)
		if err != nil || e.Sender != u {
			t.Fatalf("Sign by %q: %v", u, err)
		}
	})
}

func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"hq", "example.org", "1.2.3.4", "a:1", "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		server, err := ParseServer(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || server != "" {
				t.Fatalf("%q, %v", server, err)
			}
			return
		}
		if string(server) != s || strings.ToLower(s) != s || strings.ContainsAny(s, ":[]/_ ") {
			t.Fatalf("ParseServer(%q) = %q", s, server)
		}
		// Every name of a node is a server name of Matrix.
		if u, err := ParseUserID("@a:" + s); err != nil || u.Server() != server {
			t.Fatalf("user of %q: %v", s, err)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add(string(someID))
	f.Add(string(someRoom))
	f.Add("$x:example.org")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil && !errors.Is(err, ErrInvalid) || err == nil && (string(id) != s || id.Room().Create() != id) {
			t.Fatalf("ParseID(%q) = %q, %v", s, id, err)
		}
		room, err := ParseRoomID(s)
		if err != nil && !errors.Is(err, ErrInvalid) || err == nil && (string(room) != s || room.Create().Room() != room) {
			t.Fatalf("ParseRoomID(%q) = %q, %v", s, room, err)
		}
	})
}
