package room

import (
	"errors"
	"fmt"

	"github.com/tokenim/tokenim/node/event"
)

// walk looks for doubtful events of the auth difference in A(U), the auth chain
// of the events on which all forks agree. It keeps no event, only ids.
type walk struct {
	r    *resolver
	left int    // doubtful events not met yet
	out  []bool // doubtful events met
	way  []bool // events of the resolver's graph from which a doubtful event can be reached
	doub []bool
	seen map[event.ID]struct{} // events outside the graph
	met  []bool                // events of the graph
}

func (r *resolver) walk(doubtful []int32, out []bool) *walk {
	doub := make([]bool, len(r.g.ids))
	for _, n := range doubtful {
		doub[n] = true
	}
	return &walk{
		r: r, left: len(doubtful), out: out, doub: doub, way: r.g.reaching(doub),
		seen: map[event.ID]struct{}{}, met: make([]bool, len(doub)),
	}
}

// errFound ends a walk that has met all doubtful events.
var errFound = errors.New("all events are found")

// whole walks from every place on which all forks agree.
func (w *walk) whole() error {
	if w.left == 0 {
		return nil
	}
	err := w.r.common.Each("", func(k Key, id event.ID) error {
		if w.left == 0 {
			return errFound
		}
		if _, ok := w.r.conflict[k]; ok {
			return nil
		}
		return w.from(id)
	})
	if errors.Is(err, errFound) {
		return nil
	}
	return err
}

// place walks from the event at one place, if all forks agree on it.
func (w *walk) place(k Key) error {
	if _, ok := w.r.conflict[k]; ok {
		return nil
	}
	id, ok, err := w.r.common.Get(k)
	if err != nil || !ok {
		return err
	}
	return w.from(id)
}

// from walks the auth chain of an event. The event itself is in it only if
// another one cites it.
func (w *walk) from(id event.ID) error {
	stack, err := w.cited(nil, id)
	for err == nil && len(stack) > 0 && w.left > 0 {
		id, stack = stack[len(stack)-1], stack[:len(stack)-1]
		if n, ok := w.r.g.index[id]; ok && int(n) < len(w.met) {
			if w.met[n] {
				continue
			}
			w.met[n] = true
			if w.doub[n] {
				w.out[n] = true
				w.left--
			}
		}
		stack, err = w.cited(stack, id)
	}
	return err
}

// cited appends the auth events of an event, unless that was done before or no
// doubtful event lies that way.
func (w *walk) cited(stack []event.ID, id event.ID) ([]event.ID, error) {
	if n, ok := w.r.g.index[id]; ok && int(n) < len(w.way) {
		if w.way[n] {
			for _, a := range w.r.g.auth[n] {
				stack = append(stack, w.r.g.ids[a])
			}
		}
		return stack, nil
	}
	if _, ok := w.seen[id]; ok {
		return stack, nil
	}
	w.seen[id] = struct{}{}
	f, err := w.r.g.get(id)
	if err == nil && f.Event == nil {
		err = errUnknown
	}
	if err != nil {
		return stack, fmt.Errorf("event %s for state resolution: %w", id, err)
	}
	return append(stack, f.Auth...), nil
}
