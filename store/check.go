package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tokenim/tokenim/node/event"
)

// ErrCheck says that an invariant does not hold.
var ErrCheck = errors.New("store check failed")

// maxProblems bounds the report of Check.
const maxProblems = 20

// Check verifies the invariants. It reads everything and keeps about 200 bytes
// for each event in memory. Errors wrap ErrCheck and name the first problems.
//
// Files
//   - the checksums of the database's tables hold. Badger takes a damaged block for
//     an empty one when it reads: rows are missing then, without an error
//
// Events
//   - an event's bytes are there, parse, and hash to its id
//   - a prev event of an event of the graph is in the graph, or the event came
//     with Horizon and a gap row says which prev event was missing
//   - the counted depth is that of the deepest prev event plus one, unless there was a gap
//   - an event that is redacted names an accepted redaction of the same room
//   - no redaction waits for an event that is known
//
// States
//   - a layer's parts are there and sorted, its parent has the height that its own
//     height asks for, its id is not above the largest id given out
//   - the state before an event is the resolution of the states after its prev
//     events (gaps aside); the state after it differs by the event alone
//
// Rooms
//   - heads and leaves are what Apply says, the current state is the resolution over the heads
//   - counts of members, invites, servers and events are those of the current state and graph
//   - local users' membership rows and their index are those of the current state
//     (rows with Raw stand beside it)
//
// Positions
//   - a position names one thing only and is not above the newest one
//   - accepted events and timeline rows are one to one, and so are local ones and the log
//   - cursors are not above the newest position
//
// Accounts
//   - tokens and devices are one to one; account data, receipts and aliases match their indexes
//   - the totals are right
//
// There are no rows of unknown kinds.
func (s *Store) Check(ctx context.Context) error {
	if err := s.begin(&s.calls); err != nil {
		return err
	}
	defer s.calls.Done()
	return s.check(ctx)
}

func (s *Store) check(ctx context.Context) error {
	if err := s.scrub(); err != nil {
		return fmt.Errorf("%w: %w", ErrCheck, err)
	}
	tx := s.newView()
	defer tx.end()
	tx.kept, tx.scans = nil, nil // what is on disk counts
	c := &checker{
		ctx: ctx, tx: tx, events: map[hash]*vertex{}, used: map[Position]string{},
		rooms: map[hash]*roomRow{}, layers: map[StateID]*layer{}, gaps: map[hash][]hash{},
	}
	for _, step := range []func() error{
		c.kinds, c.load, c.states, c.graph, c.positions, c.allRooms, c.accounts, c.totals,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if len(c.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrCheck, strings.Join(c.problems, "; "))
}

// scrub verifies the checksums of Badger's tables. Badger dereferences nil where
// it should report a damaged block.
func (s *Store) scrub() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w on disk, restore a backup: a block of the database cannot be read", errCorrupt)
		}
	}()
	if err := s.db.VerifyChecksum(); err != nil {
		return fmt.Errorf("%w on disk, restore a backup: %w", errCorrupt, err)
	}
	return nil
}

// checker is one run of Check.
type checker struct {
	ctx      context.Context
	tx       *Tx
	problems []string
	rows     int

	newest Position
	last   StateID             // largest state id given out
	events map[hash]*vertex    // all
	rooms  map[hash]*roomRow   // all
	layers map[StateID]*layer  // all
	gaps   map[hash][]hash     // children of events that were missing
	used   map[Position]string // what a position is for
	sum    Counts
}

func (c *checker) problem(format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// each goes through the rows of a kind.
func (c *checker) each(kind byte, fn func(k, v []byte) error) error {
	return c.tx.each(key0(kind), nil, func(k, v []byte) error {
		if c.rows++; c.rows%1024 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		return fn(k, v)
	})
}

// take records what a position is for.
func (c *checker) take(p Position, what string) {
	if p == 0 || p > c.newest {
		c.problem("%s has position %d, the newest is %d", what, p, c.newest)
	}
	if other, ok := c.used[p]; ok {
		c.problem("position %d is for %s and for %s", p, other, what)
	}
	c.used[p] = what
}

// kinds looks for rows that the schema does not have.
func (c *checker) kinds() error {
	const known = "VTYebgprtoscfmlvudhRaAFxXkKiIPCS"
	v, err := c.tx.get(key0(kindSchema))
	if err != nil {
		return fmt.Errorf("schema row: %w", err)
	}
	if n, err := decodeNumber(v, "schema"); err != nil || n != schemaVersion {
		c.problem("schema row holds %d (%v)", n, err)
	}
	for k := range 256 {
		if strings.IndexByte(known, byte(k)) >= 0 {
			continue
		}
		err := c.tx.each([]byte{byte(k)}, nil, func(key, _ []byte) error {
			c.problem("row of unknown kind: key %.16x", key)
			return errStop
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// load reads events, rooms, gaps and counters.
func (c *checker) load() error {
	t, err := c.tx.totals()
	if err != nil {
		return err
	}
	c.newest = t.position
	if v, err := c.tx.get(key0(kindLastState)); err == nil {
		n, err := decodeNumber(v, "last state")
		if err != nil {
			return err
		}
		c.last = StateID(n)
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	err = c.each(kindNode, func(k, v []byte) error {
		e, err := decodeVertex(v)
		c.events[lastHash(k)] = e
		return err
	})
	if err != nil {
		return err
	}
	err = c.each(kindRoom, func(k, v []byte) error {
		r, err := decodeRoom(v)
		c.rooms[lastHash(k)] = r
		return err
	})
	if err != nil {
		return err
	}
	return c.each(kindGap, func(k, v []byte) error {
		d := decoder{b: v}
		c.gaps[lastHash(k)] = d.hashes()
		return d.end("gap")
	})
}

// accounts checks the indexes of what belongs to users.
func (c *checker) accounts() error {
	for _, step := range []func() error{c.devices, c.data, c.receipts, c.aliases} {
		if err := step(); err != nil {
			return err
		}
	}
	return c.each(kindCursor, func(k, v []byte) error {
		if n, err := decodeNumber(v, "cursor"); err != nil || Position(n) > c.newest {
			c.problem("cursor %s is at %d, the newest position is %d (%v)", k[1:], n, c.newest, err)
		}
		return nil
	})
}

func (c *checker) devices() error {
	tokens := 0
	err := c.each(kindToken, func(k, v []byte) error {
		tokens++
		d, err := c.tx.DeviceByToken([32]byte(k[1:]))
		if err != nil || d.Token != [32]byte(k[1:]) {
			c.problem("a token names no device that has it (%v)", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each(kindDevice, func(_, v []byte) error {
		tokens--
		return nil
	})
	if tokens != 0 {
		c.problem("there are %d more tokens than devices", tokens)
	}
	if err != nil {
		return err
	}
	return c.each(kindUser, func(k, v []byte) error {
		u := &User{}
		if err := decodeJSON(v, u); err != nil || string(u.ID) != string(k[1:]) {
			c.problem("the row of user %s is wrong (%v)", k[1:], err)
		}
		if !u.Deactivated {
			c.sum.Users++
		}
		return nil
	})
}

func (c *checker) data() error {
	entries := 0
	err := c.each(kindDataPos, func(k, v []byte) error {
		entries++
		u, _, ok := cutString(k[1:])
		d := decoder{b: v}
		r, typ := event.RoomID(d.text()), d.text()
		a, err := c.tx.AccountData(event.UserID(u), r, typ)
		if !ok || d.bad || err != nil || a.Position != lastNumber(k) {
			c.problem("account data %s of %s does not match its index (%v)", typ, u, err)
		}
		c.take(lastNumber(k), "account data "+typ+" of "+u)
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each(kindData, func(_, _ []byte) error { entries--; return nil })
	if entries != 0 {
		c.problem("there are %d more account data index rows than entries", entries)
	}
	return err
}

func (c *checker) receipts() error {
	rows := 0
	err := c.each(kindRcptPos, func(k, v []byte) error {
		rows++
		d := decoder{b: v}
		typ, u, thread := d.text(), event.UserID(d.text()), d.text()
		in := hash(k[1:33])
		b, err := c.tx.get(keyReceipt(in, typ, u, thread))
		if want := encodeNumber(uint64(lastNumber(k))); d.bad || err != nil || !bytes.Equal(b, want) {
			c.problem("receipt of %s in %s does not match its index (%v)", u, in.room(), err)
		}
		c.take(lastNumber(k), "a receipt of "+string(u))
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each(kindReceipt, func(_, _ []byte) error { rows--; return nil })
	if rows != 0 {
		c.problem("there are %d more receipts than index rows", rows)
	}
	return err
}

func (c *checker) aliases() error {
	rows := 0
	err := c.each(kindAlias, func(k, _ []byte) error {
		rows++
		alias := string(k[1:])
		r, _, err := c.tx.Alias(alias)
		if err != nil {
			return err
		}
		in, _ := roomHash(r)
		if ok, err := c.tx.has(keyHashText(kindAliasOf, in, alias)); err != nil || !ok {
			c.problem("alias %s is not in the list of its room (%v)", alias, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each(kindAliasOf, func(_, _ []byte) error { rows--; return nil })
	if rows != 0 {
		c.problem("there are %d more aliases than rows of rooms", rows)
	}
	return err
}

func (c *checker) totals() error {
	t, err := c.tx.totals()
	if err != nil {
		return err
	}
	if t.counts != c.sum {
		c.problem("totals are %+v, counted %+v", t.counts, c.sum)
	}
	if got := c.tx.s.Position(); got < c.newest {
		c.problem("the newest position is %d, Position says %d", c.newest, got)
	}
	return nil
}
