package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// pushRule is a push rule as the account data m.push_rules holds it.
type pushRule struct {
	ID         string            `json:"rule_id"`
	Default    bool              `json:"default"`
	Enabled    bool              `json:"enabled"`
	Conditions []pushCondition   `json:"conditions"`
	Pattern    string            `json:"pattern"` // of content rules
	Actions    []json.RawMessage `json:"actions"`

	notify, loud bool // what the actions say
}

// pushCondition is a condition of a push rule.
type pushCondition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Pattern *string         `json:"pattern"`
	Is      string          `json:"is"`
	Value   json.RawMessage `json:"value"`
}

// pushRules are the rules of one user in the order in which they are asked.
type pushRules struct {
	kinds [5][]pushRule // override, content, room, sender, underride
}

// predefined are the predefined rules and their actions (Push, Predefined
// Rules): whether they notify, and with a highlight.
var predefined = map[string]struct{ notify, loud bool }{
	".m.rule.master":                    {},
	".m.rule.suppress_notices":          {},
	".m.rule.invite_for_me":             {notify: true},
	".m.rule.member_event":              {},
	".m.rule.is_user_mention":           {true, true},
	".m.rule.is_room_mention":           {true, true},
	".m.rule.tombstone":                 {true, true},
	".m.rule.reaction":                  {},
	".m.rule.room.server_acl":           {},
	".m.rule.suppress_edits":            {},
	".m.rule.call":                      {notify: true},
	".m.rule.encrypted_room_one_to_one": {notify: true},
	".m.rule.room_one_to_one":           {notify: true},
	".m.rule.message":                   {notify: true},
	".m.rule.encrypted":                 {notify: true},
}

// parsePushRules reads m.push_rules. nil if they count as the predefined rules
// do, which is so for nearly everybody; what has no meaning counts as that too.
func parsePushRules(content json.RawMessage) *pushRules {
	var c struct {
		Global struct {
			Override  []pushRule `json:"override"`
			Content   []pushRule `json:"content"`
			Room      []pushRule `json:"room"`
			Sender    []pushRule `json:"sender"`
			Underride []pushRule `json:"underride"`
		} `json:"global"`
	}
	if json.Unmarshal(content, &c) != nil {
		return nil
	}
	g := &c.Global
	rules := &pushRules{kinds: [5][]pushRule{g.Override, g.Content, g.Room, g.Sender, g.Underride}}
	own := false
	for _, kind := range rules.kinds {
		for i := range kind {
			r := &kind[i]
			r.notify, r.loud = outcome(r.Actions)
			was, known := predefined[r.ID]
			if r.Default && !known { // of another version of the specification
				r.Enabled = false
				continue
			}
			own = own || !r.Default || r.Enabled == (r.ID == ".m.rule.master") || r.notify != was.notify || r.loud != was.loud
		}
	}
	if !own {
		return nil
	}
	return rules
}

// outcome reads the actions of a rule.
func outcome(actions []json.RawMessage) (notify, loud bool) {
	for _, a := range actions {
		if bytes.Equal(a, []byte(`"notify"`)) {
			notify = true
			continue
		}
		tweak := struct {
			Set   string `json:"set_tweak"`
			Value any    `json:"value"`
		}{Value: true} // a highlight without a value is one
		if json.Unmarshal(a, &tweak) == nil && tweak.Set == "highlight" {
			loud = tweak.Value != false
		}
	}
	return notify, notify && loud
}

// pushCacheUsers is of how many users it is remembered what their rules are, and
// pushCacheBytes how large those may be.
const (
	pushCacheUsers = 4096
	pushCacheBytes = 16 << 10
)

// pushCache remembers parsed push rules. Forgetting costs time and nothing else.
type pushCache struct {
	mu    sync.Mutex // guards users
	users *lru.LRU[event.UserID, parsedRules]
}

// parsedRules are the rules that a user set at a position.
type parsedRules struct {
	at    store.Position
	rules *pushRules
}

func newPushCache() *pushCache {
	users, err := lru.NewLRU[event.UserID, parsedRules](pushCacheUsers, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &pushCache{users: users}
}

// rules returns the push rules of a user, nil if they are the predefined ones.
func (c *pushCache) rules(tx *store.Tx, u event.UserID) (*pushRules, error) {
	d, err := tx.AccountData(u, "", "m.push_rules")
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	c.mu.Lock()
	have, ok := c.users.Get(u)
	c.mu.Unlock()
	if ok && have.at == d.Position {
		return have.rules, nil
	}
	rules := parsePushRules(d.Content)
	if rules == nil || len(d.Content) <= pushCacheBytes {
		c.mu.Lock()
		c.users.Add(u, parsedRules{d.Position, rules})
		c.mu.Unlock()
	}
	return rules, nil
}

// pushWork is how much work the patterns of a user's rules may cause in one
// answer, in steps of some nanoseconds. Beyond it they match nothing.
const pushWork = 20_000_000

// judge applies a user's rules to events, for one answer.
type judge struct {
	tx     *store.Tx
	user   event.UserID
	rules  *pushRules // nil: the predefined ones, for which there are notices
	joined int        // members of the room in question
	work   int        // left of pushWork
}

// verdict applies the rules to an event: the first that matches decides, and
// none is silence (Push Rules).
func (j *judge) verdict(e *store.Stored) (notify, loud bool, err error) {
	p := properties{event: e}
	for kind, list := range j.rules.kinds {
		for i := range list {
			r := &list[i]
			if !r.Enabled {
				continue
			}
			ok := false
			switch kind {
			case 1:
				body, is := p.get("content.body").(string)
				ok = is && j.contains(body, r.Pattern)
			case 2:
				ok = r.ID == string(e.Room)
			case 3:
				ok = r.ID == string(e.Sender)
			default:
				ok, err = j.all(r.Conditions, &p)
			}
			if ok || err != nil {
				return r.notify, r.loud, err
			}
		}
	}
	return false, false, nil
}

// all reports whether all conditions hold.
func (j *judge) all(conditions []pushCondition, p *properties) (bool, error) {
	for i := range conditions {
		if ok, err := j.holds(&conditions[i], p); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// holds reports whether a condition holds (Push Rules, Conditions).
func (j *judge) holds(c *pushCondition, p *properties) (bool, error) {
	switch c.Kind {
	case "event_match":
		text, ok := p.get(c.Key).(string)
		switch {
		case !ok || c.Pattern == nil:
			return false, nil
		case c.Key == "content.body":
			return j.contains(text, *c.Pattern), nil
		}
		return j.match(text, *c.Pattern, false), nil
	case "event_property_is":
		return sameValue(p.get(c.Key), c.Value), nil
	case "event_property_contains":
		list, _ := p.get(c.Key).([]any)
		return slices.ContainsFunc(list, func(v any) bool { return sameValue(v, c.Value) }), nil
	case "room_member_count":
		return countIs(j.joined, c.Is), nil
	case "sender_notification_permission":
		return mayNotify(j.tx, p.event, c.Key)
	case "contains_display_name":
		st, err := j.tx.State(p.event.Before)
		if err != nil {
			return false, err
		}
		member, err := st.StateEvent(typeMember, string(j.user))
		if err != nil || member == nil {
			return false, err
		}
		body, _ := p.get("content.body").(string)
		name := member.Field("displayname")
		return name != "" && j.contains(body, name), nil
	}
	return false, nil // kinds that are not known match nothing
}

// countIs compares a number of members with the is of a condition.
func countIs(n int, is string) bool {
	digits := strings.TrimLeft(is, "<>=")
	want, err := strconv.Atoi(digits)
	if err != nil || digits[0] == '+' || digits[0] == '-' {
		return false
	}
	switch strings.TrimSuffix(is, digits) {
	case "", "==":
		return n == want
	case "<":
		return n < want
	case ">":
		return n > want
	case "<=":
		return n <= want
	case ">=":
		return n >= want
	}
	return false
}

// sameValue compares a property with a value: strings, integers, booleans and null,
// without any conversion.
func sameValue(property any, value json.RawMessage) bool {
	if len(value) == 0 {
		return false
	}
	switch v := decodeAny(value).(type) {
	case map[string]any, []any, error:
		return false
	default:
		return property == v
	}
}

// noProperty is the value of a property that is not there.
type noProperty struct{}

// decodeAny decodes JSON, integers as they are written; an error for what is none.
func decodeAny(raw json.RawMessage) any {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err
	}
	return v
}

// properties gives access to an event by dot-separated property paths.
type properties struct {
	event   *store.Stored
	content any // decoded when it is first needed
}

// get returns the property at a path: a string, json.Number, bool, nil, list or
// object, or noProperty.
func (p *properties) get(path string) any {
	head, rest := CutPath(path)
	if rest == "" {
		switch head {
		case "type":
			return p.event.Type
		case "sender":
			return string(p.event.Sender)
		case "room_id":
			return string(p.event.Room)
		case "event_id":
			return string(p.event.ID())
		case "state_key":
			if p.event.StateKey != nil {
				return *p.event.StateKey
			}
		}
		return noProperty{}
	}
	if head != "content" {
		return noProperty{}
	}
	if p.content == nil {
		p.content = decodeAny(p.event.Content)
	}
	v := p.content
	for rest != "" {
		head, rest = CutPath(rest)
		o, ok := v.(map[string]any)
		if !ok {
			return noProperty{}
		}
		if v, ok = o[head]; !ok {
			return noProperty{}
		}
	}
	return v
}

// CutPath takes the first part off a dot-separated property path, in which a
// backslash escapes a dot or a backslash (Appendices, Dot-separated property paths).
func CutPath(path string) (head, rest string) {
	if !strings.Contains(path, `\`) {
		head, rest, _ = strings.Cut(path, ".")
		return head, rest
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			b.WriteByte(path[i])
		case c == '.':
			return b.String(), path[i+1:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
