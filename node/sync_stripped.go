package node

import (
	"encoding/json"
	"errors"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// stripped adds a room that the user was invited to or knocked on. What another
// server sent was pruned when it came (Stripped state).
func (s *syncer) stripped(m *store.Membership, to *[]StrippedRoom) error {
	out := StrippedRoom{ID: m.Room}
	if len(m.Stripped) > 0 {
		if err := json.Unmarshal(m.Stripped, &out.State); err != nil {
			return err
		}
	} else if err := s.strippedState(m, &out); err != nil {
		return err
	}
	*to = append(*to, out)
	return nil
}

// strippedState takes the stripped state of a room that is held here from its
// current state.
func (s *syncer) strippedState(m *store.Membership, out *StrippedRoom) error {
	r, err := s.tx.Room(m.Room)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	st, err := s.tx.State(r.State)
	if err != nil {
		return err
	}
	add := func(typ, key string) error {
		e, err := st.StateEvent(typ, key)
		if err != nil || e == nil {
			return err
		}
		raw, err := json.Marshal(strippedEvent{e.Content, e.Sender, key, e.Type})
		out.State = append(out.State, raw)
		return err
	}
	for _, typ := range strippedTypes {
		if err := add(typ, ""); err != nil {
			return err
		}
	}
	if m.Sender != s.req.User {
		if err := add(typeMember, string(m.Sender)); err != nil { // who invites
			return err
		}
	}
	return add(typeMember, string(s.req.User))
}

// strippedEvent has the only properties that stripped state may have.
type strippedEvent struct {
	Content  json.RawMessage `json:"content"`
	Sender   event.UserID    `json:"sender"`
	StateKey string          `json:"state_key"`
	Type     string          `json:"type"`
}
