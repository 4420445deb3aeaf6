package room_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// Whatever an event and the state say, the rules answer: no panic, a refusal
// names its rule, and where all contents are canonical JSON the answer is that of
// the literal reading.
func FuzzAuthorize(f *testing.F) {
	for _, c := range ruleCases {
		s := newScene(f)
		c.set(s)
		raw := func(k room.Key) []byte {
			if e := s.state[k]; e != nil {
				return e.Content
			}
			return nil
		}
		stateKey := ""
		if s.e.StateKey != nil {
			stateKey = *s.e.StateKey
		}
		f.Add(s.e.Type, s.e.StateKey != nil, stateKey, string(s.e.Sender), []byte(s.e.Content),
			raw(room.Key{Type: "m.room.create"}), raw(room.Key{Type: "m.room.power_levels"}), raw(room.Key{Type: "m.room.join_rules"}),
			raw(room.Key{Type: "m.room.member", StateKey: string(s.e.Sender)}), raw(room.Key{Type: "m.room.member", StateKey: stateKey}),
			raw(room.Key{Type: "m.room.third_party_invite", StateKey: "token"}))
	}
	f.Fuzz(func(t *testing.T, typ string, isState bool, stateKey, sender string, c, create, power, rules, senderMember, targetMember, invite []byte) {
		st := mapState{}
		put := func(typ, key string, content []byte) *event.Event {
			if len(content) == 0 {
				return nil // not there
			}
			e := &event.Event{Body: event.Body{Room: roomID, Type: typ, StateKey: &key, Sender: creator, Content: content}}
			st[room.Key{Type: typ, StateKey: key}] = e
			return e
		}
		cr := put("m.room.create", "", create)
		if cr == nil {
			return
		}
		put("m.room.power_levels", "", power)
		put("m.room.join_rules", "", rules)
		put("m.room.third_party_invite", "token", invite)
		put("m.room.member", stateKey, targetMember)
		put("m.room.member", sender, senderMember)
		b := event.Body{Room: roomID, Type: typ, Sender: event.UserID(sender), Content: c}
		if isState {
			b.StateKey = &stateKey
		}
		e := &event.Event{Body: b}
		if len(room.AuthKeys(typ, b.StateKey, b.Sender, c)) > event.MaxAuth {
			t.Error("more auth events than an event can have")
		}
		err := room.Authorize(e, cr, st)
		var refused *room.RuleError
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("no refusal: %v", err)
		}
		if refused != nil && (refused.Rule == "" || refused.Reason == "") {
			t.Errorf("refusal without rule or reason: %#v", refused)
		}
		l, lerr := room.LevelsOf(cr, st)
		if lerr != nil {
			t.Fatal(lerr)
		}
		if n := l.User(b.Sender); n > room.CreatorPower || n < -room.CreatorPower {
			t.Errorf("power %d", n)
		}
		compareWithLiteral(t, e, st, err)
	})
}

// compareWithLiteral compares an answer with that of the literal reading, which
// takes canonical contents only.
func compareWithLiteral(t *testing.T, e *event.Event, st mapState, err error) {
	create := st[room.Key{Type: "m.room.create"}]
	if room.Authorize(create, nil, nil) == nil || e.Type == "m.room.create" {
		return // its id is not that of its room, so it is always refused
	}
	var names []string
	members := map[string]json.RawMessage{}
	if json.Unmarshal(create.Content, &members) != nil {
		return
	}
	if raw, ok := members["additional_creators"]; ok && json.Unmarshal(raw, &names) != nil {
		return
	}
	l := &literal{create: create, events: map[event.ID]*event.Event{}, contents: map[event.ID]map[string]any{}}
	snapshot := room.Snapshot{}
	if json.Unmarshal(e.Content, &members) != nil || members["third_party_invite"] != nil {
		return // not in the literal reading; ruleCases has them
	}
	all := maps.Clone(st)
	all[room.Key{Type: "the event", StateKey: "itself"}] = e
	n := 0
	for k, f := range all {
		canonical, err := event.Canonical(f.Content)
		if err != nil || string(canonical) != string(f.Content) || canonical[0] != '{' {
			return
		}
		if f != e && f != create {
			if k.Type == "m.room.third_party_invite" {
				return
			}
			// The literal reading looks contents up by id.
			n++
			id := labelID(string(rune('a' + n)))
			copied := made(t, id, f.Body)
			l.events[id] = copied
			snapshot[k] = id
		}
	}
	l.create = made(t, createID, event.Body{Type: "m.room.create", StateKey: key(""), Sender: creator, Content: create.Content})
	if (err == nil) != (l.allowed(e, snapshot) == nil) {
		t.Errorf("%s %s by %s: %v, literally %v\n%s", e.Type, e.Content, e.Sender, err, l.allowed(e, snapshot), text(snapshot))
	}
}

// source draws the decisions of a generator from the fuzzer's bytes.
type source struct {
	data []byte
	rest rand.Source
}

func (s *source) Uint64() uint64 {
	if len(s.data) < 2 {
		return s.rest.Uint64()
	}
	n := binary.LittleEndian.Uint16(s.data)
	s.data = s.data[2:]
	return uint64(n) * 0x9E3779B97F4A7C15
}

// State resolution is what the specification literally says on rooms that the
// fuzzer shapes.
func FuzzResolve(f *testing.F) {
	for i := range 8 {
		f.Add(make([]byte, i*16), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, data []byte, lies bool) {
		g := newGenerator(t, 1)
		g.r = rand.New(&source{data, rand.NewPCG(uint64(len(data)), 2)})
		g.lies = lies
		g.room(25)
		forks := g.forks()
		got, err := room.Resolve(g.create, forks, g.get)
		if err != nil {
			t.Fatal(err)
		}
		if want := newLiteral(g.dag).resolve(forks); !maps.Equal(got, want) {
			t.Errorf("resolved\n%s\n\nthe specification wants\n%s", text(got), text(want))
		}
	})
}
