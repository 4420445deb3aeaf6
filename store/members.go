package store

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/tokenim/tokenim/node/event"
)

const typeMember = "m.room.member"

// Membership is a local user's place in a room, kept for rooms known only by an
// invite too.
type Membership struct {
	Room       event.RoomID
	User       event.UserID
	Membership string // join, invite, leave, ban, knock
	Event      event.ID
	Sender     event.UserID
	Position   Position        // of the last change
	Forgotten  bool            // hidden from the user (POST forget)
	Stripped   json.RawMessage // invite_state: array of stripped state events, for invites and knocks
	Raw        json.RawMessage // the member event itself when the room's graph is not held here
}

// membershipNames are the memberships by the code that rows hold. Code 0 is
// that of events that are no member events.
var membershipNames = []string{"", "join", "invite", "leave", "ban", "knock"}

// membershipOther stands for a membership that room version 12 does not know;
// no accepted event has one.
const membershipOther = 255

const codeJoin, codeInvite = 1, 2

func membershipCode(name string) byte {
	i := slices.Index(membershipNames, name)
	if i <= 0 {
		return membershipOther
	}
	return byte(i)
}

func (m *Membership) encode() []byte {
	var e encoder
	e.text(m.Membership)
	e.text(string(m.Event))
	e.text(string(m.Sender))
	e.number(uint64(m.Position))
	e.bool(m.Forgotten)
	e.bytes(m.Stripped)
	e.bytes(m.Raw)
	return e.b
}

func decodeMembership(u event.UserID, in hash, b []byte) (*Membership, error) {
	d := decoder{b: b}
	m := &Membership{
		Room: in.room(), User: u, Membership: d.text(), Event: event.ID(d.text()),
		Sender: event.UserID(d.text()), Position: Position(d.number()), Forgotten: d.bool(),
		Stripped: d.bytes(), Raw: d.bytes(),
	}
	return m, d.end("membership")
}

// Memberships returns the rows of a local user, in no particular order.
func (tx *Tx) Memberships(u event.UserID) ([]Membership, error) {
	prefix := keyMembers(u)
	all, err := scan(tx, prefix, costOfMemberships, func() (all []Membership, err error) {
		err = tx.each(prefix, nil, func(k, v []byte) error {
			m, err := decodeMembership(u, lastHash(k), v)
			if err == nil {
				all = append(all, *m)
			}
			return err
		})
		return all, err
	})
	return slices.Clone(all), err
}

func costOfMemberships(all []Membership) (n int64) {
	for _, m := range all {
		n += int64(300 + len(m.Stripped) + len(m.Raw))
	}
	return n
}

// Membership returns one row of a local user, or ErrNotFound.
func (tx *Tx) Membership(u event.UserID, r event.RoomID) (*Membership, error) {
	h, ok := roomHash(r)
	if !ok {
		return nil, ErrNotFound
	}
	b, err := tx.get(keyMember(u, h))
	if err != nil {
		return nil, err
	}
	return decodeMembership(u, h, b)
}

// PutMembership writes a row for a room whose graph is not held here, or
// changes Forgotten. It sets Position to a new one if that is zero. A row with
// Raw stands beside the graph: it lasts until the current state of the room has
// a new member event of the user.
func (tx *Tx) PutMembership(m Membership) error {
	h, ok := roomHash(m.Room)
	if !ok {
		return badID(string(m.Room))
	}
	if m.Position == 0 {
		p, err := tx.NextPosition()
		if err != nil {
			return err
		}
		m.Position = p
	}
	return tx.set(keyMember(m.User, h), m.encode())
}

// LocalMembers returns the local users with this membership in the current state.
func (tx *Tx) LocalMembers(r event.RoomID, membership string) ([]event.UserID, error) {
	h, ok := roomHash(r)
	if !ok {
		return nil, nil
	}
	var all []event.UserID
	prefix := keyMemberBy(h, membership, "")
	err := tx.each(prefix, nil, func(k, _ []byte) error {
		all = append(all, event.UserID(k[len(prefix):]))
		return nil
	})
	return all, err
}

// Servers returns the servers with joined users and how many each has, from the
// current state.
func (tx *Tx) Servers(r event.RoomID) (map[event.Server]int, error) {
	all := map[event.Server]int{}
	h, ok := roomHash(r)
	if !ok {
		return all, nil
	}
	prefix := keyHash(kindServerIn, h)
	err := tx.each(prefix, nil, func(k, v []byte) error {
		n, err := decodeNumber(v, "server count")
		all[event.Server(k[len(prefix):])] = int(n)
		return err
	})
	return all, err
}

// changeMembers updates counts and rows by the places of the current state that
// changed: one event can change several through a resolution.
func (tx *Tx) changeMembers(a *applied, all []change) error {
	servers := map[event.Server]int{}
	for _, c := range all {
		if c.key.Type != typeMember {
			continue
		}
		was, err := tx.membershipOf(c.was)
		if err != nil {
			return err
		}
		now, err := tx.membershipOf(c.now)
		if err != nil {
			return err
		}
		u := event.UserID(c.key.StateKey)
		local := tx.s.server != "" && u.Server() == tx.s.server
		for _, step := range []struct {
			code byte
			n    int
		}{{was, -1}, {now, 1}} {
			switch step.code {
			case codeJoin:
				a.row.joined += step.n
				servers[u.Server()] += step.n
				if local {
					a.row.localJoined += step.n
				}
			case codeInvite:
				a.row.invited += step.n
			}
		}
		if local {
			if err := tx.changeMember(a, u, c, was, now); err != nil {
				return err
			}
		}
	}
	return tx.changeServers(a.v.room, servers)
}

func (tx *Tx) membershipOf(h hash) (byte, error) {
	if h == none {
		return 0, nil
	}
	v, err := tx.vertex(h)
	if err != nil {
		return 0, err
	}
	return v.membership, nil
}

func codeName(code byte) string {
	if int(code) < len(membershipNames) {
		return membershipNames[code]
	}
	return "leave"
}

// changeMember updates the rows of a local user.
func (tx *Tx) changeMember(a *applied, u event.UserID, c change, was, now byte) error {
	if was != now {
		if was != 0 {
			if err := tx.delete(keyMemberBy(a.v.room, codeName(was), u)); err != nil {
				return err
			}
		}
		if now != 0 {
			if err := tx.set(keyMemberBy(a.v.room, codeName(now), u), nil); err != nil {
				return err
			}
		}
	}
	m, err := tx.Membership(u, a.v.room.room())
	if errors.Is(err, ErrNotFound) {
		m, err = &Membership{Room: a.v.room.room(), User: u}, nil
	}
	if err != nil {
		return err
	}
	m.Membership, m.Position, m.Raw = codeName(now), a.v.position, nil
	if c.now == none { // a resolution emptied the place
		m.Membership, m.Event, m.Sender, m.Stripped = "leave", "", "", nil
		return tx.set(keyMember(u, a.v.room), m.encode())
	}
	e, err := tx.event(c.now)
	if err != nil {
		return err
	}
	if m.Event != e.ID() {
		m.Stripped = nil
	}
	if now != membershipCode("leave") && now != membershipCode("ban") {
		m.Forgotten = false
	}
	m.Event, m.Sender = e.ID(), e.Sender
	return tx.set(keyMember(u, a.v.room), m.encode())
}

func (tx *Tx) changeServers(in hash, by map[event.Server]int) error {
	for s, d := range by {
		if d == 0 {
			continue
		}
		key := keyHashText(kindServerIn, in, string(s))
		n := 0
		b, err := tx.get(key)
		if err == nil {
			var v uint64
			v, err = decodeNumber(b, "server count")
			n = int(v)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if n += d; n > 0 {
			err = tx.set(key, encodeNumber(uint64(n)))
		} else {
			err = tx.delete(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
