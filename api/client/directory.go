package client

import (
	"errors"
	"net/http"
	"strings"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// routesDirectory are Room aliases and the visibility of the published room
// directory.
func routesDirectory() []route {
	return []route{
		{"PUT", v3 + "/directory/room/{roomAlias}", user, (*Server).putAlias},
		{"GET", v3 + "/directory/room/{roomAlias}", optional, (*Server).getAlias},
		{"DELETE", v3 + "/directory/room/{roomAlias}", user, (*Server).deleteAlias},
		{"GET", v3 + "/rooms/{roomId}/aliases", user, (*Server).aliases},
		{"GET", v3 + "/directory/list/room/{roomId}", optional, (*Server).getVisibility},
		{"PUT", v3 + "/directory/list/room/{roomId}", user, (*Server).putVisibility},
	}
}

// maxAlias bounds an alias in bytes (Appendices, Room Aliases).
const maxAlias = 255

// parseAlias validates an alias and returns its server.
func parseAlias(alias string) (event.Server, error) {
	local, server, ok := strings.Cut(strings.TrimPrefix(alias, "#"), ":")
	if !ok || alias[0] != '#' || local == "" || server == "" || len(alias) > maxAlias || strings.ContainsRune(alias, 0) {
		return "", invalidParam("room alias is not valid")
	}
	return event.Server(server), nil
}

// ownAlias returns the alias of the path, which must be one of this server.
func (s *Server) ownAlias(c *call) (string, error) {
	alias := c.PathValue("roomAlias")
	server, err := parseAlias(alias)
	if err != nil {
		return "", err
	}
	if server != s.node.Server() {
		return "", invalidParam("room alias belongs to another server")
	}
	return alias, nil
}

// putAlias implements PUT /directory/room/{roomAlias} (directory.yaml): for
// members of the room.
func (s *Server) putAlias(c *call) (any, error) {
	alias, err := s.ownAlias(c)
	if err != nil {
		return nil, err
	}
	var req struct {
		Room string `json:"room_id"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Room == "" {
		return nil, missingParam("room_id")
	}
	r, err := event.ParseRoomID(req.Room)
	if err != nil {
		return nil, invalidParam("room id is not valid")
	}
	return nil, s.store.Update(c.Context(), func(tx *store.Tx) error {
		switch joined, err := isJoined(tx, c.Session.User, r); {
		case err != nil:
			return err
		case !joined:
			return forbidden("you are not in the room")
		}
		switch _, _, err := tx.Alias(alias); {
		case err == nil:
			return fail(http.StatusConflict, "M_UNKNOWN", "room alias exists already")
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		return tx.PutAlias(alias, r, c.Session.User)
	})
}

// isJoined reports whether a local user is joined to a room.
func isJoined(tx *store.Tx, u event.UserID, r event.RoomID) (bool, error) {
	m, err := tx.Membership(u, r)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && m.Membership == "join", err
}

// maySendState reports whether a local user is joined to a room held here and
// has the power to send state events of a type.
func maySendState(tx *store.Tx, u event.UserID, r event.RoomID, typ string) (bool, error) {
	joined, err := isJoined(tx, u, r)
	if err != nil || !joined {
		return false, err
	}
	st, err := currentState(tx, r)
	if err != nil {
		return false, err
	}
	create, err := tx.Event(r.Create())
	if err != nil {
		return false, err
	}
	levels, err := room.LevelsOf(create.Event, st)
	if err != nil {
		return false, err
	}
	return levels.User(u) >= levels.Event(typ, true), nil
}

// currentState returns the current state of a room held here; store.ErrNotFound.
func currentState(tx *store.Tx, r event.RoomID) (*store.State, error) {
	held, err := tx.Room(r)
	if err != nil {
		return nil, err
	}
	return tx.State(held.State)
}

// getAlias implements GET /directory/room/{roomAlias} (directory.yaml). Other
// servers are asked for users of this one only.
func (s *Server) getAlias(c *call) (any, error) {
	alias := c.PathValue("roomAlias")
	server, err := parseAlias(alias)
	if err != nil {
		return nil, err
	}
	if server != s.node.Server() && c.Session.User == "" {
		return nil, notFound("room alias is not known here")
	}
	r, servers, err := s.node.ResolveAlias(c.Context(), alias)
	if err != nil {
		return nil, err
	}
	if servers == nil {
		servers = []event.Server{}
	}
	return struct {
		Room    event.RoomID   `json:"room_id"`
		Servers []event.Server `json:"servers"`
	}{r, servers}, nil
}

// deleteAlias implements DELETE /directory/room/{roomAlias} (directory.yaml):
// for who made the alias, who can change the room's canonical alias, and
// administrators.
func (s *Server) deleteAlias(c *call) (any, error) {
	alias, err := s.ownAlias(c)
	if err != nil {
		return nil, err
	}
	return nil, s.store.Update(c.Context(), func(tx *store.Tx) error {
		r, by, err := tx.Alias(alias)
		if err != nil {
			return err
		}
		if by != c.Session.User && !c.Session.Admin() {
			may, err := maySendState(tx, c.Session.User, r, "m.room.canonical_alias")
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if !may {
				return forbidden("only who made the alias can delete it")
			}
		}
		return tx.DeleteAlias(alias)
	})
}

// aliases implements GET /rooms/{roomId}/aliases (directory.yaml): for members,
// and for everyone if the room is world readable.
func (s *Server) aliases(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	list := []string{}
	err = s.store.View(func(tx *store.Tx) error {
		joined, err := isJoined(tx, c.Session.User, r)
		if err != nil {
			return err
		}
		if !joined {
			st, err := currentState(tx, r)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err != nil || stateField(st, "m.room.history_visibility", "history_visibility") != "world_readable" {
				return forbidden("you are not in the room")
			}
		}
		found, err := tx.Aliases(r)
		list = append(list, found...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string][]string{"aliases": list}, nil
}

// stateField returns a string of the content of a state event, "" if it is not
// there.
func stateField(st *store.State, typ, field string) string {
	e, err := st.StateEvent(typ, "")
	if err != nil || e == nil {
		return ""
	}
	return e.Field(field)
}

// getVisibility implements GET /directory/list/room/{roomId}
// (list_public_rooms.yaml).
func (s *Server) getVisibility(c *call) (any, error) {
	r, err := c.heldRoom()
	if err != nil {
		return nil, err
	}
	visibility := "private"
	err = s.store.View(func(tx *store.Tx) error {
		if _, err := tx.Room(r); err != nil {
			return err
		}
		rooms, err := tx.Published()
		for _, p := range rooms {
			if p == r {
				visibility = "public"
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"visibility": visibility}, nil
}

// putVisibility implements PUT /directory/list/room/{roomId}
// (list_public_rooms.yaml): for who can change the room's canonical alias, and
// administrators.
func (s *Server) putVisibility(c *call) (any, error) {
	r, err := c.heldRoom()
	if err != nil {
		return nil, err
	}
	req := struct {
		Visibility string `json:"visibility"`
	}{"public"}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Visibility != "public" && req.Visibility != "private" {
		return nil, invalidParam("visibility is neither public nor private")
	}
	return nil, s.store.Update(c.Context(), func(tx *store.Tx) error {
		if _, err := tx.Room(r); err != nil {
			return err
		}
		if !c.Session.Admin() {
			may, err := maySendState(tx, c.Session.User, r, "m.room.canonical_alias")
			if err != nil {
				return err
			}
			if !may {
				return forbidden("you cannot change the room's place in the directory")
			}
		}
		return tx.SetPublished(r, req.Visibility == "public")
	})
}
