package room

import (
	"errors"
	"maps"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// Resolve is state resolution v2.1 (room version 12, State resolution). The
// result does not depend on the order of forks. One fork is returned as it is,
// and so is the first of several that are equal; the caller must not change it
// then.
//
// The cost is one comparison of the forks, the auth chains of the events in
// conflict and, seldom, those of the whole state (see settle). Errors
// are those of get, or say that create is missing.
func Resolve(create *event.Event, forks []Snapshot, get Lookup) (Snapshot, error) {
	if len(forks) == 0 {
		return Snapshot{}, nil
	}
	conflict := conflicts(forks)
	if len(conflict) == 0 {
		return forks[0], nil
	}
	common := Common{
		Get: func(k Key) (event.ID, bool, error) { id, ok := forks[0][k]; return id, ok, nil },
		Each: func(_ string, fn func(Key, event.ID) error) error {
			for k, id := range forks[0] {
				if err := fn(k, id); err != nil {
					return err
				}
			}
			return nil
		},
	}
	changed, err := resolveConflicts(create, conflict, forks, common, get)
	if err != nil {
		return nil, err
	}
	result := maps.Clone(forks[0])
	for k := range conflict {
		delete(result, k)
	}
	maps.Copy(result, changed)
	return result, nil
}

// Common is a state that is right wherever forks do not differ: any of the forks
// in full will do.
type Common struct {
	// Get returns the event at a place.
	Get func(Key) (event.ID, bool, error)
	// Each calls fn for every place; typ restricts it to one type unless empty. An
	// error of fn ends it and is returned.
	Each func(typ string, fn func(Key, event.ID) error) error
}

// ResolveConflicts is Resolve for states that are stored as differences: forks
// need to hold only the places in which the states differ, common has the
// others. It returns the places to set on top of common; where forks differ and
// the result has nothing, the resolved state has nothing either. Its cost does
// not grow with the size of the state, but for the rare case that Resolve names.
func ResolveConflicts(create *event.Event, forks []Snapshot, common Common, get Lookup) (Snapshot, error) {
	conflict := conflicts(forks)
	if len(conflict) == 0 {
		return Snapshot{}, nil
	}
	return resolveConflicts(create, conflict, forks, common, get)
}

// conflicts returns the places at which the forks differ (Definitions,
// Unconflicted state map and conflicted state set).
func conflicts(forks []Snapshot) map[Key]struct{} {
	found := map[Key]struct{}{}
	if len(forks) == 0 {
		return found
	}
	first := forks[0]
	for _, other := range forks[1:] {
		same := 0
		for k, id := range first {
			if o, ok := other[k]; ok && o == id {
				same++
			} else {
				found[k] = struct{}{}
			}
		}
		if same == len(other) {
			continue
		}
		for k := range other {
			if _, ok := first[k]; !ok {
				found[k] = struct{}{}
			}
		}
	}
	return found
}

// resolver is one run of state resolution.
type resolver struct {
	g        *graph
	rules    *rules
	conflict map[Key]struct{}
	common   Common
}

// resolveConflicts returns what the places in conflict resolve to, and what
// other places get that no fork has.
func resolveConflicts(create *event.Event, conflict map[Key]struct{}, forks []Snapshot, common Common, get Lookup) (Snapshot, error) {
	if create == nil {
		return nil, errors.New("state resolution without create event")
	}
	r := &resolver{g: newGraph(get), rules: newRules(create), conflict: conflict, common: common}
	// The conflicted state set, by fork and together.
	sets := make([][]int32, len(forks))
	for i, fork := range forks {
		for k := range conflict {
			if id, ok := fork[k]; ok {
				sets[i] = append(sets[i], r.g.number(id))
			}
		}
	}
	conflicted := make([]int32, len(r.g.ids))
	for n := range conflicted {
		conflicted[n] = int32(n)
	}
	if err := r.g.add(conflicted); err != nil {
		return nil, err
	}
	// The conflicted state subgraph: everything here is reached from a conflicted
	// event, so only the way down to another one is left to look for. It includes
	// the conflicted state set.
	set := make([]bool, len(r.g.ids))
	for _, n := range conflicted {
		set[n] = true
	}
	full := r.g.reaching(set)
	// The auth difference, as far as it adds to that.
	var doubtful []int32
	for n, ok := range r.g.difference(sets) {
		if ok && !full[n] {
			doubtful = append(doubtful, int32(n))
		}
	}
	return r.settle(full, doubtful)
}

// settle completes the full conflicted set and replays it.
//
// The auth difference is ∪C(i) − ∩C(i) with C(i) = A(U) ∪ A(K(i)), where U are
// the events on which the forks agree, K(i) those of fork i in conflict, and A
// the union of auth chains. It equals (∪A(K(i)) − ∩A(K(i))) − A(U): the first
// part needs only what is in conflict, but A(U) is the auth chain of the whole
// state, ten thousand members and more. doubtful is the first part without the
// events that are in the full conflicted set anyhow, so it is often empty, and
// then A(U) does not matter. Otherwise:
//
//  1. Events that the few events cite which most of the state rests on (power
//     levels, join rules and the like) are in A(U), hence out.
//  2. What A(U) takes out of the rest is closed downwards (an event's auth events
//     go with it). If every such choice leads to the same result, that is the
//     result: tried while there are few choices and few events to replay.
//  3. Else the auth chain of the whole state is walked.
func (r *resolver) settle(full []bool, doubtful []int32) (Snapshot, error) {
	out := make([]bool, len(full))
	if len(doubtful) > 0 {
		w := r.walk(doubtful, out)
		for _, typ := range anchors {
			if err := w.place(Key{Type: typ}); err != nil {
				return nil, err
			}
		}
		doubtful = slices.DeleteFunc(doubtful, func(n int32) bool { return out[n] })
		if result, same, err := r.replayAll(full, doubtful); err != nil || same {
			return result, err
		}
		if err := w.whole(); err != nil {
			return nil, err
		}
	}
	for _, n := range doubtful {
		full[n] = !out[n]
	}
	return r.replay(full)
}

// anchors are the types of state events that are cited by, or cite, much of a
// room's state.
var anchors = [...]string{
	"m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.name",
	"m.room.topic", "m.room.avatar", "m.room.canonical_alias", "m.room.encryption",
	"m.room.guest_access", "m.room.server_acl", "m.room.tombstone",
}

// replayAll replays with every choice that A(U) can make of doubtful, if there
// are few, and reports whether all results are the same.
func (r *resolver) replayAll(full []bool, doubtful []int32) (Snapshot, bool, error) {
	const maxDoubtful, maxReplayed = 6, 4000 // some ten milliseconds
	if len(doubtful) > maxDoubtful {
		return nil, false, nil
	}
	events := len(doubtful)
	for _, in := range full {
		if in {
			events++
		}
	}
	choices := r.choices(doubtful)
	if len(choices) > 1 && len(choices)*events > maxReplayed {
		return nil, false, nil
	}
	var result Snapshot
	for i, choice := range choices {
		for bit, n := range doubtful {
			full[n] = choice&(1<<bit) == 0
		}
		got, err := r.replay(full)
		if err != nil {
			return nil, false, err
		}
		if i > 0 && !maps.Equal(got, result) {
			return nil, false, nil
		}
		result = got
	}
	return result, true, nil
}

// choices returns the subsets, as bits, that hold with an event its auth events.
// Direct auth events suffice: what lies between two events of the doubtful part
// of the auth difference belongs to it too.
func (r *resolver) choices(events []int32) []int {
	below := make([]int, len(events))
	for i, n := range events {
		for _, a := range r.g.auth[n] {
			if j := slices.Index(events, a); j >= 0 {
				below[i] |= 1 << j
			}
		}
	}
	var closed []int
	for choice := range 1 << len(events) {
		ok := true
		for i := range events {
			ok = ok && (choice&(1<<i) == 0 || choice&below[i] == below[i])
		}
		if ok {
			closed = append(closed, choice)
		}
	}
	return closed
}
