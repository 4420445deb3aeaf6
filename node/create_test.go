package node

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// timeline returns a room's events as they were committed.
func (m *member) timeline(r event.RoomID) (out []*store.Stored) {
	m.world.t.Helper()
	m.world.must(m.store.View(func(tx *store.Tx) (err error) {
		out, _, err = tx.Timeline(r, 0, 1<<62, 1000)
		return err
	}))
	return out
}

// The order of the specification, and what each preset sets.
func TestCreateRoomOrder(t *testing.T) {
	w := newWorld(t, 30, acme)
	a := w.nodes[acme]
	alice, ann := a.user("alice"), a.user("ann")
	r := a.create(alice, CreateRequest{
		AliasName: "board", Name: "Board", Topic: "Plans", Invite: []event.UserID{ann}, IsDirect: true, Visibility: "public",
		Preset: "private_chat",
		InitialState: []InitialState{
			{Type: "m.room.guest_access", Content: json.RawMessage(`{"guest_access":"forbidden"}`)},
			{Type: typeName, Content: json.RawMessage(`{"name":"overwritten"}`)},
			{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
		},
	})
	var types []string
	events := a.timeline(r)
	for _, e := range events {
		types = append(types, e.Type)
	}
	want := []string{
		typeCreate, typeMember, typePowerLevels, typeAlias, typeJoinRules, typeVisibility,
		"m.room.guest_access", "m.room.encryption", typeName, typeTopic, typeMember,
	}
	if !slices.Equal(types, want) {
		t.Fatalf("%v, not %v", types, want)
	}
	for i, e := range events {
		if !e.Local || i > 0 && (len(e.Prev) != 1 || e.Prev[0] != events[i-1].ID()) {
			t.Errorf("event %d is not a link of a chain", i)
		}
	}
	last := events[len(events)-1]
	if last.Membership() != invite || !strings.Contains(string(last.Content), `"is_direct":true`) ||
		!strings.Contains(string(last.Content), `"displayname":"ann"`) {
		t.Errorf("invite %s", last.Content)
	}
	salt, err := base64.RawStdEncoding.DecodeString(events[0].Field(saltKey))
	if err != nil || len(salt) != 32 || string(topicSalt(events[0].Event)) != string(salt) {
		t.Errorf("salt %q: %v", salt, err)
	}
	if got := a.stateEvent(r, typeTopic, "").Content; string(got) != `{"m.topic":{"m.text":[{"body":"Plans","mimetype":"text/plain"}]},"topic":"Plans"}` {
		t.Errorf("topic %s", got)
	}
	w.must(a.store.View(func(tx *store.Tx) error {
		id, by, err := tx.Alias("#board:acme")
		if id != r || by != alice {
			t.Errorf("alias of %s by %s", id, by)
		}
		published, err2 := tx.Published()
		if !slices.Contains(published, r) {
			t.Errorf("published %v", published)
		}
		return errors.Join(err, err2)
	}))
	id, servers, err := a.ResolveAlias(ctx0, "#board:acme")
	if id != r || !slices.Equal(servers, []event.Server{acme}) || err != nil {
		t.Errorf("%s, %v, %v", id, servers, err)
	}
	count := len(a.timeline(r))
	if _, err := a.CreateRoom(ctx0, alice, CreateRequest{AliasName: "board"}); !errors.Is(err, ErrAliasInUse) {
		t.Errorf("the alias again: %v", err)
	}
	if len(a.timeline(r)) != count {
		t.Error("the room changed")
	}
}

func TestCreateRoomPresets(t *testing.T) {
	w := newWorld(t, 31, acme)
	a := w.nodes[acme]
	alice, ann := a.user("alice"), a.user("ann")
	for _, x := range []struct {
		req         CreateRequest
		rule, guest string
		creators    string
	}{
		{CreateRequest{}, "invite", "can_join", ""},
		{CreateRequest{Visibility: "public"}, "public", "forbidden", ""},
		{CreateRequest{Visibility: "private"}, "invite", "can_join", ""},
		{CreateRequest{Visibility: "public", Preset: "private_chat"}, "invite", "can_join", ""},
		{CreateRequest{Preset: "public_chat"}, "public", "forbidden", ""},
		{CreateRequest{Preset: "trusted_private_chat", Invite: []event.UserID{ann}}, "invite", "can_join", `["@ann:acme"]`},
		{CreateRequest{Preset: "trusted_private_chat", Invite: []event.UserID{ann}, CreationContent: json.RawMessage(
			`{"additional_creators":["@x:birch","@ann:acme"],"creator":"@x:birch","room_version":"1","m.federate":false}`)},
			"invite", "can_join", `["@x:birch","@ann:acme"]`},
	} {
		r := a.create(alice, x.req)
		if got := a.stateEvent(r, typeJoinRules, "").Field("join_rule"); got != x.rule {
			t.Errorf("%+v: join rule %s", x.req, got)
		}
		if got := a.stateEvent(r, "m.room.guest_access", "").Field("guest_access"); got != x.guest {
			t.Errorf("%+v: guest access %s", x.req, got)
		}
		if got := a.stateEvent(r, typeVisibility, "").Field("history_visibility"); got != "shared" {
			t.Errorf("%+v: visibility %s", x.req, got)
		}
		var c map[string]json.RawMessage
		w.must(json.Unmarshal(a.stateEvent(r, typeCreate, "").Content, &c))
		if string(c["additional_creators"]) != x.creators || c["creator"] != nil || string(c["room_version"]) != `"12"` {
			t.Errorf("%+v: create event %s", x.req, c)
		}
	}
}

func TestCreateRoomPowerLevels(t *testing.T) {
	w := newWorld(t, 32, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	for override, want := range map[string]string{
		``:                                  `"m.room.tombstone":150`,
		`{"state_default":200}`:             `"m.room.tombstone":201`,
		`{"events":{}}`:                     `"events":{"m.room.tombstone":150}`,
		`{"events":{},"state_default":200}`: `"events":{"m.room.tombstone":201}`,
		`{"users":{"@alice:acme":100,"@ann:acme":50}}`:     `"users":{"@ann:acme":50}`,
		`{"invite":100,"m.x":1}`:                           `"invite":100`,
		`{"events":{"m.room.tombstone":10,"m.room.x":20}}`: `"events":{"m.room.tombstone":10,"m.room.x":20}`,
	} {
		r := a.create(alice, CreateRequest{PowerLevelContent: json.RawMessage(override)})
		if got := string(a.stateEvent(r, typePowerLevels, "").Content); !strings.Contains(got, want) {
			t.Errorf("%s: %s", override, got)
		}
	}
}

func TestCreateRoomErrors(t *testing.T) {
	w := newWorld(t, 33, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	for name, x := range map[string]struct {
		req  CreateRequest
		want error
	}{
		"room version":              {CreateRequest{RoomVersion: "11"}, ErrRoomVersion},
		"visibility":                {CreateRequest{Visibility: "secret"}, ErrBadRequest},
		"preset":                    {CreateRequest{Preset: "party"}, ErrBadRequest},
		"invite":                    {CreateRequest{Invite: []event.UserID{"ann"}}, ErrBadRequest},
		"invite of oneself":         {CreateRequest{Invite: []event.UserID{alice}}, ErrBadRequest},
		"alias":                     {CreateRequest{AliasName: "a:b"}, ErrBadRequest},
		"long alias":                {CreateRequest{AliasName: strings.Repeat("a", 255)}, ErrBadRequest},
		"creation content":          {CreateRequest{CreationContent: json.RawMessage(`[]`)}, ErrBadRequest},
		"creators":                  {CreateRequest{CreationContent: json.RawMessage(`{"additional_creators":5}`)}, ErrBadRequest},
		"a creator's name":          {CreateRequest{CreationContent: json.RawMessage(`{"additional_creators":["x"]}`)}, ErrRoomState},
		"power levels":              {CreateRequest{PowerLevelContent: json.RawMessage(`"x"`)}, ErrBadRequest},
		"power levels of no number": {CreateRequest{PowerLevelContent: json.RawMessage(`{"ban":"50"}`)}, ErrRoomState},
		"a second create event":     {CreateRequest{InitialState: []InitialState{{Type: typeCreate, Content: json.RawMessage(`{}`)}}}, ErrBadRequest},
		"initial state of nobody":   {CreateRequest{InitialState: []InitialState{{Type: "x", StateKey: "@x:acme", Content: json.RawMessage(`{}`)}}}, ErrRoomState},
		"initial state not object":  {CreateRequest{InitialState: []InitialState{{Type: "x", Content: json.RawMessage(`[]`)}}}, event.ErrInvalid},
		"too large":                 {CreateRequest{Name: strings.Repeat("x", event.MaxSize)}, event.ErrTooLarge},
	} {
		_, err := a.CreateRoom(ctx0, alice, x.req)
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v, not %v", name, err, x.want)
		}
	}
	w.must(a.store.View(func(tx *store.Tx) error {
		rooms, err := tx.Rooms()
		if len(rooms) > 0 {
			t.Errorf("%d rooms were made", len(rooms))
		}
		return err
	}))
	if _, err := a.CreateRoom(ctx0, "@x:birch", CreateRequest{}); !errors.Is(err, ErrForbidden) {
		t.Errorf("a user of another server: %v", err)
	}
}

// A repeated request returns the first event id, across restarts too.
func TestSendOnce(t *testing.T) {
	w := newWorld(t, 34, acme)
	a := w.nodes[acme]
	alice := a.user("alice")
	r := a.create(alice, CreateRequest{})
	req := SendRequest{User: alice, Device: "D", Room: r, Type: "m.room.message", Content: message("once"), Scope: "send", TxnID: "1"}
	first, err := a.Send(ctx0, req)
	w.must(err)
	count := len(a.timeline(r))
	again, err := a.Send(ctx0, req)
	w.must(err)
	a.kill()
	a.start()
	later, err := a.Send(ctx0, req)
	w.must(err)
	if again != first || later != first || len(a.timeline(r)) != count {
		t.Errorf("%s, %s, %s, %d events", first, again, later, len(a.timeline(r))-count)
	}
	for name, change := range map[string]func(*SendRequest){
		"device": func(r *SendRequest) { r.Device = "E" },
		"txn":    func(r *SendRequest) { r.TxnID = "2" },
		"scope":  func(r *SendRequest) { r.Scope = "redact" },
	} {
		other := req
		change(&other)
		if id, err := a.Send(ctx0, other); err != nil || id == first {
			t.Errorf("another %s: %s, %v", name, id, err)
		}
	}
}

func TestSendErrors(t *testing.T) {
	w := newWorld(t, 35, acme)
	a := w.nodes[acme]
	alice, ann := a.user("alice"), a.user("ann")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	id := a.say(alice, r, "mine")
	w.must(a.Join(ctx0, ann, r, nil, nil))
	count := len(a.timeline(r))
	none := ""
	redacts := func(id event.ID) json.RawMessage { return marshalled(map[string]event.ID{"redacts": id}) }
	for name, x := range map[string]struct {
		req  SendRequest
		want error
	}{
		"not in the room":      {SendRequest{User: "@ben:acme", Room: r, Type: "x", Content: json.RawMessage(`{}`)}, room.ErrForbidden},
		"unknown room":         {SendRequest{User: alice, Room: "!" + r[1:20] + event.RoomID(strings.Repeat("A", 24)), Type: "x", Content: json.RawMessage(`{}`)}, ErrForbidden},
		"remote user":          {SendRequest{User: "@x:birch", Room: r, Type: "x", Content: json.RawMessage(`{}`)}, ErrForbidden},
		"no power":             {SendRequest{User: ann, Room: r, Type: typeTopic, StateKey: &none, Content: json.RawMessage(`{}`)}, room.ErrForbidden},
		"too large":            {SendRequest{User: alice, Room: r, Type: "x", Content: message(strings.Repeat("x", event.MaxSize))}, event.ErrTooLarge},
		"no object":            {SendRequest{User: alice, Room: r, Type: "x", Content: json.RawMessage(`1`)}, event.ErrInvalid},
		"no JSON":              {SendRequest{User: alice, Room: r, Type: "x", Content: json.RawMessage(`{`)}, event.ErrInvalid},
		"fraction":             {SendRequest{User: alice, Room: r, Type: "x", Content: json.RawMessage(`{"a":1.5}`)}, event.ErrInvalid},
		"another create event": {SendRequest{User: alice, Room: r, Type: typeCreate, StateKey: &none, Content: json.RawMessage(`{}`)}, ErrForbidden},
		"redacting another's":  {SendRequest{User: ann, Room: r, Type: typeRedaction, Content: redacts(id)}, ErrForbidden},
		"redacting what is not there": {SendRequest{User: alice, Room: r, Type: typeRedaction,
			Content: redacts("$" + event.ID(strings.Repeat("A", 43)))}, store.ErrNotFound},
		"redacting nothing": {SendRequest{User: alice, Room: r, Type: typeRedaction, Content: json.RawMessage(`{}`)}, ErrBadRequest},
	} {
		if got, err := a.Send(ctx0, x.req); !errors.Is(err, x.want) || got != "" {
			t.Errorf("%s: %s, %v, not %v", name, got, err, x.want)
		}
	}
	if got := len(a.timeline(r)); got != count {
		t.Errorf("%d events more", got-count)
	}
	if _, err := a.Send(ctx0, SendRequest{User: alice, Room: r, Type: typeRedaction, Content: redacts(id)}); err != nil {
		t.Error(err)
	}
}

func TestProfileReachesRooms(t *testing.T) {
	w, a, b, alice, bob, r := pair(t, 36)
	w.must(b.SetProfile(ctx0, bob, "displayname", quote("Bob B.")))
	w.wait("the new name", func() error {
		if e := a.stateEvent(r, typeMember, string(bob)); e.Field("displayname") != "Bob B." {
			return errors.New(string(e.Content))
		}
		return nil
	})
	got, err := a.Profile(ctx0, bob)
	if string(got["displayname"]) != `"Bob B."` || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	count := len(b.timeline(r))
	w.must(b.SetProfile(ctx0, bob, "displayname", quote("Bob B.")))
	w.must(b.SetProfile(ctx0, bob, "m.tz", quote("UTC")))
	if len(b.timeline(r)) != count {
		t.Error("events for nothing")
	}
	w.must(b.SetProfile(ctx0, bob, "displayname", nil))
	if e := b.stateEvent(r, typeMember, string(bob)); string(e.Content) != `{"membership":"join"}` {
		t.Errorf("%s", e.Content)
	}
	if _, err := a.Profile(ctx0, "@nobody:birch"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := a.Profile(ctx0, "@x:cedar"); !errors.Is(err, ErrNoRoute) {
		t.Error(err)
	}
	if _, err := a.Profile(ctx0, "alice"); !errors.Is(err, ErrBadRequest) {
		t.Error(err)
	}
	if _, err := a.Profile(ctx0, alice); err != nil {
		t.Error(err)
	}
}

func TestAliasOfAnotherServer(t *testing.T) {
	w := newWorld(t, 37, acme, birch)
	a, b := w.nodes[acme], w.nodes[birch]
	alice, bob := a.user("alice"), b.user("bob")
	r := a.create(alice, CreateRequest{AliasName: "lobby", Preset: "public_chat"})
	got, servers, err := b.ResolveAlias(ctx0, "#lobby:acme")
	if got != r || !slices.Equal(servers, []event.Server{acme}) || err != nil {
		t.Fatalf("%s, %v, %v", got, servers, err)
	}
	w.must(b.Join(ctx0, bob, got, servers, nil))
	for alias, want := range map[string]error{
		"#none:acme": store.ErrNotFound, "#none:birch": store.ErrNotFound, "#x:cedar": ErrNoRoute, "lobby": ErrBadRequest, "#a b:acme": ErrBadRequest,
	} {
		if _, _, err := b.ResolveAlias(ctx0, alias); !errors.Is(err, want) {
			t.Errorf("%s: %v", alias, err)
		}
	}
}
