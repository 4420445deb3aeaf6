package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// open returns a service on a store in memory.
func open(t testing.TB, cfg Config) *Accounts {
	t.Helper()
	if cfg.Store == nil {
		st, err := store.Open(store.Options{InMemory: true, Server: "hq"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		cfg.Store = st
	}
	cfg.Server = "hq"
	return New(cfg)
}

// clock makes the time of a service stand still until it is moved.
func clock(a *Accounts) func(time.Duration) {
	var mu sync.Mutex
	now := time.UnixMilli(1_700_000_000_000)
	a.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	return func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
}

func create(t testing.TB, a *Accounts, name, password string) event.UserID {
	t.Helper()
	u, err := a.Create(t.Context(), NewUser{Localpart: name, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func login(t testing.TB, a *Accounts, u event.UserID, device string) Login {
	t.Helper()
	l, err := a.OpenSession(t.Context(), u, device, "phone")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// known reports whether a token is good.
func known(t testing.TB, a *Accounts, token string) bool {
	t.Helper()
	_, err := a.Authenticate(t.Context(), token, "192.0.2.1")
	if err != nil && !errors.Is(err, ErrUnknownToken) {
		t.Fatal(err)
	}
	return err == nil
}

func TestUsernames(t *testing.T) {
	a := open(t, Config{})
	create(t, a, "taken", "")
	for _, tt := range []struct {
		name string
		want event.UserID
		err  error
	}{
		{"alice", "@alice:hq", nil},
		{"Alice", "@alice:hq", nil},
		{"a.b_c=d-e/f+g9", "@a.b_c=d-e/f+g9:hq", nil},
		{"7", "@7:hq", nil},
		{strings.Repeat("a", 251), event.UserID("@" + strings.Repeat("a", 251) + ":hq"), nil},
		{strings.Repeat("a", 252), "", ErrInvalidUsername},
		{"", "", ErrInvalidUsername},
		{"@alice:hq", "", ErrInvalidUsername},
		{"alice:hq", "", ErrInvalidUsername},
		{"a b", "", ErrInvalidUsername},
		{"a#b", "", ErrInvalidUsername},
		{"álice", "", ErrInvalidUsername},
		{"a\x00", "", ErrInvalidUsername},
		{"_bridge", "", ErrExclusive},
		{"taken", "", ErrUserInUse},
		{"TAKEN", "", ErrUserInUse},
	} {
		got, err := a.CheckUsername(tt.name)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%.20q: got %.20s, %v, want %.20s, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

// What is accepted is a valid user id of the grammar, and the grammar decides.
func TestUsernameGrammar(t *testing.T) {
	a := open(t, Config{})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-zA-Z0-9._=/+:@-]{0,20}`)).Draw(t, "name")
		id, err := a.CheckUsername(name)
		good := name != "" && name[0] != '_' && len(name) <= 251
		for _, r := range name {
			good = good && strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=-/+", r)
		}
		if good != (err == nil) {
			t.Fatalf("accepted %v, want %v", err == nil, good)
		}
		if err != nil {
			return
		}
		if p, err := event.ParseUserID(string(id)); err != nil || p != id || id.Server() != "hq" || id.Localpart() != strings.ToLower(name) {
			t.Fatalf("id %q: %v", id, err)
		}
	})
}

func TestCreate(t *testing.T) {
	a := open(t, Config{})
	u, err := a.Create(t.Context(), NewUser{Password: "correct horse"})
	if err != nil || u.Localpart() == "" {
		t.Fatalf("a made-up name: %q, %v", u, err)
	}
	if _, err := a.Create(t.Context(), NewUser{Localpart: "bob", Role: "king"}); err == nil {
		t.Error("an unknown role was accepted")
	}
	if _, err := a.Create(t.Context(), NewUser{Localpart: "bob", Password: strings.Repeat("x", 1025)}); !errors.Is(err, ErrWeakPassword) {
		t.Errorf("overlong password: %v", err)
	}
	bob, err := a.Create(t.Context(), NewUser{Localpart: "bob", Password: "x", Role: RoleAdministrator, DisplayName: " Bob "})
	if err != nil {
		t.Fatal(err)
	}
	got, err := a.User(bob)
	if err != nil || got.Role != RoleAdministrator || string(got.Profile["displayname"]) != `"Bob"` || got.Created == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if s, err := a.Authenticate(t.Context(), login(t, a, bob, "").Token, ""); err != nil || !s.Admin() {
		t.Errorf("session of an administrator: %+v, %v", s, err)
	}
	if _, err := a.Create(t.Context(), NewUser{Localpart: "BOB"}); !errors.Is(err, ErrUserInUse) {
		t.Errorf("taken name: %v", err)
	}
}

func TestPasswords(t *testing.T) {
	a := open(t, Config{})
	alice, bare := create(t, a, "alice", "correct horse"), create(t, a, "bare", "")
	for _, tt := range []struct {
		user     event.UserID
		password string
		want     error
	}{
		{alice, "correct horse", nil},
		{alice, "correct horsf", ErrCredentials},
		{alice, "", ErrCredentials},
		{alice, strings.Repeat("x", 100_000), ErrCredentials},
		{bare, "", ErrCredentials},
		{"@nobody:hq", "correct horse", ErrCredentials},
		{"@alice:other", "correct horse", ErrCredentials},
	} {
		if err := a.CheckPassword(t.Context(), tt.user, tt.password, ""); !errors.Is(err, tt.want) {
			t.Errorf("%s %.20q: %v, want %v", tt.user, tt.password, err, tt.want)
		}
	}
	if err := a.SetPassword(t.Context(), alice, ""); !errors.Is(err, ErrWeakPassword) {
		t.Errorf("empty password: %v", err)
	}
	if err := a.SetPassword(t.Context(), alice, "new"); err != nil {
		t.Fatal(err)
	}
	if err := a.CheckPassword(t.Context(), alice, "correct horse", ""); !errors.Is(err, ErrCredentials) {
		t.Errorf("the old password still works: %v", err)
	}
	if err := a.CheckPassword(t.Context(), alice, "new", ""); err != nil {
		t.Errorf("the new password does not: %v", err)
	}
}

// Whoever is named, a check waits for a place to hash: nobody is answered
// without the work, so the time tells nothing (reliability B34).
func TestSameWorkForEveryone(t *testing.T) {
	a := open(t, Config{})
	alice, bare, gone := create(t, a, "alice", "correct horse"), create(t, a, "bare", ""), create(t, a, "gone", "x")
	if err := a.Deactivate(t.Context(), gone, false); err != nil {
		t.Fatal(err)
	}
	for range maxHashing {
		a.hashing <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, u := range []event.UserID{alice, bare, gone, "@nobody:hq", "not even an id"} {
		if err := a.CheckPassword(ctx, u, "x", ""); !errors.Is(err, context.Canceled) {
			t.Errorf("%s was answered without hashing: %v", u, err)
		}
	}
	u, err := a.User(alice)
	if err != nil {
		t.Fatal(err)
	}
	stored, err1 := parsePHC(u.PasswordHash)
	decoy, err2 := parsePHC(a.decoy)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if stored.time != decoy.time || stored.memory != decoy.memory || stored.lanes != decoy.lanes ||
		len(stored.sum) != len(decoy.sum) || len(stored.salt) != len(decoy.salt) {
		t.Errorf("the decoy costs something else: %+v and %+v", stored, decoy)
	}
}

func TestPHC(t *testing.T) {
	// The test vector of the reference implementation for version 19, t=2,
	// m=65536 KiB, p=1, password "password", salt "somesalt".
	const vector = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	a := open(t, Config{})
	if ok, err := a.verify(t.Context(), vector, "password"); !ok || err != nil {
		t.Errorf("vector: %v, %v", ok, err)
	}
	for _, bad := range []string{"", "$", "plain", "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=16$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=0,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$", "$argon2id$v=19$m=65536,t=2,p=1$!$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"} {
		if _, err := parsePHC(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzPHC(f *testing.F) {
	f.Add(decoyHash())
	f.Add("$argon2id$v=19$m=1,t=1,p=1$AAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePHC(s)
		if err != nil {
			return
		}
		if again, err := parsePHC(p.String()); err != nil || again.String() != p.String() {
			t.Errorf("%q reads back as %q, %v", s, again.String(), err)
		}
	})
}

func TestSessions(t *testing.T) {
	a := open(t, Config{})
	alice := create(t, a, "alice", "x")
	one, two := login(t, a, alice, ""), login(t, a, alice, "TWO")
	if one.Token == two.Token || one.Device == two.Device || two.Device != "TWO" {
		t.Errorf("%+v and %+v", one, two)
	}
	s, err := a.Authenticate(t.Context(), one.Token, "192.0.2.1")
	if err != nil || s != (Session{User: alice, Device: one.Device, Role: RoleUser}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "x", one.Token + "x", one.Token[1:]} {
		if known(t, a, bad) {
			t.Errorf("token %q is known", bad)
		}
	}

	// A device that logs in again: its earlier token dies, its name stays.
	again, err := a.OpenSession(t.Context(), alice, "TWO", "tablet")
	if err != nil || known(t, a, two.Token) || !known(t, a, again.Token) {
		t.Errorf("old token known: %v, new one: %v, %v", known(t, a, two.Token), known(t, a, again.Token), err)
	}
	if d, err := a.Device(alice, "TWO"); err != nil || d.DisplayName != "phone" {
		t.Errorf("%+v, %v", d, err)
	}
	if err := a.RenameDevice(t.Context(), alice, "TWO", "desk"); err != nil {
		t.Error(err)
	}
	if d, err := a.Device(alice, "TWO"); err != nil || d.DisplayName != "desk" || !known(t, a, again.Token) {
		t.Errorf("%+v, %v", d, err)
	}
	if err := a.RenameDevice(t.Context(), alice, "NONE", "x"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown device: %v", err)
	}

	if err := a.LogoutOthers(t.Context(), Session{User: alice, Device: "TWO"}); err != nil {
		t.Error(err)
	}
	if known(t, a, one.Token) || !known(t, a, again.Token) {
		t.Error("LogoutOthers ended the wrong sessions")
	}
	if err := a.Logout(t.Context(), Session{User: alice, Device: "TWO"}); err != nil || known(t, a, again.Token) {
		t.Errorf("the session outlives its logout: %v", err)
	}
	three := login(t, a, alice, "")
	if !known(t, a, three.Token) {
		t.Fatal("fresh token is not known")
	}
	if err := a.LogoutAll(t.Context(), alice); err != nil || known(t, a, three.Token) {
		t.Errorf("the session outlives LogoutAll: %v", err)
	}
	if list, err := a.Devices(alice); err != nil || len(list) != 0 {
		t.Errorf("devices left: %v, %v", list, err)
	}
	if _, err := a.OpenSession(t.Context(), "@nobody:hq", "", ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("session of nobody: %v", err)
	}
}

// A session that is looked up while it is logged out does not stay in the cache.
func TestLogoutWins(t *testing.T) {
	a := open(t, Config{})
	alice := create(t, a, "alice", "")
	for range 50 {
		l := login(t, a, alice, "D")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for known(t, a, l.Token) {
				}
			})
		}
		if err := a.Logout(t.Context(), Session{User: alice, Device: "D"}); err != nil {
			t.Fatal(err)
		}
		if known(t, a, l.Token) {
			t.Fatal("token is known after the logout returned")
		}
		wg.Wait()
	}
}

func TestDeactivate(t *testing.T) {
	a := open(t, Config{})
	alice := create(t, a, "alice", "x")
	l := login(t, a, alice, "")
	if !known(t, a, l.Token) {
		t.Fatal("not logged in")
	}
	note := store.AccountData{Type: "org.example.note", Content: []byte(`{"private":1}`)}
	if err := a.store.Update(t.Context(), func(tx *store.Tx) error { return tx.PutAccountData(alice, note) }); err != nil {
		t.Fatal(err)
	}
	if err := a.Deactivate(t.Context(), alice, true); err != nil {
		t.Fatal(err)
	}
	if known(t, a, l.Token) {
		t.Error("the session is still good")
	}
	if err := a.CheckPassword(t.Context(), alice, "x", ""); !errors.Is(err, ErrDeactivated) {
		t.Errorf("password: %v", err)
	}
	if _, err := a.OpenSession(t.Context(), alice, "", ""); !errors.Is(err, ErrDeactivated) {
		t.Errorf("new session: %v", err)
	}
	if err := a.SetPassword(t.Context(), alice, "y"); !errors.Is(err, ErrDeactivated) {
		t.Errorf("new password: %v", err)
	}
	if _, err := a.CheckUsername("alice"); !errors.Is(err, ErrUserInUse) {
		t.Errorf("the name is free: %v", err)
	}
	err := a.store.View(func(tx *store.Tx) error {
		d, err := tx.AccountData(alice, "", note.Type)
		if err == nil && string(d.Content) != "{}" {
			t.Errorf("account data was not erased: %s", d.Content)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The last use of a device is written, but not with every request.
func TestLastSeen(t *testing.T) {
	a := open(t, Config{})
	pass := clock(a)
	alice := create(t, a, "alice", "")
	l := login(t, a, alice, "D")
	seen := func() (int64, string) {
		d, err := a.Device(alice, "D")
		if err != nil {
			t.Fatal(err)
		}
		return d.LastSeen, d.LastIP
	}
	use := func(ip string) {
		t.Helper()
		if _, err := a.Authenticate(t.Context(), l.Token, ip); err != nil {
			t.Fatal(err)
		}
	}
	use("192.0.2.1")
	first, ip := seen()
	if first != a.now().UnixMilli() || ip != "192.0.2.1" {
		t.Errorf("first use: %d from %s", first, ip)
	}
	pass(seenEvery - time.Second)
	before := a.store.Position()
	use("192.0.2.2")
	if at, _ := seen(); at != first || a.store.Position() != before {
		t.Error("a second use was written at once")
	}
	pass(time.Second)
	use("192.0.2.3")
	if at, ip := seen(); at != a.now().UnixMilli() || ip != "192.0.2.3" {
		t.Errorf("later use: %d from %s", at, ip)
	}
	if a.Online() != 1 {
		t.Errorf("%d online", a.Online())
	}
	pass(onlineFor + time.Second)
	if a.Online() != 0 {
		t.Errorf("%d online later", a.Online())
	}
}

// Neither a token nor a password is in the files of the store (reliability B35).
func TestNothingInClear(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(store.Options{Dir: dir, Server: "hq"})
	if err != nil {
		t.Fatal(err)
	}
	a := open(t, Config{Store: st})
	const password = "CANARY-correct-horse-battery-staple"
	alice := create(t, a, "alice", password)
	var tokens []string
	for i := range 20 {
		l := login(t, a, alice, fmt.Sprint("D", i))
		if !known(t, a, l.Token) {
			t.Fatal("token is not known")
		}
		tokens = append(tokens, l.Token, strings.TrimPrefix(l.Token, "tim_"))
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	found, files := false, 0
	err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		files++
		found = found || bytes.Contains(raw, []byte("alice"))
		for _, secret := range append(tokens, password) {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s holds a secret", filepath.Base(p))
			}
		}
		return nil
	})
	if err != nil || !found || files == 0 {
		t.Errorf("the scan saw %d files, the account in them: %v, %v", files, found, err)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	a := open(b, Config{})
	u := create(b, a, "alice", "")
	l := login(b, a, u, "")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := a.Authenticate(context.Background(), l.Token, "192.0.2.1"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkCheckPassword(b *testing.B) {
	a := open(b, Config{})
	u := create(b, a, "alice", "x")
	b.ReportAllocs()
	for b.Loop() {
		if err := a.CheckPassword(context.Background(), u, "x", "192.0.2.1"); err != nil {
			b.Fatal(err)
		}
	}
}
