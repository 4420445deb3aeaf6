package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tokenim/tokenim/node/event"
)

// User is a local account.
type User struct {
	ID           event.UserID
	PasswordHash string                     `json:",omitempty"`
	Role         string                     // "owner", "administrator" or "user"
	Deactivated  bool                       `json:",omitempty"`
	Created      int64                      // milliseconds
	Profile      map[string]json.RawMessage `json:",omitempty"` // displayname, avatar_url, ...
}

// Device is a session of a user.
type Device struct {
	User        event.UserID
	ID          string
	DisplayName string   `json:",omitempty"`
	Token       [32]byte // SHA-256 of the access token
	Created     int64    // milliseconds
	LastSeen    int64    // milliseconds
	LastIP      string   `json:",omitempty"`
}

// RegistrationToken lets people register.
type RegistrationToken struct {
	Token     string
	Uses      int   // left; -1 unlimited
	Expires   int64 // milliseconds, 0 never
	Owner     bool  // who registers with it becomes owner and administrator
	Completed int
}

// Receipt is a read receipt of a user in a room.
type Receipt struct {
	Room     event.RoomID
	Type     string // m.read, m.read.private
	User     event.UserID
	Thread   string // thread_id, empty for unthreaded
	Event    event.ID
	Time     int64
	Position Position
}

// AccountData is one entry of a user's account data.
type AccountData struct {
	Room     event.RoomID // empty for global
	Type     string
	Content  json.RawMessage
	Position Position
}

// getJSON reads a row that is kept as JSON.
func (tx *Tx) getJSON(key []byte, into any) error {
	v, err := tx.get(key)
	if err != nil {
		return err
	}
	return decodeJSON(v, into)
}

func decodeJSON(v []byte, into any) error {
	if err := json.Unmarshal(v, into); err != nil {
		return fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return nil
}

func (tx *Tx) setJSON(key []byte, from any) error {
	v, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return tx.set(key, v)
}

// User returns an account, or ErrNotFound.
func (tx *Tx) User(id event.UserID) (*User, error) {
	u := &User{}
	if err := tx.getJSON(keyText(kindUser, string(id)), u); err != nil {
		return nil, err
	}
	return u, nil
}

// PutUser writes an account.
func (tx *Tx) PutUser(u *User) error {
	old, err := tx.User(u.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	was, is := err == nil && !old.Deactivated, !u.Deactivated
	if was != is {
		t, err := tx.changeTotals()
		if err != nil {
			return err
		}
		if is {
			t.counts.Users++
		} else {
			t.counts.Users--
		}
	}
	return tx.setJSON(keyText(kindUser, string(u.ID)), u)
}

// Users returns accounts in the order of their ids, after one, at most limit.
func (tx *Tx) Users(after event.UserID, limit int) ([]*User, error) {
	var users []*User
	err := tx.each(key0(kindUser), keyText(kindUser, string(after)), func(k, v []byte) error {
		if string(k[1:]) == string(after) {
			return nil
		}
		if len(users) >= limit {
			return errStop
		}
		u := &User{}
		users = append(users, u)
		return decodeJSON(v, u)
	})
	return users, err
}

// CountUsers returns the number of accounts that are not deactivated.
func (tx *Tx) CountUsers() (int, error) {
	c, err := tx.Counts()
	return c.Users, err
}

// Device returns a device, or ErrNotFound.
func (tx *Tx) Device(u event.UserID, id string) (*Device, error) {
	d := &Device{}
	if err := tx.getJSON(keyDevice(u, id), d); err != nil {
		return nil, err
	}
	return d, nil
}

// DeviceByToken finds the device of an access token by its SHA-256, or ErrNotFound.
func (tx *Tx) DeviceByToken(token [32]byte) (*Device, error) {
	v, err := tx.get(keyHash(kindToken, token))
	if err != nil {
		return nil, err
	}
	d := decoder{b: v}
	u, id := d.text(), d.text()
	if err := d.end("token"); err != nil {
		return nil, err
	}
	return tx.Device(event.UserID(u), id)
}

// PutDevice writes a device and its token index (an older token of it dies).
func (tx *Tx) PutDevice(d *Device) error {
	old, err := tx.Device(d.User, d.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err == nil && old.Token == d.Token {
		return tx.setJSON(keyDevice(d.User, d.ID), d)
	}
	if err == nil {
		if err := tx.delete(keyHash(kindToken, old.Token)); err != nil {
			return err
		}
	}
	var e encoder
	e.text(string(d.User))
	e.text(d.ID)
	if err := tx.set(keyHash(kindToken, d.Token), e.b); err != nil {
		return err
	}
	return tx.setJSON(keyDevice(d.User, d.ID), d)
}

// DeleteDevice removes a device, its token and its transaction ids.
func (tx *Tx) DeleteDevice(u event.UserID, id string) error {
	d, err := tx.Device(u, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, kind := range []byte{kindTxn, kindTxnOf} {
		if err := tx.deleteAll(keyTxns(kind, u, id)); err != nil {
			return err
		}
	}
	if err := tx.delete(keyHash(kindToken, d.Token)); err != nil {
		return err
	}
	return tx.delete(keyDevice(u, id))
}

// deleteAll removes the rows with a prefix, however many there are.
func (tx *Tx) deleteAll(prefix []byte) error {
	if tx.own == nil {
		return errReadOnly
	}
	return tx.each(prefix, nil, func(k, _ []byte) error {
		tx.own.put(string(k), write{early: true})
		return nil
	})
}

// Devices returns the devices of a user.
func (tx *Tx) Devices(u event.UserID) ([]*Device, error) {
	var devices []*Device
	err := tx.each(keyDevice(u, ""), nil, func(_, v []byte) error {
		d := &Device{}
		devices = append(devices, d)
		return decodeJSON(v, d)
	})
	return devices, err
}

// RegistrationToken returns a token, or ErrNotFound.
func (tx *Tx) RegistrationToken(token string) (*RegistrationToken, error) {
	t := &RegistrationToken{}
	if err := tx.getJSON(keyText(kindRegToken, token), t); err != nil {
		return nil, err
	}
	return t, nil
}

// RegistrationTokens returns all tokens.
func (tx *Tx) RegistrationTokens() ([]*RegistrationToken, error) {
	var tokens []*RegistrationToken
	err := tx.each(key0(kindRegToken), nil, func(_, v []byte) error {
		t := &RegistrationToken{}
		tokens = append(tokens, t)
		return decodeJSON(v, t)
	})
	return tokens, err
}

// PutRegistrationToken writes a token.
func (tx *Tx) PutRegistrationToken(t *RegistrationToken) error {
	return tx.setJSON(keyText(kindRegToken, t.Token), t)
}

// DeleteRegistrationToken removes a token.
func (tx *Tx) DeleteRegistrationToken(token string) error {
	return tx.delete(keyText(kindRegToken, token))
}
