package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// routesPushRules are Push Rules: API.
func routesPushRules() []route {
	const rule = v3 + "/pushrules/global/{kind}/{ruleId}"
	return []route{
		{"GET", v3 + "/pushrules/", user, (*Server).allPushRules},
		{"GET", v3 + "/pushrules/global/", user, (*Server).globalPushRules},
		{"GET", rule, user, (*Server).getPushRule},
		{"PUT", rule, user, (*Server).putPushRule},
		{"DELETE", rule, user, (*Server).deletePushRule},
		{"GET", rule + "/enabled", user, (*Server).getRuleEnabled},
		{"PUT", rule + "/enabled", user, (*Server).putRuleEnabled},
		{"GET", rule + "/actions", user, (*Server).getRuleActions},
		{"PUT", rule + "/actions", user, (*Server).putRuleActions},
	}
}

// maxRules bounds a user's own rules of one kind, maxRule a rule in bytes.
const (
	maxRules = 1000
	maxRule  = 4096
)

// storedRules is the content of m.push_rules.
type storedRules struct {
	Global ruleset `json:"global"`
}

// pushRules returns the rules of a user.
func (s *Server) pushRules(u event.UserID) (ruleset, error) {
	raw, err := s.accountData(u, "", typePushRules)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return ruleset{}, err
	}
	return readRules(u, raw)
}

// readRules completes stored rules; nil are none.
func readRules(u event.UserID, raw json.RawMessage) (ruleset, error) {
	var stored storedRules
	if raw != nil {
		if err := json.Unmarshal(raw, &stored); err != nil {
			return ruleset{}, err
		}
	}
	return withDefaults(u, stored.Global), nil
}

// ensurePushRules writes the default rules as account data for a user who has
// none, so that clients find them in /sync (Push Rules: Events).
func (s *Server) ensurePushRules(ctx context.Context, u event.UserID) error {
	_, err := s.accountData(u, "", typePushRules)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.store.Update(ctx, func(tx *store.Tx) error {
		if _, err := tx.AccountData(u, "", typePushRules); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		raw, err := json.Marshal(storedRules{defaultRules(u)})
		if err != nil {
			return err
		}
		return tx.PutAccountData(u, store.AccountData{Type: typePushRules, Content: raw})
	})
}

// changeRules changes the rules of one kind.
func (s *Server) changeRules(c *call, change func(rules *[]pushRule) error) error {
	u, kind := c.Session.User, c.PathValue("kind")
	return s.changeAccountData(c, u, "", typePushRules, func(old json.RawMessage) (json.RawMessage, error) {
		set, err := readRules(u, old)
		if err != nil {
			return nil, err
		}
		rules := set.kind(kind)
		if rules == nil {
			return nil, errKind
		}
		if err := change(rules); err != nil {
			return nil, err
		}
		return json.Marshal(storedRules{set})
	})
}

var (
	errKind   = invalidParam("kind of rule is not known")
	errNoRule = notFound("push rule is not known")
)

// allPushRules implements GET /pushrules/ (pushrules.yaml).
func (s *Server) allPushRules(c *call) (any, error) {
	set, err := s.pushRules(c.Session.User)
	return storedRules{set}, err
}

// globalPushRules implements GET /pushrules/global/ (pushrules.yaml).
func (s *Server) globalPushRules(c *call) (any, error) {
	set, err := s.pushRules(c.Session.User)
	return set, err
}

// rule finds the rule that a path names.
func (s *Server) rule(c *call) (pushRule, error) {
	set, err := s.pushRules(c.Session.User)
	if err != nil {
		return pushRule{}, err
	}
	rules := set.kind(c.PathValue("kind"))
	if rules == nil {
		return pushRule{}, errKind
	}
	i := indexRule(*rules, c.PathValue("ruleId"))
	if i < 0 {
		return pushRule{}, errNoRule
	}
	return (*rules)[i], nil
}

func indexRule(rules []pushRule, id string) int {
	return slices.IndexFunc(rules, func(r pushRule) bool { return r.ID == id })
}

// getPushRule implements GET /pushrules/global/{kind}/{ruleId} (pushrules.yaml).
func (s *Server) getPushRule(c *call) (any, error) {
	r, err := s.rule(c)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// putPushRule implements PUT /pushrules/global/{kind}/{ruleId} (pushrules.yaml).
func (s *Server) putPushRule(c *call) (any, error) {
	var req struct {
		Actions    *[]json.RawMessage `json:"actions"`
		Conditions *[]json.RawMessage `json:"conditions"`
		Pattern    *string            `json:"pattern"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	fresh := pushRule{ID: c.PathValue("ruleId"), Enabled: true}
	var err error
	if fresh.Actions, err = checkActions(req.Actions); err != nil {
		return nil, err
	}
	kind := c.PathValue("kind")
	if err := checkRuleID(kind, fresh.ID); err != nil {
		return nil, err
	}
	switch kind {
	case "override", "underride":
		if fresh.Conditions, err = checkConditions(req.Conditions); err != nil {
			return nil, err
		}
	case "content":
		if req.Pattern == nil || *req.Pattern == "" {
			return nil, missingParam("pattern")
		}
		fresh.Pattern = req.Pattern
	}
	if raw, err := json.Marshal(fresh); err != nil || len(raw) > maxRule {
		return nil, invalidParam("rule is too large")
	}
	before, after := c.URL.Query().Get("before"), c.URL.Query().Get("after")
	return nil, s.changeRules(c, func(rules *[]pushRule) error { return placeRule(rules, fresh, before, after) })
}

// checkRuleID refuses ids that are reserved or do not fit the kind.
func checkRuleID(kind, id string) error {
	switch {
	case strings.HasPrefix(id, "."):
		return invalidParam("rule ids that start with a dot are reserved")
	case strings.ContainsAny(id, `/\`) || len(id) > maxType:
		return invalidParam("rule id is not valid")
	case kind == "room" && !strings.HasPrefix(id, "!"):
		return invalidParam("id of a room rule is not a room id")
	case kind == "sender" && !strings.HasPrefix(id, "@"):
		return invalidParam("id of a sender rule is not a user id")
	}
	return nil
}

// checkActions validates actions and strips the historical ones.
func checkActions(list *[]json.RawMessage) (json.RawMessage, error) {
	if list == nil {
		return nil, missingParam("actions")
	}
	kept := make([]json.RawMessage, 0, len(*list))
	for _, a := range *list {
		var name string
		var set struct {
			Tweak *string `json:"set_tweak"`
		}
		switch {
		case json.Unmarshal(a, &name) == nil && len(a) > 0 && a[0] == '"':
			switch name {
			case "notify":
				kept = append(kept, a)
			case "dont_notify", "coalesce": // Historical Actions: must be ignored
			default:
				return nil, invalidParam("action is not known")
			}
		case json.Unmarshal(a, &set) == nil && set.Tweak != nil:
			kept = append(kept, a)
		default:
			return nil, fail(http.StatusBadRequest, "M_BAD_JSON", "action is neither a name nor a tweak")
		}
	}
	return json.Marshal(kept)
}

// checkConditions validates conditions. Kinds that are not known are kept: they
// match nothing (Conditions).
func checkConditions(list *[]json.RawMessage) (json.RawMessage, error) {
	if list == nil {
		return json.RawMessage("[]"), nil
	}
	for _, raw := range *list {
		var c struct {
			Kind    *string `json:"kind"`
			Key     string  `json:"key"`
			Pattern string  `json:"pattern"`
			Is      string  `json:"is"`
		}
		if err := unmarshal(raw, &c); err != nil {
			return nil, err
		}
		if c.Kind == nil {
			return nil, missingParam("kind of a condition")
		}
	}
	return json.Marshal(*list)
}

// placeRule adds or updates a user's rule: right before or after the one named,
// else where it is, and a new one before all other rules of the user.
func placeRule(rules *[]pushRule, fresh pushRule, before, after string) error {
	list := slices.Clone(*rules)
	at := indexRule(list, fresh.ID)
	if at >= 0 {
		fresh.Enabled = list[at].Enabled
		list = slices.Delete(list, at, at+1)
	} else {
		at = 0
		if len(list) > 0 && list[0].ID == masterRule {
			at = 1
		}
	}
	relative, shift := before, 0
	if before == "" {
		relative, shift = after, 1
	}
	if relative != "" {
		// Not relative to a default rule, and not to itself.
		i := indexRule(list, relative)
		if i < 0 || list[i].Default {
			return fail(http.StatusBadRequest, "M_UNKNOWN", "rule given by before or after is not known")
		}
		at = i + shift
	}
	if len(list) >= maxRules {
		return invalidParam("there are too many rules of this kind")
	}
	*rules = slices.Insert(list, at, fresh)
	return nil
}

// deletePushRule implements DELETE /pushrules/global/{kind}/{ruleId}
// (pushrules.yaml). Default rules cannot be deleted.
func (s *Server) deletePushRule(c *call) (any, error) {
	return nil, s.changeRules(c, func(rules *[]pushRule) error {
		i := indexRule(*rules, c.PathValue("ruleId"))
		if i < 0 || (*rules)[i].Default {
			return errNoRule
		}
		*rules = slices.Delete(*rules, i, i+1)
		return nil
	})
}

// getRuleEnabled implements GET .../enabled (pushrules.yaml).
func (s *Server) getRuleEnabled(c *call) (any, error) {
	r, err := s.rule(c)
	return map[string]bool{"enabled": r.Enabled}, err
}

// putRuleEnabled implements PUT .../enabled (pushrules.yaml).
func (s *Server) putRuleEnabled(c *call) (any, error) {
	var req struct {
		Enabled *bool `json:"enabled"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Enabled == nil {
		return nil, missingParam("enabled")
	}
	return nil, s.changeRule(c, func(r *pushRule) { r.Enabled = *req.Enabled })
}

// getRuleActions implements GET .../actions (pushrules.yaml).
func (s *Server) getRuleActions(c *call) (any, error) {
	r, err := s.rule(c)
	return map[string]json.RawMessage{"actions": r.Actions}, err
}

// putRuleActions implements PUT .../actions (pushrules.yaml).
func (s *Server) putRuleActions(c *call) (any, error) {
	var req struct {
		Actions *[]json.RawMessage `json:"actions"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	actions, err := checkActions(req.Actions)
	if err != nil {
		return nil, err
	}
	if len(actions) > maxRule {
		return nil, invalidParam("actions are too large")
	}
	return nil, s.changeRule(c, func(r *pushRule) { r.Actions = actions })
}

// changeRule changes the rule that a path names.
func (s *Server) changeRule(c *call, change func(*pushRule)) error {
	return s.changeRules(c, func(rules *[]pushRule) error {
		i := indexRule(*rules, c.PathValue("ruleId"))
		if i < 0 {
			return errNoRule
		}
		change(&(*rules)[i])
		return nil
	})
}
