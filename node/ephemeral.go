package node

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// typing holds who is typing where, and its run is the goroutine of everything
// ephemeral. It lives in memory only: after a restart nobody is typing.
type typing struct {
	wake  func(event.RoomID)                  // called without the lock when a notice expires; nil: nobody is woken
	flush func(context.Context) time.Duration // receipts that wait; says when to call again. nil: there are none
	now   func() time.Time                    // a clock with a monotonic part
	kick  chan struct{}                       // capacity 1: tells run that an earlier deadline may exist
	epoch uint64                              // tells the generations of this run from those of others; not 0

	mu    sync.Mutex // guards the fields below
	gen   uint64     // generation: rises with every change of any room's list
	floor uint64     // rooms forgotten had their last change at or before it
	rooms map[event.RoomID]*typingRoom
}

// typingRoom is one room's list.
type typingRoom struct {
	gen     uint64                     // generation of the last change
	changed time.Time                  // when that was
	until   map[event.UserID]time.Time // when each user's notice ends
	told    map[event.UserID]time.Time // when the network was told last that a local user is typing
}

// newTyping returns an empty list.
func newTyping() *typing {
	return &typing{now: time.Now, kick: make(chan struct{}, 1), epoch: 1 + uint64(rand.Uint32()), gen: 1,
		rooms: map[event.RoomID]*typingRoom{}}
}

// run ends notices when their time is over and wakes who waits for the room,
// and moves receipts, until ctx ends.
func (t *typing) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		expired, next := t.expire()
		for _, r := range expired {
			if t.wake != nil {
				t.wake(r)
			}
		}
		if t.flush != nil {
			next = min(next, t.flush(ctx))
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-t.kick:
		case <-timer.C:
		}
	}
}

// typingForget is how long the generation of an empty list is kept. A client
// that comes back later is told the whole list of its rooms.
const typingForget = 10 * time.Minute

// expire removes what is over, and returns the rooms whose list changed and the
// time until it must be called again.
func (t *typing) expire() (changed []event.RoomID, next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	next = time.Hour
	for id, r := range t.rooms {
		ended := false
		for u, until := range r.until {
			if d := until.Sub(now); d <= 0 {
				delete(r.until, u)
				ended = true
			} else {
				next = min(next, d)
			}
		}
		if ended {
			t.gen++
			r.gen, r.changed = t.gen, now
			changed = append(changed, id)
		}
		if len(r.until) == 0 {
			if d := r.changed.Add(typingForget).Sub(now); d <= 0 {
				t.floor = max(t.floor, r.gen)
				delete(t.rooms, id)
			} else {
				next = min(next, d)
			}
		}
	}
	return changed, next
}

// set makes u type in r for d, or stop if d is not positive. It reports whether
// the list of r changed (a prolonged notice changes nothing).
func (t *typing) set(r event.RoomID, u event.UserID, d time.Duration) bool {
	t.mu.Lock()
	room := t.rooms[r]
	if room == nil {
		if d <= 0 {
			t.mu.Unlock()
			return false
		}
		room = &typingRoom{until: map[event.UserID]time.Time{}, told: map[event.UserID]time.Time{}}
		t.rooms[r] = room
	}
	now := t.now()
	_, was := room.until[u]
	if d > 0 {
		room.until[u] = now.Add(d)
	} else {
		delete(room.until, u)
	}
	is := d > 0
	if was != is {
		t.gen++
		room.gen, room.changed = t.gen, now
	}
	t.mu.Unlock()
	if is {
		t.stir()
	}
	return was != is
}

// stir makes run look again.
func (t *typing) stir() {
	select {
	case t.kick <- struct{}{}:
	default: // it has not looked since the last one
	}
}

// announce reports whether the network is to be told that a local user is typing
// or has stopped: at most once in typingEvery, and of an end only where it knows
// of a beginning (protocol C6).
func (t *typing) announce(r event.RoomID, u event.UserID, is bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	room := t.rooms[r]
	if room == nil {
		return false
	}
	last, told := room.told[u]
	if !is {
		delete(room.told, u)
		return told
	}
	now := t.now()
	if told && now.Sub(last) < typingEvery {
		return false
	}
	room.told[u] = now
	return true
}

// changes returns the lists of those of the rooms whose list is not the one that
// a token stands for, and fills the typing part of the next token.
func (t *typing) changes(rooms []event.RoomID, since Token, next *Token) map[event.RoomID][]event.UserID {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := since.epoch != 0 && (since.epoch != t.epoch || since.gen < t.floor)
	if since.epoch == 0 {
		since.gen = 0
	}
	var lists map[event.RoomID][]event.UserID
	for _, id := range rooms {
		r := t.rooms[id]
		if r != nil && len(r.until) > 0 {
			next.epoch, next.gen = t.epoch, t.gen
		}
		known := r == nil || r.gen <= since.gen || since.epoch == 0 && len(r.until) == 0
		if known && !lost {
			continue
		}
		if lists == nil {
			lists = map[event.RoomID][]event.UserID{}
		}
		lists[id] = r.users()
	}
	return lists
}

// users returns who is typing, sorted; r may be nil. typing.mu must be held.
func (r *typingRoom) users() []event.UserID {
	list := []event.UserID{}
	if r != nil {
		for u := range r.until {
			list = append(list, u)
		}
	}
	slices.Sort(list)
	return list
}
