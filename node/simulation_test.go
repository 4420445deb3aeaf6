package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// TestSimulation lets three servers talk, change the state, join, leave, remove
// each other, crash, be cut off and lose gossip and calls, as a seed decides. When
// all is well again they must hold the same events and see the same state.
//
// TOKENIM_SEED runs one seed, TOKENIM_SEEDS that many.
func TestSimulation(t *testing.T) {
	first, count := uint64(1), uint64(24)
	if testing.Short() {
		count = 6
	}
	if s := os.Getenv("TOKENIM_SEED"); s != "" {
		one, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, count = one, 1
	} else if s := os.Getenv("TOKENIM_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		count = n
	}
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			simulate(t, seed)
		})
	}
}

// simulation is one run.
type simulation struct {
	*world
	rnd   *rand.Rand
	room  event.RoomID
	users []event.UserID
	done  []string // for the report of a failure
}

func simulate(t *testing.T, seed uint64) {
	s := &simulation{world: newWorld(t, seed, acme, birch, cedar), rnd: rand.New(rand.NewPCG(seed, 1))}
	s.every = 50 * time.Millisecond
	alice, dave := s.nodes[acme].user("alice"), s.nodes[acme].user("dave")
	bob, ben, carol := s.nodes[birch].user("bob"), s.nodes[birch].user("ben"), s.nodes[cedar].user("carol")
	s.users = []event.UserID{alice, bob, ben, carol, dave}
	s.room = s.nodes[acme].create(alice, CreateRequest{Preset: "public_chat"})
	s.nodes[acme].set(alice, s.room, typePowerLevels, "", `{"users":{"`+string(bob)+`":50,"`+string(carol)+`":50}}`)
	defer func() {
		if t.Failed() {
			t.Logf("seed %d; what was done:\n%v", seed, s.done)
		}
	}()
	for range 60 {
		s.step()
	}
	s.net.Heal()
	s.net.SetFaults(simnet.Faults{})
	for _, m := range s.nodes {
		if !m.running {
			m.start()
		}
	}
	s.settle(alice)
}

func (s *simulation) note(format string, args ...any) {
	s.done = append(s.done, fmt.Sprintf(format, args...)+"\n")
}

// step does one thing. What the rules refuse or a broken network makes impossible
// is part of it.
func (s *simulation) step() {
	u := s.users[s.rnd.IntN(len(s.users))]
	m := s.nodes[u.Server()]
	ctx, cancel := context.WithTimeout(ctx0, time.Second)
	defer cancel()
	var err error
	what := s.rnd.IntN(100)
	switch {
	case what < 8:
		s.shake()
		return
	case what < 13:
		x := []event.Server{acme, birch, cedar}[s.rnd.IntN(3)]
		if y := s.nodes[x]; y.running {
			y.kill()
			s.note("%s stops", x)
		} else {
			y.start()
			s.note("%s starts", x)
		}
		return
	case !m.running:
		return
	case what < 30:
		via := []event.Server{acme, birch, cedar}
		s.rnd.Shuffle(3, func(i, j int) { via[i], via[j] = via[j], via[i] })
		err = m.Join(ctx, u, s.room, via, nil)
		s.note("%s joins: %v", u, err)
	case what < 33 && u.Localpart() != "alice":
		err = m.Leave(ctx, u, s.room, "")
		s.note("%s leaves: %v", u, err)
	case what < 40:
		target := s.users[s.rnd.IntN(len(s.users))]
		if target == u {
			return // alice stays, so that acme has seen everything
		}
		switch s.rnd.IntN(4) {
		case 0:
			err = m.Kick(ctx, u, s.room, target, "")
		case 1:
			err = m.Ban(ctx, u, s.room, target, "")
		case 2:
			err = m.Unban(ctx, u, s.room, target, "")
		case 3:
			err = m.Invite(ctx, u, s.room, target, nil)
		}
		s.note("%s removes, readmits or invites %s: %v", u, target, err)
	case what < 55:
		typ := []string{typeName, typeTopic, typePowerLevels}[s.rnd.IntN(3)]
		content := fmt.Sprintf(`{"name":"%d","topic":"%[1]d"}`, s.rnd.IntN(1000))
		if typ == typePowerLevels {
			content = fmt.Sprintf(`{"users":{"%s":50,"%s":%d}}`, s.users[1], s.users[3], 50*s.rnd.IntN(2))
		}
		none := ""
		_, err = m.Send(ctx, SendRequest{User: u, Room: s.room, Type: typ, StateKey: &none, Content: []byte(content)})
		s.note("%s sets %s: %v", u, typ, err)
	default:
		for range 1 + s.rnd.IntN(4) {
			_, err = m.Send(ctx, SendRequest{User: u, Room: s.room, Type: "m.room.message", Content: message("x")})
		}
		s.note("%s speaks: %v", u, err)
	}
}

// shake changes the network.
func (s *simulation) shake() {
	switch s.rnd.IntN(5) {
	case 0:
		s.net.Partition([]event.Server{acme}, []event.Server{birch, cedar})
	case 1:
		s.net.Partition([]event.Server{acme, cedar}, []event.Server{birch})
	case 2:
		s.net.Heal()
	case 3:
		s.net.SetFaults(simnet.Faults{})
	case 4:
		s.net.SetFaults(simnet.Faults{
			Loss: s.rnd.Float64(), Repeat: s.rnd.Float64() / 2, CallLoss: s.rnd.Float64() / 3,
			MaxDelay: time.Duration(s.rnd.IntN(5)) * time.Millisecond, NoticeLoss: s.rnd.IntN(2) == 0,
		})
	}
	s.note("the network changes")
}

// settle waits until all that are in the room hold the same events. Nodes with
// the same events can still stand on different forward extremities, since soft
// failure depends on the order of arrival; an event of each of them settles it.
func (s *simulation) settle(alice event.UserID) {
	s.t.Helper()
	a := s.nodes[acme]
	s.world.wait("equal events", func() error {
		s.retry()
		return s.equalEvents()
	})
	var err error
	for range 5 {
		err = nil
		for _, m := range s.residents() {
			// Who is joined here alone is soft-failed there.
			i := slices.IndexFunc(s.users, func(u event.UserID) bool {
				return u.Server() == m.name && m.membership(s.room, u) == join && a.membership(s.room, u) == join
			})
			if i >= 0 {
				m.say(s.users[i], s.room, "settle")
				s.world.wait("equal events", s.equalEvents)
				err = errors.Join(err, same(a, m, s.room))
			}
		}
		if err == nil {
			break
		}
	}
	s.must(err)
	for _, m := range s.nodes {
		if d := m.Divergences(); d != 0 {
			s.t.Errorf("%s raised the alarm %d times", m.name, d)
		}
	}
}

// residents returns the nodes that acme takes for residents.
func (s *simulation) residents() (out []*member) {
	others, _, err := s.nodes[acme].servers(s.room)
	s.must(err)
	for _, x := range append(others, acme) {
		out = append(out, s.nodes[x])
	}
	return out
}

// equalEvents compares what residents hold with acme, which was there from the
// start: what began elsewhere later lacks what came before.
func (s *simulation) equalEvents() error {
	a := s.nodes[acme]
	whole, err := a.picture(s.room)
	if err != nil {
		return err
	}
	for _, m := range s.nodes {
		_, here, err := m.servers(s.room)
		resident := slices.Contains(s.residents(), m)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if here && !resident && s.neverJoined(m) {
			continue
		}
		if here != resident {
			var members []string
			for _, u := range s.users {
				members = append(members, fmt.Sprintf("%s: %s, itself %s", u, a.membership(s.room, u), m.membership(s.room, u)))
			}
			return fmt.Errorf("%s is resident: %v; it thinks: %v; %q", m.name, resident, here, members)
		}
		if m == a || !here {
			continue
		}
		part, err := m.picture(s.room)
		if err != nil {
			return err
		}
		for _, id := range part.ids {
			if _, ok := slices.BinarySearch(whole.ids, id); !ok {
				return fmt.Errorf("acme lacks %s of %s", id, m.name)
			}
		}
		var roots, above []event.ID
		err = m.store.View(func(tx *store.Tx) (err error) {
			roots, err = findRoots(tx, s.room)
			return err
		})
		if err != nil {
			return err
		}
		err = a.store.View(func(tx *store.Tx) error {
			rm, err := tx.Room(s.room)
			if err != nil {
				return err
			}
			above, _, err = tx.Missing(s.room, rm.Leaves, roots, 1<<30)
			return err
		})
		if err != nil {
			return err
		}
		for _, id := range above {
			_, mine := slices.BinarySearch(whole.ids, id)
			if _, ok := slices.BinarySearch(part.ids, id); mine && !ok {
				return fmt.Errorf("%s lacks %s", m.name, id)
			}
		}
	}
	return nil
}

// neverJoined reports whether acme's users removed those whom a node takes for
// joined before they had joined as acme saw it, while another server let them in.
// Nobody owes their server what led to that, so it is not told.
func (s *simulation) neverJoined(m *member) bool {
	for _, u := range s.users {
		if u.Server() != m.name || m.membership(s.room, u) != join {
			continue
		}
		err := s.nodes[acme].store.View(func(tx *store.Tx) error {
			e, err := currentMember(tx, s.room, u)
			if err != nil {
				return err
			}
			ended, err := endsMembership(tx, e.ID(), s.room, m.name)
			if err == nil && ended {
				err = errors.New("joined, and removed")
			}
			return err
		})
		if err != nil {
			return false
		}
	}
	return true
}

// retry lets users join again whose join was taken and whose own server does not
// know it: the answer was lost.
func (s *simulation) retry() {
	for _, u := range s.users {
		m := s.nodes[u.Server()]
		if s.nodes[acme].membership(s.room, u) == join && m.membership(s.room, u) == store.ErrNotFound.Error() {
			_ = m.Join(ctx0, u, s.room, []event.Server{acme}, nil) // the next one may do
		}
	}
}
