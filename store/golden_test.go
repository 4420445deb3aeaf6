package store

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
)

var updateGolden = flag.Bool("update", false, "write testdata/v<schema> anew")

// writeGolden fills a directory with something of everything.
func writeGolden(t *testing.T, dir string) {
	s, err := Open(Options{Dir: dir, Server: home})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, s)
	alice, bob := user("alice", home), user("bob", other)
	w.join(bob)
	fork := w.roomNow().Heads
	key := ""
	w.add(fork, w.admin, "m.room.name", &key, `{"name":"one"}`)
	m := w.say(fork, bob, "to be redacted")
	w.add(nil, w.admin, "m.room.topic", &key, `{"topic":"both"}`)
	w.add(nil, bob, typeRedaction, nil, fmt.Sprintf(`{"redacts":%q}`, m.ID()))
	w.send(w.admin, typeMember, string(alice), `{"membership":"invite"}`)
	outlier := w.message([]event.ID{fakeHash(1).event()}, 1)
	update(t, s, func(tx *Tx) error {
		return errors.Join(
			tx.PutOutlier(outlier),
			tx.PutUser(&User{ID: alice, PasswordHash: "hash", Role: "owner", Created: 1}),
			tx.PutDevice(&Device{User: alice, ID: "D", Token: [32]byte{1}}),
			tx.PutTxn(alice, "D", "send", "t", m.ID()),
			tx.PutRegistrationToken(&RegistrationToken{Token: "r", Uses: 1}),
			tx.PutAccountData(alice, AccountData{Type: "m.direct", Content: []byte(`{}`)}),
			tx.PutReceipt(Receipt{Room: w.room, Type: "m.read", User: alice, Event: m.ID(), Time: 5}),
			tx.PutAlias("#a:"+string(home), w.room, alice),
			tx.SetPublished(w.room, true),
			tx.SetCursor("publisher", 3),
			tx.PutServerRecord(other, []byte(`{"record":1}`)),
			tx.PutMembership(Membership{Room: fakeHash(2).room(), User: alice, Membership: "invite", Event: fakeHash(3).event(), Raw: []byte(`{}`)}),
		)
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What Badger makes again by itself; large and empty.
	if err := os.Remove(filepath.Join(dir, dirBadger, "DISCARD")); err != nil {
		t.Fatal(err)
	}
}

// describe says what a store holds, for comparison.
func describe(t *testing.T, s *Store) string {
	var b strings.Builder
	say := func(what string, v ...any) { fmt.Fprintln(&b, append([]any{what}, v...)...) }
	alice := user("alice", home)
	view(t, s, func(tx *Tx) error {
		c, err := tx.Counts()
		say("counts", fmt.Sprintf("%+v", c), err)
		rooms, err := tx.Rooms()
		say("rooms", rooms, err)
		for _, id := range rooms {
			r, err := tx.Room(id)
			say("room", fmt.Sprintf("%+v", r), err)
			evs, more, err := tx.Timeline(id, 0, 1000, 1000)
			say("timeline", more, err)
			for _, e := range evs {
				say("event", e.ID(), e.Position, e.Depth, e.Before, e.After, e.RedactedBy, e.Local, string(e.JSON()))
			}
			st, err := tx.State(r.State)
			if err != nil {
				return err
			}
			h, err := st.Hash()
			say("state", fmt.Sprintf("%x", h), err)
			receipts, err := tx.Receipts(id, 0)
			say("receipts", receipts, err)
			aliases, err := tx.Aliases(id)
			say("aliases", aliases, err)
			servers, err := tx.Servers(id)
			say("servers", servers, err)
		}
		u, err := tx.User(alice)
		say("user", fmt.Sprintf("%+v", u), err)
		d, err := tx.DeviceByToken([32]byte{1})
		say("device", d.User, d.ID, err)
		token, err := tx.RegistrationToken("r")
		say("token", *token, err)
		data, err := tx.AllAccountData(alice, 0)
		for _, a := range data {
			say("data", a.Room, a.Type, a.Position, string(a.Content), err)
		}
		ms, err := tx.Memberships(alice)
		say("memberships", fmt.Sprintf("%+v", ms), err)
		p, err := tx.Cursor("publisher")
		say("cursor", p, err)
		records, err := tx.ServerRecords()
		say("records", records, err)
		published, err := tx.Published()
		say("published", published, err)
		return nil
	})
	return b.String()
}

// Every old data directory opens and holds what was in it.
func TestGolden(t *testing.T) {
	if *updateGolden {
		dir := filepath.Join("testdata", fmt.Sprintf("v%d", schemaVersion))
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		writeGolden(t, dir)
	}
	dirs, err := filepath.Glob(filepath.Join("testdata", "v*[0-9]"))
	if err != nil || len(dirs) != schemaVersion {
		t.Fatalf("%d directories for %d schema versions, %v", len(dirs), schemaVersion, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			s := mustOpen(t, Options{Dir: copyDir(t, dir)})
			got := describe(t, s)
			name := dir + ".txt"
			if *updateGolden && filepath.Base(dir) == fmt.Sprintf("v%d", schemaVersion) {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			update(t, s, func(tx *Tx) error { return bump(tx, "n") })
		})
	}
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// digest returns the contents of all files.
func digest(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNewerSchema(t *testing.T) {
	dir := copyDir(t, filepath.Join("testdata", fmt.Sprintf("v%d", schemaVersion)))
	if err := os.Remove(filepath.Join(dir, fileLock)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileSchema), fmt.Appendln(nil, schemaVersion+1), 0o600); err != nil {
		t.Fatal(err)
	}
	before := digest(t, dir)
	_, err := Open(Options{Dir: dir})
	if !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), fmt.Sprint(schemaVersion+1)) {
		t.Errorf("got %v", err)
	}
	if after := digest(t, dir); !maps.Equal(after, before) {
		t.Errorf("changed: %v", slices.Sorted(maps.Keys(after)))
	}
}

func TestDamagedSchema(t *testing.T) {
	dir := copyDir(t, filepath.Join("testdata", fmt.Sprintf("v%d", schemaVersion)))
	name := filepath.Join(dir, fileSchema)
	for _, text := range []string{"", "0", "x", "-1"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: dir}); !errors.Is(err, errCorrupt) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, errCorrupt) {
		t.Errorf("no file beside a database: %v", err)
	}
	// The file was replaced by an older one: the row in the database decides.
	if err := os.WriteFile(name, fmt.Appendln(nil, schemaVersion), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Dir: dir, Server: home})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *Tx) error { return tx.set(key0(kindSchema), encodeNumber(schemaVersion+1)) })
	if err := s.Close(); !errors.Is(err, ErrCheck) {
		t.Errorf("check of a wrong schema row: %v", err)
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("row of a newer schema: %v", err)
	}
}

// A byte that changed on disk is found.
func TestFlippedByte(t *testing.T) {
	from := filepath.Join("testdata", fmt.Sprintf("v%d", schemaVersion))
	tables, err := filepath.Glob(filepath.Join(from, dirBadger, "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	good, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	for part := range 10 { // of the blocks; behind them is the index, which Open checks
		dir := copyDir(t, from)
		bad := slices.Clone(good)
		bad[part*len(bad)/20] ^= 0x10
		if err := os.WriteFile(filepath.Join(dir, dirBadger, filepath.Base(tables[0])), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Dir: dir, Server: home})
		if err != nil {
			continue // found even earlier
		}
		if err := s.Close(); !errors.Is(err, errCorrupt) {
			t.Errorf("byte %d: %v", part*len(bad)/20, err)
		}
	}
}
