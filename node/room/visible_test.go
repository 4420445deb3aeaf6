package room_test

import (
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// Client-Server API, Room history visibility, Server behaviour: every combination.
func TestVisible(t *testing.T) {
	// For each visibility: the memberships that see an event, first for users who
	// never joined afterwards, then for those who did.
	all := []string{"join", "invite", "leave", "ban", "knock", ""}
	for visibility, want := range map[string][2][]string{
		"world_readable": {all, all},
		"shared":         {{"join"}, all},
		"invited":        {{"join", "invite"}, {"join", "invite"}},
		"joined":         {{"join"}, {"join"}},
		"":               {{"join"}, all},
		"magic":          {{"join"}, all},
	} {
		for i, later := range []bool{false, true} {
			for _, m := range all {
				expected := false
				for _, w := range want[i] {
					expected = expected || w == m
				}
				if got := room.Visible(visibility, m, later); got != expected {
					t.Errorf("visibility %q, membership %q, joined later %v: %v", visibility, m, later, got)
				}
			}
		}
	}
}

func TestHistoryVisibility(t *testing.T) {
	s := newScene(t)
	check := func(want string) {
		t.Helper()
		if got, err := room.HistoryVisibility(s.state); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	check("shared")
	for _, v := range []string{"world_readable", "shared", "invited", "joined"} {
		s.set("m.room.history_visibility", "", creator, map[string]any{"history_visibility": v})
		check(v)
	}
	for _, v := range []any{"magic", 1, nil} {
		s.set("m.room.history_visibility", "", creator, map[string]any{"history_visibility": v})
		check("shared")
	}
}

func TestMembership(t *testing.T) {
	s := newScene(t)
	for u, want := range map[event.UserID]string{user: "join", banned: "ban", invited: "invite", stranger: "leave"} {
		if got, err := room.Membership(s.state, u); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", u, got, err, want)
		}
	}
}

// Events that change the visibility or the membership are seen if the state
// before or after them allows it.
func TestSee(t *testing.T) {
	visibility := func(v string) event.Body {
		return event.Body{Type: "m.room.history_visibility", StateKey: key(""), Content: content(map[string]any{"history_visibility": v})}
	}
	membership := func(u event.UserID, m string) event.Body {
		return event.Body{Type: "m.room.member", StateKey: key(string(u)), Content: content(map[string]any{"membership": m})}
	}
	message := event.Body{Type: "m.room.message", Content: content(nil)}
	for _, c := range []struct {
		name   string
		before string
		e      event.Body
		who    event.UserID
		later  bool
		want   bool
	}{
		{"member, message", "joined", message, user, false, true},
		{"stranger, message", "joined", message, stranger, true, false},
		{"stranger who joined later, message", "shared", message, stranger, true, true},
		{"stranger, message, world readable", "world_readable", message, stranger, false, true},
		{"invited, message", "invited", message, invited, false, true},
		{"invited, message, joined later", "joined", message, invited, true, false},
		{"stranger, closing", "world_readable", visibility("joined"), stranger, false, true},
		{"stranger, opening", "joined", visibility("world_readable"), stranger, false, true},
		{"stranger, neither", "joined", visibility("invited"), stranger, false, false},
		{"own join", "joined", membership(stranger, "join"), stranger, false, true},
		{"own leave", "joined", membership(user, "leave"), user, false, true},
		{"own invite, invited", "invited", membership(stranger, "invite"), stranger, false, true},
		{"own invite, joined", "joined", membership(stranger, "invite"), stranger, false, false},
		{"own ban after leaving", "joined", membership(gone, "ban"), gone, false, false},
		{"somebody else's join", "joined", membership(gone, "join"), stranger, false, false},
	} {
		s := newScene(t)
		s.set("m.room.history_visibility", "", creator, map[string]any{"history_visibility": c.before})
		c.e.Room, c.e.Sender = roomID, creator
		got, err := room.See(made(t, labelID("e"), c.e), s.state, c.who, c.later)
		if got != c.want || err != nil {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
	for _, fails := range []string{"m.room.history_visibility", "m.room.member"} {
		broken := stateFunc(func(typ, _ string) (*event.Event, error) {
			if typ == fails {
				return nil, errBroken
			}
			return nil, nil
		})
		if _, err := room.See(&event.Event{Body: message}, broken, user, false); err == nil {
			t.Errorf("no error when %s cannot be read", fails)
		}
	}
}
