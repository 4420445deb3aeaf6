package node

import (
	"hash/maphash"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// lazyDevices is for how many devices it is remembered which member events they
// were sent, lazyEvents how many for each: 2 KiB a device.
const (
	lazyDevices = 4096
	lazyEvents  = 128
)

// lazySent remembers which member events a device was sent, so that a client that
// loads members lazily is not sent them over and over (Lazy-loading room
// members). Forgetting costs bandwidth and nothing else.
type lazySent struct {
	seed maphash.Seed

	mu      sync.Mutex // guards devices and what they hold
	devices *lru.LRU[Viewer, *lazyRing]
}

// lazyRing holds the last events sent to one device.
type lazyRing struct {
	next  int
	event [lazyEvents]uint64         // hashes of room and event id
	token [lazyEvents]store.Position // the token that the answer carried
}

func newLazySent() *lazySent {
	devices, err := lru.NewLRU[Viewer, *lazyRing](lazyDevices, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &lazySent{seed: maphash.MakeSeed(), devices: devices}
}

// fresh returns those ids that the device has not been sent in an answer that it
// is known to have: one whose token is not newer than the one it presents.
func (l *lazySent) fresh(who Viewer, r event.RoomID, ids []event.ID, since, now store.Position) []event.ID {
	if len(ids) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ring, ok := l.devices.Get(who)
	if !ok {
		ring = &lazyRing{}
		l.devices.Add(who, ring)
	}
	var out []event.ID
	for _, id := range ids {
		h := maphash.Comparable(l.seed, [2]string{string(r), string(id)})
		if since == 0 || !ring.has(h, since) {
			out = append(out, id)
			ring.add(h, now)
		}
	}
	return out
}

func (g *lazyRing) has(h uint64, since store.Position) bool {
	for i := range g.event {
		if g.event[i] == h && g.token[i] <= since && g.token[i] > 0 {
			return true
		}
	}
	return false
}

func (g *lazyRing) add(h uint64, now store.Position) {
	g.event[g.next], g.token[g.next] = h, now
	g.next = (g.next + 1) % lazyEvents
}
