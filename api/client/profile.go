package client

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

	"github.com/tokenim/tokenim/node/event"
)

// routesProfile are Profiles.
func routesProfile() []route {
	const field = v3 + "/profile/{userId}/{keyName}"
	return []route{
		{"GET", v3 + "/profile/{userId}", optional, (*Server).getProfile},
		{"GET", field, optional, (*Server).getProfileField},
		{"PUT", field, user, (*Server).putProfileField},
		{"DELETE", field, user, (*Server).deleteProfileField},
	}
}

// The limits of profiles (profile.yaml), in bytes.
const (
	maxProfile     = 64 << 10
	maxProfileKey  = 255
	maxDisplayName = 256
)

// profileKey is the grammar of keyName (profile.yaml).
var profileKey = regexp.MustCompile(`^(avatar_url|displayname|m\.tz|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+)$`)

// profileOf reads the profile that a path names. Other servers are asked for
// users of this one only.
func (s *Server) profileOf(c *call) (map[string]json.RawMessage, error) {
	u, err := userID(c.PathValue("userId"))
	if err != nil {
		return nil, err
	}
	if u.Server() != s.node.Server() && c.Session.User == "" {
		return nil, forbidden("profiles of other servers are shown to users of this one")
	}
	return s.node.Profile(c.Context(), u)
}

// getProfile implements GET /profile/{userId} (profile.yaml).
func (s *Server) getProfile(c *call) (any, error) {
	p, err := s.profileOf(c)
	if err != nil {
		return nil, err
	}
	out := make(map[string]json.RawMessage, len(p))
	for k, v := range p {
		if shownField(k, v) {
			out[k] = v
		}
	}
	return out, nil
}

// shownField reports whether a field, maybe of another server, has its form.
func shownField(key string, value json.RawMessage) bool {
	switch key {
	case "displayname", "avatar_url", "m.tz":
		return len(value) > 0 && value[0] == '"'
	}
	return len(value) > 0
}

// keyName returns the path parameter keyName.
func (c *call) keyName() (string, error) {
	key := c.PathValue("keyName")
	switch {
	case len(key) > maxProfileKey:
		return "", fail(http.StatusBadRequest, "M_KEY_TOO_LARGE", "profile key is too long")
	case !profileKey.MatchString(key):
		return "", invalidParam("profile key is not valid")
	}
	return key, nil
}

// getProfileField implements GET /profile/{userId}/{keyName} (profile.yaml).
func (s *Server) getProfileField(c *call) (any, error) {
	key, err := c.keyName()
	if err != nil {
		return nil, err
	}
	p, err := s.profileOf(c)
	if err != nil {
		return nil, err
	}
	value, ok := p[key]
	if !ok || !shownField(key, value) {
		return nil, notFound("profile has no such field")
	}
	return map[string]json.RawMessage{key: value}, nil
}

// putProfileField implements PUT /profile/{userId}/{keyName} (profile.yaml).
func (s *Server) putProfileField(c *call) (any, error) {
	u, err := c.self()
	if err != nil {
		return nil, err
	}
	key, err := c.keyName()
	if err != nil {
		return nil, err
	}
	var req map[string]json.RawMessage
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	value, ok := req[key]
	if !ok {
		return nil, missingParam(key)
	}
	if value, err = checkField(key, value); err != nil {
		return nil, err
	}
	if err := s.checkProfileSize(c, u, key, value); err != nil {
		return nil, err
	}
	return nil, s.node.SetProfile(c.Context(), u, key, value)
}

// checkField validates a value. An empty avatar_url takes the avatar away, as
// clients write it; it is no MXC URI that could be kept.
func checkField(key string, value json.RawMessage) (json.RawMessage, error) {
	switch key {
	case "displayname", "avatar_url", "m.tz":
	default:
		return value, nil
	}
	var text *string
	if err := unmarshal(value, &text); err != nil || text == nil {
		return nil, fail(http.StatusBadRequest, "M_BAD_JSON", key+" is not a string")
	}
	switch {
	case key == "displayname" && len(*text) > maxDisplayName:
		return nil, invalidParam("displayname is too long")
	case key == "avatar_url" && *text == "":
		return nil, nil
	case key == "avatar_url" && !strings.HasPrefix(*text, "mxc://"):
		return nil, invalidParam("avatar_url is not an MXC URI")
	}
	return value, nil
}

// checkProfileSize refuses what would make the profile too large.
func (s *Server) checkProfileSize(c *call, u event.UserID, key string, value json.RawMessage) error {
	p, err := s.node.Profile(c.Context(), u)
	if err != nil {
		return err
	}
	size := len(key) + len(value) + 4
	for k, v := range p {
		if k != key {
			size += len(k) + len(v) + 4
		}
	}
	if size > maxProfile {
		return fail(http.StatusBadRequest, "M_PROFILE_TOO_LARGE", "profile would be larger than 64 KiB")
	}
	return nil
}

// deleteProfileField implements DELETE /profile/{userId}/{keyName}
// (profile.yaml). A field that is not there is no error.
func (s *Server) deleteProfileField(c *call) (any, error) {
	u, err := c.self()
	if err != nil {
		return nil, err
	}
	key, err := c.keyName()
	if err != nil {
		return nil, err
	}
	return nil, s.node.SetProfile(c.Context(), u, key, nil)
}
