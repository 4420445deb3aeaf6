package room_test

import (
	"flag"
	"fmt"
	"strconv"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

var deep = flag.Int("deep", 200_000, "length of the longest auth chain that is tested")

// An auth chain of a million events costs memory in proportion and no stack.
func TestResolveDeepChain(t *testing.T) {
	depth := *deep
	if raceEnabled {
		depth /= 10
	}
	create := made(t, createID, event.Body{Type: "m.room.create", StateKey: key(""), Sender: creator, Content: content(nil)})
	name := func(n int) event.ID { return event.ID(fmt.Sprintf("$%042dA", n)) }
	empty := key("")
	levels := content(map[string]any{"users_default": 100})
	gets := 0
	get := func(id event.ID) (room.Found, error) {
		gets++
		n, err := strconv.Atoi(string(id[1:43]))
		if err != nil {
			return room.Found{}, err
		}
		b := event.Body{Room: roomID, Type: "m.room.power_levels", StateKey: empty, Sender: creator, Content: levels, Time: int64(n)}
		if n > 0 {
			b.Auth = []event.ID{name(n - 1)}
		}
		return room.Found{Event: &event.Event{Body: b}}, nil
	}
	k := room.Key{Type: "m.room.power_levels"}
	// Both ends of the chain are in conflict: the subgraph is all of it.
	got, err := room.Resolve(create, []room.Snapshot{{k: name(depth)}, {k: name(0)}}, get)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody in this room is joined, so no event is allowed.
	if len(got) != 0 {
		t.Errorf("resolved %v", got)
	}
	if gets > 3*depth+10 {
		t.Errorf("%d look-ups for a chain of %d", gets, depth)
	}
}

// Chains that split and join again have two to the power of their length ways
// through; the conflicted state subgraph must not walk them.
func TestResolveManyPaths(t *testing.T) {
	const width, length = 4, 2000
	create := made(t, createID, event.Body{Type: "m.room.create", StateKey: key(""), Sender: creator, Content: content(nil)})
	name := func(level, i int) event.ID { return event.ID(fmt.Sprintf("$%040d%02dA", level, i)) }
	gets := 0
	get := func(id event.ID) (room.Found, error) {
		gets++
		var level, i int
		if _, err := fmt.Sscanf(string(id), "$%040d%02dA", &level, &i); err != nil {
			return room.Found{}, err
		}
		b := event.Body{
			Room: roomID, Type: "m.room.member", StateKey: key(fmt.Sprintf("@u%d:x", i)), Sender: creator,
			Content: content(map[string]any{"membership": "ban"}), Time: int64(level),
		}
		for j := range width {
			if level > 0 {
				b.Auth = append(b.Auth, name(level-1, j))
			}
		}
		return room.Found{Event: &event.Event{Body: b}}, nil
	}
	fork := func(level int) room.Snapshot {
		s := room.Snapshot{}
		for i := range width {
			s[room.Key{Type: "m.room.member", StateKey: fmt.Sprintf("@u%d:x", i)}] = name(level, i)
		}
		return s
	}
	if _, err := room.Resolve(create, []room.Snapshot{fork(length), fork(0), fork(length / 2)}, get); err != nil {
		t.Fatal(err)
	}
	if most := 3 * width * (length + 1); gets > most {
		t.Errorf("%d look-ups, want at most %d", gets, most)
	}
}
