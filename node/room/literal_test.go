package room_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// literal is room version 12 read word by word: definitions are functions under
// their own names, sets are computed whole, nothing is shared with the package
// but the types of its results. It is the judge of the fast implementation, so
// it prefers the shape of the text over everything else.
type literal struct {
	create   *event.Event
	events   map[event.ID]*event.Event
	rejected map[event.ID]bool

	contents map[event.ID]map[string]any
	chains   map[event.ID]set
}

type (
	set   = map[event.ID]bool
	place = room.Key
)

func newLiteral(d *dag) *literal {
	return &literal{
		create: d.create, events: d.events, rejected: d.rejected,
		contents: map[event.ID]map[string]any{}, chains: map[event.ID]set{},
	}
}

func (l *literal) content(e *event.Event) map[string]any {
	if c, ok := l.contents[e.ID()]; ok {
		return c
	}
	d := json.NewDecoder(strings.NewReader(string(e.Content)))
	d.UseNumber()
	c := map[string]any{}
	if err := d.Decode(&c); err != nil {
		panic(err)
	}
	l.contents[e.ID()] = c
	return c
}

func placeOf(e *event.Event) place { return place{Type: e.Type, StateKey: *e.StateKey} }

// "The auth chain of an event E is the set containing all of E's auth events, all
// of their auth events, and so on recursively".
func (l *literal) authChain(id event.ID) set {
	if c, ok := l.chains[id]; ok {
		return c
	}
	c := set{}
	for _, a := range l.events[id].Auth {
		c[a] = true
		for b := range l.authChain(a) {
			c[b] = true
		}
	}
	l.chains[id] = c
	return c
}

// "If a given key K is present in every S_i with the same value V in each state
// map, then the pair (K, V) belongs to the unconflicted state map. Otherwise, V
// belongs to the conflicted state set."
func unconflictedAndConflicted(states []room.Snapshot) (unconflicted room.Snapshot, conflicted set) {
	unconflicted, conflicted = room.Snapshot{}, set{}
	for _, s := range states {
		for k, v := range s {
			everywhere := true
			for _, o := range states {
				everywhere = everywhere && o[k] == v
			}
			if everywhere {
				unconflicted[k] = v
			} else {
				conflicted[v] = true
			}
		}
	}
	return unconflicted, conflicted
}

// "calculating the full auth chain for each state S_i, that is the union of the
// auth chains for each event in S_i, and then taking every event that doesn't
// appear in every auth chain".
func (l *literal) authDifference(states []room.Snapshot) set {
	full := make([]set, len(states))
	all := set{}
	for i, s := range states {
		full[i] = set{}
		for _, v := range s {
			for a := range l.authChain(v) {
				full[i][a], all[a] = true, true
			}
		}
	}
	difference := set{}
	for a := range all {
		for _, f := range full {
			if !f[a] {
				difference[a] = true
			}
		}
	}
	return difference
}

// "Starting from an event in the conflicted state set and following auth_events
// edges may lead to another event in the conflicted state set. The union of all
// such paths between any pair of events in the conflicted state set (including
// endpoints)".
func (l *literal) conflictedStateSubgraph(conflicted set) set {
	subgraph := set{}
	for from := range conflicted {
		for to := range conflicted {
			if !l.authChain(from)[to] {
				continue
			}
			subgraph[from], subgraph[to] = true, true
			for between := range l.authChain(from) {
				if l.authChain(between)[to] {
					subgraph[between] = true
				}
			}
		}
	}
	return subgraph
}

// "A power event is a state event with type m.room.power_levels or
// m.room.join_rules, or a state event with type m.room.member where the
// membership is leave or ban and the sender does not match the state_key."
func (l *literal) isPowerEvent(e *event.Event) bool {
	switch e.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		m := l.content(e)["membership"]
		return (m == "leave" || m == "ban") && string(e.Sender) != *e.StateKey
	}
	return false
}

// "the m.room.power_levels event in the auth_events of P_i"
func (l *literal) powerLevelsIn(id event.ID) (event.ID, bool) {
	for _, a := range l.events[id].Auth {
		if l.events[a].Type == "m.room.power_levels" {
			return a, true
		}
	}
	return "", false
}

// "lexicographically smallest topological ordering based on the DAG formed by
// auth events ... x's sender has greater power level than y's sender, when looking
// at their respective auth_events; or ... origin_server_ts is less; or ...
// event_id is less"
func (l *literal) reverseTopologicalPowerOrdering(x set) []event.ID {
	less := func(a, b event.ID) bool {
		p, q := l.senderPower(a), l.senderPower(b)
		if p != q {
			return p > q
		}
		if s, t := l.events[a].Time, l.events[b].Time; s != t {
			return s < t
		}
		return a < b
	}
	left := set{}
	for id := range x {
		left[id] = true
	}
	var order []event.ID
	for len(left) > 0 {
		var smallest event.ID
		for id := range left {
			free := true
			for a := range l.authChain(id) {
				free = free && !left[a]
			}
			if free && (smallest == "" || less(id, smallest)) {
				smallest = id
			}
		}
		order = append(order, smallest)
		delete(left, smallest)
	}
	return order
}

func (l *literal) senderPower(id event.ID) float64 {
	state := room.Snapshot{}
	if p, ok := l.powerLevelsIn(id); ok {
		state[place{Type: "m.room.power_levels"}] = p
	}
	return l.power(state, l.events[id].Sender)
}

// "The mainline position of e is i": infinity if no e_j belongs to the mainline.
func (l *literal) mainlinePosition(e event.ID, mainline []event.ID) float64 {
	for {
		next, ok := l.powerLevelsIn(e)
		if !ok {
			return math.Inf(1)
		}
		if i := slices.Index(mainline, next); i >= 0 {
			return float64(i)
		}
		e = next
	}
}

func (l *literal) mainlineOrdering(events set, p event.ID, hasP bool) []event.ID {
	var mainline []event.ID
	for hasP {
		mainline = append(mainline, p)
		p, hasP = l.powerLevelsIn(p)
	}
	var order []event.ID
	for id := range events {
		order = append(order, id)
	}
	slices.SortFunc(order, func(a, b event.ID) int {
		x, y := l.mainlinePosition(a, mainline), l.mainlinePosition(b, mainline)
		s, t := l.events[a].Time, l.events[b].Time
		if x > y || x == y && (s < t || s == t && a < b) {
			return -1
		}
		return 1
	})
	return order
}

// "takes as input an initial room state and a sorted list of state events, and
// constructs a new room state by iterating through the event list and applying
// the state event to the room state if the state event is allowed by the
// authorisation rules. ... If a (event_type, state_key) key that is required for
// checking the authorisation rules is not present in the state, then the
// appropriate state event from the event's auth_events is used if the auth event
// is not rejected."
func (l *literal) iterativeAuthChecks(state room.Snapshot, list []event.ID) {
	for _, id := range list {
		e := l.events[id]
		given := room.Snapshot{}
		for _, a := range e.Auth {
			if !l.rejected[a] {
				given[placeOf(l.events[a])] = a
			}
		}
		for k, v := range state {
			given[k] = v
		}
		if l.allowed(e, given) == nil {
			state[placeOf(e)] = id
		}
	}
}

// resolve is the section Algorithm.
func (l *literal) resolve(states []room.Snapshot) room.Snapshot {
	unconflicted, conflicted := unconflictedAndConflicted(states)
	full := l.conflictedStateSubgraph(conflicted)
	for id := range conflicted {
		full[id] = true
	}
	for id := range l.authDifference(states) {
		full[id] = true
	}
	// 1.
	x := set{}
	for id := range full {
		if !l.isPowerEvent(l.events[id]) {
			continue
		}
		x[id] = true
		for a := range l.authChain(id) {
			if full[a] {
				x[a] = true
			}
		}
	}
	// 2.
	state := room.Snapshot{}
	l.iterativeAuthChecks(state, l.reverseTopologicalPowerOrdering(x))
	// 3.
	remaining := set{}
	for id := range full {
		if !x[id] {
			remaining[id] = true
		}
	}
	p, hasP := state[place{Type: "m.room.power_levels"}]
	// 4.
	l.iterativeAuthChecks(state, l.mainlineOrdering(remaining, p, hasP))
	// 5.
	for k, v := range unconflicted {
		state[k] = v
	}
	return state
}

// The rest is the section Authorisation rules. Levels are float64 so that
// creators can be infinite; all integers of canonical JSON are exact in it.

func (l *literal) stateContent(s room.Snapshot, typ, key string) map[string]any {
	id, ok := s[place{Type: typ, StateKey: key}]
	if !ok {
		return nil
	}
	return l.content(l.events[id])
}

func (l *literal) creators() []string {
	users := []string{string(l.create.Sender)}
	more, _ := l.content(l.create)["additional_creators"].([]any)
	for _, u := range more {
		users = append(users, u.(string))
	}
	return users
}

func integer(v any) (float64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return float64(i), err == nil
}

func (l *literal) level(s room.Snapshot, name string) float64 {
	if n, ok := integer(l.stateContent(s, "m.room.power_levels", "")[name]); ok {
		return n
	}
	return map[string]float64{"ban": 50, "kick": 50, "redact": 50, "state_default": 50}[name]
}

func (l *literal) power(s room.Snapshot, u event.UserID) float64 {
	if slices.Contains(l.creators(), string(u)) {
		return math.Inf(1)
	}
	users, _ := l.stateContent(s, "m.room.power_levels", "")["users"].(map[string]any)
	if n, ok := integer(users[string(u)]); ok {
		return n
	}
	return l.level(s, "users_default")
}

func (l *literal) requiredPower(s room.Snapshot, e *event.Event) float64 {
	events, _ := l.stateContent(s, "m.room.power_levels", "")["events"].(map[string]any)
	if n, ok := integer(events[e.Type]); ok {
		return n
	}
	if e.StateKey != nil {
		return l.level(s, "state_default")
	}
	return l.level(s, "events_default")
}

func (l *literal) membership(s room.Snapshot, u string) any {
	if c := l.stateContent(s, "m.room.member", u); c != nil {
		return c["membership"]
	}
	return "leave"
}

func reject(rule string) error { return fmt.Errorf("rule %s", rule) }

// allowed is rules 4 to 11.
func (l *literal) allowed(e *event.Event, s room.Snapshot) error {
	if e.Type == "m.room.create" {
		return nil // judged when it arrived, and by nothing but itself
	}
	if l.content(l.create)["m.federate"] == false && e.Sender.Server() != l.create.Sender.Server() {
		return reject("4")
	}
	if e.Type == "m.room.member" {
		return l.memberAllowed(e, s)
	}
	if l.membership(s, string(e.Sender)) != "join" {
		return reject("6")
	}
	if e.Type == "m.room.third_party_invite" {
		if l.power(s, e.Sender) >= l.level(s, "invite") {
			return nil
		}
		return reject("7.1")
	}
	if l.requiredPower(s, e) > l.power(s, e.Sender) {
		return reject("8")
	}
	if e.StateKey != nil && strings.HasPrefix(*e.StateKey, "@") && *e.StateKey != string(e.Sender) {
		return reject("9")
	}
	if e.Type == "m.room.power_levels" {
		return l.powerLevelsAllowed(e, s)
	}
	return nil
}

func (l *literal) memberAllowed(e *event.Event, s room.Snapshot) error {
	c := l.content(e)
	if e.StateKey == nil || c["membership"] == nil {
		return reject("5.1")
	}
	sender, target := string(e.Sender), *e.StateKey
	if via, ok := c["join_authorised_via_users_server"]; ok {
		u, _ := via.(string)
		if len(e.Keys(event.UserID(u).Server())) == 0 {
			return reject("5.2.1")
		}
	}
	senderIs, targetIs := l.membership(s, sender), l.membership(s, target)
	senderPower, targetPower := l.power(s, e.Sender), l.power(s, event.UserID(target))
	joinRule := any("invite")
	if c := l.stateContent(s, "m.room.join_rules", ""); c != nil {
		joinRule = c["join_rule"]
	}
	switch c["membership"] {
	case "join":
		if len(e.Prev) == 1 && e.Prev[0] == l.create.ID() && target == string(l.create.Sender) {
			return nil
		}
		if sender != target {
			return reject("5.3.2")
		}
		if senderIs == "ban" {
			return reject("5.3.3")
		}
		if (joinRule == "invite" || joinRule == "knock") && (targetIs == "invite" || targetIs == "join") {
			return nil
		}
		if joinRule == "restricted" || joinRule == "knock_restricted" {
			if targetIs == "invite" || targetIs == "join" {
				return nil
			}
			via, _ := c["join_authorised_via_users_server"].(string)
			if l.power(s, event.UserID(via)) < l.level(s, "invite") || l.membership(s, via) != "join" {
				return reject("5.3.5.2")
			}
			return nil
		}
		if joinRule == "public" {
			return nil
		}
		return reject("5.3.7")
	case "invite":
		if senderIs != "join" {
			return reject("5.4.2")
		}
		if targetIs == "join" || targetIs == "ban" {
			return reject("5.4.3")
		}
		if senderPower >= l.level(s, "invite") {
			return nil
		}
		return reject("5.4.5")
	case "leave":
		if sender == target {
			if senderIs == "invite" || senderIs == "join" || senderIs == "knock" {
				return nil
			}
			return reject("5.5.1")
		}
		if senderIs != "join" {
			return reject("5.5.2")
		}
		if targetIs == "ban" && senderPower < l.level(s, "ban") {
			return reject("5.5.3")
		}
		if senderPower >= l.level(s, "kick") && targetPower < senderPower {
			return nil
		}
		return reject("5.5.5")
	case "ban":
		if senderIs != "join" {
			return reject("5.6.1")
		}
		if senderPower >= l.level(s, "ban") && targetPower < senderPower {
			return nil
		}
		return reject("5.6.3")
	case "knock":
		if joinRule != "knock" && joinRule != "knock_restricted" {
			return reject("5.7.1")
		}
		if sender != target {
			return reject("5.7.2")
		}
		if senderIs != "ban" && senderIs != "invite" && senderIs != "join" {
			return nil
		}
		return reject("5.7.4")
	}
	return reject("5.8")
}

var topLevels = []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

func (l *literal) powerLevelsAllowed(e *event.Event, s room.Snapshot) error {
	c := l.content(e)
	for _, name := range topLevels {
		if v, ok := c[name]; ok {
			if _, ok := integer(v); !ok {
				return reject("10.1")
			}
		}
	}
	for _, name := range []string{"events", "notifications", "users"} {
		v, ok := c[name]
		if !ok {
			continue
		}
		object, ok := v.(map[string]any)
		if !ok {
			return reject("10.2")
		}
		for k, v := range object {
			if _, ok := integer(v); !ok {
				return reject("10.2")
			}
			if _, err := event.ParseUserID(k); name == "users" && err != nil {
				return reject("10.3")
			}
			if name == "users" && slices.Contains(l.creators(), k) {
				return reject("10.4")
			}
		}
	}
	old := l.stateContent(s, "m.room.power_levels", "")
	if old == nil {
		return nil
	}
	mine := l.power(s, e.Sender)
	for _, name := range topLevels {
		was, had := integer(old[name])
		is, has := integer(c[name])
		if had == has && was == is {
			continue
		}
		if had && was > mine {
			return reject("10.6.1")
		}
		if has && is > mine {
			return reject("10.6.2")
		}
	}
	for _, name := range []string{"events", "notifications", "users"} {
		before, _ := old[name].(map[string]any)
		after, _ := c[name].(map[string]any)
		for k := range before {
			was, _ := integer(before[k])
			is, has := integer(after[k])
			if has && was == is {
				continue
			}
			if name != "users" && was > mine {
				return reject("10.7.1")
			}
			if name == "users" && k != string(e.Sender) && was >= mine {
				return reject("10.9.1")
			}
		}
		for k := range after {
			is, _ := integer(after[k])
			was, had := integer(before[k])
			if had && was == is {
				continue
			}
			if is > mine {
				return reject("10.8.1 or 10.10.1")
			}
		}
	}
	return nil
}
