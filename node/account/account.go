// Package account holds the local users: registration, login, devices, access
// tokens, roles, registration tokens. It knows nothing of rooms.
package account

import (
	"context"
	"errors"
	"log/slog"

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

// Config says how accounts behave.
type Config struct {
	Server event.Server
	Store  *store.Store
	Mode   string // registration.mode: "closed", "token" or "open"
	Limits bool   // rate limits of logins
	Logger *slog.Logger
}

// Accounts is the account service.
type Accounts struct{}

// Session is who a request speaks for.
type Session struct {
	User   event.UserID
	Device string
	Role   string
}

// Admin reports whether the session may use the administrator's API.
func (s Session) Admin() bool { return s.Role == "owner" || s.Role == "administrator" }

// New makes the service.
func New(cfg Config) *Accounts { panic("stub") }

// FirstToken returns the one-time registration token for the first
// administrator, making it if there is neither a user nor a token; "" once
// there is a user.
func (a *Accounts) FirstToken(ctx context.Context) (string, error) { panic("stub") }

// Authenticate finds the session of an access token; ErrUnknownToken. ip is
// remembered for the device.
func (a *Accounts) Authenticate(ctx context.Context, token, ip string) (Session, error) {
	panic("stub")
}

// NewUser describes an account to be made.
type NewUser struct {
	Localpart   string // empty: one is made up
	Password    string // empty: no password login
	Role        string // empty: "user"
	RegToken    string // registration token that is used up by it; its owner flag sets Role
	DisplayName string
}

// CheckUsername validates a localpart for a new account and that it is free.
func (a *Accounts) CheckUsername(localpart string) (event.UserID, error) { panic("stub") }

// Create makes an account.
func (a *Accounts) Create(ctx context.Context, u NewUser) (event.UserID, error) { panic("stub") }

// Login is a new session.
type Login struct {
	User   event.UserID
	Device string
	Token  string // access token, shown once
}

// CheckPassword verifies a password in equal time for unknown users;
// ErrCredentials, ErrDeactivated, ErrLimited.
func (a *Accounts) CheckPassword(ctx context.Context, user event.UserID, password, ip string) error {
	panic("stub")
}

// OpenSession makes a device with a token, or gives an existing device a new one.
func (a *Accounts) OpenSession(ctx context.Context, user event.UserID, device, displayName string) (Login, error) {
	panic("stub")
}

// Logout ends a session; LogoutAll every session of a user.
func (a *Accounts) Logout(ctx context.Context, s Session) error { panic("stub") }

// LogoutAll ends every session of a user.
func (a *Accounts) LogoutAll(ctx context.Context, user event.UserID) error { panic("stub") }

// Online counts users seen within the last five minutes.
func (a *Accounts) Online() int { panic("stub") }
