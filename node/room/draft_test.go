package room_test

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

func heads(n int) []event.ID {
	var ids []event.ID
	for i := range n {
		ids = append(ids, labelID(fmt.Sprintf("head%03d", i)))
	}
	return ids
}

func TestDraft(t *testing.T) {
	s := newScene(t)
	r := room.Room{ID: roomID, Heads: []event.ID{labelID("b"), labelID("a"), labelID("b")}, Depth: 7}
	b, err := r.Draft(s.state, mod, "m.room.member", key(string(gone)), content(map[string]any{"membership": "invite"}), 1234)
	if err != nil {
		t.Fatal(err)
	}
	var cited []string
	for _, id := range b.Auth {
		cited = append(cited, label(id))
	}
	if want := []string{"m_room_power_levels_", "m_room_member_mod_c", "m_room_member_gone_e", "m_room_join_rules_"}; !slices.Equal(cited, want) {
		t.Errorf("auth events %v, want %v", cited, want)
	}
	if want := []event.ID{labelID("a"), labelID("b")}; !slices.Equal(b.Prev, want) {
		t.Errorf("prev events %v", b.Prev)
	}
	if b.Room != roomID || b.Type != "m.room.member" || *b.StateKey != string(gone) || b.Sender != mod || b.Depth != 8 || b.Time != 1234 {
		t.Errorf("draft %+v", b)
	}
	broken := stateFunc(func(string, string) (*event.Event, error) { return nil, errBroken })
	if _, err := r.Draft(broken, mod, "m.room.message", nil, content(nil), 0); err == nil {
		t.Error("draft from a broken state")
	}
}

func TestDraftDepth(t *testing.T) {
	const largest = 1<<53 - 1
	for depth, want := range map[int64]int64{0: 1, 1: 2, largest - 1: largest, largest: largest, 1 << 60: largest, -5: 1} {
		b, err := room.Room{ID: roomID, Depth: depth}.Draft(mapState{}, user, "m.room.message", nil, content(nil), 0)
		if err != nil || b.Depth != want {
			t.Errorf("behind depth %d: %d, %v, want %d", depth, b.Depth, err, want)
		}
	}
}

// With more than 10 heads a draft takes 10 of them, the 5 deepest among them, in
// the order of ids, and always the same ones for the same input.
func TestDraftSelectsHeads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := room.Room{ID: roomID, Heads: heads(rapid.IntRange(0, 40).Draw(t, "heads"))}
		depths := map[event.ID]int64{}
		for _, id := range r.Heads {
			d := rapid.Int64Range(0, 9).Draw(t, "depth")
			r.HeadDepths = append(r.HeadDepths, d)
			depths[id] = d
		}
		now := rapid.Int64Range(0, 1000).Draw(t, "now")
		draft := func(r room.Room) []event.ID {
			b, err := r.Draft(mapState{}, user, "m.room.message", nil, content(nil), now)
			if err != nil {
				t.Fatal(err)
			}
			return b.Prev
		}
		prev := draft(r)
		if want := min(len(r.Heads), 10); len(prev) != want || !slices.IsSorted(prev) || len(slices.Compact(slices.Clone(prev))) != want {
			t.Fatalf("prev events %v", prev)
		}
		left := 0 // heads deeper than the fifth of those taken that are missing
		taken := slices.SortedFunc(slices.Values(prev), func(a, b event.ID) int { return int(depths[b] - depths[a]) })
		for _, id := range r.Heads {
			if len(taken) == 10 && !slices.Contains(prev, id) && depths[id] > depths[taken[4]] {
				left++
			}
		}
		if left > 0 {
			t.Fatalf("%d deeper heads were left out of %v", left, prev)
		}
		// The order in which heads are given does not matter.
		turned := room.Room{ID: roomID, Heads: slices.Clone(r.Heads), HeadDepths: slices.Clone(r.HeadDepths)}
		slices.Reverse(turned.Heads)
		slices.Reverse(turned.HeadDepths)
		if got := draft(turned); !slices.Equal(got, prev) {
			t.Fatalf("prev events %v, the other way round %v", prev, got)
		}
	})
}

// Over a few drafts every head is taken, so that all are merged before long.
func TestDraftReachesAllHeads(t *testing.T) {
	r := room.Room{ID: roomID, Heads: heads(30)}
	seen := map[event.ID]bool{}
	for now := range int64(200) {
		b, err := r.Draft(mapState{}, user, "m.room.message", nil, content(nil), now)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range b.Prev {
			seen[id] = true
		}
	}
	if len(seen) != 30 {
		t.Errorf("200 drafts took %d of 30 heads", len(seen))
	}
}

// A room from its create event on, with real signatures: drafted, signed, sent,
// read and judged as two nodes do it.
func TestDraftSignJudge(t *testing.T) {
	keys := map[event.Server]event.SigningKey{}
	for i, s := range []event.Server{"acme", "birch"} {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(i)
		keys[s] = event.SigningKey{Server: s, ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed)}
	}
	d := newDAG(t)
	r := room.Room{}
	state := mapState{}
	now := int64(1_700_000_000_000)
	send := func(sender event.UserID, typ string, stateKey *string, c map[string]any) *event.Event {
		t.Helper()
		now++
		b, err := r.Draft(state, sender, typ, stateKey, content(c), now)
		if err != nil {
			t.Fatal(err)
		}
		e, err := event.Sign(b, keys[sender.Server()])
		if err != nil {
			t.Fatal(err)
		}
		if e, err = event.Parse(e.JSON()); err != nil {
			t.Fatal(err)
		}
		if err := e.Verify(sender.Server(), "ed25519:1", keys[sender.Server()].Private.Public().(ed25519.PublicKey)); err != nil {
			t.Fatal(err)
		}
		var current room.State
		if typ != "m.room.create" {
			current = state
		}
		if v, err := d.add(e, current); v != room.Accepted {
			t.Fatalf("%s by %s: verdict %d, %v", typ, sender, v, err)
		}
		r = room.Room{ID: d.create.ID().Room(), Heads: []event.ID{e.ID()}, Depth: e.Depth}
		state = d.state(d.after[e.ID()])
		return e
	}
	const alice, bob = event.UserID("@alice:acme"), event.UserID("@bob:birch")
	send(alice, "m.room.create", key(""), map[string]any{"room_version": "12"})
	send(alice, "m.room.member", key(string(alice)), map[string]any{"membership": "join"})
	send(alice, "m.room.power_levels", key(""), map[string]any{"users": map[event.UserID]int{bob: 50}})
	send(alice, "m.room.join_rules", key(""), map[string]any{"join_rule": "public"})
	send(bob, "m.room.member", key(string(bob)), map[string]any{"membership": "join"})
	last := send(bob, "m.room.topic", key(""), map[string]any{"topic": "both are here"})
	if last.Depth != 6 || len(last.Prev) != 1 || len(last.Auth) != 2 {
		t.Errorf("last event %+v", last.Body)
	}
	if len(d.after[last.ID()]) != 6 {
		t.Errorf("state %v", slices.Collect(maps.Keys(d.after[last.ID()])))
	}
}
