package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// The argon2id parameters of new passwords, and how many are computed at once:
// each holds its memory while it runs.
const (
	hashTime   = 2
	hashMemory = 19 << 10 // KiB
	hashLanes  = 1
	hashLen    = 32
	saltLen    = 16
	maxHashing = 2
)

// maxPassword bounds a password, in bytes.
const maxPassword = 1024

// hash returns the PHC string of a new password. ErrWeakPassword for an empty
// or overlong one; the specification leaves how strong it must be to clients.
func (a *Accounts) hash(ctx context.Context, password string) (string, error) {
	if password == "" {
		return "", fmt.Errorf("%w: it is empty", ErrWeakPassword)
	}
	if len(password) > maxPassword {
		return "", fmt.Errorf("%w: it is longer than %d bytes", ErrWeakPassword, maxPassword)
	}
	p := phc{time: hashTime, memory: hashMemory, lanes: hashLanes, salt: make([]byte, saltLen)}
	rand.Read(p.salt)
	var err error
	if p.sum, err = a.argon(ctx, p, password, hashLen); err != nil {
		return "", err
	}
	return p.String(), nil
}

// argon computes argon2id, waiting for a free place.
func (a *Accounts) argon(ctx context.Context, p phc, password string, n int) ([]byte, error) {
	select {
	case a.hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-a.hashing }()
	return argon2.IDKey([]byte(password), p.salt, p.time, p.memory, p.lanes, uint32(n)), nil
}

// decoyHash returns a hash with the current parameters that belongs to no
// password: checking a password against it costs what checking a real one does.
func decoyHash() string {
	p := phc{time: hashTime, memory: hashMemory, lanes: hashLanes, salt: make([]byte, saltLen), sum: make([]byte, hashLen)}
	rand.Read(p.salt)
	rand.Read(p.sum)
	return p.String()
}

// verify compares a password with a hash.
func (a *Accounts) verify(ctx context.Context, hash, password string) (bool, error) {
	p, err := parsePHC(hash)
	if err != nil {
		return false, err
	}
	sum, err := a.argon(ctx, p, password, len(p.sum))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, p.sum) == 1, nil
}

// CheckPassword verifies a password in equal time for unknown users;
// ErrCredentials, ErrDeactivated, ErrLimited. ip is the client's address, whose
// block is limited too.
func (a *Accounts) CheckPassword(ctx context.Context, user event.UserID, password, ip string) error {
	if err := a.limits.take(user, ip); err != nil {
		return err
	}
	u, err := a.User(user)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	// One path for everyone: who has no password is checked against the decoy.
	hash, known := a.decoy, false
	if err == nil && u.PasswordHash != "" {
		hash, known = u.PasswordHash, true
	}
	if len(password) > maxPassword {
		password = password[:maxPassword] + "+" // longer than any that was accepted
	}
	ok, verr := a.verify(ctx, hash, password)
	switch {
	case verr != nil:
		return verr
	case err == nil && u.Deactivated:
		return ErrDeactivated
	case !ok || !known:
		return ErrCredentials
	}
	a.limits.succeeded(user)
	return nil
}

// phc is an argon2id hash in the PHC string format:
// $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH.
type phc struct {
	time, memory uint32
	lanes        uint8
	salt, sum    []byte
}

// String writes the hash.
func (p phc) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.lanes,
		b64.EncodeToString(p.salt), b64.EncodeToString(p.sum))
}

var errPHC = errors.New("stored password hash is not valid")

// parsePHC reads a stored hash, whose parameters may be those of another version.
func parsePHC(s string) (phc, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return phc{}, errPHC
	}
	var p phc
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.lanes); err != nil || n != 3 {
		return phc{}, errPHC
	}
	var err1, err2 error
	p.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	p.sum, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || p.time == 0 || p.lanes == 0 || p.memory > 1<<20 || p.time > 64 ||
		len(p.salt) < 8 || len(p.sum) < 16 || len(p.sum) > 128 {
		return phc{}, errPHC
	}
	return p, nil
}
