package client

import (
	"encoding/json"
	"net/http"

	"github.com/tokenim/tokenim/node/account"
)

// routesRegister are Account registration.
func routesRegister() []route {
	return []route{
		{"POST", v3 + "/register", public, (*Server).register},
		{"GET", v3 + "/register/available", public, (*Server).registerAvailable},
		{"GET", v1 + "/register/m.login.registration_token/validity", public, (*Server).tokenValidity},
	}
}

// register implements POST /register (registration.yaml). In open mode
// m.login.dummy is a flow; m.login.registration_token is one in token mode, and
// in every mode while the first administrator's token waits.
func (s *Server) register(c *call) (any, error) {
	switch c.URL.Query().Get("kind") {
	case "", "user":
	case "guest":
		return nil, fail(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "there are no guest accounts")
	default:
		return nil, invalidParam("kind of account is not known")
	}
	var req struct {
		Auth         json.RawMessage `json:"auth"`
		Username     string          `json:"username"`
		Password     *string         `json:"password"`
		Device       string          `json:"device_id"`
		DeviceName   string          `json:"initial_device_display_name"`
		InhibitLogin bool            `json:"inhibit_login"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	stages, err := s.registration()
	if err != nil {
		return nil, err
	}
	// The user name is checked before authentication, and again after it.
	if req.Username != "" {
		if _, err := s.accounts.CheckUsername(req.Username); err != nil {
			return nil, err
		}
	}
	if req.Password != nil && *req.Password == "" {
		return nil, account.ErrWeakPassword
	}
	if err := checkDevice(req.Device, req.DeviceName); err != nil {
		return nil, err
	}
	token, err := s.admit(c, req.Auth, stages)
	if err != nil {
		return nil, err
	}
	if err := s.limits.register.take(c.ip()); err != nil {
		return nil, err
	}
	who, err := s.accounts.Create(c.Context(), newUser(req.Username, req.Password, token))
	if err != nil {
		return nil, err
	}
	if req.InhibitLogin {
		return session{User: who}, s.ensurePushRules(c.Context(), who)
	}
	return s.open(c, who, req.Device, req.DeviceName)
}

// registration returns the stages that are offered; account.ErrRegistration if
// there are none.
func (s *Server) registration() ([]string, error) {
	open, token, err := s.accounts.Registration()
	if err != nil {
		return nil, err
	}
	var stages []string
	if open {
		stages = append(stages, stageDummy)
	}
	if token {
		stages = append(stages, stageToken)
	}
	if stages == nil {
		return nil, account.ErrRegistration
	}
	return stages, nil
}

// admit checks the authentication of a registration and returns the
// registration token that it uses up, if any.
func (s *Server) admit(c *call, raw json.RawMessage, stages []string) (token string, err error) {
	auth, err := parseAuth(raw)
	if err != nil {
		return "", err
	}
	if auth == nil || auth.Type == "" {
		return "", offer(auth, stages, "", "")
	}
	for _, stage := range stages {
		switch {
		case stage != auth.Type:
		case stage == stageDummy:
			return "", nil
		default:
			ok, err := s.accounts.CheckToken(auth.Token, c.ip())
			if err != nil {
				return "", err
			}
			if !ok {
				return "", offer(auth, stages, "M_UNAUTHORIZED", "registration token is not valid")
			}
			return auth.Token, nil
		}
	}
	return "", offer(auth, stages, "M_UNAUTHORIZED", "this type of authentication is not offered")
}

// registerAvailable implements GET /register/available (registration.yaml).
func (s *Server) registerAvailable(c *call) (any, error) {
	if _, err := s.registration(); err != nil {
		return nil, err
	}
	name := c.URL.Query().Get("username")
	if name == "" {
		return nil, missingParam("username")
	}
	if _, err := s.accounts.CheckUsername(name); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

// tokenValidity implements GET /register/m.login.registration_token/validity
// (registration_tokens.yaml): 403 while tokens cannot be used at all.
func (s *Server) tokenValidity(c *call) (any, error) {
	_, byToken, err := s.accounts.Registration()
	if err != nil {
		return nil, err
	}
	if !byToken {
		return nil, account.ErrRegistration
	}
	token := c.URL.Query().Get("token")
	if token == "" {
		return nil, missingParam("token")
	}
	ok, err := s.accounts.CheckToken(token, c.ip())
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": ok}, nil
}
