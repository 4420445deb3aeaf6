package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

const (
	maxUserID      = 255 // bytes (Appendices, User Identifiers)
	maxDisplayName = 256 // bytes
	userChars      = "abcdefghijklmnopqrstuvwxyz0123456789._=-/+"
)

// FirstToken returns the one-time registration token for the first
// administrator, making it if there is neither a user nor a token; "" once it
// is dead. Who registers with it becomes the owner. It dies with its use, and
// with any other way in which an administrator comes to be: what stands in the
// log of the first start must not make administrators for ever.
func (a *Accounts) FirstToken(ctx context.Context) (string, error) {
	fresh, found := randomName(32, "abcdefghijklmnopqrstuvwxyz0123456789"), ""
	look := func(tx *store.Tx) error {
		found = ""
		tokens, err := tx.RegistrationTokens()
		if err != nil {
			return err
		}
		for _, t := range tokens {
			if t.Owner && a.usable(t) {
				found = t.Token
				return nil
			}
		}
		n, err := tx.CountUsers()
		if err != nil || n > 0 {
			return err
		}
		return store.ErrNotFound
	}
	// Most starts find a user or the token and write nothing.
	err := a.store.View(look)
	if !errors.Is(err, store.ErrNotFound) {
		return found, err
	}
	err = a.store.Update(ctx, func(tx *store.Tx) error {
		if err := look(tx); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		found = fresh
		return tx.PutRegistrationToken(&store.RegistrationToken{Token: fresh, Uses: 1, Owner: true})
	})
	return found, err
}

// usable reports whether a registration token can be used now, in this mode:
// while registration is closed only the first administrator's can.
func (a *Accounts) usable(t *store.RegistrationToken) bool {
	if t.Uses == 0 || t.Expires != 0 && t.Expires <= a.now().UnixMilli() {
		return false
	}
	return t.Owner || a.cfg.Mode != "closed"
}

// Registration reports how a new account can be made by its user now: freely,
// and with a registration token. Neither: registration is closed.
func (a *Accounts) Registration() (open, token bool, err error) {
	switch a.cfg.Mode {
	case "open":
		open = true
	case "token":
		return false, true, nil
	}
	err = a.store.View(func(tx *store.Tx) error {
		tokens, err := tx.RegistrationTokens()
		for _, t := range tokens {
			token = token || a.usable(t)
		}
		return err
	})
	return open, token, err
}

// CheckToken reports whether a registration token could be used now. Guessing
// is limited by the address block of ip: ErrLimited.
func (a *Accounts) CheckToken(token, ip string) (bool, error) {
	if err := a.limits.takeToken(ip); err != nil {
		return false, err
	}
	ok := false
	err := a.store.View(func(tx *store.Tx) error {
		t, err := tx.RegistrationToken(token)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		ok = err == nil && a.usable(t)
		return err
	})
	return ok, err
}

// NewUser describes an account to be made.
type NewUser struct {
	Localpart   string // empty: one is made up
	Password    string // empty: no password login
	Role        string // empty: "user"
	RegToken    string // registration token that is used up by it; its owner flag sets Role
	DisplayName string
}

// Normalize returns the user id that a user name means: a localpart, or a whole
// user id of this server, upper-case letters being lower-cased (Appendices, User
// Identifiers). It is not checked further; ok is false for another server's.
func (a *Accounts) Normalize(name string) (id event.UserID, ok bool) {
	name = strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
	if !strings.HasPrefix(name, "@") {
		return event.UserID("@" + name + ":" + string(a.cfg.Server)), true
	}
	id = event.UserID(name)
	return id, id.Server() == a.cfg.Server
}

// parseLocalpart validates a localpart for a new account.
func (a *Accounts) parseLocalpart(localpart string) (event.UserID, error) {
	id, _ := a.Normalize(localpart)
	local := id.Localpart()
	switch {
	case localpart == "" || strings.HasPrefix(localpart, "@") || strings.Contains(localpart, ":"):
		return "", ErrInvalidUsername
	case !only(local, userChars) || len(id) > maxUserID:
		return "", ErrInvalidUsername
	case local[0] == '_': // customarily the namespace of bridges
		return "", ErrExclusive
	}
	return id, nil
}

// only reports whether s has characters of the set alone.
func only(s, set string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(set, r) })
}

// CheckUsername validates a localpart for a new account and that it is free:
// ErrInvalidUsername, ErrExclusive, ErrUserInUse.
func (a *Accounts) CheckUsername(localpart string) (event.UserID, error) {
	id, err := a.parseLocalpart(localpart)
	if err != nil {
		return "", err
	}
	switch _, err := a.User(id); {
	case errors.Is(err, store.ErrNotFound):
		return id, nil
	case err != nil:
		return "", err
	}
	return "", ErrUserInUse
}

// Create makes an account: ErrInvalidUsername, ErrExclusive, ErrUserInUse,
// ErrWeakPassword, and ErrRegToken if RegToken is set and cannot be used. The
// token is used up and the account made in one commit.
func (a *Accounts) Create(ctx context.Context, n NewUser) (event.UserID, error) {
	madeUp := n.Localpart == ""
	if madeUp {
		n.Localpart = randomName(12, "abcdefghijklmnopqrstuvwxyz")
	}
	id, err := a.CheckUsername(n.Localpart)
	if err != nil {
		return "", err
	}
	role := n.Role
	switch role {
	case "":
		role = RoleUser
	case RoleUser, RoleAdministrator, RoleOwner:
	default:
		return "", fmt.Errorf("role %q is not known", role)
	}
	u := store.User{ID: id, Role: role, Created: a.now().UnixMilli()}
	if n.Password != "" {
		if u.PasswordHash, err = a.hash(ctx, n.Password); err != nil {
			return "", err
		}
	}
	if name := strings.TrimSpace(n.DisplayName); name != "" {
		raw, err := json.Marshal(strings.ToValidUTF8(name[:min(len(name), maxDisplayName)], ""))
		if err != nil {
			return "", err
		}
		u.Profile = map[string]json.RawMessage{"displayname": raw}
	}
	err = a.store.Update(ctx, func(tx *store.Tx) error {
		switch _, err := tx.User(id); {
		case err == nil:
			return ErrUserInUse
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		made := u
		if n.RegToken != "" {
			owner, err := a.useToken(tx, n.RegToken)
			if err != nil {
				return err
			}
			if owner {
				made.Role = RoleOwner
			}
		}
		if made.Role != RoleUser {
			if err := endFirstToken(tx); err != nil {
				return err
			}
		}
		return tx.PutUser(&made)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// endFirstToken deletes the token of the first administrator: there is one.
func endFirstToken(tx *store.Tx) error {
	tokens, err := tx.RegistrationTokens()
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Owner {
			if err := tx.DeleteRegistrationToken(t.Token); err != nil {
				return err
			}
		}
	}
	return nil
}

// useToken takes one use of a registration token. One without uses left is
// deleted if it was the owner's, and kept for the record otherwise.
func (a *Accounts) useToken(tx *store.Tx, token string) (owner bool, err error) {
	t, err := tx.RegistrationToken(token)
	if errors.Is(err, store.ErrNotFound) {
		return false, ErrRegToken
	}
	if err != nil {
		return false, err
	}
	if !a.usable(t) {
		return false, ErrRegToken
	}
	if t.Uses > 0 {
		t.Uses--
	}
	t.Completed++
	if t.Owner && t.Uses == 0 {
		return true, tx.DeleteRegistrationToken(token)
	}
	return t.Owner, tx.PutRegistrationToken(t)
}

// PutToken makes or replaces a registration token: at most 64 characters of
// the opaque identifier grammar, uses -1 for no limit, no expiry if expires is
// zero.
func (a *Accounts) PutToken(ctx context.Context, token string, uses int, expires time.Time) error {
	if len(token) == 0 || len(token) > 64 || !only(token, tokenChars) {
		return fmt.Errorf("%w: it must be 1 to 64 letters, digits, dots, underscores, tildes or hyphens", ErrRegToken)
	}
	t := &store.RegistrationToken{Token: token, Uses: uses}
	if !expires.IsZero() {
		t.Expires = expires.UnixMilli()
	}
	return a.store.Update(ctx, func(tx *store.Tx) error { return tx.PutRegistrationToken(t) })
}

const tokenChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-"
