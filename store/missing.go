package store

import (
	"bytes"
	"container/heap"
	"errors"

	"github.com/tokenim/tokenim/node/event"
)

// Missing returns the events that are ancestors of want or among them and not
// ancestors of have or among them, by counted depth, oldest first (protocol
// C4.4): at most limit ids; rest counts those left out. Unknown ids are ignored.
//
// It walks both sides down together, deepest first, until all that is left are
// ancestors of have, so it reads about as many rows as there are events above
// the lowest one of the answer, and never a body. Where the past of an event
// that came with missing prev_events was added later, the answer may name events
// that ancestors of have are among; a receiver knows those already.
func (tx *Tx) Missing(r event.RoomID, want, have []event.ID, limit int) (ids []event.ID, rest int, err error) {
	in, ok := roomHash(r)
	if !ok {
		return nil, 0, nil
	}
	w := walk{tx: tx, room: in, at: map[hash]*visit{}, late: map[hash]bool{}}
	for _, id := range have {
		if err := w.add(id, true); err != nil {
			return nil, 0, err
		}
	}
	for _, id := range want {
		if err := w.add(id, false); err != nil {
			return nil, 0, err
		}
	}
	found, err := w.run()
	if err != nil {
		return nil, 0, err
	}
	n := min(max(limit, 0), len(found))
	for i := range n {
		ids = append(ids, found[len(found)-1-i].event())
	}
	return ids, len(found) - n, nil
}

// visit is an event that a walk has reached and not left yet.
type visit struct {
	id   hash
	v    *vertex
	have bool // an ancestor of have, or among them
}

// walk goes down the graph by depth. What it has left it forgets: parents are
// never deeper than children, so nothing leads back up, except where parents
// came after their children; late keeps such a walk finite.
type walk struct {
	tx    *Tx
	room  hash
	queue []*visit
	at    map[hash]*visit // in queue
	wants int             // of these, not have
	late  map[hash]bool   // reached from below: true with have
}

func (w *walk) Len() int { return len(w.queue) }
func (w *walk) Less(i, j int) bool {
	a, b := w.queue[i], w.queue[j]
	if a.v.depth != b.v.depth {
		return a.v.depth > b.v.depth
	}
	return bytes.Compare(a.id[:], b.id[:]) > 0
}
func (w *walk) Swap(i, j int) { w.queue[i], w.queue[j] = w.queue[j], w.queue[i] }
func (w *walk) Push(x any)    { w.queue = append(w.queue, x.(*visit)) }
func (w *walk) Pop() any {
	last := len(w.queue) - 1
	x := w.queue[last]
	w.queue[last] = nil
	w.queue = w.queue[:last]
	return x
}

func (w *walk) add(id event.ID, have bool) error {
	h, ok := eventHash(id)
	if !ok {
		return nil
	}
	return w.reach(h, have, nil)
}

// reach puts an event into the queue or marks it there. child is where the walk
// came from.
func (w *walk) reach(h hash, have bool, child *vertex) error {
	if x := w.at[h]; x != nil {
		if have && !x.have {
			x.have = true
			w.wants--
		}
		return nil
	}
	v, err := w.tx.vertex(h)
	if errors.Is(err, ErrNotFound) || (err == nil && (v.status == Outlier || v.room != w.room)) {
		return nil
	}
	if err != nil {
		return err
	}
	if child != nil && v.depth >= child.depth {
		if was, ok := w.late[h]; ok && (was || !have) {
			return nil
		}
		w.late[h] = have
	}
	x := &visit{id: h, v: v, have: have}
	w.at[h] = x
	if !have {
		w.wants++
	}
	heap.Push(w, x)
	return nil
}

// run returns the wanted events, newest first.
func (w *walk) run() ([]hash, error) {
	var found []hash
	for w.wants > 0 {
		x := heap.Pop(w).(*visit)
		delete(w.at, x.id)
		if !x.have {
			w.wants--
			found = append(found, x.id)
		}
		for _, p := range x.v.prevs {
			if err := w.reach(p, x.have, x.v); err != nil {
				return nil, err
			}
		}
	}
	if len(w.late) > 0 {
		found = w.once(found)
	}
	return found, nil
}

// once removes what a walk with late parents met twice or met as had, and keeps
// the place of the older meeting, below all children.
func (w *walk) once(found []hash) []hash {
	seen := map[hash]bool{}
	out := make([]hash, 0, len(found))
	for i := len(found) - 1; i >= 0; i-- {
		if h := found[i]; !seen[h] && !w.late[h] {
			seen[h] = true
			out = append(out, h)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
