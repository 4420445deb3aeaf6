package client

import (
	"net/http"
	"strings"

	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
)

// routesLogin are Login and Logout.
func routesLogin() []route {
	return []route{
		{"GET", v3 + "/login", public, (*Server).loginFlows},
		{"POST", v3 + "/login", public, (*Server).login},
		{"POST", v3 + "/logout", user, (*Server).logout},
		{"POST", v3 + "/logout/all", user, (*Server).logoutAll},
	}
}

// loginFlows implements GET /login (login.yaml).
func (s *Server) loginFlows(*call) (any, error) {
	type kind struct {
		Type string `json:"type"`
	}
	return map[string]any{"flows": []kind{{stagePassword}}}, nil
}

// session is the answer to a login and to a registration.
type session struct {
	User      event.UserID   `json:"user_id"`
	Token     string         `json:"access_token,omitempty"`
	Device    string         `json:"device_id,omitempty"`
	WellKnown map[string]any `json:"well_known,omitempty"`
}

// login implements POST /login (login.yaml): by password alone.
func (s *Server) login(c *call) (any, error) {
	var req struct {
		Type       string      `json:"type"`
		Identifier *identifier `json:"identifier"`
		User       string      `json:"user"` // older form of identifier
		Medium     string      `json:"medium"`
		Password   *string     `json:"password"`
		Device     string      `json:"device_id"`
		DeviceName string      `json:"initial_device_display_name"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	switch {
	case req.Type == "":
		return nil, missingParam("type")
	case req.Type != stagePassword:
		return nil, fail(http.StatusBadRequest, "M_UNKNOWN", "this type of login is not offered")
	case req.Password == nil:
		return nil, missingParam("password")
	}
	if err := checkDevice(req.Device, req.DeviceName); err != nil {
		return nil, err
	}
	who, err := s.named(req.Identifier, req.User)
	switch {
	case err != nil:
		return nil, err
	case who == "" && req.Medium != "":
		return nil, forbidden("user name or password is wrong")
	case who == "":
		return nil, missingParam("identifier")
	}
	if err := s.accounts.CheckPassword(c.Context(), who, *req.Password, c.ip()); err != nil {
		return nil, err
	}
	return s.open(c, who, req.Device, req.DeviceName)
}

// open makes a session and the answer that shows it.
func (s *Server) open(c *call, who event.UserID, device, name string) (session, error) {
	if err := s.ensurePushRules(c.Context(), who); err != nil {
		return session{}, err
	}
	l, err := s.accounts.OpenSession(c.Context(), who, device, name)
	if err != nil {
		return session{}, err
	}
	out := session{User: l.User, Token: l.Token, Device: l.Device}
	if s.cfg.PublicURL != "" {
		out.WellKnown = map[string]any{"m.homeserver": map[string]string{"base_url": strings.TrimSuffix(s.cfg.PublicURL, "/")}}
	}
	return out, nil
}

// The limits of what clients say about their devices, in bytes.
const (
	maxDevice     = 255
	maxDeviceName = 512
)

// checkDevice validates a device id and a display name.
func checkDevice(id, name string) error {
	if len(id) > maxDevice || strings.ContainsRune(id, 0) {
		return invalidParam("device_id is not valid")
	}
	if len(name) > maxDeviceName {
		return invalidParam("display name of the device is too long")
	}
	return nil
}

// logout implements POST /logout (logout.yaml).
func (s *Server) logout(c *call) (any, error) {
	return nil, s.accounts.Logout(c.Context(), c.Session)
}

// logoutAll implements POST /logout/all (logout.yaml).
func (s *Server) logoutAll(c *call) (any, error) {
	return nil, s.accounts.LogoutAll(c.Context(), c.Session.User)
}

// newUser describes an account that a client registers.
func newUser(username string, password *string, token string) account.NewUser {
	n := account.NewUser{Localpart: username, RegToken: token}
	if password != nil {
		n.Password = *password
	}
	return n
}
