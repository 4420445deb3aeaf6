package room_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// generator makes rooms full of conflict: people ban, demote and promote each
// other, change join rules and fight over the topic, often from points of the
// graph that lie behind, with times of their own choice.
type generator struct {
	*dag
	r     *rand.Rand
	n     int
	users []event.UserID
	// lies lets servers claim states that their prev_events do not have, as
	// happens when state was taken from a faulty server.
	lies bool
}

func newGenerator(tb testing.TB, seed uint64) *generator {
	g := &generator{dag: newDAG(tb), r: rand.New(rand.NewPCG(seed, 12))}
	for i := range 5 {
		g.users = append(g.users, event.UserID(fmt.Sprintf("@u%d:s%d", i, i%3)))
	}
	return g
}

// room makes a room of about n events.
func (g *generator) room(n int) {
	c := map[string]any{"room_version": "12"}
	if g.chance(4) {
		c["additional_creators"] = []event.UserID{g.users[1]}
	}
	g.event(nil, g.users[0], "m.room.create", key(""), c)
	tip := g.event(g.last(), g.users[0], "m.room.member", key(string(g.users[0])), map[string]any{"membership": "join"})
	if !g.chance(5) {
		tip = g.event(tip, g.users[0], "m.room.power_levels", key(""), g.levels(nil))
	}
	tip = g.event(tip, g.users[0], "m.room.join_rules", key(""), map[string]any{"join_rule": "public"})
	for _, u := range g.users[1:] {
		if !g.chance(4) {
			tip = g.event(tip, u, "m.room.member", key(string(u)), map[string]any{"membership": "join"})
		}
	}
	for len(g.order) < n {
		g.step()
	}
}

func (g *generator) chance(of int) bool { return g.r.IntN(of) == 0 }

func (g *generator) user() event.UserID { return g.users[g.r.IntN(len(g.users))] }

func (g *generator) last() []event.ID { return g.order[len(g.order)-1:] }

// where picks prev_events: mostly the newest, often something older.
func (g *generator) where() []event.ID {
	if g.chance(3) {
		return g.heads()
	}
	var ids []event.ID
	for range 1 + g.r.IntN(2) {
		back := 1 + g.r.IntN(min(len(g.order), 12))
		if id := g.order[len(g.order)-back]; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// event adds an event behind prev and returns it as a place to go on from. Its
// auth events are those of the state before it, or now and then of another one.
func (g *generator) event(prev []event.ID, sender event.UserID, typ string, stateKey *string, c map[string]any) []event.ID {
	g.n++
	b := event.Body{Type: typ, StateKey: stateKey, Sender: sender, Content: content(c), Prev: prev, Time: int64(1000 + g.n)}
	if g.chance(4) {
		b.Time = int64(1000 + g.r.IntN(60))
	}
	id := labelID(fmt.Sprintf("%02d-%03d", g.r.IntN(100), g.n)) // ids in no order of time
	if typ != "m.room.create" {
		b.Room = g.create.ID().Room()
		from := prev
		if g.chance(12) {
			from = g.where()
		}
		b.Auth = auth(g.before(from), b)
	}
	g.add(made(g.tb, id, b), nil)
	return []event.ID{id}
}

func (g *generator) step() {
	prev, sender, target := g.where(), g.user(), g.user()
	member := func(m string) {
		c := map[string]any{"membership": m}
		if m == "join" {
			c["displayname"] = fmt.Sprint(g.n)
		}
		g.event(prev, sender, "m.room.member", key(string(target)), c)
	}
	switch g.r.IntN(14) {
	case 0, 1:
		target = sender
		member("join")
	case 2:
		target = sender
		member([]string{"leave", "knock"}[g.r.IntN(2)])
	case 3:
		member("invite")
	case 4, 5:
		member("leave")
	case 6, 7:
		member("ban")
	case 8, 9, 10:
		g.event(prev, sender, "m.room.power_levels", key(""), g.levels(g.before(prev)))
	case 11:
		rules := []string{"public", "invite", "knock", "restricted", "private"}
		g.event(prev, sender, "m.room.join_rules", key(""), map[string]any{"join_rule": rules[g.r.IntN(len(rules))]})
	case 12:
		g.event(prev, sender, "m.room.topic", key(""), map[string]any{"topic": fmt.Sprint(g.n)})
	case 13:
		g.event(prev, sender, "m.room.message", nil, nil)
	}
	if g.lies && g.chance(6) {
		g.lie()
	}
}

// levels changes a few of the power levels in force.
func (g *generator) levels(s room.Snapshot) map[string]any {
	users, c := map[string]any{}, map[string]any{}
	if id, ok := s[room.Key{Type: "m.room.power_levels"}]; ok {
		l := literal{contents: map[event.ID]map[string]any{}}
		c = maps.Clone(l.content(g.events[id]))
		old, _ := c["users"].(map[string]any)
		users = maps.Clone(old)
	}
	values := []int{0, 0, 50, 50, 100, 100, -1, 75}
	for range 1 + g.r.IntN(3) {
		u := g.users[1+g.r.IntN(len(g.users)-1)]
		users[string(u)] = values[g.r.IntN(len(values))]
		if g.chance(5) {
			delete(users, string(u))
		}
	}
	c["users"] = users
	if g.chance(5) {
		c[topLevels[g.r.IntN(len(topLevels))]] = values[g.r.IntN(len(values))]
	}
	if g.chance(8) {
		c["events"] = map[string]any{"m.room.topic": values[g.r.IntN(len(values))]}
	}
	return c
}

// lie replaces places of the state after a recent event by older events.
func (g *generator) lie() {
	at := g.order[len(g.order)-1-g.r.IntN(min(len(g.order), 4))]
	s := maps.Clone(g.after[at])
	places := slices.SortedFunc(maps.Keys(s), func(a, b room.Key) int {
		return slices.Compare([]string{a.Type, a.StateKey}, []string{b.Type, b.StateKey})
	})
	for range 1 + g.r.IntN(2) {
		k := places[g.r.IntN(len(places))]
		var old []event.ID
		for _, id := range g.order {
			if e := g.events[id]; e.Is(k.Type, k.StateKey) && !g.rejected[id] && k.Type != "m.room.create" {
				old = append(old, id)
			}
		}
		if len(old) > 0 {
			s[k] = old[g.r.IntN(len(old))]
		}
		if k.Type != "m.room.create" && g.chance(4) {
			delete(s, k)
		}
	}
	g.after[at] = s
}

// forks picks states to resolve.
func (g *generator) forks() []room.Snapshot {
	var states []room.Snapshot
	for _, id := range g.heads() {
		states = append(states, g.after[id])
	}
	for range g.r.IntN(3) {
		states = append(states, g.after[g.order[g.r.IntN(len(g.order))]])
	}
	return slices.DeleteFunc(states, func(s room.Snapshot) bool { return len(s) == 0 })
}
