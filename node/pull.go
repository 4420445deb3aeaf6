package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

const (
	pullBatch  = 256     // events committed in one update
	pullBytes  = 2 << 20 // bytes of events in one update
	locatorMax = 40      // ids of a locator behind the leaves
)

// wish is a gap to be filled from one peer: events that are known to exist, and
// their ancestors.
type wish struct {
	room   event.RoomID
	want   []event.ID
	have   []event.ID
	offset int  // events that came so far
	begun  bool // have is set; want does not change any more
	limit  int  // pages to come at most, 0: no limit
	fresh  int  // of these, events that were new
	total  int  // new events over all rounds
	roots  []event.ID
}

// source is where events of a room come from, and what they were wanted for: who
// was removed may have nothing but what led to that.
type source struct {
	peer event.Server
	room event.RoomID
	want []event.ID
}

// fulfil fetches the next page of a wish. An answer with more behind it puts the
// wish behind the peer's other work.
func (n *Node) fulfil(ctx context.Context, from event.Server, w *wish) error {
	more, err := n.page(ctx, from, w)
	if w.limit > 0 {
		w.limit--
		more = more && w.limit > 0
	}
	if more {
		n.peers.more(from, w)
		return nil
	}
	n.inbox.unstage(w.room)
	if err != nil && !isRefusal(err) || w.total > 0 {
		// Others may have what this one had not, or miss what it had (protocol C12.15).
		n.peers.doubt(w.room, from)
	}
	return err
}

// page fetches and takes the next page of a wish; more says that there may be
// another.
func (n *Node) page(ctx context.Context, from event.Server, w *wish) (more bool, err error) {
	if !w.begun {
		if err = n.begin(w); err != nil || len(w.want) == 0 {
			return false, err
		}
	}
	call, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	answer, err := ask[missingAnswer](call, n, from, CallMissing,
		missingRequest{Room: w.room, Want: w.want, Have: w.have, Roots: w.roots, Offset: w.offset})
	if err != nil {
		return false, err
	}
	n.learn(answer.Records)
	fresh, err := n.ingest(ctx, source{peer: from, room: w.room, want: w.want}, answer.Events, answer.Redactions)
	w.fresh += fresh
	w.total += fresh
	w.offset += len(answer.Events)
	if err != nil || len(answer.Events) == 0 {
		return false, err
	}
	// No honest list is longer. One that is brings nothing more by going on.
	last := answer.Rest <= 0 || w.offset >= maxGap
	if last && w.fresh > 0 { // a long list ends before the gap does
		w.begun, w.offset, w.fresh = false, 0, 0
	}
	return !last || !w.begun, nil
}

// begin drops what has come meanwhile and sets what is held.
func (n *Node) begin(w *wish) error {
	w.begun = true
	return n.store.View(func(tx *store.Tx) (err error) {
		if w.want, err = absent(tx, w.want); err != nil || len(w.want) == 0 {
			return err
		}
		if w.roots, err = n.horizons.roots(tx, w.room); err != nil {
			return err
		}
		w.have, err = locator(tx, w.room)
		return err
	})
}

// locator names events that are held: the leaves, and then ever older ones at
// ever larger distances. A peer that does not know the leaves, after a partition,
// finds one that it knows, and sends at most about twice what is missing.
func locator(tx *store.Tx, r event.RoomID) ([]event.ID, error) {
	rm, err := tx.Room(r)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	have := slices.Clone(rm.Leaves[:min(len(rm.Leaves), maxHave-locatorMax)])
	step := store.Position(8)
	for at := rm.Last; len(have) < maxHave && at > 0; {
		evs, _, err := tx.TimelineBack(r, at, 1)
		if err != nil || len(evs) == 0 {
			return have, err
		}
		if id := evs[0].ID(); !slices.Contains(have, id) {
			have = append(have, id)
		}
		at = evs[0].Position
		if at <= step {
			break
		}
		at -= step
		step *= 2
	}
	return have, nil
}

// ingest takes events of a room from a peer, ancestors first, and returns how
// many were new. A bad event costs itself and what stands on it, no more
// (protocol C11, poison items).
func (n *Node) ingest(ctx context.Context, src source, events, redactions pdus) (fresh int, err error) {
	from, r := src.peer, src.room
	in := n.read(r, events, redactions)
	if servers := n.unknownSigners(in); len(servers) > 0 {
		if err := n.fetchKeys(ctx, from, servers); err != nil {
			n.log.Info("server records were not fetched", "peer", from, "error", err)
		}
		for i, x := range in {
			if x.Event != nil && errors.Is(x.err, event.ErrUnknownKey) {
				in[i].err = n.verify(x.Event)
			}
		}
	}
	good := make([]*event.Event, 0, len(in))
	bad := map[event.ID]bool{}
	for _, x := range in {
		switch {
		case x.Event == nil:
			n.log.Info("a peer sent what is no event of the room", "peer", from, "room", r, "error", x.err)
		case x.Type == typeCreate: // known from the start, or history
		case x.err != nil:
			n.log.Info("an event was dropped", "peer", from, "room", r, "event", x.ID(), "error", x.err)
			bad[x.ID()] = true
			if n.strangers.allow("bad copies " + string(r)) {
				n.peers.doubt(r, from) // others may have good ones
			}
		default:
			good = append(good, x.Event)
		}
	}
	for len(good) > 0 {
		k, size := 0, 0
		for k < len(good) && k < pullBatch && (k == 0 || size+len(good[k].JSON()) <= pullBytes) {
			size += len(good[k].JSON())
			k++
		}
		count, err := n.take(ctx, src, good[:k], bad)
		fresh += count
		if err != nil {
			return fresh, err
		}
		good = good[k:]
	}
	return fresh, nil
}

// take commits a batch. What an event refers to and is not here is fetched, and
// the event tried once more.
func (n *Node) take(ctx context.Context, src source, batch []*event.Event, bad map[event.ID]bool) (fresh int, err error) {
	tried := event.ID("")
	onBad := func(e *event.Event) bool {
		return slices.ContainsFunc(e.Prev, func(id event.ID) bool { return bad[id] })
	}
	for len(batch) > 0 {
		if e := batch[0]; onBad(e) {
			bad[e.ID()] = true
			batch = batch[1:]
			continue
		}
		var (
			missing *missingError
			done    int
			count   int
		)
		err := n.update(ctx, func(tx *store.Tx, fx *effects) error {
			missing, done, count = nil, 0, 0
			for _, e := range batch {
				_, err := n.commit(tx, fx, e, how{})
				if errors.As(err, &missing) {
					break
				} else if err != nil {
					return err
				}
				done++
			}
			count = fx.accepted
			return nil
		})
		if err != nil {
			return fresh, err
		}
		fresh += count
		batch = batch[done:]
		if missing == nil {
			return fresh, nil
		}
		e := batch[0]
		if onBad(e) {
			continue
		}
		if e.ID() == tried {
			err = errStillMissing
		} else {
			tried = e.ID()
			err = n.obtain(ctx, src, missing)
		}
		if err != nil {
			if ctx.Err() != nil {
				return fresh, ctx.Err()
			}
			n.log.Info("an event was left out, what it refers to is not to be had", "peer", src.peer, "room", src.room, "event", e.ID(), "error", err)
			n.askFormer(src.room, src.peer, missing.prev)
			bad[e.ID()] = true
			batch = batch[1:]
		}
	}
	return fresh, nil
}

// askFormer asks servers that once were in a room for events that those who are
// there do not have: a server may have joined through one that was removed, whose
// part of the graph nobody else holds.
func (n *Node) askFormer(r event.RoomID, except event.Server, ids []event.ID) {
	if len(ids) == 0 || !n.strangers.allow(string(r)) {
		return
	}
	var former []event.Server
	err := n.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		st, err := tx.State(rm.State)
		if err != nil {
			return err
		}
		return st.Each(typeMember, func(k room.Key, _ event.ID) error {
			s := event.UserID(k.StateKey).Server()
			if s != except && s != n.Server() && !slices.Contains(former, s) {
				former = append(former, s)
			}
			return nil
		})
	})
	if err != nil {
		n.log.Warn("the members of a room could not be listed", "room", r, "error", err)
		return
	}
	for _, s := range n.peers.choose(former, askPeers, true) {
		n.peers.want(s, r, ids, strangerPages)
	}
}

var errStillMissing = errors.New("a prev_event or auth_event could not be taken")

// obtain fetches what a refused event refers to.
func (n *Node) obtain(ctx context.Context, src source, m *missingError) error {
	if len(m.auth) > 0 {
		if err := n.fetchOutliers(ctx, src, m.auth); err != nil {
			return err
		}
	}
	for _, id := range m.prev {
		if err := n.extendHorizon(ctx, src, id); err != nil {
			return err
		}
	}
	return nil
}

// handleMissing answers a request for missing events. Residents get what they
// ask for; who has left gets the end of its own membership and its ancestors.
func (n *Node) handleMissing(ctx context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[missingRequest](body)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkRoom(req.Room), checkIDs(req.Want, maxWant), checkIDs(req.Have, maxHave), checkIDs(req.Roots, maxRoots)); err != nil {
		return nil, refuse(codeInvalid, "%v", err)
	}
	if req.Offset < 0 {
		return nil, refuse(codeInvalid, "negative offset")
	}
	ends, resident, err := n.grant(from, req.Room, req.Want)
	if err != nil {
		return nil, err
	}
	if !resident {
		req.Want = ends
	}
	list, err := n.missing(from, req)
	if err != nil {
		return nil, err
	}
	answer := missingAnswer{Events: pdus{}}
	if req.Offset >= len(list.ids) {
		return answer, nil
	}
	events, err := n.load(req.Room, list.ids[req.Offset:], maxPageIDs, maxPage)
	if err != nil {
		return nil, err
	}
	// The list may end before the gap does. Then the asker begins anew from where it
	// stands.
	answer.Rest = len(list.ids) - req.Offset - len(events.events)
	answer.Events, answer.Redactions, answer.Records = raws(events.events), raws(events.redactions), events.records(n)
	return answer, ctx.Err()
}

// gap is an answer that is handed out page by page.
type gap struct{ ids []event.ID }

// maxGap is how many ids of a gap are listed at once.
const maxGap = 20000

// missing lists what a request asks for. Neither the ancestors of an event nor
// their order ever change, so a list can be kept for the next page.
func (n *Node) missing(from event.Server, req missingRequest) (gap, error) {
	key := fmt.Sprint(from, req.Room, digestOf(req.Want), digestOf(req.Have), digestOf(req.Roots))
	if g, ok := n.gaps.Get(key); ok && req.Offset > 0 {
		return g, nil
	}
	var g gap
	err := n.store.View(func(tx *store.Tx) (err error) {
		// Roots that are not known here may have ancestors here, which the asker must
		// not get: for it they are history, not news (protocol C12.2).
		for _, id := range req.Roots {
			if _, err := tx.Event(id); errors.Is(err, store.ErrNotFound) {
				return refuse(codeNoCommon, "what the asker's graph begins with is not known here")
			} else if err != nil {
				return err
			}
		}
		g.ids, _, err = tx.Missing(req.Room, req.Want, append(slices.Clone(req.Have), req.Roots...), maxGap)
		return err
	})
	if err == nil && len(g.ids) > maxPageIDs {
		n.gaps.Add(key, g)
	}
	return g, err
}
