package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// residents keeps in memory who is in which room: the local users that a new
// event wakes, and the servers that may see the room's topics. Entries are read
// from the store when they are first needed and then follow the commits.
type residents struct {
	mu    sync.Mutex // guards everything below and the fields of all entries
	rooms map[event.RoomID]*resident
	done  *sync.Cond // on mu: a resident stopped being busy
}

// resident is one room's entry.
type resident struct {
	loaded bool
	min    store.Position // while not loaded: what is read must be at least this new
	state  store.StateID  // the state that users and servers reflect

	users   map[event.UserID]struct{} // local joined users
	keys    []string                  // their feed keys, nil: to be made; never changed in place
	servers map[event.Server]int      // joined users by server, this one's included

	salt    []byte         // of the topic names; nil until known
	busy    bool           // someone is between reading servers and the end of SetRoom
	told    []event.Server // what SetRoom was told last, sorted
	active  time.Time      // last commit of an event
	forked  time.Time      // since when there are many forward extremities; zero: there are not
	created *event.Event   // the create event; nil until read
}

func newResidents() *residents {
	r := &residents{rooms: map[event.RoomID]*resident{}}
	r.done = sync.NewCond(&r.mu)
	return r
}

// entry returns the entry of a room, making it. mu must be held.
func (rs *residents) entry(r event.RoomID) *resident {
	e := rs.rooms[r]
	if e == nil {
		e = &resident{}
		rs.rooms[r] = e
	}
	return e
}

// moved is how a commit changed who is in a room.
type moved struct {
	room     event.RoomID
	from, to store.StateID
	at       store.Position
	users    []movedUser
}

// movedUser is a user who became or ceased to be joined.
type movedUser struct {
	user   event.UserID
	joined bool
}

// move applies a commit. Commits usually arrive in their order; one that does
// not fit makes the entry unread, to be read again.
func (rs *residents) move(m moved, self event.Server) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	e := rs.entry(m.room)
	if !e.loaded || e.state != m.from {
		if !e.loaded || e.state != m.to {
			e.loaded = false
			e.min = max(e.min, m.at)
		}
		return
	}
	e.state = m.to
	for _, u := range m.users {
		s := u.user.Server()
		if u.joined {
			e.servers[s]++
		} else if e.servers[s]--; e.servers[s] <= 0 {
			delete(e.servers, s)
		}
		if s != self {
			continue
		}
		if u.joined {
			e.users[u.user] = struct{}{}
		} else {
			delete(e.users, u.user)
		}
		e.keys = nil
	}
}

// read makes sure that the entry of a room reflects the store. It returns
// store.ErrNotFound for rooms whose graph is not held here.
func (n *Node) readResident(r event.RoomID) error {
	for {
		n.residents.mu.Lock()
		e := n.residents.entry(r)
		loaded := e.loaded
		n.residents.mu.Unlock()
		if loaded {
			return nil
		}
		var (
			fresh resident
			at    store.Position
		)
		err := n.store.View(func(tx *store.Tx) (err error) {
			rm, err := tx.Room(r)
			if err != nil {
				return err
			}
			if at, err = tx.Position(); err != nil {
				return err
			}
			users, err := tx.LocalMembers(r, join)
			if err != nil {
				return err
			}
			fresh.users = make(map[event.UserID]struct{}, len(users))
			for _, u := range users {
				fresh.users[u] = struct{}{}
			}
			if fresh.servers, err = tx.Servers(r); err != nil {
				return err
			}
			create, err := tx.Event(r.Create())
			if err != nil {
				return err
			}
			fresh.state, fresh.created, fresh.salt = rm.State, create.Event, topicSalt(create.Event)
			return nil
		})
		if err != nil {
			if errors.Is(err, store.ErrNotFound) {
				n.residents.forget(r)
			}
			return err
		}
		n.residents.mu.Lock()
		if e = n.residents.entry(r); !e.loaded && at >= e.min {
			e.loaded, e.state, e.keys = true, fresh.state, nil
			e.users, e.servers = fresh.users, fresh.servers
			e.created, e.salt = fresh.created, fresh.salt
		}
		n.residents.mu.Unlock()
	}
}

// forget drops the entry of a room that is not held here, unless a commit has
// made it meanwhile.
func (rs *residents) forget(r event.RoomID) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if e := rs.rooms[r]; e != nil && !e.loaded && e.min == 0 && !e.busy {
		delete(rs.rooms, r)
	}
}

// servers returns the servers with joined users but for this one, sorted, and
// whether this node has joined users itself.
func (n *Node) servers(r event.RoomID) (others []event.Server, here bool, err error) {
	if err := n.readResident(r); err != nil {
		return nil, false, err
	}
	n.residents.mu.Lock()
	defer n.residents.mu.Unlock()
	others, here = n.residents.entry(r).others(n.Server())
	return others, here, nil
}

// others lists the servers of the entry. The mutex must be held.
func (e *resident) others(self event.Server) (others []event.Server, here bool) {
	for s := range e.servers {
		if s == self {
			here = true
		} else {
			others = append(others, s)
		}
	}
	slices.Sort(others)
	return others, here
}

// isResident reports whether a server has joined users in a room held here.
func (n *Node) isResident(r event.RoomID, s event.Server) (bool, error) {
	if err := n.readResident(r); err != nil {
		return false, err
	}
	n.residents.mu.Lock()
	defer n.residents.mu.Unlock()
	return n.residents.entry(r).servers[s] > 0, nil
}

// wake wakes the long-polls of local users.
func (n *Node) wake(users ...event.UserID) {
	for _, u := range users {
		n.Feed.Wake("u:" + string(u))
	}
}

// wakeRoom wakes the long-polls of a room's local members.
func (n *Node) wakeRoom(r event.RoomID) {
	if n.readResident(r) != nil {
		return
	}
	n.residents.mu.Lock()
	e := n.residents.entry(r)
	if e.keys == nil {
		e.keys = make([]string, 0, len(e.users))
		for u := range e.users {
			e.keys = append(e.keys, "u:"+string(u))
		}
	}
	keys := e.keys
	n.residents.mu.Unlock()
	n.Feed.Wake(keys...)
}

// tellNetwork brings the network's list of a room's servers up to what has been
// committed, and returns when it is in effect (protocol C2, change order). A
// room without other servers, or without users of this one, has none.
func (n *Node) tellNetwork(r event.RoomID) {
	rs := n.residents
	for {
		rs.mu.Lock()
		e := rs.entry(r)
		for e.busy {
			rs.done.Wait()
		}
		e.busy = true
		rs.mu.Unlock()
		err := n.readResident(r) // may find the store closed; then nothing is told
		rs.mu.Lock()
		others, here := e.others(n.Server())
		if !here {
			others = nil
		}
		fresh, tell := e.loaded, !slices.Equal(others, e.told)
		salt := e.salt
		rs.mu.Unlock()
		if err == nil && fresh && tell {
			n.net.SetRoom(r, salt, others)
		}
		rs.mu.Lock()
		if err == nil && fresh {
			e.told = others
		}
		e.busy = false
		again := err == nil && !fresh
		rs.done.Broadcast()
		rs.mu.Unlock()
		if !again {
			return
		}
	}
}

// tellAll tells the network of every room with other servers, after a start.
func (n *Node) tellAll(ctx context.Context) error {
	rooms, err := n.sharedRooms("")
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if err := ctx.Err(); err != nil {
			return err
		}
		n.tellNetwork(r)
	}
	return nil
}

// sharedRooms returns the rooms that a server has joined users in, or with an
// empty name those that any other server has.
func (n *Node) sharedRooms(s event.Server) ([]event.RoomID, error) {
	var rooms, shared []event.RoomID
	err := n.store.View(func(tx *store.Tx) (err error) {
		rooms, err = tx.Rooms()
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, r := range rooms {
		others, _, err := n.servers(r)
		if err != nil {
			return nil, err
		}
		if s == "" && len(others) > 0 || s != "" && slices.Contains(others, s) {
			shared = append(shared, r)
		}
	}
	return shared, nil
}

// touch notes that a room has had an event.
func (n *Node) touch(r event.RoomID) {
	now := n.cfg.Now()
	n.residents.mu.Lock()
	n.residents.entry(r).active = now
	n.residents.mu.Unlock()
}

// activeRooms returns the rooms with other servers that had an event since.
func (n *Node) activeRooms(since time.Time) (rooms []event.RoomID) {
	n.residents.mu.Lock()
	defer n.residents.mu.Unlock()
	for r, e := range n.residents.rooms {
		if len(e.told) > 0 && e.active.After(since) {
			rooms = append(rooms, r)
		}
	}
	slices.Sort(rooms)
	return rooms
}

// memberMoves lists who became or ceased to be joined between two states, and
// the local users whose membership changed in any way.
func memberMoves(tx *store.Tx, from, to store.StateID, self event.Server) (users []movedUser, local []event.UserID, err error) {
	err = tx.Changed(from, to, func(k room.Key, was, now event.ID) error {
		if k.Type != typeMember {
			return nil
		}
		before, err := membershipOf(tx, was)
		if err != nil {
			return err
		}
		after, err := membershipOf(tx, now)
		if err != nil {
			return err
		}
		u := event.UserID(k.StateKey)
		if (before == join) != (after == join) {
			users = append(users, movedUser{u, after == join})
		}
		if u.Server() == self && before != after {
			local = append(local, u)
		}
		return nil
	})
	return users, local, err
}

// membershipOf reads the membership that a member event gives, "" for no event.
func membershipOf(tx *store.Tx, id event.ID) (string, error) {
	if id == "" {
		return "", nil
	}
	e, err := tx.Event(id)
	if err != nil {
		return "", err
	}
	return e.Membership(), nil
}
