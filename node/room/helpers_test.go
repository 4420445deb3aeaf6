package room_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// labelID makes an event id that shows a label. Ids sort as their labels do.
func labelID(label string) event.ID {
	return event.ID("$" + label + strings.Repeat("-", 42-len(label)) + "A")
}

// label is the opposite of labelID.
func label(id event.ID) string {
	return strings.TrimRight(strings.TrimSuffix(string(id[1:]), "A"), "-")
}

// made makes an event with an id of our choice, as the store would load it:
// no hash or signature is real. signers appear to have signed it.
func made(tb testing.TB, id event.ID, b event.Body, signers ...event.Server) *event.Event {
	tb.Helper()
	signatures := map[event.Server]map[string]string{}
	for _, s := range append(signers, b.Sender.Server()) {
		signatures[s] = map[string]string{"ed25519:1": strings.Repeat("A", 86)}
	}
	object := map[string]any{
		"type": b.Type, "sender": b.Sender, "content": b.Content, "prev_events": slices.Clip(append([]event.ID{}, b.Prev...)),
		"auth_events": append([]event.ID{}, b.Auth...), "depth": b.Depth, "origin_server_ts": b.Time,
		"hashes": map[string]string{"sha256": strings.Repeat("A", 43)}, "signatures": signatures,
	}
	if b.StateKey != nil {
		object["state_key"] = *b.StateKey
	}
	if b.Type != "m.room.create" {
		object["room_id"] = b.Room
	}
	raw, err := json.Marshal(object)
	if err == nil {
		raw, err = event.Canonical(raw)
	}
	if err != nil {
		tb.Fatalf("event %s: %v", id, err)
	}
	e, err := event.Load(id, raw, false)
	if err != nil {
		tb.Fatalf("event %s: %v", id, err)
	}
	return e
}

// content makes the content of an event.
func content(v map[string]any) json.RawMessage {
	if v == nil {
		v = map[string]any{}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func key(s string) *string { return &s }

// mapState is a room.State over events.
type mapState map[room.Key]*event.Event

func (m mapState) StateEvent(typ, key string) (*event.Event, error) {
	return m[room.Key{Type: typ, StateKey: key}], nil
}

// rule returns the number of the rule that err names, "" for none.
func rule(tb testing.TB, err error) string {
	tb.Helper()
	if err == nil {
		return ""
	}
	var r *room.RuleError
	if !errors.As(err, &r) || !errors.Is(err, room.ErrForbidden) {
		tb.Fatalf("no rule error: %v", err)
	}
	return r.Rule
}

// dag is a room as a node holds it, without soft failure: its events, what was
// decided about them, and the states after them.
type dag struct {
	tb       testing.TB
	create   *event.Event
	events   map[event.ID]*event.Event
	rejected map[event.ID]bool
	after    map[event.ID]room.Snapshot
	order    []event.ID // in order of arrival
}

func newDAG(tb testing.TB) *dag {
	return &dag{
		tb: tb, events: map[event.ID]*event.Event{}, rejected: map[event.ID]bool{},
		after: map[event.ID]room.Snapshot{},
	}
}

// get is a room.Lookup.
func (d *dag) get(id event.ID) (room.Found, error) {
	e, ok := d.events[id]
	if !ok {
		return room.Found{}, fmt.Errorf("no event %s", label(id))
	}
	return room.Found{Event: e, Rejected: d.rejected[id]}, nil
}

// state gives a snapshot the shape of a room.State.
func (d *dag) state(s room.Snapshot) mapState {
	m := mapState{}
	for k, id := range s {
		m[k] = d.events[id]
	}
	return m
}

// before returns the state before an event with these prev_events.
func (d *dag) before(prev []event.ID) room.Snapshot {
	var forks []room.Snapshot
	for _, id := range prev {
		forks = append(forks, d.after[id])
	}
	s, err := room.Resolve(d.create, forks, d.get)
	if err != nil {
		d.tb.Fatalf("state after %v: %v", prev, err)
	}
	return s
}

// add judges an event and keeps it with the state after it. current may be nil.
func (d *dag) add(e *event.Event, current room.State) (room.Verdict, error) {
	before := room.Snapshot{}
	in := room.Input{Create: d.create, Current: current}
	if e.Type != "m.room.create" {
		before = d.before(e.Prev)
		in.Before = d.state(before)
		for _, id := range e.Auth {
			f, err := d.get(id)
			if err != nil {
				d.tb.Fatal(err)
			}
			in.Auth = append(in.Auth, f)
		}
	}
	v, err := room.Judge(e, in)
	if err != nil && !errors.Is(err, room.ErrForbidden) {
		d.tb.Fatalf("%s: %v", label(e.ID()), err)
	}
	d.events[e.ID()] = e
	d.order = append(d.order, e.ID())
	d.rejected[e.ID()] = v == room.Rejected
	if v != room.Rejected && e.StateKey != nil {
		before = maps.Clone(before)
		before[room.Key{Type: e.Type, StateKey: *e.StateKey}] = e.ID()
	}
	d.after[e.ID()] = before
	if v != room.Rejected && e.Type == "m.room.create" {
		d.create = e
	}
	return v, err
}

// auth selects auth events from a state.
func auth(s room.Snapshot, b event.Body) []event.ID {
	ids := []event.ID{}
	for _, k := range room.AuthKeys(b.Type, b.StateKey, b.Sender, b.Content) {
		if id, ok := s[k]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// heads returns the accepted events that no other accepted event refers to.
func (d *dag) heads() []event.ID {
	left := map[event.ID]bool{}
	for _, id := range d.order {
		if !d.rejected[id] {
			left[id] = true
		}
	}
	for _, id := range d.order {
		if !d.rejected[id] {
			for _, p := range d.events[id].Prev {
				delete(left, p)
			}
		}
	}
	return slices.Sorted(maps.Keys(left))
}

// text writes a snapshot for people, sorted.
func text(s room.Snapshot) string {
	var lines []string
	for k, id := range s {
		lines = append(lines, fmt.Sprintf("%s %q = %s", k.Type, k.StateKey, label(id)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
