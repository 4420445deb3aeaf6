package client

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
)

// format says how events are written for a client (Room event format). What other
// servers need and clients do not (auth_events, prev_events, hashes, signatures,
// depth) is left out; event_id and unsigned are added. The content is copied as it
// was signed.
type format struct {
	room       bool     // with room_id: everywhere but in /sync, where it is known
	now        int64    // for unsigned.age, milliseconds
	fields     []string // the event_fields of a filter; nil: everything
	federation bool     // as it is between servers (event_format)
}

// append writes an event.
func (f *format) append(b []byte, s *node.Shown) []byte {
	if f.federation {
		return append(b, s.JSON()...)
	}
	content, unsigned := s.Content, true
	if f.fields != nil {
		content = pick(content, f.fields, "content")
		unsigned = wanted(f.fields, "unsigned")
	}
	b = append(b, `{"content":`...)
	b = append(b, content...)
	b = append(b, `,"event_id":`...)
	b = appendText(b, string(s.ID()))
	b = append(b, `,"origin_server_ts":`...)
	b = strconv.AppendInt(b, s.Time, 10)
	// Room version 11, Moving the redacts property: servers add it for older clients.
	if s.Type == "m.room.redaction" && s.Redacts() != "" {
		b = append(b, `,"redacts":`...)
		b = appendText(b, string(s.Redacts()))
	}
	if f.room {
		b = append(b, `,"room_id":`...)
		b = appendText(b, string(s.Room))
	}
	b = append(b, `,"sender":`...)
	b = appendText(b, string(s.Sender))
	if s.StateKey != nil {
		b = append(b, `,"state_key":`...)
		b = appendText(b, *s.StateKey)
	}
	b = append(b, `,"type":`...)
	b = appendText(b, s.Type)
	if unsigned {
		b = append(b, `,"unsigned":`...)
		b = f.appendUnsigned(b, s)
	}
	return append(b, '}')
}

// appendUnsigned writes what this server adds to an event for one client.
func (f *format) appendUnsigned(b []byte, s *node.Shown) []byte {
	b = append(b, `{"age":`...)
	b = strconv.AppendInt(b, f.now-s.Time, 10)
	if s.Membership != "" {
		b = append(b, `,"membership":`...)
		b = appendText(b, s.Membership)
	}
	if s.PrevContent != nil {
		b = append(b, `,"prev_content":`...)
		b = append(b, s.PrevContent...)
	}
	if s.RedactedBy != nil {
		b = append(b, `,"redacted_because":`...)
		whole := format{room: f.room, now: f.now}
		b = whole.append(b, &node.Shown{Event: s.RedactedBy})
	}
	if s.Replaces != "" {
		b = append(b, `,"replaces_state":`...)
		b = appendText(b, string(s.Replaces))
	}
	if s.TxnID != "" {
		b = append(b, `,"transaction_id":`...)
		b = appendText(b, s.TxnID)
	}
	return append(b, '}')
}

// appendAll writes an array of events.
func (f *format) appendAll(b []byte, events []*node.Shown) []byte {
	b = append(b, '[')
	for i, e := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = f.append(b, e)
	}
	return append(b, ']')
}

// size estimates the bytes that events take.
func size(events []*node.Shown) int {
	n := 0
	for _, e := range events {
		n += len(e.Content) + len(e.PrevContent) + 400
	}
	return n
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// appendIDs writes an array of user ids.
func appendIDs(b []byte, users []event.UserID) []byte {
	b = append(b, '[')
	for i, u := range users {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, string(u))
	}
	return append(b, ']')
}

// wanted reports whether any of the event_fields lies in a top-level property.
func wanted(fields []string, name string) bool {
	for _, f := range fields {
		if head, _ := node.CutPath(f); head == name {
			return true
		}
	}
	return false
}

// pick reduces an object to the event_fields that lie in the top-level property
// name. Besides them the properties that every event must have are always sent: a
// server may include more fields than were asked for.
func pick(object json.RawMessage, fields []string, name string) json.RawMessage {
	var paths []string
	for _, f := range fields {
		head, rest := node.CutPath(f)
		if head != name {
			continue
		}
		if rest == "" {
			return object
		}
		paths = append(paths, rest)
	}
	return pickPaths(object, paths, 0)
}

// maxPick bounds the depth of event_fields.
const maxPick = 32

func pickPaths(object json.RawMessage, paths []string, depth int) json.RawMessage {
	var all map[string]json.RawMessage
	if len(paths) == 0 || depth > maxPick || json.Unmarshal(object, &all) != nil {
		return json.RawMessage("{}")
	}
	whole := map[string]bool{}
	below := map[string][]string{}
	for _, p := range paths {
		head, rest := node.CutPath(p)
		if rest == "" {
			whole[head] = true
		} else {
			below[head] = append(below[head], rest)
		}
	}
	out := map[string]json.RawMessage{}
	for k, v := range all {
		switch {
		case whole[k]:
			out[k] = v
		case below[k] != nil && len(v) > 0 && v[0] == '{':
			out[k] = pickPaths(v, below[k], depth+1)
		}
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}
