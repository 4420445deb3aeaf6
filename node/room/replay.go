package room

import (
	"cmp"
	"container/heap"
	"errors"
	"math"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// replay is the algorithm of state resolution over a full conflicted set. The
// result leaves out places on which all forks agree (step 5).
func (r *resolver) replay(full []bool) (Snapshot, error) {
	state := map[Key]int32{}
	// Steps 1 and 2: power events and what of the set authorises them, from an
	// empty state.
	power, err := r.powerSet(full)
	if err != nil {
		return nil, err
	}
	first, err := r.powerOrder(power)
	if err != nil {
		return nil, err
	}
	if err := r.apply(state, first); err != nil {
		return nil, err
	}
	// Steps 3 and 4: all others, by the power levels of that state.
	rest := make([]bool, len(full))
	for n := range full {
		rest[n] = full[n] && !power[n]
	}
	second, err := r.mainlineOrder(rest, state)
	if err != nil {
		return nil, err
	}
	if err := r.apply(state, second); err != nil {
		return nil, err
	}
	// Step 5: what all forks agree on stays.
	result := make(Snapshot, len(state))
	for k, n := range state {
		if _, ok := r.conflict[k]; !ok {
			_, agreed, err := r.common.Get(k)
			if err != nil {
				return nil, err
			}
			if agreed {
				continue
			}
		}
		result[k] = r.g.ids[n]
	}
	return result, nil
}

// isPowerEvent reports whether an event might take away somebody's ability to do
// something (Definitions, Power events).
func isPowerEvent(e *event.Event) bool {
	if e.StateKey == nil {
		return false
	}
	switch e.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		m, _ := stringOf(property(e.Content, "membership"))
		return (m == "leave" || m == "ban") && *e.StateKey != string(e.Sender)
	}
	return false
}

// powerSet marks the power events of the set and the events in their auth chains
// that are in it too. No event outside the set lies between two events of it, so
// the way never leads out.
func (r *resolver) powerSet(full []bool) ([]bool, error) {
	power := make([]bool, len(full))
	for n, in := range full {
		if !in {
			continue
		}
		f, err := r.g.found(int32(n))
		if err != nil {
			return nil, err
		}
		power[n] = isPowerEvent(f.Event)
	}
	for _, n := range slices.Backward(r.g.order) {
		if power[n] {
			for _, a := range r.g.auth[n] {
				power[a] = full[a]
			}
		}
	}
	return power, nil
}

// candidate is an event with what orders it.
type candidate struct {
	n    int32
	rank int64 // smaller first
	time int64
	id   event.ID
}

func (c candidate) compare(d candidate) int {
	return cmp.Or(cmp.Compare(c.rank, d.rank), cmp.Compare(c.time, d.time), cmp.Compare(c.id, d.id))
}

// candidates is a heap of them.
type candidates []candidate

func (c candidates) Len() int           { return len(c) }
func (c candidates) Less(i, j int) bool { return c[i].compare(c[j]) < 0 }
func (c candidates) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(x any)        { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// powerOrder sorts by the reverse topological power ordering: Kahn's algorithm,
// each time taking the event of the most powerful sender, by the power levels
// among its auth events, then the oldest, then the smallest id.
func (r *resolver) powerOrder(set []bool) ([]int32, error) {
	waits := map[int32]int{}
	above := map[int32][]int32{}
	var ready candidates
	for _, n := range r.g.order {
		if !set[n] {
			continue
		}
		for _, a := range r.g.auth[n] {
			if set[a] {
				waits[n]++
				above[a] = append(above[a], n)
			}
		}
		if waits[n] == 0 {
			c, err := r.ranked(n)
			if err != nil {
				return nil, err
			}
			ready = append(ready, c)
		}
	}
	heap.Init(&ready)
	list := make([]int32, 0, len(ready))
	for len(ready) > 0 {
		n := heap.Pop(&ready).(candidate).n
		list = append(list, n)
		for _, up := range above[n] {
			if waits[up]--; waits[up] > 0 {
				continue
			}
			c, err := r.ranked(up)
			if err != nil {
				return nil, err
			}
			heap.Push(&ready, c)
		}
	}
	return list, nil
}

// ranked is an event with the power of its sender.
func (r *resolver) ranked(n int32) (candidate, error) {
	f, err := r.g.found(n)
	if err != nil {
		return candidate{}, err
	}
	var pl *event.Event
	if p := r.g.power(n); p >= 0 {
		found, err := r.g.found(p)
		if err != nil {
			return candidate{}, err
		}
		pl = found.Event
	}
	return candidate{n, -r.rules.levels(pl).User(f.Sender), f.Time, r.g.ids[n]}, nil
}

// mainlineOrder sorts by the mainline ordering based on the power levels of a state.
func (r *resolver) mainlineOrder(set []bool, state map[Key]int32) ([]int32, error) {
	position := map[int32]int64{}
	if p, ok := state[Key{Type: "m.room.power_levels"}]; ok {
		for ; p >= 0; p = r.g.power(p) {
			position[p] = int64(len(position))
		}
	}
	var list []candidate
	for n, in := range set {
		if !in {
			continue
		}
		f, err := r.g.found(int32(n))
		if err != nil {
			return nil, err
		}
		// A greater position, an earlier place on the mainline, comes first.
		rank := -r.mainlinePosition(r.g.power(int32(n)), position)
		list = append(list, candidate{int32(n), rank, f.Time, r.g.ids[n]})
	}
	slices.SortFunc(list, candidate.compare)
	order := make([]int32, len(list))
	for i, c := range list {
		order[i] = c.n
	}
	return order, nil
}

// mainlinePosition follows power level events from p to the mainline and
// remembers the answer for all it passed.
func (r *resolver) mainlinePosition(p int32, known map[int32]int64) int64 {
	var passed []int32
	at := int64(math.MaxInt64)
	for ; p >= 0; p = r.g.power(p) {
		if i, ok := known[p]; ok {
			at = i
			break
		}
		passed = append(passed, p)
	}
	for _, n := range passed {
		known[n] = at
	}
	return at
}

// apply is the iterative auth checks algorithm.
func (r *resolver) apply(state map[Key]int32, list []int32) error {
	for _, n := range list {
		e, err := r.g.found(n)
		if err != nil {
			return err
		}
		if e.StateKey == nil {
			continue // no state event ever cites or contains one
		}
		if err := r.authorize(state, n, e.Event); err == nil {
			state[Key{e.Type, *e.StateKey}] = n
		} else if !errors.Is(err, ErrForbidden) {
			return err
		}
	}
	return nil
}

// authorize checks an event against a state; what the state lacks is taken from
// the event's auth events unless those were rejected.
func (r *resolver) authorize(state map[Key]int32, n int32, e *event.Event) error {
	if e.Type == "m.room.create" {
		return checkCreate(e)
	}
	c := claimOf(e)
	var f facts
	for i, k := range c.keys() {
		if at, ok := state[k]; ok {
			found, err := r.g.found(at)
			if err != nil {
				return err
			}
			f[i] = found.Event
			continue
		}
		for _, a := range r.g.auth[n] {
			found, err := r.g.found(a)
			if err != nil {
				return err
			}
			if !found.Rejected && found.Is(k.Type, k.StateKey) {
				f[i] = found.Event
			}
		}
	}
	return r.rules.check(&c, &f)
}
