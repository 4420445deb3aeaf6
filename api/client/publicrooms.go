package client

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// routesPublicRooms are the Published room directory.
func routesPublicRooms() []route {
	return []route{
		{"GET", v3 + "/publicRooms", optional, (*Server).getPublicRooms},
		{"POST", v3 + "/publicRooms", user, (*Server).queryPublicRooms},
	}
}

// How many rooms one page of the directory has.
const (
	defaultRooms = 100
	mostRooms    = 500
)

// publicRoom is an entry of the directory (definitions/public_rooms_chunk.yaml).
type publicRoom struct {
	ID            event.RoomID `json:"room_id"`
	Joined        int          `json:"num_joined_members"`
	WorldReadable bool         `json:"world_readable"`
	GuestCanJoin  bool         `json:"guest_can_join"`
	Name          string       `json:"name,omitempty"`
	Topic         string       `json:"topic,omitempty"`
	Alias         string       `json:"canonical_alias,omitempty"`
	Avatar        string       `json:"avatar_url,omitempty"`
	JoinRule      string       `json:"join_rule,omitempty"`
	Type          string       `json:"room_type,omitempty"`
}

// publicRooms is a page of the directory (definitions/public_rooms_response.yaml).
type publicRooms struct {
	Chunk []publicRoom `json:"chunk"`
	Next  string       `json:"next_batch,omitempty"`
	Prev  string       `json:"prev_batch,omitempty"`
	Total int          `json:"total_room_count_estimate"`
}

// roomQuery is the body of POST /publicRooms.
type roomQuery struct {
	Limit  *int   `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string     `json:"generic_search_term"`
		Types *[]*string `json:"room_types"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks"`
	Network     string `json:"third_party_instance_id"`
}

// getPublicRooms implements GET /publicRooms (list_public_rooms.yaml).
func (s *Server) getPublicRooms(c *call) (any, error) {
	n, err := c.number("limit", defaultRooms, 0, mostRooms)
	if err != nil {
		return nil, err
	}
	return s.listRooms(c, roomQuery{Limit: &n, Since: c.URL.Query().Get("since")})
}

// queryPublicRooms implements POST /publicRooms (list_public_rooms.yaml).
func (s *Server) queryPublicRooms(c *call) (any, error) {
	var q roomQuery
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	return s.listRooms(c, q)
}

// listRooms answers a query: the rooms with most members first.
func (s *Server) listRooms(c *call, q roomQuery) (any, error) {
	if server := c.URL.Query().Get("server"); server != "" && server != string(s.node.Server()) {
		return nil, notFound("the directory of that server cannot be read here")
	}
	limit := defaultRooms
	if q.Limit != nil {
		limit = *q.Limit
	}
	if limit < 0 {
		return nil, invalidParam("limit is negative")
	}
	if limit == 0 || limit > mostRooms {
		limit = mostRooms
	}
	start := 0
	if q.Since != "" {
		n, err := strconv.Atoi(q.Since)
		if err != nil || n < 0 {
			return nil, invalidParam("since is not a token of this endpoint")
		}
		start = n
	}
	if q.Network != "" {
		return publicRooms{Chunk: []publicRoom{}}, nil // no bridges, so no room of one
	}
	all, err := s.published(q)
	if err != nil {
		return nil, err
	}
	start = min(start, len(all))
	end := min(start+limit, len(all))
	page := publicRooms{Chunk: all[start:end], Total: len(all)}
	if end < len(all) {
		page.Next = strconv.Itoa(end)
	}
	if start > 0 {
		page.Prev = strconv.Itoa(max(0, start-limit))
	}
	return page, nil
}

// published returns the rooms of the directory that match a query, and that
// users of this server are in.
func (s *Server) published(q roomQuery) ([]publicRoom, error) {
	all := []publicRoom{}
	err := s.store.View(func(tx *store.Tx) error {
		ids, err := tx.Published()
		if err != nil {
			return err
		}
		for _, id := range ids {
			held, err := tx.Room(id)
			if err != nil {
				return err
			}
			servers, err := tx.Servers(id)
			if err != nil {
				return err
			}
			if servers[s.node.Server()] == 0 {
				continue
			}
			p, err := describe(tx, held)
			if err != nil {
				return err
			}
			if q.matches(p) {
				all = append(all, p)
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b publicRoom) int {
		return cmp.Or(b.Joined-a.Joined, cmp.Compare(a.ID, b.ID))
	})
	return all, err
}

// describe reads what the directory says of a room.
func describe(tx *store.Tx, held *store.Room) (publicRoom, error) {
	st, err := tx.State(held.State)
	if err != nil {
		return publicRoom{}, err
	}
	create, err := tx.Event(held.ID.Create())
	if err != nil {
		return publicRoom{}, err
	}
	p := publicRoom{
		ID: held.ID, Joined: held.Joined,
		Name:          stateField(st, "m.room.name", "name"),
		Topic:         stateField(st, "m.room.topic", "topic"),
		Alias:         stateField(st, "m.room.canonical_alias", "alias"),
		Avatar:        stateField(st, "m.room.avatar", "url"),
		JoinRule:      stateField(st, "m.room.join_rules", "join_rule"),
		WorldReadable: stateField(st, "m.room.history_visibility", "history_visibility") == "world_readable",
		GuestCanJoin:  stateField(st, "m.room.guest_access", "guest_access") == "can_join",
		Type:          create.Field("type"),
	}
	// Content comes from anyone: what does not have the form is not shown.
	if !strings.HasPrefix(p.Alias, "#") {
		p.Alias = ""
	}
	if !strings.HasPrefix(p.Avatar, "mxc://") {
		p.Avatar = ""
	}
	return p, nil
}

// matches reports whether a room is asked for.
func (q *roomQuery) matches(p publicRoom) bool {
	if q.Filter.Types != nil && !slices.ContainsFunc(*q.Filter.Types, func(t *string) bool {
		return t == nil && p.Type == "" || t != nil && *t == p.Type
	}) {
		return false
	}
	term := strings.ToLower(q.Filter.Term)
	if term == "" {
		return true
	}
	for _, text := range []string{p.Name, p.Topic, p.Alias} {
		if strings.Contains(strings.ToLower(text), term) {
			return true
		}
	}
	return false
}
