package room_test

import (
	"fmt"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// levelsOf reads power levels with this content; "" stands for none. The event is
// made by hand, so that contents which no event can have are read too.
func levelsOf(t *testing.T, raw string) room.Levels {
	t.Helper()
	st := mapState{}
	if raw != "" {
		st[room.Key{Type: "m.room.power_levels"}] = &event.Event{Body: event.Body{Content: []byte(raw)}}
	}
	l, err := room.LevelsOf(newScene(t).state[room.Key{Type: "m.room.create"}], st)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLevels(t *testing.T) {
	full := `{"users":{"@user:d":7,"@\u00fc:d":8,"@\"q\":d":9},"users_default":1,"events":{"im.a":11,"im.b":-12},"events_default":2,
		"state_default":3,"ban":4,"kick":5,"redact":6,"invite":10,"notifications":{"room":13}}`
	for _, c := range []struct {
		name, content                       string
		user, other, a, msg, state          int64
		ban, kick, redact, invite, room, xx int64
	}{
		{"no event", "", 0, 0, 0, 0, 50, 50, 50, 50, 0, 50, 50},
		{"empty", "{}", 0, 0, 0, 0, 50, 50, 50, 50, 0, 50, 50},
		{"full", full, 7, 1, 11, 2, 3, 4, 5, 6, 10, 13, 50},
		{"not sorted, with spaces", ` { "users" : {"@z:d":1 , "@user:d": 7,"@a:d":3}, "kick":5 , "ban":4 } `, 7, 0, 0, 0, 50, 4, 5, 50, 0, 50, 50},
		{"what is no integer counts as absent", `{"users":{"@user:d":"7","@x:d":1},"users_default":1.5,"events":[],"ban":"4","kick":null,"redact":9007199254740992,"invite":007}`, 0, 0, 0, 0, 50, 50, 50, 50, 0, 50, 50},
		{"no object", `[]`, 0, 0, 0, 0, 50, 50, 50, 50, 0, 50, 50},
		{"broken off", `{"ban":4,"kick":`, 0, 0, 0, 0, 50, 4, 50, 50, 0, 50, 50},
		{"broken off in a string", `{"ban":4,"kick`, 0, 0, 0, 0, 50, 4, 50, 50, 0, 50, 50},
		{"broken off in an object", `{"ban":4,"users":{"@user:d":7,"x":{"`, 0, 0, 0, 0, 50, 4, 50, 50, 0, 50, 50},
		{"no colon", `{"ban" 4}`, 0, 0, 0, 0, 50, 50, 50, 50, 0, 50, 50},
		{"wrong escape", `{"ban":4,"\x":5,"kick":6}`, 0, 0, 0, 0, 50, 4, 50, 50, 0, 50, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := levelsOf(t, c.content)
			for what, v := range map[string][2]int64{
				"user":            {l.User(user), c.user},
				"other":           {l.User(stranger), c.other},
				"creator":         {l.User(creator), room.CreatorPower},
				"co-creator":      {l.User(coCreator), room.CreatorPower},
				"im.a":            {l.Event("im.a", false), c.a},
				"message":         {l.Event("m.room.message", false), c.msg},
				"state":           {l.Event("m.room.topic", true), c.state},
				"state_default":   {l.Action("state_default"), c.state},
				"users_default":   {l.Action("users_default"), c.other},
				"events_default":  {l.Action("events_default"), c.msg},
				"ban":             {l.Action("ban"), c.ban},
				"kick":            {l.Action("kick"), c.kick},
				"redact":          {l.Action("redact"), c.redact},
				"invite":          {l.Action("invite"), c.invite},
				"unknown action":  {l.Action("dance"), room.CreatorPower},
				"room":            {l.Notification("room"), c.room},
				"no notification": {l.Notification("x"), c.xx},
			} {
				if v[0] != v[1] {
					t.Errorf("%s: %d, want %d", what, v[0], v[1])
				}
			}
		})
	}
	l := levelsOf(t, `{"users":{"@\"q\":d":9,"@ü:d":8}}`)
	if l.User(`@"q":d`) != 9 || l.User("@ü:d") != 8 {
		t.Errorf("escaped and non-ASCII users: %d, %d", l.User(`@"q":d`), l.User("@ü:d"))
	}
}

func TestLevelsOfFails(t *testing.T) {
	s := newScene(t)
	if _, err := room.LevelsOf(nil, s.state); err == nil {
		t.Error("levels without create event")
	}
	broken := stateFunc(func(string, string) (*event.Event, error) { return nil, errBroken })
	if _, err := room.LevelsOf(s.state[room.Key{Type: "m.room.create"}], broken); err == nil {
		t.Error("levels of a broken state")
	}
}

// A level that power levels can hold never reaches that of creators.
func TestCreatorPowerIsAboveAll(t *testing.T) {
	l := levelsOf(t, `{"users":{"@user:d":9007199254740991},"users_default":-9007199254740991}`)
	if l.User(user) != 1<<53-1 || l.User(user) >= l.User(creator) || l.User(stranger) != -(1<<53-1) {
		t.Errorf("%d, %d, %d", l.User(user), l.User(creator), l.User(stranger))
	}
}

func TestCanRedact(t *testing.T) {
	l := levelsOf(t, `{"users":{"@mod:c":50},"redact":50}`)
	target := &event.Event{Body: event.Body{Sender: user}}
	for redactor, want := range map[event.UserID]bool{
		user:      true,  // the sender
		user2:     true,  // of the same server
		mod:       true,  // has the redact level
		stranger:  false, // neither
		creator:   true,
		"@x:dd":   false,
		"@x:d:80": false,
	} {
		if got := room.CanRedact(l, redactor, target); got != want {
			t.Errorf("%s: %v, want %v", redactor, got, want)
		}
	}
}

func TestAuthKeys(t *testing.T) {
	const power, rules = "m.room.power_levels ", "m.room.join_rules "
	m := func(u event.UserID) string { return "m.room.member " + string(u) }
	for _, c := range []struct {
		typ      string
		stateKey *string
		sender   event.UserID
		content  string
		want     []string
	}{
		{"m.room.create", key(""), creator, `{}`, nil},
		{"m.room.message", nil, user, `{}`, []string{power, m(user)}},
		{"m.room.topic", key(""), user, `{}`, []string{power, m(user)}},
		{"m.room.member", nil, user, `{"membership":"join"}`, []string{power, m(user)}},
		{"m.room.member", key(string(user)), user, `{"membership":"join"}`, []string{power, m(user), rules}},
		{"m.room.member", key(string(user)), user, `{"membership":"knock"}`, []string{power, m(user), rules}},
		{"m.room.member", key(string(user)), user, `{"membership":"leave"}`, []string{power, m(user)}},
		{"m.room.member", key(string(user)), mod, `{"membership":"leave"}`, []string{power, m(mod), m(user)}},
		{"m.room.member", key(string(user)), mod, `{"membership":"ban"}`, []string{power, m(mod), m(user)}},
		{"m.room.member", key(string(user)), mod, `{"membership":"invite"}`, []string{power, m(mod), m(user), rules}},
		{"m.room.member", key(string(user)), mod, `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`,
			[]string{power, m(mod), m(user), rules, "m.room.third_party_invite t"}},
		{"m.room.member", key(string(user)), mod, `{"membership":"invite","third_party_invite":{"signed":{"token":1}}}`,
			[]string{power, m(mod), m(user), rules}},
		{"m.room.member", key(string(user)), user, `{"membership":"join","join_authorised_via_users_server":"@mod:c"}`,
			[]string{power, m(user), rules, m(mod)}},
		{"m.room.member", key(string(user)), user, `{"membership":"join","join_authorised_via_users_server":"@user:d"}`,
			[]string{power, m(user), rules}},
		{"m.room.member", key(string(user)), user, `{"membership":"leave","join_authorised_via_users_server":"@mod:c"}`,
			[]string{power, m(user)}},
		{"m.room.member", key(string(user)), stranger, `{"membership":"join","join_authorised_via_users_server":"@mod:c"}`,
			[]string{power, m(stranger), m(user), rules, m(mod)}},
	} {
		var got []string
		for _, k := range room.AuthKeys(c.typ, c.stateKey, c.sender, []byte(c.content)) {
			got = append(got, k.Type+" "+k.StateKey)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s %s by %s:\n%v, want\n%v", c.typ, c.content, c.sender, got, c.want)
		}
	}
}
