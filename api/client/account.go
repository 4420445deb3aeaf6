package client

import (
	"encoding/json"
	"errors"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// routesAccount are Account management and Current account information.
func routesAccount() []route {
	return []route{
		{"GET", v3 + "/account/whoami", user, (*Server).whoami},
		{"POST", v3 + "/account/password", user, (*Server).changePassword},
		{"POST", v3 + "/account/deactivate", user, (*Server).deactivate},
	}
}

// whoami implements GET /account/whoami (whoami.yaml).
func (s *Server) whoami(c *call) (any, error) {
	return struct {
		User   event.UserID `json:"user_id"`
		Device string       `json:"device_id,omitempty"`
		Guest  bool         `json:"is_guest"`
	}{User: c.Session.User, Device: c.Session.Device}, nil
}

// changePassword implements POST /account/password (password_management.yaml).
// The session that asks stays; the others end unless logout_devices is false.
func (s *Server) changePassword(c *call) (any, error) {
	req := struct {
		Auth   json.RawMessage `json:"auth"`
		New    *string         `json:"new_password"`
		Others bool            `json:"logout_devices"`
	}{Others: true}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.New == nil {
		return nil, missingParam("new_password")
	}
	if err := s.confirm(c, req.Auth); err != nil {
		return nil, err
	}
	if err := s.accounts.SetPassword(c.Context(), c.Session.User, *req.New); err != nil {
		return nil, err
	}
	if req.Others {
		return nil, s.accounts.LogoutOthers(c.Context(), c.Session)
	}
	return nil, nil
}

// deactivate implements POST /account/deactivate (account_deactivation.yaml).
// The user leaves every room first, as far as that can be done: a room that
// refuses does not keep the account alive.
func (s *Server) deactivate(c *call) (any, error) {
	var req struct {
		Auth  json.RawMessage `json:"auth"`
		Erase bool            `json:"erase"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := s.confirm(c, req.Auth); err != nil {
		return nil, err
	}
	who := c.Session.User
	var rooms []store.Membership
	err := s.store.View(func(tx *store.Tx) (err error) {
		rooms, err = tx.Memberships(who)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, m := range rooms {
		if m.Membership != "join" && m.Membership != "invite" && m.Membership != "knock" {
			continue
		}
		if err := s.node.Leave(c.Context(), who, m.Room, ""); err != nil {
			if errors.Is(err, store.ErrFailed) || errors.Is(err, store.ErrDiskFull) {
				return nil, err
			}
			s.log.Warn("a room could not be left by a deactivated account", "err", err)
		}
	}
	if err := s.accounts.Deactivate(c.Context(), who, req.Erase); err != nil {
		return nil, err
	}
	// Nothing is bound at an identity server, so all of it is unbound.
	return map[string]string{"id_server_unbind_result": "success"}, nil
}
