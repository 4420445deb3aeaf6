package client

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/store"
)

// ephemeral writes the ephemeral events of a room: who is typing, and receipts.
func (w *syncWriter) ephemeral(j *node.JoinedRoom) {
	w.text(`[`)
	if j.Typing != nil {
		w.text(`{"content":{"user_ids":`)
		w.b = appendIDs(w.b, j.Typing)
		w.text(`},"type":"m.typing"}`)
	}
	if len(j.Receipts) > 0 {
		// One user may have an unthreaded and a threaded receipt at one event, which
		// one m.receipt cannot say: each thread gets its own (Receipts, Server behaviour).
		slices.SortFunc(j.Receipts, func(a, b store.Receipt) int {
			return cmp.Or(cmp.Compare(a.Thread, b.Thread), cmp.Compare(a.Event, b.Event), cmp.Compare(a.Type, b.Type), cmp.Compare(a.User, b.User))
		})
		comma := j.Typing != nil
		for rest := j.Receipts; len(rest) > 0; {
			n := run(rest, func(a, b store.Receipt) bool { return a.Thread == b.Thread })
			if comma {
				w.text(`,`)
			}
			comma = true
			w.text(`{"content":{`)
			w.receipts(rest[:n])
			w.text(`},"type":"m.receipt"}`)
			rest = rest[n:]
		}
	}
	w.text(`]`)
}

// run returns how many entries at the start belong together.
func run(list []store.Receipt, same func(a, b store.Receipt) bool) int {
	n := 1
	for n < len(list) && same(list[0], list[n]) {
		n++
	}
	return n
}

// receipts writes sorted receipts of one thread by event, type and user.
func (w *syncWriter) receipts(list []store.Receipt) {
	for first := true; len(list) > 0; first = false {
		n := run(list, func(a, b store.Receipt) bool { return a.Event == b.Event })
		w.key(first, string(list[0].Event))
		w.text(`{`)
		event := list[:n]
		for first := true; len(event) > 0; first = false {
			m := run(event, func(a, b store.Receipt) bool { return a.Type == b.Type })
			w.key(first, event[0].Type)
			w.text(`{`)
			for i, rc := range event[:m] {
				w.key(i == 0, string(rc.User))
				if rc.Thread != "" {
					w.text(`{"thread_id":`)
					w.b = appendText(w.b, rc.Thread)
					w.text(`,"ts":`)
				} else {
					w.text(`{"ts":`)
				}
				w.b = append(strconv.AppendInt(w.b, rc.Time, 10), '}')
			}
			w.text(`}`)
			event = event[m:]
		}
		w.text(`}`)
		list = list[n:]
	}
}
