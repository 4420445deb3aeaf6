package room

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

// graph is a part of the graph that auth_events form, closed downwards: with an
// event it holds its whole auth chain. Events are small numbers in it. It keeps
// nothing else of an event, for chains can be a million events long; found
// fetches the few whose content matters.
//
// All walks are loops over slices: no recursion, and every edge once.
type graph struct {
	get   Lookup
	index map[event.ID]int32
	ids   []event.ID
	auth  [][]int32 // edges to auth events, nil until loaded
	isPL  []bool    // m.room.power_levels
	order []int32   // every event behind its auth events
	done  []bool    // in order
	kept  map[int32]Found
}

func newGraph(get Lookup) *graph {
	return &graph{get: get, index: map[event.ID]int32{}, kept: map[int32]Found{}}
}

// errUnknown says that a Lookup found nothing and reported no error.
var errUnknown = errors.New("nothing known of it")

// number returns the number of an id, a new one if it has none.
func (g *graph) number(id event.ID) int32 {
	if n, ok := g.index[id]; ok {
		return n
	}
	n := int32(len(g.ids))
	g.index[id] = n
	g.ids = append(g.ids, id)
	g.auth = append(g.auth, nil)
	g.isPL = append(g.isPL, false)
	g.done = append(g.done, false)
	return n
}

// found returns an event of the graph.
func (g *graph) found(n int32) (Found, error) {
	if f, ok := g.kept[n]; ok {
		return f, nil
	}
	f, err := g.get(g.ids[n])
	if err == nil && f.Event == nil {
		err = errUnknown
	}
	if err != nil {
		return Found{}, fmt.Errorf("event %s for state resolution: %w", g.ids[n], err)
	}
	g.kept[n] = f
	return f, nil
}

// load adds an event's edges.
func (g *graph) load(n int32) error {
	f, err := g.found(n)
	if err != nil {
		return err
	}
	delete(g.kept, n)
	edges := make([]int32, 0, len(f.Auth))
	for _, id := range f.Auth {
		if a := g.number(id); !slices.Contains(edges, a) {
			edges = append(edges, a)
		}
	}
	g.auth[n] = edges
	g.isPL[n] = f.Is("m.room.power_levels", "")
	return nil
}

// add adds events and their auth chains, depth first, and appends them to order.
func (g *graph) add(roots []int32) error {
	type frame struct{ n, next int32 }
	var stack []frame
	for _, root := range roots {
		if g.auth[root] != nil {
			continue
		}
		if err := g.load(root); err != nil {
			return err
		}
		stack = append(stack, frame{n: root})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if int(top.next) == len(g.auth[top.n]) {
				g.order = append(g.order, top.n)
				g.done[top.n] = true
				stack = stack[:len(stack)-1]
				continue
			}
			child := g.auth[top.n][top.next]
			top.next++
			if g.done[child] {
				continue
			}
			if g.auth[child] != nil {
				return fmt.Errorf("auth event %s is in its own auth chain", g.ids[child])
			}
			if err := g.load(child); err != nil {
				return err
			}
			stack = append(stack, frame{n: child})
		}
	}
	return nil
}

// power returns the power level event among an event's auth events, -1 if there
// is none.
func (g *graph) power(n int32) int32 {
	for _, a := range g.auth[n] {
		if g.isPL[a] {
			return a
		}
	}
	return -1
}

// reaching marks the events that are in the set or have one of it in their auth
// chain.
func (g *graph) reaching(set []bool) []bool {
	marks := slices.Clone(set)
	for _, n := range g.order {
		for _, a := range g.auth[n] {
			marks[n] = marks[n] || marks[a]
		}
	}
	return marks
}

// difference marks the events that are in the auth chain of some of the sets,
// but not of all.
func (g *graph) difference(sets [][]int32) []bool {
	some, every := make([]bool, len(g.ids)), make([]bool, len(g.ids))
	for i := range every {
		every[i] = true
	}
	// 64 sets at a time, one bit each: a bit moves from an event to all events
	// below it.
	for start := 0; start < len(sets); start += 64 {
		block := sets[start:min(start+64, len(sets))]
		own, chain := make([]uint64, len(g.ids)), make([]uint64, len(g.ids))
		for i, set := range block {
			for _, n := range set {
				own[n] |= 1 << i
			}
		}
		for _, n := range slices.Backward(g.order) {
			for _, a := range g.auth[n] {
				chain[a] |= chain[n] | own[n]
			}
		}
		for n, c := range chain {
			some[n] = some[n] || c != 0
			every[n] = every[n] && bits.OnesCount64(c) == len(block)
		}
	}
	for n := range some {
		some[n] = some[n] && !every[n]
	}
	return some
}
