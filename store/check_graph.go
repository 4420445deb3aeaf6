package store

import (
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// states checks the layers.
func (c *checker) states() error {
	err := c.each(kindLayer, func(k, _ []byte) error {
		id := StateID(lastNumber(k))
		c.tx.s.layers.forget(id) // read it from disk
		l, err := c.tx.layer(id)
		if err != nil {
			c.problem("state %d: %v", id, err)
			return nil
		}
		c.layers[id] = l
		if id > c.last {
			c.problem("state %d is above the largest id %d", id, c.last)
		}
		if !slices.IsSortedFunc(l.entries, compareEntries) {
			c.problem("state %d is not sorted", id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, l := range c.layers {
		if l.height == 0 {
			continue
		}
		want, below := l.height&(l.height-1), uint64(0)
		if p := c.layers[l.parent]; p != nil {
			below = p.height
		} else if l.parent != 0 {
			c.problem("state %d lacks its parent %d", id, l.parent)
			continue
		}
		if below != want {
			c.problem("state %d of height %d has a parent of height %d", id, l.height, below)
		}
	}
	return nil
}

// graph checks every event with its surroundings.
func (c *checker) graph() error {
	edges := map[hash]int{} // gaps by room
	for missing, children := range c.gaps {
		for _, ch := range children {
			v := c.events[ch]
			if v == nil || !v.horizon || !slices.Contains(v.prevs, missing) {
				c.problem("gap at %s names %s, which does not refer to it", missing.event(), ch.event())
				continue
			}
			edges[v.room]++
		}
	}
	for h, r := range c.rooms {
		if r.gaps != edges[h] {
			c.problem("room %s counts %d gaps, there are %d", h.room(), r.gaps, edges[h])
		}
	}
	for h, v := range c.events {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		e := c.bytes(h, v)
		if v.status == Outlier || e == nil {
			continue
		}
		c.place(h, v, e)
	}
	return c.each(kindPending, func(k, _ []byte) error {
		if h := lastHash(k); c.events[h] != nil {
			c.problem("a redaction waits for %s, which is known", h.event())
		}
		return nil
	})
}

// bytes checks an event for itself; nil if there is nothing more to check.
func (c *checker) bytes(h hash, v *vertex) *event.Event {
	raw, err := c.tx.get(keyHash(kindBody, h))
	if err != nil {
		c.problem("event %s: %v", h.event(), err)
		return nil
	}
	e, err := event.Parse(raw)
	if err != nil {
		c.problem("event %s: %v", h.event(), err)
		return nil
	}
	if e.ID() != h.event() || e.Redacted() != v.redacted {
		c.problem("the bytes of %s are those of %s (redacted %t, %t)", h.event(), e.ID(), e.Redacted(), v.redacted)
	}
	if v.redactedBy != none {
		by := c.events[v.redactedBy]
		if by == nil || by.room != v.room {
			c.problem("event %s is redacted by %s, which is no event of the room", h.event(), v.redactedBy.event())
		}
	}
	return e
}

// place checks the position of an event in the graph and its states.
func (c *checker) place(h hash, v *vertex, e *event.Event) {
	var depth int64
	var after []StateID
	gap := false
	for _, p := range v.prevs {
		if slices.Contains(c.gaps[p], h) {
			gap = true
			continue
		}
		pv := c.events[p]
		if pv == nil || pv.status == Outlier || pv.room != v.room {
			c.problem("event %s: prev event %s is not in the graph", h.event(), p.event())
			continue
		}
		depth = max(depth, pv.depth)
		after = append(after, pv.after)
	}
	if v.depth <= depth || (!gap && v.depth != depth+1) {
		c.problem("event %s has depth %d above %d", h.event(), v.depth, depth)
	}
	for _, id := range []StateID{v.before, v.after} {
		if id != 0 && c.layers[id] == nil {
			c.problem("event %s: state %d does not exist", h.event(), id)
			return
		}
	}
	before, err := c.tx.chain(v.before)
	if err != nil {
		c.problem("event %s: state %d: %v", h.event(), v.before, err)
		return
	}
	if !gap && len(v.prevs) > 0 {
		want, err := c.tx.resolve(v.room, after)
		if err != nil {
			c.problem("event %s: %v", h.event(), err)
			return
		}
		if d := changes(before, want); len(d) > 0 {
			c.problem("the state before %s is not that after its prev events: %d places, %+v", h.event(), len(d), d[0].key)
		}
	}
	now, err := c.tx.chain(v.after)
	if err != nil {
		c.problem("event %s: state %d: %v", h.event(), v.after, err)
		return
	}
	d := changes(before, now)
	if e.StateKey == nil || v.status == Rejected {
		if len(d) > 0 {
			c.problem("event %s changes %d places", h.event(), len(d))
		}
		return
	}
	k := room.Key{Type: e.Type, StateKey: *e.StateKey}
	if len(d) != 1 || d[0].key != k || d[0].now != h {
		c.problem("state event %s changes %d places", h.event(), len(d))
	}
}

// positions checks timelines and the log of own events.
func (c *checker) positions() error {
	shown := 0
	err := c.each(kindTimeline, func(k, row []byte) error {
		shown++
		h, current, err := decodeTimeline(row)
		v := c.events[h]
		if err != nil || v == nil || v.status != Accepted || v.position != lastNumber(k) || v.room != hash(k[1:33]) {
			c.problem("timeline row %d names %s, which does not match (%v)", lastNumber(k), h.event(), err)
		}
		if c.layers[current] == nil {
			c.problem("timeline row %d names state %d, which does not exist", lastNumber(k), current)
		}
		c.take(lastNumber(k), string(h.event()))
		return nil
	})
	if err != nil {
		return err
	}
	local := 0
	err = c.each(kindLocal, func(k, row []byte) error {
		local++
		d := decoder{b: row}
		in, h := d.hash(), d.hash()
		if v := c.events[h]; v == nil || !v.local || v.position != lastNumber(k) || v.room != in {
			c.problem("own event %d names %s, which does not match", lastNumber(k), h.event())
		}
		return nil
	})
	if err != nil {
		return err
	}
	for h, v := range c.events {
		if v.status != Accepted {
			if v.position != 0 {
				c.problem("event %s is not shown but has position %d", h.event(), v.position)
			}
			continue
		}
		shown--
		if v.local {
			c.sum.LocalEvents++
			local--
		} else {
			c.sum.RemoteEvents++
		}
	}
	if shown != 0 || local != 0 {
		c.problem("%d more timeline rows than accepted events, %d more own rows than own events", shown, local)
	}
	return nil
}

// allRooms checks what is derived from graph and current state.
func (c *checker) allRooms() error {
	heads, leaves, accepted := c.extremities()
	for h, r := range c.rooms {
		c.sum.Rooms++
		if r.joined > r.localJoined {
			c.sum.Federated++
		}
		var got []hash
		var after []StateID
		for _, x := range r.heads {
			got = append(got, x.id)
			after = append(after, x.after)
			if v := c.events[x.id]; v == nil || v.after != x.after || v.depth != x.depth {
				c.problem("room %s: the row of head %s is wrong", h.room(), x.id.event())
			}
		}
		if !sameHashes(got, heads[h]) {
			c.problem("room %s has %d heads, counted %d", h.room(), len(got), len(heads[h]))
		}
		if !sameHashes(r.leaves, leaves[h]) {
			c.problem("room %s has %d leaves, counted %d", h.room(), len(r.leaves), len(leaves[h]))
		}
		if r.events != accepted[h] {
			c.problem("room %s counts %d events, there are %d", h.room(), r.events, accepted[h])
		}
		if r.last > c.newest {
			c.problem("room %s has news at %d, the newest position is %d", h.room(), r.last, c.newest)
		}
		want, err := c.tx.resolve(h, after)
		if err != nil {
			c.problem("room %s: resolution over the heads: %v", h.room(), err)
			continue
		}
		current, err := c.tx.chain(r.state)
		if err != nil {
			c.problem("room %s: state %d: %v", h.room(), r.state, err)
			continue
		}
		if d := changes(current, want); len(d) > 0 {
			c.problem("room %s: the current state is not that of the heads: %d places, %+v", h.room(), len(d), d[0].key)
		}
		if err := c.members(h, r, current); err != nil {
			return err
		}
	}
	return nil
}

// extremities counts anew: heads, leaves and accepted events of every room.
func (c *checker) extremities() (heads, leaves map[hash][]hash, accepted map[hash]int64) {
	heads, leaves, accepted = map[hash][]hash{}, map[hash][]hash{}, map[hash]int64{}
	noHead, noLeaf := map[hash]bool{}, map[hash]bool{}
	for _, v := range c.events {
		for _, p := range v.prevs {
			noHead[p] = noHead[p] || v.status == Accepted
			noLeaf[p] = noLeaf[p] || v.status == Accepted || v.status == SoftFailed
		}
	}
	for h, v := range c.events {
		if v.status == Accepted {
			accepted[v.room]++
			if !noHead[h] {
				heads[v.room] = append(heads[v.room], h)
			}
		}
		if (v.status == Accepted || v.status == SoftFailed) && !noLeaf[h] {
			leaves[v.room] = append(leaves[v.room], h)
		}
	}
	return heads, leaves, accepted
}

func sameHashes(a, b []hash) bool {
	if len(a) != len(b) {
		return false
	}
	set := map[hash]bool{}
	for _, h := range a {
		set[h] = true
	}
	for _, h := range b {
		if !set[h] {
			return false
		}
	}
	return len(set) == len(b)
}

// members checks counts and rows against the current state of a room.
func (c *checker) members(h hash, r *roomRow, current chain) error {
	var joined, invited, local int
	servers := map[event.Server]int{}
	members := map[event.UserID]string{} // local ones
	for _, e := range current.entries(typeMember) {
		if e.id == none {
			continue
		}
		ev, err := c.tx.event(e.id)
		if err != nil {
			return err
		}
		u := event.UserID(e.key.StateKey)
		isLocal := c.tx.s.server != "" && u.Server() == c.tx.s.server
		switch ev.Membership() {
		case "join":
			joined++
			servers[u.Server()]++
			if isLocal {
				local++
			}
		case "invite":
			invited++
		}
		if !isLocal {
			continue
		}
		members[u] = ev.Membership()
		m, err := c.tx.Membership(u, h.room())
		if errors.Is(err, ErrNotFound) {
			c.problem("%s has no membership row in %s", u, h.room())
			continue
		}
		if err != nil {
			return err
		}
		if m.Raw == nil && (m.Membership != ev.Membership() || m.Event != ev.ID() || m.Sender != ev.Sender) {
			c.problem("the membership row of %s in %s says %s by %s", u, h.room(), m.Membership, m.Event)
		}
	}
	if joined != r.joined || invited != r.invited || local != r.localJoined {
		c.problem("room %s counts %d joined, %d invited, %d local; there are %d, %d, %d",
			h.room(), r.joined, r.invited, r.localJoined, joined, invited, local)
	}
	return c.memberIndexes(h, servers, members)
}

func (c *checker) memberIndexes(h hash, servers map[event.Server]int, members map[event.UserID]string) error {
	got, err := c.tx.Servers(h.room())
	if err != nil {
		return err
	}
	for s, n := range got {
		if servers[s] != n {
			c.problem("room %s counts %d users of %s, there are %d", h.room(), n, s, servers[s])
		}
	}
	if len(got) != len(servers) {
		c.problem("room %s lists %d servers, there are %d", h.room(), len(got), len(servers))
	}
	rows := 0
	prefix := keyHash(kindMemberBy, h)
	err = c.tx.each(prefix, nil, func(k, _ []byte) error {
		rows++
		name, u, ok := cutString(k[len(prefix):])
		if !ok || members[event.UserID(u)] != name {
			c.problem("room %s lists %s as %s", h.room(), u, name)
		}
		return nil
	})
	if rows != len(members) {
		c.problem("room %s lists %d local members, there are %d", h.room(), rows, len(members))
	}
	return err
}
