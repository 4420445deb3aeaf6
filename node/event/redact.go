package event

import "slices"

// Redact returns the redacted form; the id stays (room version 12, Redactions).
func (e *Event) Redact() (*Event, error) {
	raw := appendRedacted(make([]byte, 0, len(e.raw)), e.raw, e.Type, true)
	if len(raw) == len(e.raw) {
		return e, nil // redaction only takes away
	}
	return load(e.id, raw, true)
}

// appendRedacted appends the redacted form of the event of type typ that raw
// encodes. Without its signatures that is what the reference hash and the
// signatures cover.
func appendRedacted(dst, raw []byte, typ string, signatures bool) []byte {
	dst = append(dst, '{')
	first := true
	for r := read(raw, '{'); ; {
		key, value, ok := r.member()
		if !ok {
			return append(dst, '}')
		}
		if !keptKey(key) || !signatures && string(key) == "signatures" {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		if string(key) == "content" {
			dst = append(dst, `"content":`...)
			dst = appendRedactedContent(dst, value, typ)
			continue
		}
		dst = append(dst, r.b[r.start:r.start+len(key)+3]...)
		dst = append(dst, value...)
	}
}

// keptKey reports whether a top-level property survives redaction.
func keptKey(key []byte) bool {
	switch string(key) {
	case "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
		"depth", "prev_events", "auth_events", "origin_server_ts":
		return true
	}
	return false
}

// keptContent lists, for each type, the properties of the content that survive
// redaction. m.room.create, not listed, keeps all; other types keep none.
var keptContent = map[string][]string{
	"m.room.member":             {"membership", "join_authorised_via_users_server", "third_party_invite"},
	"m.room.join_rules":         {"join_rule", "allow"},
	"m.room.power_levels":       {"ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"},
	"m.room.history_visibility": {"history_visibility"},
	"m.room.redaction":          {"redacts"},
}

func appendRedactedContent(dst, content []byte, typ string) []byte {
	if typ == "m.room.create" {
		return append(dst, content...)
	}
	keys := keptContent[typ]
	if len(keys) == 0 {
		return append(dst, '{', '}')
	}
	dst = append(dst, '{')
	first := true
	for r := read(content, '{'); ; {
		key, value, ok := r.member()
		if !ok {
			return append(dst, '}')
		}
		if !slices.Contains(keys, string(key)) {
			continue
		}
		var signed []byte
		if string(key) == "third_party_invite" {
			// Of third_party_invite only its property signed is kept.
			if signed = lookup(value, "signed"); signed == nil {
				continue
			}
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, r.b[r.start:r.start+len(key)+3]...)
		if signed != nil {
			dst = append(dst, `{"signed":`...)
			dst = append(dst, signed...)
			dst = append(dst, '}')
			continue
		}
		dst = append(dst, value...)
	}
}
