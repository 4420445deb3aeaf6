package federation

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

const (
	topicEvents    = "tim1/p/"
	topicEphemeral = "tim1/e/"
	topicHash      = 22 // characters behind the prefix
)

// topicName returns the name of a topic of a room (protocol C2): to those who
// lack the salt it says nothing about the room.
func topicName(prefix string, salt []byte, r event.RoomID) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(prefix[len("tim1/") : len(prefix)-1])) // "p" or "e"
	mac.Write([]byte(r))
	return prefix + base32.StdEncoding.EncodeToString(mac.Sum(nil))[:topicHash]
}

// roomAccess is who may see a room's topics, at one moment. It is immutable.
type roomAccess struct {
	id      event.RoomID
	topics  [2]string                  // events, ephemeral
	members map[event.Server]time.Time // since when
}

// access is ACL(R) of every room this node is in (protocol C2): without
// exception the last word before a byte about a room is written to a peer.
type access struct {
	mu     sync.RWMutex // guards everything below
	rooms  map[event.RoomID]*roomAccess
	topics map[string]*roomAccess
	shared map[event.Server]int // number of rooms that a server may see
}

func newAccess() *access {
	return &access{rooms: map[event.RoomID]*roomAccess{}, topics: map[string]*roomAccess{}, shared: map[event.Server]int{}}
}

// set changes who may see a room; no members: nobody, and the room is gone. It
// returns the state before and after, nil where there is none, and the servers
// that gained and lost access.
func (a *access) set(r event.RoomID, salt []byte, members []event.Server, self event.Server) (before, after *roomAccess, gained, lost []event.Server) {
	if len(members) > 0 {
		after = &roomAccess{
			id:      r,
			topics:  [2]string{topicName(topicEvents, salt, r), topicName(topicEphemeral, salt, r)},
			members: make(map[event.Server]time.Time, len(members)),
		}
		for _, m := range members {
			if m != self {
				after.members[m] = time.Now()
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before = a.rooms[r]
	if before != nil {
		for m, since := range before.members {
			if has(after, m) {
				after.members[m] = since
			}
		}
		delete(a.rooms, r)
		for _, t := range before.topics {
			delete(a.topics, t)
		}
	}
	if after != nil {
		a.rooms[r] = after
		for _, t := range after.topics {
			a.topics[t] = after
		}
	}
	for m := range membersOf(before) {
		if !has(after, m) {
			lost = append(lost, m)
			if a.shared[m]--; a.shared[m] == 0 {
				delete(a.shared, m)
			}
		}
	}
	for m := range membersOf(after) {
		if !has(before, m) {
			gained = append(gained, m)
			a.shared[m]++
		}
	}
	return before, after, gained, lost
}

func membersOf(r *roomAccess) map[event.Server]time.Time {
	if r == nil {
		return nil
	}
	return r.members
}

func has(r *roomAccess, s event.Server) bool {
	_, ok := membersOf(r)[s]
	return ok
}

// see reports whether a server may see a topic now.
func (a *access) see(s event.Server, topic string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return has(a.topics[topic], s)
}

// since returns since when a server may see a topic; ok is false if it may not.
func (a *access) since(s event.Server, topic string) (since time.Time, ok bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	since, ok = membersOf(a.topics[topic])[s]
	return since, ok
}

// shares reports whether a server may see any room.
func (a *access) shares(s event.Server) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.shared[s] > 0
}

// byTopic returns the room of a topic, nil if this node is not in it.
func (a *access) byTopic(topic string) *roomAccess {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.topics[topic]
}

// room returns a room, nil if this node is not in it.
func (a *access) room(r event.RoomID) *roomAccess {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.rooms[r]
}

// roomsOf returns the rooms that a server may see.
func (a *access) roomsOf(s event.Server) []*roomAccess {
	a.mu.RLock()
	defer a.mu.RUnlock()
	out := make([]*roomAccess, 0, a.shared[s])
	for _, r := range a.rooms {
		if has(r, s) {
			out = append(out, r)
		}
	}
	return out
}

// topicsOf lists the topics of a state before and after, each once.
func topicsOf(before, after *roomAccess) []string {
	var out []string
	for _, r := range []*roomAccess{before, after} {
		if r != nil {
			out = append(out, r.topics[:]...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
