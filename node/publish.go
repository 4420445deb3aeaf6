package node

import (
	"context"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

const (
	publishCursor = "publish" // name of the publisher's cursor in the store
	publishRead   = 500       // own events read at once
	publishCount  = 50        // events published at once (Network.Publish)
	publishBytes  = 256 << 10 // bytes published at once, but for one event
	publishSave   = time.Second
)

// publisher is the reader of the log of own events that hands them to the
// network. Its cursor is saved some time after the events were published:
// publishing again does no harm.
type publisher struct {
	node   *Node
	wakeup chan struct{} // capacity 1
	cursor store.Position
	saved  store.Position

	mu      sync.Mutex      // guards forward
	forward []*store.Stored // events of others that came in by a call (protocol C12.13)
}

// kick starts the publisher; forward are accepted events of others that only
// this node may have.
func (p *publisher) kick(forward []*store.Stored) {
	if len(forward) > 0 {
		p.mu.Lock()
		p.forward = append(p.forward, forward...)
		p.mu.Unlock()
	}
	select {
	case p.wakeup <- struct{}{}:
	default: // it has not looked since the last one
	}
}

// recover reads the cursor and publishes what a stop or crash left behind.
func (p *publisher) recover(ctx context.Context) error {
	err := p.node.store.View(func(tx *store.Tx) (err error) {
		p.cursor, err = tx.Cursor(publishCursor)
		return err
	})
	if err != nil {
		return err
	}
	p.saved = p.cursor
	return p.drain(ctx)
}

// run publishes until ctx ends.
func (p *publisher) run(ctx context.Context) error {
	save := time.NewTimer(publishSave)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			// The cursor is worth a last write; without it events are published again.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := p.save(last); err != nil {
				p.node.log.Warn("the publisher's cursor was not saved", "error", err)
			}
			return nil
		case <-p.wakeup:
			if err := p.drain(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		case <-save.C:
			if err := p.save(ctx); err != nil && ctx.Err() == nil {
				p.node.log.Warn("the publisher's cursor was not saved", "error", err)
			}
			save.Reset(publishSave)
		}
	}
}

// save writes the cursor if it moved.
func (p *publisher) save(ctx context.Context) error {
	if p.cursor == p.saved {
		return nil
	}
	at := p.cursor
	err := p.node.store.Update(ctx, func(tx *store.Tx) error { return tx.SetCursor(publishCursor, at) })
	if err == nil {
		p.saved = at
	}
	return err
}

// outgoing is what is published in one room.
type outgoing struct {
	room  event.RoomID
	pdus  [][]byte
	heads []event.ID
}

// drain publishes all there is.
func (p *publisher) drain(ctx context.Context) error {
	for {
		p.mu.Lock()
		forward := p.forward
		p.forward = nil
		p.mu.Unlock()
		var (
			batch []*outgoing
			next  store.Position
			count int
		)
		err := p.node.store.View(func(tx *store.Tx) error {
			own, err := tx.LocalEvents(p.cursor, publishRead)
			if err != nil {
				return err
			}
			count = len(own)
			by := map[event.RoomID]*outgoing{}
			batch = nil
			for _, l := range own {
				next = l.Position
				if batch, err = p.add(tx, batch, by, l.Room, l.ID); err != nil {
					return err
				}
			}
			for _, st := range forward {
				if batch, err = p.add(tx, batch, by, st.Room, st.ID()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, o := range batch {
			p.publish(ctx, o)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if count == 0 {
			return nil
		}
		p.cursor = next
	}
}

// add puts an event into the room's part of a batch, if other servers are there.
func (p *publisher) add(tx *store.Tx, batch []*outgoing, by map[event.RoomID]*outgoing, r event.RoomID, id event.ID) ([]*outgoing, error) {
	o, ok := by[r]
	if !ok {
		others, here, err := p.node.servers(r)
		if err != nil {
			return nil, err
		}
		if here && len(others) > 0 {
			rm, err := tx.Room(r)
			if err != nil {
				return nil, err
			}
			o = &outgoing{room: r, heads: rm.Heads}
			batch = append(batch, o)
		}
		by[r] = o
	}
	if o != nil {
		st, err := tx.Event(id)
		if err != nil {
			return nil, err
		}
		if st.Redacted() { // what is left of it is no good copy for gossip; peers fetch it
			p.node.peers.doubt(r, "")
			return batch, nil
		}
		o.pdus = append(o.pdus, st.JSON())
	}
	return batch, nil
}

// publish hands a room's events over in pieces of the allowed size. What fails
// is repaired by an exchange of heads.
func (p *publisher) publish(ctx context.Context, o *outgoing) {
	heads := o.heads
	if len(heads) > 10 {
		heads = heads[:10]
	}
	for len(o.pdus) > 0 && ctx.Err() == nil {
		k, size := 0, 0
		for k < len(o.pdus) && k < publishCount && (k == 0 || size+len(o.pdus[k]) <= publishBytes) {
			size += len(o.pdus[k])
			k++
		}
		if err := p.node.net.Publish(ctx, o.room, o.pdus[:k], heads); err != nil {
			p.node.log.Info("events were not published, peers will fetch them", "room", o.room, "count", k, "error", err)
			p.node.peers.doubt(o.room, "")
		}
		o.pdus = o.pdus[k:]
	}
}
