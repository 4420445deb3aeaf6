package client

import (
	"encoding/json"

	"github.com/tokenim/tokenim/node/event"
)

// pushRule is a push rule (definitions/push_rule.yaml).
type pushRule struct {
	ID         string          `json:"rule_id"`
	Default    bool            `json:"default"`
	Enabled    bool            `json:"enabled"`
	Conditions json.RawMessage `json:"conditions,omitempty"`
	Pattern    *string         `json:"pattern,omitempty"`
	Actions    json.RawMessage `json:"actions"`
}

// ruleset holds rules by kind, the most important first.
type ruleset struct {
	Override  []pushRule `json:"override"`
	Content   []pushRule `json:"content"`
	Room      []pushRule `json:"room"`
	Sender    []pushRule `json:"sender"`
	Underride []pushRule `json:"underride"`
}

// kind returns the rules of a kind, nil for a kind that there is not.
func (s *ruleset) kind(name string) *[]pushRule {
	switch name {
	case "override":
		return &s.Override
	case "content":
		return &s.Content
	case "room":
		return &s.Room
	case "sender":
		return &s.Sender
	case "underride":
		return &s.Underride
	}
	return nil
}

var ruleKinds = []string{"override", "content", "room", "sender", "underride"}

// masterRule stands before the user's own rules; all other default rules stand
// behind them (Predefined Rules).
const masterRule = ".m.rule.master"

// condition is a push condition (definitions/push_condition.yaml).
type condition struct {
	Kind    string  `json:"kind"`
	Key     string  `json:"key,omitempty"`
	Pattern *string `json:"pattern,omitempty"`
	Is      string  `json:"is,omitempty"`
	Value   any     `json:"value,omitempty"`
}

func matches(key, pattern string) condition {
	return condition{Kind: "event_match", Key: key, Pattern: &pattern}
}

func is(key string, value any) condition {
	return condition{Kind: "event_property_is", Key: key, Value: value}
}

// The actions of default rules.
var (
	quiet     = []any{}
	notify    = []any{"notify"}
	highlight = tweak{Set: "highlight"}
	chime     = tweak{Set: "sound", Value: "default"}
)

// tweak is the set_tweak action.
type tweak struct {
	Set   string `json:"set_tweak"`
	Value any    `json:"value,omitempty"`
}

// defaultRule makes a server-default rule. Its parts are constants, which
// always encode.
func defaultRule(id string, enabled bool, actions []any, conditions ...condition) pushRule {
	if conditions == nil {
		conditions = []condition{}
	}
	c, err1 := json.Marshal(conditions)
	a, err2 := json.Marshal(actions)
	if err1 != nil || err2 != nil {
		panic("push rule " + id + " does not encode")
	}
	return pushRule{ID: id, Default: true, Enabled: enabled, Conditions: c, Actions: a}
}

// defaultRules is the complete set of the specification (Push Notifications,
// Predefined Rules), in its order, for one user.
func defaultRules(u event.UserID) ruleset {
	loud := []any{"notify", chime}
	return ruleset{
		Override: []pushRule{
			defaultRule(masterRule, false, quiet),
			defaultRule(".m.rule.suppress_notices", true, quiet, matches("content.msgtype", "m.notice")),
			defaultRule(".m.rule.invite_for_me", true, loud,
				matches("type", "m.room.member"), matches("content.membership", "invite"), matches("state_key", string(u))),
			defaultRule(".m.rule.member_event", true, quiet, matches("type", "m.room.member")),
			defaultRule(".m.rule.is_user_mention", true, []any{"notify", chime, highlight},
				condition{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: string(u)}),
			defaultRule(".m.rule.is_room_mention", true, []any{"notify", highlight},
				is(`content.m\.mentions.room`, true), condition{Kind: "sender_notification_permission", Key: "room"}),
			defaultRule(".m.rule.tombstone", true, []any{"notify", highlight},
				matches("type", "m.room.tombstone"), matches("state_key", "")),
			defaultRule(".m.rule.reaction", true, quiet, matches("type", "m.reaction")),
			defaultRule(".m.rule.room.server_acl", true, quiet, matches("type", "m.room.server_acl"), matches("state_key", "")),
			defaultRule(".m.rule.suppress_edits", true, quiet, is(`content.m\.relates_to.rel_type`, "m.replace")),
		},
		Content: []pushRule{}, Room: []pushRule{}, Sender: []pushRule{},
		Underride: []pushRule{
			defaultRule(".m.rule.call", true, []any{"notify", tweak{Set: "sound", Value: "ring"}}, matches("type", "m.call.invite")),
			defaultRule(".m.rule.encrypted_room_one_to_one", true, loud,
				condition{Kind: "room_member_count", Is: "2"}, matches("type", "m.room.encrypted")),
			defaultRule(".m.rule.room_one_to_one", true, loud,
				condition{Kind: "room_member_count", Is: "2"}, matches("type", "m.room.message")),
			defaultRule(".m.rule.message", true, notify, matches("type", "m.room.message")),
			defaultRule(".m.rule.encrypted", true, notify, matches("type", "m.room.encrypted")),
		},
	}
}

// withDefaults returns the default rules with what the user changed of them,
// and the user's own rules at their place. Rules that an earlier version of the
// specification had are gone, new ones are there.
func withDefaults(u event.UserID, stored ruleset) ruleset {
	set := defaultRules(u)
	for _, name := range ruleKinds {
		rules, old := set.kind(name), stored.kind(name)
		changed := map[string]pushRule{}
		own := make([]pushRule, 0, len(*old)+len(*rules))
		for _, r := range *old {
			if r.Default {
				changed[r.ID] = r
			} else {
				own = append(own, r)
			}
		}
		for _, r := range *rules {
			if c, ok := changed[r.ID]; ok && len(c.Actions) > 0 {
				r.Enabled, r.Actions = c.Enabled, c.Actions
			}
			if r.ID == masterRule {
				own = append([]pushRule{r}, own...)
			} else {
				own = append(own, r)
			}
		}
		*rules = own
	}
	return set
}
