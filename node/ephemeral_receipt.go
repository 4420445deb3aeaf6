package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// The types of receipts.
const (
	receiptRead    = "m.read"
	receiptPrivate = "m.read.private"
	fullyRead      = "m.fully_read" // account data, not a receipt
)

const (
	receiptEvery = 500 * time.Millisecond // between two messages with a room's receipts
	maxBacklog   = 10000                  // receipts of other servers that wait to be stored
)

// ephemeral is what the node keeps of the rooms' second topics besides typing.
type ephemeral struct {
	seq    eduSequence
	window eduWindow

	mu  sync.Mutex                         // guards the fields below
	out map[event.RoomID]*outgoingReceipts // own receipts that wait to be published
	in  []store.Receipt                    // receipts of other servers that wait to be stored
}

// outgoingReceipts is what one room's next message holds.
type outgoingReceipts struct {
	last  time.Time // when the last message went out
	items map[receiptKey]receiptItem
}

type receiptKey struct {
	user   event.UserID
	thread string
}

func newEphemeral() *ephemeral {
	return &ephemeral{window: eduWindow{seen: map[eduSource]*eduBits{}}, out: map[event.RoomID]*outgoingReceipts{}}
}

// ReceiptRequest says how far a local user has read in a room.
type ReceiptRequest struct {
	User    event.UserID
	Room    event.RoomID
	Receipt map[string]event.ID // by type: m.read, m.read.private, m.fully_read
	Thread  string              // thread_id, empty for unthreaded; for a single receipt only
}

// SetReceipts stores receipts and returns after they are on disk. A receipt never
// moves back. ErrForbidden unless the user is in the room, ErrNotFound for events
// that the user cannot see there, ErrParam for types and threads that make no sense.
func (n *Node) SetReceipts(ctx context.Context, req ReceiptRequest) error {
	for typ := range req.Receipt {
		if typ != receiptRead && typ != receiptPrivate && typ != fullyRead {
			return fmt.Errorf("%w: unknown receipt type", ErrParam)
		}
		if typ == fullyRead && req.Thread != "" {
			return fmt.Errorf("%w: m.fully_read has no thread_id", ErrParam)
		}
	}
	now := n.cfg.Now().UnixMilli()
	var public *store.Receipt
	changed := false
	err := n.store.Update(ctx, func(tx *store.Tx) error {
		public, changed = nil, false
		if err := isJoined(tx, req.User, req.Room); err != nil {
			return err
		}
		for typ, id := range req.Receipt {
			rc := store.Receipt{Room: req.Room, Type: typ, User: req.User, Thread: req.Thread, Event: id, Time: now}
			moved, err := moveReceipt(tx, &rc)
			if err != nil {
				return err
			}
			changed = changed || moved
			if moved && typ == receiptRead {
				public = &rc
			}
		}
		return nil
	})
	if err != nil || !changed {
		return err
	}
	if public == nil {
		n.wake(req.User)
		return nil
	}
	n.wakeRoom(req.Room)
	n.announceReceipt(ctx, *public)
	return nil
}

// moveReceipt checks and writes a receipt or the fully read marker; false if the
// user has read further already. The time may be moved on.
func moveReceipt(tx *store.Tx, rc *store.Receipt) (bool, error) {
	e, err := tx.Event(rc.Event)
	if err != nil {
		return false, err
	}
	if e.Room != rc.Room || e.Status != store.Accepted {
		return false, store.ErrNotFound
	}
	if rc.Thread != "" {
		thread, err := threadOf(tx, e)
		if err != nil {
			return false, err
		}
		if thread != rc.Thread && (rc.Thread == mainThread || string(rc.Event) != rc.Thread) {
			return false, fmt.Errorf("%w: the event is not in the thread", ErrParam)
		}
	}
	before, at, err := receiptBefore(tx, *rc)
	if err != nil {
		return false, err
	}
	if before != "" {
		old, err := tx.Event(before)
		if err == nil && old.Position >= e.Position {
			return false, nil
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
	}
	rc.Time = max(rc.Time, at+1) // other servers keep the newest by its time
	if rc.Type == fullyRead {
		content, err := json.Marshal(map[string]event.ID{"event_id": rc.Event})
		if err != nil {
			return false, err
		}
		return true, tx.PutAccountData(rc.User, store.AccountData{Room: rc.Room, Type: fullyRead, Content: content})
	}
	return true, tx.PutReceipt(*rc)
}

// receiptBefore returns the event and the time of the user's earlier receipt of
// the same type and thread, or "".
func receiptBefore(tx *store.Tx, rc store.Receipt) (event.ID, int64, error) {
	if rc.Type == fullyRead {
		d, err := tx.AccountData(rc.User, rc.Room, fullyRead)
		if errors.Is(err, store.ErrNotFound) {
			return "", 0, nil
		} else if err != nil {
			return "", 0, err
		}
		var c struct {
			Event event.ID `json:"event_id"`
		}
		return c.Event, 0, json.Unmarshal(d.Content, &c)
	}
	old, err := tx.Receipt(rc.Room, rc.Type, rc.User, rc.Thread)
	if errors.Is(err, store.ErrNotFound) {
		return "", 0, nil
	} else if err != nil {
		return "", 0, err
	}
	return old.Event, old.Time, nil
}

// threadOf returns the root of the thread that an event is in, or "main".
// Relations are followed for three hops (Threaded read receipts).
func threadOf(tx *store.Tx, e *store.Stored) (string, error) {
	for range maxHops {
		var c struct {
			Relates struct {
				Type  string   `json:"rel_type"`
				Event event.ID `json:"event_id"`
			} `json:"m.relates_to"`
		}
		if json.Unmarshal(e.Content, &c) != nil || c.Relates.Event == "" {
			return mainThread, nil
		}
		if c.Relates.Type == "m.thread" {
			return string(c.Relates.Event), nil
		}
		next, err := tx.Event(c.Relates.Event)
		if errors.Is(err, store.ErrNotFound) {
			return mainThread, nil
		} else if err != nil {
			return "", err
		}
		e = next
	}
	return mainThread, nil
}

// announceReceipt publishes a receipt at once, or with others if the room's last
// message is not long ago.
func (n *Node) announceReceipt(ctx context.Context, rc store.Receipt) {
	others, _, err := n.servers(rc.Room)
	if err != nil || len(others) == 0 {
		return
	}
	q := n.ephemeral
	q.mu.Lock()
	o := q.out[rc.Room]
	if o == nil {
		o = &outgoingReceipts{items: map[receiptKey]receiptItem{}}
		q.out[rc.Room] = o
	}
	o.items[receiptKey{rc.User, rc.Thread}] = receiptItem{rc.User, rc.Event, rc.Thread, rc.Time}
	items := o.take(n.cfg.Now())
	q.mu.Unlock()
	if items != nil {
		n.publishEDU(ctx, eduReceipt, rc.Room, receiptBody{items})
	}
	n.typing.stir()
}

// take empties the queue if its time has come. ephemeral.mu must be held.
func (o *outgoingReceipts) take(now time.Time) []receiptItem {
	if len(o.items) == 0 || now.Sub(o.last) < receiptEvery {
		return nil
	}
	o.last = now
	items := make([]receiptItem, 0, len(o.items))
	for k, it := range o.items {
		if len(items) == maxReceipts {
			break
		}
		items = append(items, it)
		delete(o.items, k)
	}
	return items
}

// flushReceipts publishes and stores what waits, and says when to call again.
func (n *Node) flushReceipts(ctx context.Context) time.Duration {
	q := n.ephemeral
	now, next := n.cfg.Now(), time.Hour
	send := map[event.RoomID][]receiptItem{}
	q.mu.Lock()
	for r, o := range q.out {
		if items := o.take(now); items != nil {
			send[r] = items
		}
		if len(o.items) > 0 {
			next = min(next, max(receiptEvery-now.Sub(o.last), time.Millisecond))
		} else if now.Sub(o.last) > receiptEvery {
			delete(q.out, r)
		}
	}
	in := q.in
	q.in = nil
	q.mu.Unlock()
	for r, items := range send {
		n.publishEDU(ctx, eduReceipt, r, receiptBody{items})
	}
	n.storeReceipts(ctx, in)
	return next
}

// takeReceipts checks receipts of another server and queues them: they are stored
// by the goroutine of the ephemeral, since storing waits for the disk.
func (n *Node) takeReceipts(m *edu) error {
	var b receiptBody
	if json.Unmarshal(m.Body, &b) != nil || len(b.Receipts) > maxReceipts {
		return fmt.Errorf("%w: receipts are malformed", event.ErrInvalid)
	}
	users := make([]event.UserID, len(b.Receipts))
	for i, it := range b.Receipts {
		if _, err := event.ParseID(string(it.Event)); err != nil || it.User.Server() != m.Origin || len(it.Thread) > 255 {
			return fmt.Errorf("%w: a receipt is malformed", event.ErrInvalid)
		}
		users[i] = it.User
	}
	joined, err := n.joinedTo(m.Room, m.Origin, users)
	if err != nil {
		return errors.Join(errNoBody, err)
	}
	q := n.ephemeral
	q.mu.Lock()
	for _, it := range b.Receipts {
		if joined[it.User] && len(q.in) < maxBacklog {
			q.in = append(q.in, store.Receipt{Room: m.Room, Type: receiptRead, User: it.User, Thread: it.Thread,
				Event: it.Event, Time: min(it.Time, m.Time)})
		}
	}
	full := len(q.in) >= maxBacklog
	q.mu.Unlock()
	n.typing.stir()
	if full {
		return errBacklog
	}
	return nil
}

// storeReceipts stores receipts of other servers, all in one commit. The newest by
// its time wins (protocol C6).
func (n *Node) storeReceipts(ctx context.Context, in []store.Receipt) {
	if len(in) == 0 {
		return
	}
	var rooms map[event.RoomID]bool
	err := n.store.Update(ctx, func(tx *store.Tx) error {
		rooms = map[event.RoomID]bool{}
		for _, rc := range in {
			newer, err := newerReceipt(tx, rc)
			if err != nil {
				return err
			}
			if newer {
				if err := tx.PutReceipt(rc); err != nil {
					return err
				}
				rooms[rc.Room] = true
			}
		}
		return nil
	})
	if err != nil {
		n.log.Warn("receipts of other servers were not stored", "count", len(in), "error", err)
		return
	}
	for r := range rooms {
		n.wakeRoom(r)
	}
}

// newerReceipt reports whether a receipt of another server replaces the one that
// is stored. Threads that are not known here have none: made-up ones would fill
// the disk.
func newerReceipt(tx *store.Tx, rc store.Receipt) (bool, error) {
	if rc.Thread != "" && rc.Thread != mainThread {
		if known, err := tx.Has(event.ID(rc.Thread)); err != nil || !known {
			return false, err
		}
	}
	old, err := tx.Receipt(rc.Room, rc.Type, rc.User, rc.Thread)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	return old.Event != rc.Event && old.Time < rc.Time, nil
}
