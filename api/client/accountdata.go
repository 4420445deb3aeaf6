package client

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// routesAccountData are Client config (account data) and Room tagging.
func routesAccountData() []route {
	const (
		global = v3 + "/user/{userId}/account_data/{type}"
		inRoom = v3 + "/user/{userId}/rooms/{roomId}/account_data/{type}"
		tags   = v3 + "/user/{userId}/rooms/{roomId}/tags"
	)
	return []route{
		{"PUT", global, user, (*Server).putAccountData},
		{"GET", global, user, (*Server).getAccountData},
		{"PUT", inRoom, user, (*Server).putAccountData},
		{"GET", inRoom, user, (*Server).getAccountData},
		{"GET", tags, user, (*Server).tags},
		{"PUT", tags + "/{tag}", user, (*Server).putTag},
		{"DELETE", tags + "/{tag}", user, (*Server).deleteTag},
	}
}

// The types of account data that the server manages or reads.
const (
	typePushRules = "m.push_rules"
	typeFullyRead = "m.fully_read"
	typeTag       = "m.tag"
)

// maxType bounds a type of account data and a tag, in bytes.
const maxType = 255

// accountDataKey returns whose and which account data a path names. Room data
// of rooms that the user is not in is allowed: clients keep notes on them.
func (c *call) accountDataKey() (event.UserID, event.RoomID, string, error) {
	u, err := c.self()
	if err != nil {
		return "", "", "", err
	}
	var r event.RoomID
	if c.PathValue("roomId") != "" {
		if r, err = event.ParseRoomID(c.PathValue("roomId")); err != nil {
			return "", "", "", invalidParam("room id is not valid")
		}
	}
	typ := c.PathValue("type")
	if len(typ) > maxType {
		return "", "", "", invalidParam("type is too long")
	}
	return u, r, typ, nil
}

// putAccountData implements PUT .../account_data/{type} (account-data.yaml).
// 405 for the types that the server manages (Client Config, Server Behaviour).
func (s *Server) putAccountData(c *call) (any, error) {
	u, r, typ, err := c.accountDataKey()
	if err != nil {
		return nil, err
	}
	if typ == typePushRules || typ == typeFullyRead {
		return nil, fail(http.StatusMethodNotAllowed, "M_BAD_JSON", "this type of account data cannot be set through this endpoint")
	}
	content, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, s.changeAccountData(c, u, r, typ, func(json.RawMessage) (json.RawMessage, error) { return content, nil })
}

// changeAccountData replaces an entry by what change makes of it, and wakes the
// user's clients. old is nil if there is none.
func (s *Server) changeAccountData(c *call, u event.UserID, r event.RoomID, typ string, change func(old json.RawMessage) (json.RawMessage, error)) error {
	err := s.store.Update(c.Context(), func(tx *store.Tx) error {
		var old json.RawMessage
		d, err := tx.AccountData(u, r, typ)
		switch {
		case err == nil:
			old = d.Content
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		content, err := change(old)
		if err != nil {
			return err
		}
		return tx.PutAccountData(u, store.AccountData{Room: r, Type: typ, Content: content})
	})
	if err != nil {
		return err
	}
	s.node.Feed.Wake("u:" + string(u))
	return nil
}

// accountData reads an entry; store.ErrNotFound.
func (s *Server) accountData(u event.UserID, r event.RoomID, typ string) (content json.RawMessage, err error) {
	err = s.store.View(func(tx *store.Tx) error {
		d, err := tx.AccountData(u, r, typ)
		if err != nil {
			return err
		}
		content = d.Content
		return nil
	})
	return content, err
}

// getAccountData implements GET .../account_data/{type} (account-data.yaml).
func (s *Server) getAccountData(c *call) (any, error) {
	u, r, typ, err := c.accountDataKey()
	if err != nil {
		return nil, err
	}
	if typ == typePushRules && r == "" {
		set, err := s.pushRules(u)
		return map[string]any{"global": set}, err
	}
	content, err := s.accountData(u, r, typ)
	if err != nil {
		return nil, err
	}
	return content, nil
}

// tagContent is the content of m.tag.
type tagContent struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// tagsOf reads m.tag; what is not of its form counts as no tags.
func tagsOf(raw json.RawMessage) tagContent {
	var t tagContent
	if json.Unmarshal(raw, &t) != nil || t.Tags == nil {
		t.Tags = map[string]json.RawMessage{}
	}
	for name, v := range t.Tags {
		if len(v) == 0 || v[0] != '{' {
			delete(t.Tags, name)
		}
	}
	return t
}

// tags implements GET .../tags (tags.yaml).
func (s *Server) tags(c *call) (any, error) {
	u, r, _, err := c.accountDataKey()
	if err != nil {
		return nil, err
	}
	raw, err := s.accountData(u, r, typeTag)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return tagsOf(raw), nil
}

// maxTags bounds the tags of one room.
const maxTags = 100

// putTag implements PUT .../tags/{tag} (tags.yaml).
func (s *Server) putTag(c *call) (any, error) {
	u, r, _, err := c.accountDataKey()
	if err != nil {
		return nil, err
	}
	tag := c.PathValue("tag")
	if len(tag) > maxType {
		return nil, invalidParam("tag is too long")
	}
	content, err := c.body()
	if err != nil {
		return nil, err
	}
	var check struct {
		Order *float64 `json:"order"`
	}
	if err := unmarshal(content, &check); err != nil {
		return nil, err
	}
	return nil, s.changeAccountData(c, u, r, typeTag, func(old json.RawMessage) (json.RawMessage, error) {
		t := tagsOf(old)
		t.Tags[tag] = content
		if len(t.Tags) > maxTags {
			return nil, invalidParam("room has too many tags")
		}
		return json.Marshal(t)
	})
}

// deleteTag implements DELETE .../tags/{tag} (tags.yaml). A tag that is not there
// is no error.
func (s *Server) deleteTag(c *call) (any, error) {
	u, r, _, err := c.accountDataKey()
	if err != nil {
		return nil, err
	}
	return nil, s.changeAccountData(c, u, r, typeTag, func(old json.RawMessage) (json.RawMessage, error) {
		t := tagsOf(old)
		delete(t.Tags, c.PathValue("tag"))
		return json.Marshal(t)
	})
}
