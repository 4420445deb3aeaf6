package room

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tokenim/tokenim/node/event"
)

// claim is an event together with what the rules read of it again and again.
type claim struct {
	*event.Event
	membership string // of m.room.member events
	n          int
	list       [maxAuth]Key
}

// maxAuth is the largest number of places that AuthKeys can name.
const maxAuth = 5

// facts are the events at the places that AuthKeys names, in the same order. The
// rules can look at nothing else, so the same facts give the same answer.
type facts [maxAuth]*event.Event

func claimOf(e *event.Event) claim {
	c := claim{Event: e}
	if e.Type == "m.room.member" {
		c.membership, _ = stringOf(property(e.Content, "membership"))
	}
	c.n = authKeys(&c.list, e.Type, e.StateKey, e.Sender, e.Content)
	return c
}

func (c *claim) keys() []Key { return c.list[:c.n] }

func factsOf(c *claim, st State) (f facts, err error) {
	for i, k := range c.keys() {
		if f[i], err = st.StateEvent(k.Type, k.StateKey); err != nil {
			return f, fmt.Errorf("%s %q: %w", k.Type, k.StateKey, err)
		}
	}
	return f, nil
}

func (f *facts) same(g *facts) bool {
	for i, e := range f {
		if o := g[i]; e != o && (e == nil || o == nil || e.ID() != o.ID()) {
			return false
		}
	}
	return true
}

// at returns the fact at a place, nil where there is none.
func (f *facts) at(c *claim, typ, key string) *event.Event {
	for i, k := range c.keys() {
		if k.Type == typ && k.StateKey == key {
			return f[i]
		}
	}
	return nil
}

// member returns the membership of a user, "leave" for those who never had one.
func (f *facts) member(c *claim, u string) string {
	if e := f.at(c, "m.room.member", u); e != nil {
		m, _ := stringOf(property(e.Content, "membership"))
		return m
	}
	return "leave"
}

// joinRule returns the join rule, "invite" where none is set.
func (f *facts) joinRule(c *claim) string {
	if e := f.at(c, "m.room.join_rules", ""); e != nil {
		r, _ := stringOf(property(e.Content, "join_rule"))
		return r
	}
	return "invite"
}

// AuthKeys returns the places whose events must be the auth_events of an event
// (Server-Server API, Auth events selection, for room version 12): never
// m.room.create, which the room id implies. The order is always the same.
func AuthKeys(typ string, stateKey *string, sender event.UserID, content json.RawMessage) []Key {
	var list [maxAuth]Key
	return append([]Key(nil), list[:authKeys(&list, typ, stateKey, sender, content)]...)
}

func authKeys(list *[maxAuth]Key, typ string, stateKey *string, sender event.UserID, content []byte) int {
	if typ == "m.room.create" {
		return 0
	}
	n := 0
	add := func(typ, key string) {
		for _, k := range list[:n] {
			if k.Type == typ && k.StateKey == key {
				return
			}
		}
		list[n] = Key{typ, key}
		n++
	}
	add("m.room.power_levels", "")
	add("m.room.member", string(sender))
	if typ != "m.room.member" || stateKey == nil {
		return n
	}
	add("m.room.member", *stateKey)
	membership, _ := stringOf(property(content, "membership"))
	switch membership {
	case "join", "invite", "knock":
		add("m.room.join_rules", "")
	}
	switch membership {
	case "invite":
		signed := property(property(content, "third_party_invite"), "signed")
		if token, ok := stringOf(property(signed, "token")); ok {
			add("m.room.third_party_invite", token)
		}
	case "join":
		if via, ok := stringOf(property(content, "join_authorised_via_users_server")); ok {
			add("m.room.member", via)
		}
	}
	return n
}

// checkCreate is rule 1. Beyond it, a create event must be at the place where
// everybody looks for it, or the room would have none in its state.
func checkCreate(e *event.Event) error {
	if e.StateKey == nil || *e.StateKey != "" {
		return refuse("1", "a create event is a state event with an empty state key")
	}
	// Rule 1.1. It has prev_events.
	if len(e.Prev) > 0 {
		return refuse("1.1", "a create event is the first event of its group")
	}
	// Rule 1.2. It has a room_id. (event.Parse refuses the bytes, and fills the
	// field from the id.)
	if e.Room != e.ID().Room() {
		return refuse("1.2", "a create event names no group: its own id does")
	}
	// Rule 1.3. content.room_version is present and not recognised.
	if v := property(e.Content, "room_version"); v != nil && !bytes.Equal(v, []byte(`"12"`)) {
		return refuse("1.3", "room version %s is not supported", v)
	}
	// Rule 1.4. content.additional_creators is no array of user ids.
	if v := property(e.Content, "additional_creators"); v != nil {
		ok := true
		array := scanArray(v, func(user []byte) bool {
			s, isString := stringOf(user)
			ok = isString && validUser(s)
			return ok
		})
		if !array || !ok {
			return refuse("1.4", "additional_creators is not a list of user ids")
		}
	}
	return nil // rule 1.5
}

func validUser(s string) bool {
	_, err := event.ParseUserID(s)
	return err == nil
}

// checkAuthEvents is rule 3.
func checkAuthEvents(c *claim, auth []Found) error {
	if len(auth) != len(c.Auth) {
		return fmt.Errorf("%d of %d auth events of %s given", len(auth), len(c.Auth), c.ID())
	}
	for i, a := range auth {
		if a.Event == nil || a.ID() != c.Auth[i] {
			return fmt.Errorf("auth event %s of %s not given", c.Auth[i], c.ID())
		}
		// Rule 3.1. Duplicate entries for a type and state key.
		for _, b := range auth[:i] {
			if a.StateKey != nil && b.Is(a.Type, *a.StateKey) {
				return refuse("3.1", "two auth events at %s %q", a.Type, *a.StateKey)
			}
		}
		// Rule 3.2. Entries that the auth events selection does not name.
		expected := false
		for _, k := range c.keys() {
			expected = expected || a.Is(k.Type, k.StateKey)
		}
		if !expected {
			return refuse("3.2", "auth event %s of type %s does not belong there", a.ID(), a.Type)
		}
		// Rule 3.3. Entries that were rejected.
		if a.Rejected {
			return refuse("3.3", "auth event %s was rejected", a.ID())
		}
		// Rule 3.4. Entries of another room.
		if a.Room != c.Room {
			return refuse("3.4", "auth event %s is of another group", a.ID())
		}
	}
	return nil
}

// rules applies rules 4 to 11 in one room.
type rules struct {
	create   *event.Event
	creators []event.UserID
	memo     map[*event.Event]*powers // parsed m.room.power_levels
}

func newRules(create *event.Event) *rules {
	return &rules{create: create, creators: Creators(create)}
}

// levels returns the power levels that an m.room.power_levels event sets; e may be nil.
func (r *rules) levels(e *event.Event) Levels {
	l := Levels{creators: r.creators}
	if e == nil {
		return l
	}
	if l.p = r.memo[e]; l.p != nil {
		return l
	}
	l.p = parsePowers(e.Content)
	if r.memo == nil {
		r.memo = make(map[*event.Event]*powers, 1)
	}
	r.memo[e] = l.p
	return l
}

// check is rules 4 to 11.
func (r *rules) check(c *claim, f *facts) error {
	// Rule 4. The room is not federated and the sender is of another server than its creator.
	if string(property(r.create.Content, "m.federate")) == "false" && c.Sender.Server() != r.create.Sender.Server() {
		return refuse("4", "the group is not open to other servers")
	}
	// Rule 5. m.room.member.
	if c.Type == "m.room.member" {
		return r.checkMember(c, f)
	}
	// Rule 6. The sender is not joined.
	if m := f.member(c, string(c.Sender)); m != "join" {
		return refuse("6", "%s is not in the group", c.Sender)
	}
	l := r.levels(f.at(c, "m.room.power_levels", ""))
	has := l.User(c.Sender)
	// Rule 7.1. m.room.third_party_invite takes the invite level and nothing else.
	if c.Type == "m.room.third_party_invite" {
		if need := l.Action("invite"); has < need {
			return refusePower("7.1", "to invite", need, c.Sender, has)
		}
		return nil
	}
	// Rule 8. The sender lacks the power that the event type requires.
	if need := l.Event(c.Type, c.StateKey != nil); has < need {
		return refusePower("8", "to send "+c.Type, need, c.Sender, has)
	}
	// Rule 9. A state key that starts with @ is not the sender.
	if c.StateKey != nil && strings.HasPrefix(*c.StateKey, "@") && *c.StateKey != string(c.Sender) {
		return refuse("9", "only %s may set this", *c.StateKey)
	}
	// Rule 10. m.room.power_levels.
	if c.Type == "m.room.power_levels" {
		return r.checkPowerLevels(c, f, l)
	}
	return nil // rule 11
}

// refusePower says what is needed and what the sender has.
func refusePower(rule, what string, need int64, sender event.UserID, has int64) error {
	return refuse(rule, "power level %d is needed %s, %s has %d", need, what, sender, has)
}
