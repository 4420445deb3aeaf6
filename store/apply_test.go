package store

import "testing"

func TestSmoke(t *testing.T) {
	s := mustOpen(t, Options{})
	w := newWorld(t, s)
	bob := user("bob", "other.example")
	w.join(bob)
	m := w.say(nil, bob, "hello")
	r := w.roomNow()
	if r.Joined != 2 || len(r.Heads) != 1 || r.Heads[0] != m.ID() || r.Events != 5 || s.Position() != 5 {
		t.Fatalf("%+v", r)
	}
	if m.Status != Accepted {
		t.Fatalf("%+v", m)
	}
}
