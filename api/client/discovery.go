package client

import "strings"

// routesDiscovery are Server discovery, API versions and capabilities.
func routesDiscovery() []route {
	return []route{
		{"GET", "/.well-known/matrix/client", public, (*Server).wellKnown},
		{"GET", "/.well-known/matrix/support", public, (*Server).support},
		{"GET", "/_matrix/client/versions", optional, (*Server).versions},
		{"GET", v3 + "/capabilities", user, (*Server).capabilities},
		{"GET", v3 + "/voip/turnServer", user, (*Server).turnServer},
		{"GET", v3 + "/thirdparty/protocols", user, (*Server).protocols},
		{"GET", v3 + "/account/3pid", user, (*Server).threepids},
	}
}

// wellKnown implements GET /.well-known/matrix/client (wellknown.yaml).
func (s *Server) wellKnown(c *call) (any, error) {
	base := s.cfg.PublicURL
	if base == "" {
		scheme := "http"
		if c.TLS != nil || strings.EqualFold(c.Request.Header.Get("X-Forwarded-Proto"), "https") {
			scheme = "https"
		}
		base = scheme + "://" + c.Host
	}
	return map[string]any{"m.homeserver": map[string]string{"base_url": strings.TrimSuffix(base, "/")}}, nil
}

// support implements GET /.well-known/matrix/support (support.yaml): 404 while
// no contact is known.
func (s *Server) support(*call) (any, error) {
	return nil, notFound("no contact is configured")
}

// specVersions are the announced versions. The operations that are there behave
// as the newest text says; a later version is announced when the operations are
// there that clients take its announcement for: with v1.4 they fetch threads
// and relations from the server instead of building them themselves.
var specVersions = []string{"v1.1", "v1.2", "v1.3"}

// versions implements GET /_matrix/client/versions (versions.yaml).
func (s *Server) versions(*call) (any, error) {
	return map[string]any{"versions": specVersions, "unstable_features": map[string]bool{}}, nil
}

// capabilities implements GET /capabilities (Capabilities negotiation).
func (s *Server) capabilities(*call) (any, error) {
	type enabled struct {
		Enabled bool `json:"enabled"`
	}
	type versions struct {
		Default   string            `json:"default"`
		Available map[string]string `json:"available"`
	}
	return map[string]any{"capabilities": map[string]any{
		"m.change_password":          enabled{true},
		"m.forget_forced_upon_leave": enabled{false},
		"m.room_versions":            versions{"12", map[string]string{"12": "stable"}},
		"m.profile_fields":           enabled{true},
		"m.set_displayname":          enabled{true},
		"m.set_avatar_url":           enabled{true},
		"m.3pid_changes":             enabled{false},
		"m.get_login_token":          enabled{false},
	}}, nil
}

// turnServer implements GET /voip/turnServer (voip.yaml). No TURN server can be
// configured: the list is empty and clients try to connect directly.
func (s *Server) turnServer(*call) (any, error) {
	return map[string]any{"username": "", "password": "", "uris": []string{}, "ttl": 86400}, nil
}

// protocols implements GET /thirdparty/protocols (third_party_lookup.yaml): no
// bridge is connected.
func (s *Server) protocols(*call) (any, error) { return map[string]any{}, nil }

// threepids implements GET /account/3pid (administrative_contact.yaml): none can
// be added, as the capability m.3pid_changes says.
func (s *Server) threepids(*call) (any, error) {
	return map[string]any{"threepids": []string{}}, nil
}
