package room

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// maxPrev is how many prev_events an event of this node has at most (protocol
// C4.1): as many heads as a room of ordinary size ever has at once.
const maxPrev = 10

// Room is what a node needs to add an event to a room.
type Room struct {
	ID    event.RoomID
	Heads []event.ID // forward extremities
	Depth int64      // largest depth among Heads
	// HeadDepths are the depths of Heads, in the same order, or nil if they are
	// not known. They matter only while there are more than 10 heads.
	HeadDepths []int64
}

// Draft completes what a user wants to send: prev_events (at most 10, protocol
// C4.1), auth_events from st, depth. now is in milliseconds.
//
// With more than 10 heads it takes the 5 deepest and 5 of the others, others
// with each millisecond, so that all heads are merged before long. The result
// depends on the arguments alone. A draft is not checked against the rules; the
// error is that of st. For m.room.create, r and st are not looked at.
func (r Room) Draft(st State, sender event.UserID, typ string, stateKey *string, content json.RawMessage, now int64) (event.Body, error) {
	b := event.Body{
		Type: typ, StateKey: stateKey, Sender: sender, Content: content,
		Prev: []event.ID{}, Auth: []event.ID{}, Depth: 1, Time: now,
	}
	if typ == "m.room.create" {
		return b, nil
	}
	b.Room = r.ID
	b.Prev = r.prev(sender, now)
	// The specification bounds depth by canonical JSON's largest integer: at the
	// bound it stays there.
	b.Depth = min(max(r.Depth, 0), maxInteger-1) + 1
	for _, k := range AuthKeys(typ, stateKey, sender, content) {
		e, err := st.StateEvent(k.Type, k.StateKey)
		if err != nil {
			return event.Body{}, fmt.Errorf("auth event at %s %q: %w", k.Type, k.StateKey, err)
		}
		if e != nil {
			b.Auth = append(b.Auth, e.ID())
		}
	}
	return b, nil
}

// prev selects the prev_events, sorted by id.
func (r Room) prev(sender event.UserID, now int64) []event.ID {
	prev := append([]event.ID{}, r.Heads...)
	slices.Sort(prev)
	prev = slices.Compact(prev)
	if len(prev) <= maxPrev {
		return prev
	}
	depth := make(map[event.ID]int64, len(r.Heads))
	for i, d := range r.HeadDepths {
		if i < len(r.Heads) {
			depth[r.Heads[i]] = d
		}
	}
	slices.SortStableFunc(prev, func(a, b event.ID) int { return cmp.Compare(depth[b], depth[a]) })
	rest := prev[maxPrev/2:]
	draw := make(map[event.ID]uint64, len(rest))
	for _, id := range rest {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %s %s", now, sender, id)
		draw[id] = h.Sum64()
	}
	slices.SortStableFunc(rest, func(a, b event.ID) int { return cmp.Compare(draw[a], draw[b]) })
	prev = prev[:maxPrev]
	slices.Sort(prev)
	return prev
}
