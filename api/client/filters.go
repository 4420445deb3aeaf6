package client

import (
	"encoding/json"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/store"
)

// routesFilters are Filtering.
func routesFilters() []route {
	return []route{
		{"POST", v3 + "/user/{userId}/filter", user, (*Server).defineFilter},
		{"GET", v3 + "/user/{userId}/filter/{filterId}", user, (*Server).getFilter},
	}
}

// defineFilter implements POST /user/{userId}/filter (filter.yaml).
func (s *Server) defineFilter(c *call) (any, error) {
	u, err := c.self()
	if err != nil {
		return nil, err
	}
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	if _, err := node.ParseFilter(raw); err != nil {
		return nil, err
	}
	var id string
	err = s.store.Update(c.Context(), func(tx *store.Tx) error {
		id, err = tx.PutFilter(u, raw)
		return err
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"filter_id": id}, nil
}

// getFilter implements GET /user/{userId}/filter/{filterId} (filter.yaml).
func (s *Server) getFilter(c *call) (any, error) {
	u, err := c.self()
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	err = s.store.View(func(tx *store.Tx) error {
		raw, err = tx.Filter(u, c.PathValue("filterId"))
		return err
	})
	if err != nil {
		return nil, err
	}
	return raw, nil
}
