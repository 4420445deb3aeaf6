// Package account holds the local users: registration, login, devices, access
// tokens, roles, registration tokens. It knows nothing of rooms.
//
// Everything lives in the store; the package keeps in memory only a bounded
// cache of sessions, who was seen lately and the buckets of the login limits.
// It starts no goroutine. Passwords are stored as argon2id, access tokens as
// their SHA-256 (reliability B34, B35).
package account

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// Errors that callers tell apart.
var (
	ErrUserInUse       = errors.New("user name is taken")
	ErrInvalidUsername = errors.New("user name is not valid")
	ErrExclusive       = errors.New("user name is reserved")
	ErrWeakPassword    = errors.New("password is too weak")
	ErrCredentials     = errors.New("user name or password is wrong")
	ErrDeactivated     = errors.New("account is deactivated")
	ErrUnknownToken    = errors.New("access token is not known")
	ErrRegistration    = errors.New("registration is closed")
	ErrRegToken        = errors.New("registration token is not valid")
	ErrLimited         = errors.New("too many attempts")
)

// Roles of users. The owner is the first administrator.
const (
	RoleOwner         = "owner"
	RoleAdministrator = "administrator"
	RoleUser          = "user"
)

// Config says how accounts behave.
type Config struct {
	Server event.Server
	Store  *store.Store
	Mode   string // registration.mode: "closed", "token" or "open"
	Limits bool   // rate limits of logins
	Logger *slog.Logger
}

// Accounts is the account service. It is safe for concurrent use.
type Accounts struct {
	cfg   Config
	store *store.Store
	log   *slog.Logger
	now   func() time.Time

	hashing chan struct{} // one place per password being hashed
	decoy   string        // a hash that no password has, for users that have none
	limits  *loginLimits  // nil without limits

	mu       sync.Mutex // guards what follows
	sessions *simplelru.LRU[[32]byte, *session]
	dropped  uint64                     // counts invalidations, see Authenticate
	seen     map[event.UserID]time.Time // last request; pruned by Online
}

// Session is who a request speaks for.
type Session struct {
	User   event.UserID
	Device string
	Role   string
}

// Admin reports whether the session may use the administrator's API.
func (s Session) Admin() bool { return s.Role == RoleOwner || s.Role == RoleAdministrator }

// New makes the service.
func New(cfg Config) *Accounts {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sessions, err := simplelru.NewLRU[[32]byte, *session](maxSessions, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	a := &Accounts{
		cfg: cfg, store: cfg.Store, log: cfg.Logger, now: time.Now,
		hashing:  make(chan struct{}, maxHashing),
		decoy:    decoyHash(),
		sessions: sessions,
		seen:     map[event.UserID]time.Time{},
	}
	if cfg.Limits {
		a.limits = newLoginLimits()
	}
	return a
}

// onlineFor is how long after a request a user counts as online.
const onlineFor = 5 * time.Minute

// Online counts users seen within the last five minutes.
func (a *Accounts) Online() int {
	since := a.now().Add(-onlineFor)
	a.mu.Lock()
	defer a.mu.Unlock()
	for u, at := range a.seen {
		if at.Before(since) {
			delete(a.seen, u)
		}
	}
	return len(a.seen)
}

// User returns a local account; store.ErrNotFound.
func (a *Accounts) User(id event.UserID) (u *store.User, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		u, err = tx.User(id)
		return err
	})
	return u, err
}

// SetPassword changes the password of an account. ErrWeakPassword.
func (a *Accounts) SetPassword(ctx context.Context, id event.UserID, password string) error {
	hash, err := a.hash(ctx, password)
	if err != nil {
		return err
	}
	return a.store.Update(ctx, func(tx *store.Tx) error {
		u, err := tx.User(id)
		if err != nil {
			return err
		}
		if u.Deactivated {
			return ErrDeactivated
		}
		u.PasswordHash = hash
		return tx.PutUser(u)
	})
}

// Deactivate ends an account for good: no login, no session, no profile. Its
// name stays taken. With erase the account data is emptied too.
func (a *Accounts) Deactivate(ctx context.Context, id event.UserID, erase bool) error {
	var hashes [][32]byte
	err := a.store.Update(ctx, func(tx *store.Tx) error {
		hashes = hashes[:0]
		u, err := tx.User(id)
		if err != nil {
			return err
		}
		u.Deactivated, u.PasswordHash, u.Role, u.Profile = true, "", RoleUser, nil
		if err := tx.PutUser(u); err != nil {
			return err
		}
		if hashes, err = deleteDevices(tx, id, func(string) bool { return true }); err != nil || !erase {
			return err
		}
		data, err := tx.AllAccountData(id, 0)
		if err != nil {
			return err
		}
		for _, d := range data {
			if err := tx.PutAccountData(id, store.AccountData{Room: d.Room, Type: d.Type, Content: []byte("{}")}); err != nil {
				return err
			}
		}
		return nil
	})
	a.drop(hashes...)
	return err
}
