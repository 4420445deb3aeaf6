package nettest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// pdu makes an event of a node's user with this text.
func (n *node) pdu(t *testing.T, r event.RoomID, text string) []byte {
	t.Helper()
	content, err := json.Marshal(map[string]string{"body": text})
	if err != nil {
		t.Fatal(err)
	}
	e, err := event.Sign(event.Body{
		Room: r, Type: "m.room.message", Sender: event.UserID("@u:" + n.Self()), Content: content,
		Prev: []event.ID{eventID('p')}, Depth: 2, Time: time.Now().UnixMilli(),
	}, n.key)
	if err != nil {
		t.Fatal(err)
	}
	return e.JSON()
}

// publish publishes one event and fails the test on an error.
func (n *node) publish(t *testing.T, r event.RoomID, text string) {
	t.Helper()
	if err := n.Publish(t.Context(), r, [][]byte{n.pdu(t, r, text)}, nil); err != nil {
		t.Fatalf("Publish at %s: %v", n.Self(), err)
	}
}

// retry calls publish now and then until cond is true: gossip may lose, in
// particular while a topic is still being announced.
func retry(t *testing.T, what string, publish func(try int), cond func() bool) {
	t.Helper()
	polls := 0
	Wait(t, what+" to arrive", func() bool {
		if polls%50 == 0 {
			publish(polls / 50)
		}
		polls++
		return cond()
	})
}

// spread publishes at from until all of to have it. Each try has a text of its
// own.
func spread(t *testing.T, r event.RoomID, text string, from *node, to ...*node) {
	t.Helper()
	tried := ""
	retry(t, fmt.Sprintf("%.40q", text), func(try int) {
		tried = fmt.Sprintf("%s %d", text, try)
		from.publish(t, r, tried)
	}, func() bool {
		return !slices.ContainsFunc(to, func(n *node) bool { return !n.Has(r, tried) })
	})
}

// silent fails the test if anything of the room that contains text arrived at n.
func silent(t *testing.T, n *node, r event.RoomID, text string) {
	t.Helper()
	if n.Has(r, text) {
		t.Fatalf("%s got %q of %s", n.Self(), text, r)
	}
}

func testGossip(t *testing.T, c *cluster) {
	nodes := c.start(4, true)
	a, b, d, outsider := nodes[0], nodes[1], nodes[2], nodes[3]
	r := roomID('r')
	c.room(r, a, b, d)
	// The outsider knows the room and would listen if it were let.
	outsider.SetRoom(r, salt(r), []event.Server{a.Self(), b.Self(), d.Self(), outsider.Self()})
	for _, from := range []*node{a, b, d} {
		others := slices.DeleteFunc([]*node{a, b, d}, func(n *node) bool { return n == from })
		spread(t, r, "from "+string(from.Self()), from, others...)
	}
	heads := []event.ID{eventID('x'), eventID('y')}
	pdus := [][]byte{a.pdu(t, r, "one"), a.pdu(t, r, "two"), a.pdu(t, r, "日本\n\u0001")}
	retry(t, "events with heads", func(int) {
		if err := a.Publish(t.Context(), r, pdus, heads); err != nil {
			t.Fatal(err)
		}
	}, func() bool { return b.Has(r, "two") && d.Has(r, "two") })
	for _, n := range []*node{b, d} {
		for _, g := range n.Gossip() {
			if len(g.PDUs) == 3 && (!slices.EqualFunc(g.PDUs, pdus, bytes.Equal) || !slices.Equal(g.Heads, heads)) {
				t.Errorf("%s got %q and %q", n.Self(), g.PDUs, g.Heads)
			}
			if g.From != a.Self() && g.From != b.Self() && g.From != d.Self() || g.From == n.Self() {
				t.Errorf("%s got gossip from %s", n.Self(), g.From)
			}
		}
	}
	silent(t, outsider, r, "")
	for _, n := range []*node{a, b, d} {
		silent(t, n, r, "from "+string(n.Self())+" ") // its own
	}
}

// Who lists a server that does not list it back gets nothing from it and gives
// nothing to it.
func testGossipOneWay(t *testing.T, c *cluster) {
	nodes := c.start(3, true)
	a, b, third := nodes[0], nodes[1], nodes[2]
	r := roomID('r')
	a.SetRoom(r, salt(r), []event.Server{a.Self(), third.Self()})
	third.SetRoom(r, salt(r), []event.Server{a.Self(), third.Self()})
	b.SetRoom(r, salt(r), []event.Server{a.Self(), b.Self(), third.Self()})
	b.publish(t, r, "not wanted")
	spread(t, r, "wanted", a, third)
	b.publish(t, r, "not wanted either")
	spread(t, r, "wanted too", a, third)
	silent(t, b, r, "")
	silent(t, a, r, "not wanted")
	silent(t, third, r, "not wanted")
}

func testGossipAfterRemoval(t *testing.T, c *cluster) {
	nodes := c.start(3, true)
	a, b, removed := nodes[0], nodes[1], nodes[2]
	r := roomID('r')
	c.room(r, a, b, removed)
	spread(t, r, "before", a, b, removed)
	spread(t, r, "before too", b, a, removed)
	// The removed one never learns of it and goes on listening.
	a.SetRoom(r, salt(r), []event.Server{a.Self(), b.Self()})
	b.SetRoom(r, salt(r), []event.Server{a.Self(), b.Self()})
	for i := range 5 {
		spread(t, r, fmt.Sprint("after ", i), a, b)
		spread(t, r, fmt.Sprint("after, from the other ", i), b, a)
	}
	silent(t, removed, r, "after")
	// Another room that it is still in works on.
	other := roomID('o')
	c.room(other, a, removed)
	spread(t, other, "elsewhere", a, removed)
	silent(t, removed, r, "after")
}

func testGossipAfterAddition(t *testing.T, c *cluster) {
	nodes := c.start(3, true)
	a, b, added := nodes[0], nodes[1], nodes[2]
	r := roomID('r')
	c.room(r, a, b)
	spread(t, r, "before", a, b)
	c.room(r, a, b, added)
	spread(t, r, "after", a, b, added)
	spread(t, r, "from the new one", added, a, b)
	silent(t, added, r, "before")
	// Out and in again.
	c.room(r, a, b)
	spread(t, r, "between", a, b)
	c.room(r, a, b, added)
	spread(t, r, "again", b, a, added)
	silent(t, added, r, "between")
}

func testGossipAfterLeaving(t *testing.T, c *cluster) {
	nodes := c.start(2, true)
	a, b := nodes[0], nodes[1]
	r := roomID('r')
	c.room(r, a, b)
	spread(t, r, "before", a, b)
	b.SetRoom(r, nil, nil)
	// b listens no more although a would still send.
	other := roomID('o')
	c.room(other, a, b)
	a.publish(t, r, "after")
	spread(t, other, "behind it", a, b)
	a.publish(t, r, "after")
	spread(t, other, "behind it too", a, b)
	silent(t, b, r, "after")
}

func testGossipLimits(t *testing.T, c *cluster) {
	nodes := c.start(2, true)
	a, b := nodes[0], nodes[1]
	r := roomID('r')
	c.room(r, a, b)
	spread(t, r, "first", a, b)
	room := event.MaxSize - len(a.pdu(t, r, ""))
	largest := strings.Repeat("x", room-2) // and a space and the number of the try
	spread(t, r, largest, a, b)
	if n := len(a.pdu(t, r, largest+" 0")); n != event.MaxSize {
		t.Fatalf("the largest event has %d bytes", n)
	}

	var many [][]byte
	for i := range 50 {
		many = append(many, a.pdu(t, r, fmt.Sprintf("number %d. %s", i, strings.Repeat("y", 4500))))
	}
	heads := make([]event.ID, 10)
	for i := range heads {
		heads[i] = eventID('a' + byte(i))
	}
	retry(t, "50 events at once", func(int) {
		if err := a.Publish(t.Context(), r, many, heads); err != nil {
			t.Fatal(err)
		}
	}, func() bool { return b.Has(r, "number 49.") })
	for i := range many {
		if !b.Has(r, fmt.Sprintf("number %d.", i)) {
			t.Errorf("event %d of 50 is missing", i)
		}
	}
	if err := a.Publish(t.Context(), r, append(many, a.pdu(t, r, "one too many")), nil); err == nil {
		t.Error("Publish took 51 events")
	}
	big := a.pdu(t, r, "too large "+strings.Repeat("z", 60_000))
	if err := a.Publish(t.Context(), r, [][]byte{big, big, big, big, big}, nil); err == nil {
		t.Error("Publish took 300,000 bytes")
	}
	spread(t, r, "last", a, b)
	silent(t, b, r, "one too many")
	silent(t, b, r, "too large")
}

// Rooms with other salts or ids have nothing to do with each other.
func testGossipRoomsApart(t *testing.T, c *cluster) {
	nodes := c.start(2, true)
	a, b := nodes[0], nodes[1]
	both := []event.Server{a.Self(), b.Self()}
	r, salted, other := roomID('r'), roomID('s'), roomID('o')
	c.room(r, a, b)
	a.SetRoom(salted, []byte("one salt"), both)
	b.SetRoom(salted, []byte("another salt"), both)
	a.SetRoom(other, salt(other), both)
	a.publish(t, salted, "salted")
	a.publish(t, other, "other")
	spread(t, r, "shared", a, b)
	a.publish(t, salted, "salted")
	a.publish(t, other, "other")
	spread(t, r, "shared too", a, b)
	silent(t, b, salted, "")
	silent(t, b, other, "")
}

// What a member accepts it hands on to members that the author cannot reach;
// what it refuses it does not.
func testGossipHandedOn(t *testing.T, c *cluster) {
	refuse := func(g Gossip) error {
		for _, pdu := range g.PDUs {
			if bytes.Contains(pdu, []byte("bad")) {
				return fmt.Errorf("%w: bad", event.ErrInvalid)
			}
			if bytes.Contains(pdu, []byte("ignored")) {
				return errors.New("ignored")
			}
		}
		return nil
	}
	for i := range 3 {
		c.nodes = append(c.nodes, c.run(i, &Recorder{Verdict: refuse}))
	}
	a, b, far := c.nodes[0], c.nodes[1], c.nodes[2]
	c.Link(t, 0, 1)
	c.Link(t, 1, 2)
	c.meet(a, b)
	c.meet(b, far)
	r := roomID('r')
	c.room(r, a, b, far)
	spread(t, r, "good", a, b, far)
	spread(t, r, "ignored", a, b)
	spread(t, r, "good again", a, b, far)
	spread(t, r, "bad", a, b)
	silent(t, far, r, "ignored")
	for _, g := range far.Gossip() {
		if g.From != b.Self() {
			t.Errorf("gossip handed on by %s counts as from %s", b.Self(), g.From)
		}
	}
	// Whether one bad frame ends a's good name is the implementation's affair.
	spread(t, r, "from the middle", b, far)
	silent(t, far, r, "bad")
}

func testEphemeral(t *testing.T, c *cluster) {
	nodes := c.start(3, true)
	a, b, outsider := nodes[0], nodes[1], nodes[2]
	r := roomID('r')
	c.room(r, a, b)
	outsider.SetRoom(r, salt(r), []event.Server{a.Self(), b.Self(), outsider.Self()})
	retry(t, "an ephemeral message", func(try int) {
		if err := a.PublishEphemeral(t.Context(), r, fmt.Appendf(nil, `{"try":%d}`, try)); err != nil {
			t.Fatal(err)
		}
	}, func() bool { return b.Has(r, `{"try":`) })
	for _, g := range b.Gossip() {
		if g.From != a.Self() || g.Room != r || !strings.HasPrefix(string(g.EDU), `{"try":`) || g.PDUs != nil {
			t.Errorf("got %+v", g)
		}
	}
	spread(t, r, "an event", a, b)
	silent(t, outsider, r, "")
}
