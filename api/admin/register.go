package admin

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
)

const (
	nonceLife = 60 * time.Second // how long a nonce can be used
	maxUsed   = 10_000           // remembered used nonces; more registrations in nonceLife are refused
	maxField  = 512              // bytes of a user name or password
)

// nonces makes numbers that can be used once within nonceLife. They carry
// their time and a seal, so that whoever asks for many fills no memory; only
// those used with a correct MAC are remembered, until they expire.
type nonces struct {
	key [32]byte         // seals; new at every start
	now func() time.Time // tests set it

	mu   sync.Mutex           // guards used
	used map[string]time.Time // nonce -> when it expires
}

func newNonces() *nonces {
	n := &nonces{now: time.Now, used: map[string]time.Time{}}
	rand.Read(n.key[:]) // never fails
	return n
}

// issue returns a new nonce: time, random bytes and seal, in hexadecimal.
func (n *nonces) issue() string {
	raw := make([]byte, 24, 40)
	binary.BigEndian.PutUint64(raw, uint64(n.now().UnixMilli()))
	rand.Read(raw[8:]) // never fails
	return hex.EncodeToString(append(raw, n.seal(raw)...))
}

func (n *nonces) seal(raw []byte) []byte {
	mac := hmac.New(sha256.New, n.key[:])
	mac.Write(raw)
	return mac.Sum(nil)[:16]
}

// valid reports whether the nonce was issued here, is not too old and was not used.
func (n *nonces) valid(nonce string) bool {
	raw, err := hex.DecodeString(nonce)
	if err != nil || len(raw) != 40 || nonce != strings.ToLower(nonce) || !hmac.Equal(raw[24:], n.seal(raw[:24])) {
		return false
	}
	age := n.now().Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(raw))))
	if age < 0 || age > nonceLife {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, used := n.used[nonce]
	return !used
}

// use marks a valid nonce as used; false if somebody else was first, or if
// there are too many.
func (n *nonces) use(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	if len(n.used) >= maxUsed {
		for k, expires := range n.used {
			if now.After(expires) {
				delete(n.used, k)
			}
		}
	}
	if _, used := n.used[nonce]; used || len(n.used) >= maxUsed {
		return false
	}
	n.used[nonce] = now.Add(nonceLife)
	return true
}

// registerNonce answers GET /_synapse/admin/v1/register.
func (s *Server) registerNonce(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, http.StatusOK, map[string]string{"nonce": s.nonces.issue()})
}

// registerRequest is the body of the POST, as Synapse defines it.
type registerRequest struct {
	Nonce        *string `json:"nonce"`
	Username     *string `json:"username"`
	Password     *string `json:"password"`
	DisplayName  *string `json:"displayname"`
	Admin        bool    `json:"admin"`
	UserType     *string `json:"user_type"`
	MAC          *string `json:"mac"`
	InhibitLogin bool    `json:"inhibit_login"`
	DeviceID     string  `json:"device_id"`
	DeviceName   string  `json:"initial_device_display_name"`
}

// check says what is wrong with the fields.
func (q *registerRequest) check() error {
	bad := func(code, text string) error { return &apiError{http.StatusBadRequest, code, text} }
	for _, f := range []struct {
		name  string
		value *string
	}{{"nonce", q.Nonce}, {"username", q.Username}, {"password", q.Password}, {"mac", q.MAC}} {
		if f.value == nil || *f.value == "" {
			return bad("M_MISSING_PARAM", f.name+" is missing")
		}
	}
	// A zero byte separates the parts that the MAC covers.
	if len(*q.Username) > maxField || strings.Contains(*q.Username, "\x00") {
		return bad("M_INVALID_USERNAME", "User name is not valid")
	}
	if len(*q.Password) > maxField || strings.Contains(*q.Password, "\x00") {
		return bad("M_INVALID_PARAM", "Password is not valid")
	}
	if q.UserType != nil && *q.UserType != "bot" && *q.UserType != "support" {
		return bad("M_INVALID_PARAM", "user_type must be bot or support")
	}
	return nil
}

// authentic verifies the MAC: HMAC-SHA1 with the shared secret over nonce,
// user name, password, "admin" or "notadmin", and the user type if there is
// one, separated by zero bytes. The comparison takes the same time for all.
func (q *registerRequest) authentic(secret string) bool {
	role := "notadmin"
	if q.Admin {
		role = "admin"
	}
	parts := []string{*q.Nonce, *q.Username, *q.Password, role}
	if q.UserType != nil {
		parts = append(parts, *q.UserType)
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(strings.Join(parts, "\x00")))
	got, err := hex.DecodeString(*q.MAC)
	return err == nil && hmac.Equal(got, mac.Sum(nil))
}

// register answers POST /_synapse/admin/v1/register: it makes an account for
// whoever knows the shared secret, in every registration mode.
func (s *Server) register(w http.ResponseWriter, r *http.Request) error {
	var req registerRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	if !s.nonces.valid(*req.Nonce) {
		return &apiError{http.StatusBadRequest, "M_UNKNOWN", "Unrecognised nonce"}
	}
	if !req.authentic(s.cfg.SharedSecret) {
		return &apiError{http.StatusForbidden, "M_UNKNOWN", "HMAC incorrect"}
	}
	if !s.nonces.use(*req.Nonce) {
		return &apiError{http.StatusBadRequest, "M_UNKNOWN", "Unrecognised nonce"}
	}
	u := account.NewUser{Localpart: *req.Username, Password: *req.Password, Role: "user"}
	if req.Admin {
		u.Role = "administrator"
	}
	if req.DisplayName != nil {
		u.DisplayName = *req.DisplayName
	}
	id, err := s.cfg.Accounts.Create(r.Context(), u)
	if err != nil {
		return err
	}
	out := registered{UserID: id, HomeServer: s.cfg.Node.Server()}
	if !req.InhibitLogin {
		login, err := s.cfg.Accounts.OpenSession(r.Context(), id, req.DeviceID, req.DeviceName)
		if err != nil {
			return err
		}
		out.Token, out.Device = login.Token, login.Device
	}
	return writeJSON(w, http.StatusOK, out)
}

// registered is the answer to a registration.
type registered struct {
	UserID     event.UserID `json:"user_id"`
	HomeServer event.Server `json:"home_server"`
	Token      string       `json:"access_token,omitempty"`
	Device     string       `json:"device_id,omitempty"`
}
