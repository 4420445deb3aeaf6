package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// routesMembership are Room membership.
func routesMembership() []route {
	return []route{
		{"POST", v3 + "/rooms/{roomId}/invite", user, (*Server).invite},
		{"POST", v3 + "/rooms/{roomId}/join", user, (*Server).joinRoom},
		{"POST", v3 + "/join/{roomIdOrAlias}", user, (*Server).joinAlias},
		{"POST", v3 + "/rooms/{roomId}/leave", user, (*Server).leave},
		{"POST", v3 + "/rooms/{roomId}/forget", user, (*Server).forget},
		{"POST", v3 + "/rooms/{roomId}/kick", user, (*Server).kick},
		{"POST", v3 + "/rooms/{roomId}/ban", user, (*Server).ban},
		{"POST", v3 + "/rooms/{roomId}/unban", user, (*Server).unban},
	}
}

// target is the body of what is done to another user.
type target struct {
	User   string  `json:"user_id"`
	Reason *string `json:"reason"`
}

// targeted reads the room of the path and the body of an action on a user.
func (c *call) targeted() (r event.RoomID, u event.UserID, reason string, err error) {
	if r, err = c.room(); err != nil {
		return "", "", "", err
	}
	var req target
	if err = c.decode(&req); err != nil {
		return "", "", "", err
	}
	if u, err = userID(req.User); err != nil {
		return "", "", "", err
	}
	if req.Reason != nil {
		reason = *req.Reason
	}
	return r, u, reason, nil
}

// withReason is the further content of a member event.
func withReason(reason string) (map[string]json.RawMessage, error) {
	if reason == "" {
		return nil, nil
	}
	raw, err := json.Marshal(reason)
	return map[string]json.RawMessage{"reason": raw}, err
}

// invite implements POST /rooms/{roomId}/invite (inviting.yaml). Third-party
// invites (third_party_membership.yaml) are not supported.
func (s *Server) invite(c *call) (any, error) {
	r, u, reason, err := c.targeted()
	if err != nil {
		return nil, err
	}
	extra, err := withReason(reason)
	if err != nil {
		return nil, err
	}
	if err := s.limits.send.take(string(c.Session.User)); err != nil {
		return nil, err
	}
	return nil, s.node.Invite(c.Context(), c.Session.User, r, u, extra)
}

// reasonOf reads the optional body of a join or a leave.
func (c *call) reasonOf() (string, error) {
	var req struct {
		Reason *string `json:"reason"`
	}
	if err := c.decodeOptional(&req); err != nil || req.Reason == nil {
		return "", err
	}
	return *req.Reason, nil
}

// joinRoom implements POST /rooms/{roomId}/join (joining.yaml).
func (s *Server) joinRoom(c *call) (any, error) {
	r, err := c.heldRoom()
	if err != nil {
		return nil, err
	}
	return s.join(c, r, viaOf(c.URL.Query()))
}

// joinAlias implements POST /join/{roomIdOrAlias} (joining.yaml).
func (s *Server) joinAlias(c *call) (any, error) {
	name, via := c.PathValue("roomIdOrAlias"), viaOf(c.URL.Query())
	if !strings.HasPrefix(name, "#") {
		r, err := parseRoom(name)
		switch {
		case errors.Is(err, errOtherVersion):
			return nil, node.ErrUnknownRoom
		case err != nil:
			return nil, invalidParam("neither a room id nor an alias")
		}
		return s.join(c, r, via)
	}
	if _, err := parseAlias(name); err != nil {
		return nil, err
	}
	r, servers, err := s.node.ResolveAlias(c.Context(), name)
	if err != nil {
		return nil, err
	}
	return s.join(c, r, append(via, servers...))
}

// join joins a room through one of the servers.
func (s *Server) join(c *call, r event.RoomID, via []event.Server) (any, error) {
	reason, err := c.reasonOf()
	if err != nil {
		return nil, err
	}
	extra, err := withReason(reason)
	if err != nil {
		return nil, err
	}
	if err := s.limits.send.take(string(c.Session.User)); err != nil {
		return nil, err
	}
	if err := s.node.Join(c.Context(), c.Session.User, r, via, extra); err != nil {
		return nil, err
	}
	return map[string]event.RoomID{"room_id": r}, nil
}

// maxVia bounds the servers that a join asks.
const maxVia = 20

// viaOf returns the servers to join through, from via and its older name
// server_name. Names that no node of this federation can have are left out.
func viaOf(q url.Values) []event.Server {
	var via []event.Server
	for _, name := range append(q["via"], q["server_name"]...) {
		if s, err := event.ParseServer(name); err == nil && len(via) < maxVia {
			via = append(via, s)
		}
	}
	return via
}

// leave implements POST /rooms/{roomId}/leave (leaving.yaml).
func (s *Server) leave(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	reason, err := c.reasonOf()
	if err != nil {
		return nil, err
	}
	return nil, s.node.Leave(c.Context(), c.Session.User, r, reason)
}

// forget implements POST /rooms/{roomId}/forget (leaving.yaml).
func (s *Server) forget(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	if err := c.decodeOptional(&struct{}{}); err != nil {
		return nil, err
	}
	return nil, s.node.Forget(c.Context(), c.Session.User, r)
}

// kick implements POST /rooms/{roomId}/kick (kicking.yaml): 403 if the target is
// not in the room.
func (s *Server) kick(c *call) (any, error) {
	r, u, reason, err := c.targeted()
	if err != nil {
		return nil, err
	}
	err = s.node.Kick(c.Context(), c.Session.User, r, u, reason)
	if errors.Is(err, node.ErrBadRequest) {
		return nil, forbidden("the user is not in the room")
	}
	return nil, err
}

// ban implements POST /rooms/{roomId}/ban (banning.yaml).
func (s *Server) ban(c *call) (any, error) {
	r, u, reason, err := c.targeted()
	if err != nil {
		return nil, err
	}
	return nil, s.node.Ban(c.Context(), c.Session.User, r, u, reason)
}

// unban implements POST /rooms/{roomId}/unban (banning.yaml).
func (s *Server) unban(c *call) (any, error) {
	r, u, reason, err := c.targeted()
	if err != nil {
		return nil, err
	}
	err = s.node.Unban(c.Context(), c.Session.User, r, u, reason)
	if errors.Is(err, node.ErrForbidden) && s.notBanned(c.Session.User, r, u) {
		return nil, fail(http.StatusForbidden, "M_BAD_STATE", "the user is not banned")
	}
	return nil, err
}

// notBanned reports whether a member of a room can be told that there is no ban
// to lift.
func (s *Server) notBanned(by event.UserID, r event.RoomID, u event.UserID) bool {
	not := false
	err := s.store.View(func(tx *store.Tx) error {
		joined, err := isJoined(tx, by, r)
		if err != nil || !joined {
			return err
		}
		st, err := currentState(tx, r)
		if err != nil {
			return err
		}
		e, err := st.StateEvent("m.room.member", string(u))
		not = err == nil && (e == nil || e.Membership() != "ban")
		return err
	})
	return err == nil && not
}
