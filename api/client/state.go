package client

import (
	"encoding/json"

	"github.com/tokenim/tokenim/node"
)

// routesState are the state and the members of a room.
func routesState() []route {
	return []route{
		{"GET", v3 + "/rooms/{roomId}/state", user, (*Server).state},
		{"GET", v3 + "/rooms/{roomId}/state/{eventType}/{stateKey}", user, (*Server).stateEvent},
		{"GET", v3 + "/rooms/{roomId}/members", user, (*Server).members},
		{"GET", v3 + "/rooms/{roomId}/joined_members", user, (*Server).joinedMembers},
		{"GET", v3 + "/joined_rooms", user, (*Server).joinedRooms},
	}
}

// state implements GET /rooms/{roomId}/state (rooms.yaml).
func (s *Server) state(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	events, err := s.node.State(c.Context(), c.Session.User, r)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(wholeFormat().appendAll(make([]byte, 0, size(events)), events)), nil
}

// stateEvent implements GET /rooms/{roomId}/state/{eventType}/{stateKey} (rooms.yaml).
func (s *Server) stateEvent(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	whole := false
	switch c.URL.Query().Get("format") {
	case "", "content":
	case "event":
		whole = true
	default:
		return nil, invalidParam("format is neither content nor event")
	}
	e, err := s.node.StateEvent(c.Context(), c.Session.User, r, c.PathValue("eventType"), c.PathValue("stateKey"))
	if err != nil {
		return nil, err
	}
	if whole {
		return json.RawMessage(wholeFormat().append(nil, e)), nil
	}
	return e.Content, nil
}

// members implements GET /rooms/{roomId}/members (rooms.yaml).
func (s *Server) members(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	req := node.MembersRequest{Room: r}
	if req.At, err = c.token("at"); err != nil {
		return nil, err
	}
	if req.Membership, err = c.membership("membership"); err != nil {
		return nil, err
	}
	if req.NotMembership, err = c.membership("not_membership"); err != nil {
		return nil, err
	}
	events, err := s.node.Members(c.Context(), c.Session.User, req)
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, 32+size(events)), `{"chunk":`...)
	b = wholeFormat().appendAll(b, events)
	return json.RawMessage(append(b, '}')), nil
}

// membership reads a query parameter that names a membership.
func (c *call) membership(name string) (string, error) {
	switch m := c.URL.Query().Get(name); m {
	case "", "join", "invite", "knock", "leave", "ban":
		return m, nil
	default:
		return "", invalidParam(name + " is not a membership")
	}
}

// joinedMembers implements GET /rooms/{roomId}/joined_members (rooms.yaml).
func (s *Server) joinedMembers(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	joined, err := s.node.JoinedMembers(c.Context(), c.Session.User, r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"joined": joined}, nil
}

// joinedRooms implements GET /joined_rooms (list_joined_rooms.yaml).
func (s *Server) joinedRooms(c *call) (any, error) {
	rooms, err := s.node.JoinedRooms(c.Context(), c.Session.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"joined_rooms": rooms}, nil
}
