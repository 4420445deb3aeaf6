package account

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

func TestFirstToken(t *testing.T) {
	for _, mode := range []string{"closed", "token", "open"} {
		t.Run(mode, func(t *testing.T) {
			a := open(t, Config{Mode: mode})
			token, err := a.FirstToken(t.Context())
			if err != nil || len(token) < 16 {
				t.Fatalf("%q, %v", token, err)
			}
			if again, err := a.FirstToken(t.Context()); again != token || err != nil {
				t.Errorf("a second start has another token: %q, %v", again, err)
			}
			if ok, err := a.CheckToken(token, ""); !ok || err != nil {
				t.Errorf("token is not valid: %v", err)
			}
			open, byToken, err := a.Registration()
			if err != nil || open != (mode == "open") || !byToken {
				t.Errorf("registration open %v, by token %v, %v", open, byToken, err)
			}

			// Many try to be the first: one is.
			var won atomic.Int32
			var owner atomic.Value
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					u, err := a.Create(t.Context(), NewUser{Localpart: fmt.Sprint("user", i), RegToken: token})
					switch {
					case err == nil:
						won.Add(1)
						owner.Store(u)
					case !errors.Is(err, ErrRegToken):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if won.Load() != 1 {
				t.Fatalf("%d accounts made by one token", won.Load())
			}
			if u, err := a.User(owner.Load().(event.UserID)); err != nil || u.Role != RoleOwner {
				t.Errorf("%+v, %v", u, err)
			}
			if token, err := a.FirstToken(t.Context()); token != "" || err != nil {
				t.Errorf("a token beside a user: %q, %v", token, err)
			}
			if ok, err := a.CheckToken(token, ""); ok || err != nil {
				t.Errorf("the token is valid after its use: %v", err)
			}
			if _, byToken, err := a.Registration(); byToken != (mode == "token") || err != nil {
				t.Errorf("by token %v afterwards, %v", byToken, err)
			}
		})
	}
}

func TestFirstTokenWithUsers(t *testing.T) {
	a := open(t, Config{Mode: "closed"})
	create(t, a, "alice", "")
	if token, err := a.FirstToken(t.Context()); token != "" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if open, byToken, err := a.Registration(); open || byToken || err != nil {
		t.Errorf("registration open %v, by token %v, %v", open, byToken, err)
	}
}

// The token of the first administrator outlives other users, and dies when an
// administrator comes to be in another way.
func TestFirstTokenEnds(t *testing.T) {
	for _, role := range []string{RoleAdministrator, RoleOwner} {
		a := open(t, Config{Mode: "open"})
		token, err := a.FirstToken(t.Context())
		if err != nil || token == "" {
			t.Fatalf("%q, %v", token, err)
		}
		create(t, a, "alice", "")
		if again, err := a.FirstToken(t.Context()); again != token || err != nil {
			t.Errorf("a user ended the token: %q, %v", again, err)
		}
		if _, err := a.Create(t.Context(), NewUser{Localpart: "boss", Role: role}); err != nil {
			t.Fatal(err)
		}
		if again, err := a.FirstToken(t.Context()); again != "" || err != nil {
			t.Errorf("a token beside an %s: %q, %v", role, again, err)
		}
		if ok, err := a.CheckToken(token, ""); ok || err != nil {
			t.Errorf("the token can be used beside an %s: %v", role, err)
		}
		if _, err := a.Create(t.Context(), NewUser{Localpart: "mallory", RegToken: token}); !errors.Is(err, ErrRegToken) {
			t.Errorf("the token made an account beside an %s: %v", role, err)
		}
		if _, byToken, err := a.Registration(); byToken || err != nil {
			t.Errorf("clients are offered the token beside an %s: %v", role, err)
		}
	}
}

func TestRegistrationTokens(t *testing.T) {
	a := open(t, Config{Mode: "token"})
	pass := clock(a)
	for _, bad := range []string{"", "a b", "ä", string(make([]byte, 65))} {
		if err := a.PutToken(t.Context(), bad, 1, time.Time{}); !errors.Is(err, ErrRegToken) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	put := func(token string, uses int, expires time.Time) {
		t.Helper()
		if err := a.PutToken(t.Context(), token, uses, expires); err != nil {
			t.Fatal(err)
		}
	}
	put("twice", 2, time.Time{})
	put("forever", -1, time.Time{})
	put("today", -1, a.now().Add(time.Hour))
	n := 0
	use := func(token string) error {
		n++
		_, err := a.Create(t.Context(), NewUser{Localpart: fmt.Sprint("u", n), RegToken: token})
		return err
	}
	for i, want := range []error{nil, nil, ErrRegToken} {
		if err := use("twice"); !errors.Is(err, want) {
			t.Errorf("use %d: %v, want %v", i+1, err, want)
		}
	}
	for range 3 {
		if err := use("forever"); err != nil {
			t.Error(err)
		}
	}
	if err := use("today"); err != nil {
		t.Error(err)
	}
	pass(time.Hour)
	if err := use("today"); !errors.Is(err, ErrRegToken) {
		t.Errorf("expired token: %v", err)
	}
	if err := use("unknown"); !errors.Is(err, ErrRegToken) {
		t.Errorf("unknown token: %v", err)
	}
	// A name that is taken costs no use.
	put("once", 1, time.Time{})
	if _, err := a.Create(t.Context(), NewUser{Localpart: "u1", RegToken: "once"}); !errors.Is(err, ErrUserInUse) {
		t.Errorf("taken name: %v", err)
	}
	if err := use("once"); err != nil {
		t.Errorf("the token was used up by a refusal: %v", err)
	}
	err := a.store.View(func(tx *store.Tx) error {
		tok, err := tx.RegistrationToken("twice")
		if err == nil && (tok.Completed != 2 || tok.Uses != 0) {
			t.Errorf("record of a token: %+v", tok)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// In closed mode only the owner's token counts.
	closed := New(Config{Server: "hq", Store: a.store, Mode: "closed"})
	if ok, err := closed.CheckToken("forever", ""); ok || err != nil {
		t.Errorf("valid in closed mode: %v, %v", ok, err)
	}
	if _, err := closed.Create(t.Context(), NewUser{Localpart: "zed", RegToken: "forever"}); !errors.Is(err, ErrRegToken) {
		t.Errorf("used in closed mode: %v", err)
	}
}

func TestLoginLimits(t *testing.T) {
	a := open(t, Config{Limits: true})
	alice, bob := create(t, a, "alice", "x"), create(t, a, "bob", "y")
	attempt := func(u event.UserID, password, ip string) error {
		return a.CheckPassword(t.Context(), u, password, ip)
	}
	for i := range accountBurst {
		if err := attempt(alice, "wrong", fmt.Sprintf("192.0.%d.1", i)); !errors.Is(err, ErrCredentials) {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	err := attempt(alice, "x", "203.0.113.1")
	var wait *LimitError
	if !errors.As(err, &wait) || !errors.Is(err, ErrLimited) || wait.Wait <= 0 || wait.Wait > accountEvery {
		t.Fatalf("an attempt too many, with the right password: %v", err)
	}
	if err := attempt(bob, "y", "192.0.0.1"); err != nil {
		t.Errorf("another account is hit too: %v", err)
	}
	// Success clears the account's count: who knows the password may log in often.
	for range accountBurst * 3 {
		if err := attempt(bob, "y", "192.0.0.1"); err != nil {
			t.Fatal(err)
		}
	}
	// Unknown users are limited as known ones are.
	for range accountBurst {
		_ = attempt("@nobody:hq", "x", "192.0.2.9")
	}
	if err := attempt("@nobody:hq", "x", "192.0.2.9"); !errors.Is(err, ErrLimited) {
		t.Errorf("unknown user: %v", err)
	}
}

func TestBlocks(t *testing.T) {
	same := func(a, b string) bool { return block(a) == block(b) }
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.254", true},
		{"192.0.2.1", "192.0.3.1", false},
		{"::ffff:192.0.2.1", "192.0.2.9", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", true},
		{"2001:db8:0:100::1", "2001:db8:0:200::1", false},
		{"fe80::1%eth0", "fe80::2", true},
		{"", "nonsense", true},
	} {
		if same(tt.a, tt.b) != tt.same {
			t.Errorf("%s and %s: same block %v", tt.a, tt.b, !tt.same)
		}
	}
	// The budget of a block counts over accounts.
	l := newLoginLimits()
	for i := range blockBurst {
		if err := l.take(event.UserID(fmt.Sprintf("@u%d:hq", i)), "192.0.2.1"); err != nil {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	if err := l.take("@last:hq", "192.0.2.2"); !errors.Is(err, ErrLimited) {
		t.Errorf("one more from the block: %v", err)
	}
	if err := l.take("@last:hq", "192.0.3.1"); err != nil {
		t.Errorf("from another block: %v", err)
	}
	for range tokenBurst {
		if err := l.takeToken("192.0.2.1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.takeToken("192.0.2.1"); !errors.Is(err, ErrLimited) {
		t.Errorf("one token guess more: %v", err)
	}
}

// However many names are tried, what is remembered stays bounded.
func TestLimitsBounded(t *testing.T) {
	l := newLoginLimits()
	for i := range 2 * limitEntries {
		_ = l.take(event.UserID(fmt.Sprintf("@u%d:hq", i)), fmt.Sprintf("%d.%d.%d.1", i>>16+1, i>>8&255, i&255))
	}
	if l.accounts.Len() > limitEntries || l.blocks.Len() > limitEntries {
		t.Errorf("%d accounts and %d blocks remembered", l.accounts.Len(), l.blocks.Len())
	}
}
