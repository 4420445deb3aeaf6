package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node/event"
)

// ErrParam says that a parameter of a request (a token, a filter, a thread id)
// has no meaning. Outside: 400 M_INVALID_PARAM.
var ErrParam = errors.New("invalid parameter")

// maxFilterList is how many entries a list of a filter may have, and
// maxFilterSize how many bytes a filter.
const (
	maxFilterList = 1000
	maxFilterSize = 64 << 10
)

// EventFilter says which events to include (Client-Server API, RoomEventFilter).
// A nil list is an absent one. Limit 0: none was given.
type EventFilter struct {
	Limit            int            `json:"limit"`
	Types            []string       `json:"types"`
	NotTypes         []string       `json:"not_types"`
	Senders          []event.UserID `json:"senders"`
	NotSenders       []event.UserID `json:"not_senders"`
	Rooms            []event.RoomID `json:"rooms"`
	NotRooms         []event.RoomID `json:"not_rooms"`
	ContainsURL      *bool          `json:"contains_url"`
	LazyMembers      bool           `json:"lazy_load_members"`
	RedundantMembers bool           `json:"include_redundant_members"`
	UnreadThreads    bool           `json:"unread_thread_notifications"`
}

// RoomFilter restricts what is said of rooms.
type RoomFilter struct {
	Rooms        []event.RoomID `json:"rooms"`
	NotRooms     []event.RoomID `json:"not_rooms"`
	IncludeLeave bool           `json:"include_leave"`
	Ephemeral    EventFilter    `json:"ephemeral"`
	State        EventFilter    `json:"state"`
	Timeline     EventFilter    `json:"timeline"`
	AccountData  EventFilter    `json:"account_data"`
}

// Filter restricts a sync (Client-Server API, Filtering). The zero value
// includes everything.
type Filter struct {
	EventFields []string    `json:"event_fields"` // dot-separated paths; nil: all
	EventFormat string      `json:"event_format"` // "client" (or empty) or "federation"
	Presence    EventFilter `json:"presence"`
	AccountData EventFilter `json:"account_data"`
	Room        RoomFilter  `json:"room"`
}

// Federation reports whether events are wanted as they are between servers.
func (f *Filter) Federation() bool { return f.EventFormat == "federation" }

// ParseFilter reads and checks a filter of /sync, at most 64 KiB with at most
// 1,000 entries in each list. Errors wrap ErrParam.
func ParseFilter(raw []byte) (*Filter, error) {
	f := &Filter{}
	if err := decodeFilter(raw, f); err != nil {
		return nil, err
	}
	if f.EventFormat != "" && f.EventFormat != "client" && f.EventFormat != "federation" {
		return nil, fmt.Errorf("%w: event_format of the filter", ErrParam)
	}
	if len(f.EventFields) > maxFilterList {
		return nil, fmt.Errorf("%w: event_fields of the filter is too long", ErrParam)
	}
	if err := checkRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
		return nil, err
	}
	for _, e := range []*EventFilter{&f.Presence, &f.AccountData, &f.Room.Ephemeral, &f.Room.State, &f.Room.Timeline, &f.Room.AccountData} {
		if err := e.check(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// ParseEventFilter reads and checks a RoomEventFilter, with the limits and
// errors of ParseFilter.
func ParseEventFilter(raw []byte) (*EventFilter, error) {
	f := &EventFilter{}
	if err := decodeFilter(raw, f); err != nil {
		return nil, err
	}
	return f, f.check()
}

func decodeFilter(raw []byte, into any) error {
	if len(raw) > maxFilterSize {
		return fmt.Errorf("%w: filter is larger than %d bytes", ErrParam, maxFilterSize)
	}
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
		return fmt.Errorf("%w: filter is no JSON object", ErrParam)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%w: filter is not valid", ErrParam)
	}
	return nil
}

func (f *EventFilter) check() error {
	if f.Limit < 0 {
		return fmt.Errorf("%w: limit of the filter is negative", ErrParam)
	}
	if max(len(f.Types), len(f.NotTypes), len(f.Senders), len(f.NotSenders)) > maxFilterList {
		return fmt.Errorf("%w: a list of the filter is too long", ErrParam)
	}
	for _, u := range slices.Concat(f.Senders, f.NotSenders) {
		if !strings.HasPrefix(string(u), "@") {
			return fmt.Errorf("%w: a sender of the filter is no user id", ErrParam)
		}
	}
	return checkRooms(f.Rooms, f.NotRooms)
}

func checkRooms(lists ...[]event.RoomID) error {
	for _, l := range lists {
		if len(l) > maxFilterList {
			return fmt.Errorf("%w: a list of the filter is too long", ErrParam)
		}
		for _, r := range l {
			if !strings.HasPrefix(string(r), "!") {
				return fmt.Errorf("%w: a room of the filter is no room id", ErrParam)
			}
		}
	}
	return nil
}

// limit returns the wanted number of events: def if none was given, within 1 and top.
func (f *EventFilter) limit(def, top int) int {
	if f.Limit == 0 {
		return def
	}
	return min(f.Limit, top)
}

// room reports whether rooms of this id are wanted.
func (f *EventFilter) room(r event.RoomID) bool { return wantRoom(f.Rooms, f.NotRooms, r) }

// room reports whether anything about the room is wanted.
func (f *RoomFilter) room(r event.RoomID) bool { return wantRoom(f.Rooms, f.NotRooms, r) }

func wantRoom(rooms, not []event.RoomID, r event.RoomID) bool {
	return !slices.Contains(not, r) && (rooms == nil || slices.Contains(rooms, r))
}

// typ reports whether events of this type are wanted.
func (f *EventFilter) typ(typ string) bool {
	for _, p := range f.NotTypes {
		if wildcard(p, typ) {
			return false
		}
	}
	if f.Types == nil {
		return true
	}
	for _, p := range f.Types {
		if wildcard(p, typ) {
			return true
		}
	}
	return false
}

// match reports whether an event of a room that is wanted is wanted.
func (f *EventFilter) match(e *event.Event) bool {
	if slices.Contains(f.NotSenders, e.Sender) || f.Senders != nil && !slices.Contains(f.Senders, e.Sender) {
		return false
	}
	if !f.typ(e.Type) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == hasURL(e.Content)
}

// hasURL reports whether the content has a "url" key.
func hasURL(content json.RawMessage) bool {
	if !bytes.Contains(content, []byte(`"url"`)) {
		return false
	}
	var c map[string]json.RawMessage // a struct's field would match "URL" too
	if json.Unmarshal(content, &c) != nil {
		return false
	}
	_, ok := c["url"]
	return ok
}

// wildcard reports whether s matches a pattern in which "*" stands for any
// sequence of characters. It takes time linear in len(s) for each star.
func wildcard(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, next, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], next
	}
}
