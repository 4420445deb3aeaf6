package room_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// bigRoom is a room with many members in which half the moderators have spoken.
func bigRoom(tb testing.TB, members int) *dag {
	d := newDAG(tb)
	users := map[string]int{}
	for i := range 20 {
		users[fmt.Sprintf("@m%d:s%d", i, i%7)] = 50
	}
	n := 0
	state := room.Snapshot{}
	add := func(sender event.UserID, typ, stateKey string, c map[string]any) event.ID {
		n++
		b := event.Body{Type: typ, StateKey: &stateKey, Sender: sender, Content: content(c), Time: int64(n)}
		if typ != "m.room.create" {
			b.Room, b.Auth = d.create.ID().Room(), auth(state, b)
		}
		e := made(tb, labelID(fmt.Sprintf("e%d", n)), b)
		d.events[e.ID()] = e
		if typ == "m.room.create" {
			d.create = e
		}
		state[room.Key{Type: typ, StateKey: stateKey}] = e.ID()
		return e.ID()
	}
	add("@c:a", "m.room.create", "", map[string]any{"room_version": "12"})
	add("@c:a", "m.room.member", "@c:a", map[string]any{"membership": "join"})
	for i := range 20 {
		add("@c:a", "m.room.power_levels", "", map[string]any{"users": users, "events": map[string]int{"m.room.name": 50, "m.room.topic": i}})
	}
	add("@c:a", "m.room.join_rules", "", map[string]any{"join_rule": "public"})
	add("@m0:s0", "m.room.member", "@m0:s0", map[string]any{"membership": "join"})
	add("@m1:s1", "m.room.member", "@m1:s1", map[string]any{"membership": "join"})
	add("@m0:s0", "m.room.name", "", map[string]any{"name": "big"})
	for i := 2; i < members; i++ {
		u := fmt.Sprintf("@m%d:s%d", i, i%7)
		add(event.UserID(u), "m.room.member", u, map[string]any{"membership": "join"})
	}
	d.after["$base"] = maps.Clone(state)
	// Two forks that differ in the topic and a member.
	for i, u := range []event.UserID{"@m0:s0", "@m5:s5"} {
		state = maps.Clone(d.after["$base"])
		add(u, "m.room.topic", "", map[string]any{"topic": u})
		add(u, "m.room.member", string(u), map[string]any{"membership": "join", "displayname": "new"})
		d.after[event.ID(fmt.Sprint("$fork", i))] = state
	}
	return d
}

func BenchmarkJudgeMessage(b *testing.B) {
	d := bigRoom(b, 1000)
	e := made(b, labelID("message"), event.Body{
		Room: d.create.ID().Room(), Type: "m.room.message", Sender: "@m7:s0", Content: content(map[string]any{"body": "hello"}),
		Auth: auth(d.after["$base"], event.Body{Type: "m.room.message", Sender: "@m7:s0"}),
	})
	state := d.state(d.after["$base"])
	in := room.Input{Create: d.create, Before: state, Current: state}
	for _, id := range e.Auth {
		f, _ := d.get(id)
		in.Auth = append(in.Auth, f)
	}
	b.ReportAllocs()
	for b.Loop() {
		if v, err := room.Judge(e, in); v != room.Accepted {
			b.Fatal(v, err)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	for _, members := range []int{1000, 10000} {
		d := bigRoom(b, members)
		forks := []room.Snapshot{d.after["$fork0"], d.after["$fork1"]}
		gets := 0
		get := func(id event.ID) (room.Found, error) { gets++; return d.get(id) }
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			b.ReportAllocs()
			gets = 0
			for b.Loop() {
				if _, err := room.Resolve(d.create, forks, get); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(gets)/float64(b.N), "lookups/op")
		})
		short := make([]room.Snapshot, 2)
		for i, f := range forks {
			short[i] = room.Snapshot{}
			for k, id := range f {
				if forks[1-i][k] != id {
					short[i][k] = id
				}
			}
		}
		common := room.Common{
			Get: func(k room.Key) (event.ID, bool, error) { id, ok := forks[0][k]; return id, ok, nil },
			Each: func(_ string, fn func(room.Key, event.ID) error) error {
				for k, id := range forks[0] {
					if err := fn(k, id); err != nil {
						return err
					}
				}
				return nil
			},
		}
		b.Run(fmt.Sprintf("differences/members=%d", members), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := room.ResolveConflicts(d.create, short, common, get); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The choice that settles doubts without the whole auth chain must not pay for
// itself: many doubtful events make a walk, few make none.
func BenchmarkResolveWalk(b *testing.B) {
	d := bigRoom(b, 10000)
	state := d.after["$base"]
	forks := make([]room.Snapshot, 2)
	for i := range forks {
		forks[i] = maps.Clone(state)
		for j := range 10 {
			u := event.UserID(fmt.Sprintf("@m%d:s%d", 5+2*j+i, (5+2*j+i)%7))
			typ := fmt.Sprintf("im.type%d", j)
			body := event.Body{
				Room: d.create.ID().Room(), Type: typ, StateKey: key(""), Sender: u, Content: content(nil), Time: 1 << 30,
			}
			body.Auth = auth(state, body)
			e := made(b, labelID(fmt.Sprintf("x%d-%d", i, j)), body)
			d.events[e.ID()] = e
			forks[i][room.Key{Type: typ}] = e.ID()
		}
	}
	gets := 0
	get := func(id event.ID) (room.Found, error) { gets++; return d.get(id) }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := room.Resolve(d.create, forks, get); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(gets)/float64(b.N), "lookups/op")
}
