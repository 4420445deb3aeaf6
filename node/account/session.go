package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// maxSessions bounds the cache of sessions.
const maxSessions = 16_384

// seenEvery is how often a device's last use is written to the store.
const seenEvery = 10 * time.Minute

// session is a cached access token.
type session struct {
	Session
	written time.Time // when the device's last use was written last
}

// Authenticate finds the session of an access token; ErrUnknownToken. ip is
// remembered for the device, at most every ten minutes.
func (a *Accounts) Authenticate(ctx context.Context, token, ip string) (Session, error) {
	hash, now := sha256.Sum256([]byte(token)), a.now()
	a.mu.Lock()
	s, cached := a.sessions.Get(hash)
	before := a.dropped
	if !cached {
		a.mu.Unlock()
		var err error
		if s, err = a.load(hash); err != nil {
			return Session{}, err
		}
		a.mu.Lock()
		// A logout between the look-up and here must not be undone by caching
		// what was read before it.
		if a.dropped == before {
			if other, ok := a.sessions.Get(hash); ok {
				s = other
			} else {
				a.sessions.Add(hash, s)
			}
		}
	}
	a.seen[s.User] = now
	stale := now.Sub(s.written) >= seenEvery
	if stale {
		s.written = now
	}
	who := s.Session
	a.mu.Unlock()
	if stale {
		a.touch(ctx, who, hash, ip, now)
	}
	return who, nil
}

// load reads a session from the store.
func (a *Accounts) load(hash [32]byte) (*session, error) {
	var s *session
	err := a.store.View(func(tx *store.Tx) error {
		d, err := tx.DeviceByToken(hash)
		if err != nil {
			return err
		}
		u, err := tx.User(d.User)
		if err != nil {
			return err
		}
		if u.Deactivated {
			return store.ErrNotFound
		}
		s = &session{Session: Session{User: u.ID, Device: d.ID, Role: u.Role}, written: time.UnixMilli(d.LastSeen)}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrUnknownToken
	}
	return s, err
}

// touch writes when and from where a device was used. It is no reason to fail
// a request: a full disk must not end reading.
func (a *Accounts) touch(ctx context.Context, s Session, hash [32]byte, ip string, now time.Time) {
	err := a.store.Update(ctx, func(tx *store.Tx) error {
		d, err := tx.Device(s.User, s.Device)
		if err != nil || d.Token != hash {
			return err // the session ended meanwhile
		}
		d.LastSeen, d.LastIP = now.UnixMilli(), ip
		return tx.PutDevice(d)
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		a.log.Debug("last use of a device not written", "err", err)
	}
}

// drop forgets cached sessions.
func (a *Accounts) drop(hashes ...[32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dropped++
	for _, h := range hashes {
		a.sessions.Remove(h)
	}
}

// Login is a new session.
type Login struct {
	User   event.UserID
	Device string
	Token  string // access token, shown once
}

// OpenSession makes a device with a token, or gives an existing device a new
// one: its earlier token dies, its display name stays (Relationship between
// access tokens and devices). An empty device makes one up. ErrDeactivated,
// store.ErrNotFound.
func (a *Accounts) OpenSession(ctx context.Context, user event.UserID, device, displayName string) (Login, error) {
	if device == "" {
		device = randomName(10, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	}
	raw := make([]byte, 32)
	rand.Read(raw)
	token := "tim_" + base64.RawURLEncoding.EncodeToString(raw)
	now := a.now().UnixMilli()
	var old [32]byte
	err := a.store.Update(ctx, func(tx *store.Tx) error {
		u, err := tx.User(user)
		if err != nil {
			return err
		}
		if u.Deactivated {
			return ErrDeactivated
		}
		d, err := tx.Device(user, device)
		switch {
		case errors.Is(err, store.ErrNotFound):
			d = &store.Device{User: user, ID: device, DisplayName: displayName, Created: now}
		case err != nil:
			return err
		}
		old = d.Token
		d.Token = sha256.Sum256([]byte(token))
		d.LastSeen = 0 // written by the first request
		return tx.PutDevice(d)
	})
	a.drop(old)
	if err != nil {
		return Login{}, err
	}
	return Login{User: user, Device: device, Token: token}, nil
}

// Logout ends a session and deletes its device.
func (a *Accounts) Logout(ctx context.Context, s Session) error {
	return a.DeleteDevices(ctx, s.User, []string{s.Device})
}

// LogoutAll ends every session of a user.
func (a *Accounts) LogoutAll(ctx context.Context, user event.UserID) error {
	return a.deleteDevices(ctx, user, func(string) bool { return true })
}

// LogoutOthers ends every session of the user but s.
func (a *Accounts) LogoutOthers(ctx context.Context, s Session) error {
	return a.deleteDevices(ctx, s.User, func(id string) bool { return id != s.Device })
}

// DeleteDevices deletes devices of a user with their sessions. Deleting one
// that is not there is no error.
func (a *Accounts) DeleteDevices(ctx context.Context, user event.UserID, ids []string) error {
	gone := make(map[string]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	return a.deleteDevices(ctx, user, func(id string) bool { return gone[id] })
}

func (a *Accounts) deleteDevices(ctx context.Context, user event.UserID, which func(id string) bool) error {
	var hashes [][32]byte
	err := a.store.Update(ctx, func(tx *store.Tx) (err error) {
		hashes, err = deleteDevices(tx, user, which)
		return err
	})
	a.drop(hashes...)
	return err
}

// deleteDevices deletes devices and returns the hashes of their tokens.
func deleteDevices(tx *store.Tx, user event.UserID, which func(id string) bool) ([][32]byte, error) {
	devices, err := tx.Devices(user)
	if err != nil {
		return nil, err
	}
	var hashes [][32]byte
	for _, d := range devices {
		if !which(d.ID) {
			continue
		}
		hashes = append(hashes, d.Token)
		if err := tx.DeleteDevice(user, d.ID); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

// Devices returns the devices of a user.
func (a *Accounts) Devices(user event.UserID) (list []*store.Device, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		list, err = tx.Devices(user)
		return err
	})
	return list, err
}

// Device returns one device of a user; store.ErrNotFound.
func (a *Accounts) Device(user event.UserID, id string) (d *store.Device, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		d, err = tx.Device(user, id)
		return err
	})
	return d, err
}

// RenameDevice sets the display name of a device; store.ErrNotFound.
func (a *Accounts) RenameDevice(ctx context.Context, user event.UserID, id, name string) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		d, err := tx.Device(user, id)
		if err != nil {
			return err
		}
		d.DisplayName = name
		return tx.PutDevice(d)
	})
}

// randomName returns n random letters of an alphabet of at most 256.
func randomName(n int, alphabet string) string {
	raw := make([]byte, n*8)
	out := make([]byte, 0, n)
	limit := 256 - 256%len(alphabet) // larger bytes would favour the first letters
	for len(out) < n {
		rand.Read(raw)
		for _, b := range raw {
			if int(b) < limit && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out)
}
