package room

import (
	"bytes"
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// CreatorPower is the power level of room creators, above every integer that
// power levels can hold (room version 12).
const CreatorPower int64 = 1 << 53

// Levels answers questions about power levels. The zero value is a room without
// creators and without m.room.power_levels.
type Levels struct {
	creators []event.UserID
	p        *powers // nil: no m.room.power_levels
}

// powers is the content of an m.room.power_levels event, ready for look-ups.
type powers struct {
	actions       []entry
	users         []entry
	events        []entry
	notifications []entry
}

// entry is one level. The key points into the bytes of the event.
type entry struct {
	key   []byte
	level int64
}

// actions are the levels at the top of m.room.power_levels with their defaults
// (Client-Server API, m.room.power_levels; Server-Server API, Definitions).
var actions = [...]struct {
	name     string
	standard int64
}{
	{"users_default", 0},
	{"events_default", 0},
	{"state_default", 50},
	{"ban", 50},
	{"redact", 50},
	{"kick", 50},
	{"invite", 0},
}

// LevelsOf reads the power levels of st; create gives the creators. The error is
// that of st, or says that create is missing.
func LevelsOf(create *event.Event, st State) (Levels, error) {
	if create == nil {
		return Levels{}, errors.New("power levels of a room without create event")
	}
	e, err := st.StateEvent("m.room.power_levels", "")
	if err != nil {
		return Levels{}, err
	}
	l := Levels{creators: Creators(create)}
	if e != nil {
		l.p = parsePowers(e.Content)
	}
	return l, nil
}

// Creators returns the users of infinite power: the sender of the create event
// and content.additional_creators (room version 12, Authorisation rules).
func Creators(create *event.Event) []event.UserID {
	users := []event.UserID{create.Sender}
	scanArray(property(create.Content, "additional_creators"), func(v []byte) bool {
		if s, ok := stringOf(v); ok {
			users = append(users, event.UserID(s))
		}
		return true
	})
	return users
}

// User returns the power level of a user, CreatorPower for creators.
func (l Levels) User(u event.UserID) int64 {
	if slices.Contains(l.creators, u) {
		return CreatorPower
	}
	if l.p != nil {
		if n, ok := lookup(l.p.users, string(u)); ok {
			return n
		}
	}
	return l.Action("users_default")
}

// Event returns the level that sending an event of the type takes. It does not
// apply to m.room.member and m.room.third_party_invite, which have rules of
// their own.
func (l Levels) Event(typ string, isState bool) int64 {
	if l.p != nil {
		if n, ok := lookup(l.p.events, typ); ok {
			return n
		}
	}
	if isState {
		return l.Action("state_default")
	}
	return l.Action("events_default")
}

// Action returns the level for "ban", "kick", "invite", "redact", "users_default",
// "events_default" and "state_default". Any other name takes CreatorPower.
func (l Levels) Action(name string) int64 {
	if l.p != nil {
		if n, ok := lookup(l.p.actions, name); ok {
			return n
		}
	}
	for _, a := range actions {
		if a.name == name {
			return a.standard
		}
	}
	return CreatorPower
}

// Notification returns the level for notifications.<key>, 50 unless set.
func (l Levels) Notification(key string) int64 {
	if l.p != nil {
		if n, ok := lookup(l.p.notifications, key); ok {
			return n
		}
	}
	return 50
}

// CanRedact reports whether a redaction by redactor takes effect on target
// (room version 3 and later, Handling redactions): the redactor has the redact
// level, or target comes from the redactor's server.
func CanRedact(l Levels, redactor event.UserID, target *event.Event) bool {
	return l.User(redactor) >= l.Action("redact") || redactor.Server() == target.Sender.Server()
}

// parsePowers reads the content of m.room.power_levels. What is no integer
// counts as absent; rules 10.1 to 10.3 keep such events out of rooms.
func parsePowers(content []byte) *powers {
	p := &powers{}
	scanObject(content, func(key, value []byte) bool {
		switch string(key) {
		case "users":
			p.users = entries(value)
		case "events":
			p.events = entries(value)
		case "notifications":
			p.notifications = entries(value)
		default:
			for _, a := range actions {
				if a.name == string(key) {
					if n, ok := integerOf(value); ok {
						p.actions = append(p.actions, entry{key, n})
					}
				}
			}
		}
		return true
	})
	ensureSorted(p.actions)
	return p
}

// entries reads an object of integers, sorted by key.
func entries(object []byte) []entry {
	n := 0
	scanObject(object, func(_, _ []byte) bool { n++; return true })
	list := make([]entry, 0, n)
	scanObject(object, func(key, value []byte) bool {
		if n, ok := integerOf(value); ok {
			list = append(list, entry{key, n})
		}
		return true
	})
	ensureSorted(list)
	return list
}

// ensureSorted sorts by key; canonical JSON is sorted already.
func ensureSorted(list []entry) {
	if byKey := func(a, b entry) int { return bytes.Compare(a.key, b.key) }; !slices.IsSortedFunc(list, byKey) {
		slices.SortStableFunc(list, byKey)
	}
}

func lookup(list []entry, key string) (int64, bool) {
	lo, hi := 0, len(list)
	for lo < hi {
		mid := (lo + hi) / 2
		if string(list[mid].key) < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(list) && string(list[lo].key) == key {
		return list[lo].level, true
	}
	return 0, false
}
