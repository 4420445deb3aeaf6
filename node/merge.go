package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

const (
	manyHeads  = 10 // forward extremities that one event can refer to
	mergeAfter = time.Minute
	// typeDummy is an event that says nothing and joins forward extremities. It is
	// what other servers of the field send for it, so clients know to ignore it.
	typeDummy = "org.matrix.dummy_event"
)

// forked notes how many forward extremities a room has after a commit.
type forked struct {
	room  event.RoomID
	heads int
}

// fork notes since when a room has more forward extremities than one event can
// refer to: every event then costs a resolution of them all.
func (rs *residents) fork(f forked, now time.Time) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	e := rs.entry(f.room)
	switch {
	case f.heads <= manyHeads:
		e.forked = time.Time{}
	case e.forked.IsZero():
		e.forked = now
	}
}

// forkedRooms returns the rooms that have had many forward extremities for a while
// and no event to join them.
func (rs *residents) forkedRooms(before time.Time) (rooms []event.RoomID) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for r, e := range rs.rooms {
		if !e.forked.IsZero() && e.forked.Before(before) && e.active.Before(before) {
			rooms = append(rooms, r)
		}
	}
	slices.Sort(rooms)
	return rooms
}

// mergeForks joins the forward extremities of quiet rooms, where it is this node's
// turn (protocol C4.1).
func (n *Node) mergeForks(ctx context.Context) {
	now := n.cfg.Now()
	for _, r := range n.residents.forkedRooms(now.Add(-n.mergeAfter)) {
		others, here, err := n.servers(r)
		if err != nil || !here || !n.firstOf(r, now, others) {
			continue
		}
		for {
			fell, err := n.mergeOnce(ctx, r)
			if err != nil {
				n.log.Info("the forward extremities of a room were not joined", "room", r, "error", err)
			}
			if !fell {
				break
			}
		}
		n.residents.fork(forked{room: r}, now) // what is left is tried after the next event
	}
}

// firstOf reports whether this node is the one of a room's servers whose turn it
// is in this minute.
func (n *Node) firstOf(r event.RoomID, now time.Time, others []event.Server) bool {
	rank := func(s event.Server) []byte {
		h := sha256.Sum256(fmt.Appendf(nil, "%s|%d|%s", r, now.Unix()/60, s))
		return h[:]
	}
	mine := rank(n.Server())
	return !slices.ContainsFunc(others, func(s event.Server) bool { return bytes.Compare(rank(s), mine) < 0 })
}

// mergeOnce sends one dummy event and reports whether there are fewer forward
// extremities now, and still many.
func (n *Node) mergeOnce(ctx context.Context, r event.RoomID) (fell bool, err error) {
	err = n.update(ctx, func(tx *store.Tx, fx *effects) error {
		fell = false
		before, err := tx.Room(r)
		if err != nil || len(before.Heads) <= manyHeads {
			return err
		}
		levels, err := levelsOf(tx, r)
		if err != nil {
			return err
		}
		users, err := tx.LocalMembers(r, join)
		if err != nil {
			return err
		}
		need := levels.Event(typeDummy, false)
		i := slices.IndexFunc(users, func(u event.UserID) bool { return levels.User(u) >= need })
		if i < 0 {
			return nil
		}
		e, err := n.draft(tx, r, users[i], typeDummy, nil, json.RawMessage(`{}`))
		if err != nil {
			return err
		}
		if _, err := n.commit(tx, fx, e, how{refuse: true, ApplyOptions: store.ApplyOptions{Local: true}}); err != nil {
			return err
		}
		after, err := tx.Room(r)
		if err != nil {
			return err
		}
		fell = len(after.Heads) < len(before.Heads) && len(after.Heads) > manyHeads
		return nil
	})
	return fell, err
}
