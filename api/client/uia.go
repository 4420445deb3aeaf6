package client

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
)

// The authentication types that are used here (Authentication types).
const (
	stagePassword = "m.login.password"
	stageDummy    = "m.login.dummy"
	stageToken    = "m.login.registration_token"
)

// identifier names a user (Identifier types).
type identifier struct {
	Type string `json:"type"`
	User string `json:"user"`
}

// authData is the auth property of a request with User-Interactive
// Authentication.
type authData struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Identifier *identifier `json:"identifier"`
	User       string      `json:"user"` // older form of identifier
	Password   string      `json:"password"`
	Token      string      `json:"token"`
}

// Every flow here has a single stage. So a session carries nothing from one
// request to the next: what a client passes is given back, and no state is kept.

// flows is the 401 answer that offers authentication.
type flows struct {
	Flows   []flow         `json:"flows"`
	Params  map[string]any `json:"params"`
	Session string         `json:"session"`
	Code    string         `json:"errcode,omitempty"`
	Text    string         `json:"error,omitempty"`
}

type flow struct {
	Stages []string `json:"stages"`
}

// offer is 401 with one flow for each stage. code and text say why an attempt
// failed; empty for a request without one.
func offer(auth *authData, stages []string, code, text string) error {
	f := flows{Params: map[string]any{}, Session: rand.Text(), Code: code, Text: text}
	if auth != nil && validSession(auth.Session) {
		f.Session = auth.Session
	}
	for _, s := range stages {
		f.Flows = append(f.Flows, flow{[]string{s}})
	}
	return &apiError{status: http.StatusUnauthorized, code: code, text: text, body: f}
}

// validSession reports whether a session can be one that offer made up.
func validSession(s string) bool {
	return len(s) >= 16 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	})
}

// parseAuth reads the auth property; nil if there is none.
func parseAuth(raw json.RawMessage) (*authData, error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	var a authData
	if err := unmarshal(raw, &a); err != nil {
		return nil, err
	}
	return &a, nil
}

// confirm asks the user of the session for the password (User-Interactive
// Authentication API). nil: it was given.
func (s *Server) confirm(c *call, raw json.RawMessage) error {
	auth, err := parseAuth(raw)
	if err != nil {
		return err
	}
	stages := []string{stagePassword}
	switch {
	case auth == nil || auth.Type == "":
		return offer(auth, stages, "", "")
	case auth.Type != stagePassword:
		return offer(auth, stages, "M_UNAUTHORIZED", "this type of authentication is not offered")
	}
	// The user may be left out by older clients; naming another one fails.
	// A failed attempt may be repeated: it is answered with the flows.
	const wrong = "user name or password is wrong"
	who, err := s.named(auth.Identifier, auth.User)
	if errors.Is(err, errNamesNobody) || err == nil && who != "" && who != c.Session.User {
		return offer(auth, stages, "M_FORBIDDEN", wrong)
	} else if err != nil {
		return err
	}
	err = s.accounts.CheckPassword(c.Context(), c.Session.User, auth.Password, c.ip())
	if errors.Is(err, account.ErrCredentials) {
		return offer(auth, stages, "M_FORBIDDEN", wrong)
	}
	return err
}

// errNamesNobody answers an identifier that no user of this server has.
var errNamesNobody = forbidden("user name or password is wrong")

// named returns the user that an identifier or its older form means; "" if
// neither is there. A user of another server cannot log in: errNamesNobody.
func (s *Server) named(id *identifier, older string) (event.UserID, error) {
	name := older
	if id != nil {
		switch id.Type {
		case "m.id.user":
			name = id.User
		case "m.id.thirdparty", "m.id.phone":
			// The server does not know the identifier (Login).
			return "", errNamesNobody
		case "":
			return "", missingParam("identifier.type")
		default:
			return "", fail(http.StatusBadRequest, "M_UNKNOWN", "type of identifier is not known")
		}
	}
	if name == "" {
		return "", nil
	}
	u, ok := s.accounts.Normalize(name)
	if !ok {
		return "", errNamesNobody
	}
	return u, nil
}
