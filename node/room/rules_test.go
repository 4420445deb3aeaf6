package room_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
)

// The people of the room that the rules are tested in.
const (
	creator   = event.UserID("@creator:a")
	coCreator = event.UserID("@cocreator:b")
	admin     = event.UserID("@admin:b") // power 100
	admin2    = event.UserID("@admin2:b")
	mod       = event.UserID("@mod:c") // power 50
	user      = event.UserID("@user:d")
	user2     = event.UserID("@user2:d")
	banned    = event.UserID("@banned:e")
	invited   = event.UserID("@invited:e")
	knocking  = event.UserID("@knocking:e")
	gone      = event.UserID("@gone:e")
	stranger  = event.UserID("@stranger:f")
)

var (
	createID = labelID("create")
	roomID   = createID.Room()
)

// scene is a room with an event that wants in.
type scene struct {
	tb    testing.TB
	state mapState
	e     event.Body
	sigs  []event.Server
	auth  func([]room.Found) []room.Found
	noRm  bool // the create event is not known
}

func newScene(tb testing.TB) *scene {
	s := &scene{tb: tb, state: mapState{}}
	s.set("m.room.create", "", creator, map[string]any{"room_version": "12", "additional_creators": []event.UserID{coCreator}})
	s.set("m.room.power_levels", "", creator, map[string]any{
		"users":         map[event.UserID]int{admin: 100, admin2: 100, mod: 50},
		"events":        map[string]int{"m.room.name": 50, "m.room.power_levels": 50, "pinned": 75, "im.high": 100},
		"notifications": map[string]int{"room": 50, "im.high": 100},
		"invite":        25, "kick": 50, "ban": 60, "state_default": 50,
	})
	s.set("m.room.join_rules", "", creator, map[string]any{"join_rule": "invite"})
	for _, u := range []event.UserID{creator, coCreator, admin, admin2, mod, user, user2} {
		s.member(u, u, "join")
	}
	s.member(admin, banned, "ban")
	s.member(admin, invited, "invite")
	s.member(knocking, knocking, "knock")
	s.member(gone, gone, "leave")
	return s
}

func (s *scene) set(typ, stateKey string, sender event.UserID, c map[string]any) {
	b := event.Body{Room: roomID, Type: typ, StateKey: &stateKey, Sender: sender, Content: content(c)}
	id := labelID(strings.NewReplacer("@", "", ":", "_", ".", "_").Replace(typ + "_" + stateKey))
	if typ == "m.room.create" {
		id, b.Room = createID, ""
	}
	s.state[room.Key{Type: typ, StateKey: stateKey}] = made(s.tb, id, b)
}

func (s *scene) member(sender, target event.UserID, membership string) {
	s.set("m.room.member", string(target), sender, map[string]any{"membership": membership})
}

func (s *scene) joinRule(r string) {
	s.set("m.room.join_rules", "", creator, map[string]any{"join_rule": r})
}

// power changes entries of the power levels in force.
func (s *scene) power(c map[string]any) {
	s.set("m.room.power_levels", "", creator, s.levels(c))
}

// levels is the content of the power levels in force with entries changed; nil
// removes one.
func (s *scene) levels(c map[string]any) map[string]any {
	now := map[string]any{}
	if err := json.Unmarshal(s.state[room.Key{Type: "m.room.power_levels"}].Content, &now); err != nil {
		s.tb.Fatal(err)
	}
	for k, v := range c {
		path := strings.SplitN(k, "/", 2)
		object := now
		if len(path) == 2 {
			object = now[path[0]].(map[string]any)
		}
		object[path[len(path)-1]] = v
		if v == nil {
			delete(object, path[len(path)-1])
		}
	}
	return now
}

func (s *scene) sends(sender event.UserID, typ string, stateKey *string, c map[string]any) {
	s.e = event.Body{Type: typ, StateKey: stateKey, Sender: sender, Content: content(c)}
}

func (s *scene) sendsMember(sender, target event.UserID, c map[string]any) {
	s.sends(sender, "m.room.member", key(string(target)), c)
}

func (s *scene) sendsMembership(sender, target event.UserID, membership string) {
	s.sendsMember(sender, target, map[string]any{"membership": membership})
}

func (s *scene) sendsLevels(sender event.UserID, c map[string]any) {
	s.sends(sender, "m.room.power_levels", key(""), s.levels(c))
}

func (s *scene) sendsCreate(c map[string]any) { s.sends(creator, "m.room.create", key(""), c) }

// judge has the event judged in the room.
func (s *scene) judge() (room.Verdict, error) {
	b := s.e
	in := room.Input{Create: s.state[room.Key{Type: "m.room.create"}], Before: s.state}
	if b.Type != "m.room.create" {
		if b.Room == "" {
			b.Room = roomID
		}
		if b.Prev == nil {
			b.Prev = []event.ID{labelID("last")}
		}
	}
	for _, k := range room.AuthKeys(b.Type, b.StateKey, b.Sender, b.Content) {
		if e := s.state[k]; e != nil {
			in.Auth = append(in.Auth, room.Found{Event: e})
		}
	}
	if s.auth != nil {
		in.Auth = s.auth(in.Auth)
	}
	b.Auth = nil
	for _, f := range in.Auth {
		b.Auth = append(b.Auth, f.ID())
	}
	if s.noRm {
		in.Create = nil
	}
	return room.Judge(made(s.tb, labelID("new"), b, s.sigs...), in)
}

// ruleCase is an event that a rule is about. want is the number of the rule that
// refuses it, empty if it is allowed.
type ruleCase struct {
	rule string
	name string
	want string
	set  func(s *scene)
}

// identity is the identity server of third-party invites.
var identity = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// thirdParty lets sender invite stranger by a token; alter changes what was signed.
func (s *scene) thirdParty(sender event.UserID, keys map[string]any, alter func(signed map[string]any)) {
	s.set("m.room.third_party_invite", "token", mod, keys)
	raw, err := event.SignJSON(content(map[string]any{"mxid": stranger, "token": "token", "sender": sender}),
		event.SigningKey{Server: "id.example", ID: "ed25519:0", Private: identity})
	if err != nil {
		s.tb.Fatal(err)
	}
	signed := map[string]any{}
	if err := json.Unmarshal(raw, &signed); err != nil {
		s.tb.Fatal(err)
	}
	if alter != nil {
		alter(signed)
	}
	s.sendsMember(sender, stranger, map[string]any{
		"membership": "invite", "third_party_invite": map[string]any{"display_name": "s", "signed": signed},
	})
}

func publicKey() map[string]any {
	return map[string]any{"public_key": base64.RawURLEncoding.EncodeToString(identity.Public().(ed25519.PublicKey))}
}

var ruleCases = []ruleCase{
	{"1.1", "first event", "", func(s *scene) { s.sendsCreate(map[string]any{"room_version": "12"}) }},
	{"1.1", "prev_events", "1.1", func(s *scene) {
		s.sendsCreate(map[string]any{})
		s.e.Prev = []event.ID{labelID("x")}
	}},
	{"1.3", "version 12", "", func(s *scene) { s.sendsCreate(map[string]any{"room_version": "12"}) }},
	{"1.3", "version not given", "", func(s *scene) { s.sendsCreate(map[string]any{}) }},
	{"1.3", "version 11", "1.3", func(s *scene) { s.sendsCreate(map[string]any{"room_version": "11"}) }},
	{"1.3", "version is a number", "1.3", func(s *scene) { s.sendsCreate(map[string]any{"room_version": 12}) }},
	{"1.4", "user ids", "", func(s *scene) { s.sendsCreate(map[string]any{"additional_creators": []string{"@x:y"}}) }},
	{"1.4", "nobody", "", func(s *scene) { s.sendsCreate(map[string]any{"additional_creators": []string{}}) }},
	{"1.4", "no array", "1.4", func(s *scene) { s.sendsCreate(map[string]any{"additional_creators": "@x:y"}) }},
	{"1.4", "no string", "1.4", func(s *scene) { s.sendsCreate(map[string]any{"additional_creators": []any{"@x:y", 1}}) }},
	{"1.4", "no user id", "1.4", func(s *scene) { s.sendsCreate(map[string]any{"additional_creators": []any{"x:y"}}) }},
	{"1.5", "anything else", "", func(s *scene) { s.sendsCreate(map[string]any{"m.federate": false, "type": "m.space"}) }},
	{"1.5", "with a state key", "1", func(s *scene) { s.sends(creator, "m.room.create", key("x"), map[string]any{}) }},

	{"2", "known room", "", func(s *scene) { s.sends(user, "m.room.message", nil, nil) }},
	{"2", "another room", "2", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.e.Room = labelID("other").Room()
		s.auth = func([]room.Found) []room.Found { return nil }
	}},
	{"2", "create event rejected or not known", "2", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.noRm = true
	}},

	{"3.1", "each place once", "", func(s *scene) { s.sendsMembership(admin, gone, "invite") }},
	{"3.1", "a place twice", "3.1", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.auth = func(f []room.Found) []room.Found {
			again := made(s.tb, labelID("again"), event.Body{Room: roomID, Type: "m.room.member", StateKey: key(string(user)),
				Sender: user, Content: content(map[string]any{"membership": "join"})})
			return append(f, room.Found{Event: again})
		}
	}},
	{"3.2", "fewer than selected, enough", "", func(s *scene) {
		s.sendsMembership(user, user, "leave")
		s.auth = func(f []room.Found) []room.Found { return f[1:] } // without power levels
	}},
	{"3.2", "not selected", "3.2", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.auth = func(f []room.Found) []room.Found {
			return append(f, room.Found{Event: s.state[room.Key{Type: "m.room.join_rules"}]})
		}
	}},
	{"3.2", "the create event", "3.2", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.auth = func(f []room.Found) []room.Found {
			return append(f, room.Found{Event: s.state[room.Key{Type: "m.room.create"}]})
		}
	}},
	{"3.2", "a message", "3.2", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.auth = func(f []room.Found) []room.Found {
			return append(f, room.Found{Event: made(s.tb, labelID("message"), event.Body{Room: roomID, Type: "m.room.message",
				Sender: user, Content: content(nil)})})
		}
	}},
	{"3.3", "accepted", "", func(s *scene) { s.sends(user, "m.room.message", nil, nil) }},
	{"3.3", "rejected", "3.3", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.auth = func(f []room.Found) []room.Found { f[0].Rejected = true; return f }
	}},
	{"3.4", "same room", "", func(s *scene) { s.sends(user, "m.room.message", nil, nil) }},
	{"3.4", "another room", "3.4", func(s *scene) {
		s.sends(user, "m.room.message", nil, nil)
		s.auth = func(f []room.Found) []room.Found {
			b := f[1].Body
			b.Room = labelID("other").Room()
			return []room.Found{f[0], {Event: made(s.tb, labelID("elsewhere"), b)}}
		}
	}},

	{"4", "local sender", "", func(s *scene) {
		s.set("m.room.create", "", creator, map[string]any{"m.federate": false})
		s.sends(creator, "m.room.message", nil, nil)
	}},
	{"4", "open room", "", func(s *scene) {
		s.set("m.room.create", "", creator, map[string]any{"m.federate": true})
		s.sends(user, "m.room.message", nil, nil)
	}},
	{"4", "not the boolean", "", func(s *scene) {
		s.set("m.room.create", "", creator, map[string]any{"m.federate": "false"})
		s.sends(user, "m.room.message", nil, nil)
	}},
	{"4", "sender elsewhere", "4", func(s *scene) {
		s.set("m.room.create", "", creator, map[string]any{"m.federate": false})
		s.sends(user, "m.room.message", nil, nil)
	}},

	{"5.1", "both", "", func(s *scene) { s.sendsMembership(user, user, "join") }},
	{"5.1", "no state key", "5.1", func(s *scene) { s.sends(user, "m.room.member", nil, map[string]any{"membership": "join"}) }},
	{"5.1", "no membership", "5.1", func(s *scene) { s.sendsMember(user, user, map[string]any{}) }},
	{"5.2.1", "signed", "", func(s *scene) {
		s.sendsMember(user, user, map[string]any{"membership": "join", "join_authorised_via_users_server": mod})
		s.sigs = []event.Server{"c"}
	}},
	{"5.2.1", "not signed", "5.2.1", func(s *scene) {
		s.sendsMember(user, user, map[string]any{"membership": "join", "join_authorised_via_users_server": mod})
	}},
	{"5.2.1", "no user", "5.2.1", func(s *scene) {
		s.sendsMember(user, user, map[string]any{"membership": "join", "join_authorised_via_users_server": 1})
	}},
	{"5.2.1", "not signed, other membership", "5.2.1", func(s *scene) {
		s.sendsMember(user, user, map[string]any{"membership": "leave", "join_authorised_via_users_server": mod})
	}},

	{"5.3.1", "creator behind create", "", func(s *scene) {
		s.state = mapState{room.Key{Type: "m.room.create"}: s.state[room.Key{Type: "m.room.create"}]}
		s.sendsMembership(creator, creator, "join")
		s.e.Prev = []event.ID{createID}
	}},
	{"5.3.1", "creator later", "5.3.7", func(s *scene) {
		s.state = mapState{room.Key{Type: "m.room.create"}: s.state[room.Key{Type: "m.room.create"}]}
		s.sendsMembership(creator, creator, "join")
		s.e.Prev = []event.ID{createID, labelID("x")}
	}},
	{"5.3.1", "additional creator", "5.3.7", func(s *scene) {
		s.state = mapState{room.Key{Type: "m.room.create"}: s.state[room.Key{Type: "m.room.create"}]}
		s.sendsMembership(coCreator, coCreator, "join")
		s.e.Prev = []event.ID{createID}
	}},
	{"5.3.2", "oneself", "", func(s *scene) { s.joinRule("public"); s.sendsMembership(stranger, stranger, "join") }},
	{"5.3.2", "somebody else", "5.3.2", func(s *scene) { s.joinRule("public"); s.sendsMembership(creator, stranger, "join") }},
	{"5.3.3", "not banned", "", func(s *scene) { s.joinRule("public"); s.sendsMembership(gone, gone, "join") }},
	{"5.3.3", "banned", "5.3.3", func(s *scene) { s.joinRule("public"); s.sendsMembership(banned, banned, "join") }},
	{"5.3.4", "invited", "", func(s *scene) { s.sendsMembership(invited, invited, "join") }},
	{"5.3.4", "invited, rule knock", "", func(s *scene) { s.joinRule("knock"); s.sendsMembership(invited, invited, "join") }},
	{"5.3.4", "joined", "", func(s *scene) { s.sendsMembership(user, user, "join") }},
	{"5.3.4", "no join rules, invited", "", func(s *scene) {
		delete(s.state, room.Key{Type: "m.room.join_rules"})
		s.sendsMembership(invited, invited, "join")
	}},
	{"5.3.4", "not invited", "5.3.7", func(s *scene) { s.sendsMembership(stranger, stranger, "join") }},
	{"5.3.4", "knocking only", "5.3.7", func(s *scene) { s.joinRule("knock"); s.sendsMembership(knocking, knocking, "join") }},
	{"5.3.5.1", "invited", "", func(s *scene) { s.joinRule("restricted"); s.sendsMembership(invited, invited, "join") }},
	{"5.3.5.1", "joined", "", func(s *scene) { s.joinRule("knock_restricted"); s.sendsMembership(user, user, "join") }},
	{"5.3.5.1", "neither", "5.3.5.2", func(s *scene) { s.joinRule("restricted"); s.sendsMembership(stranger, stranger, "join") }},
	{"5.3.5.2", "joined with invite level", "", func(s *scene) { s.restricted("restricted", mod) }},
	{"5.3.5.2", "below the invite level", "5.3.5.2", func(s *scene) { s.restricted("restricted", user) }},
	{"5.3.5.2", "not joined", "5.3.5.2", func(s *scene) {
		s.member(mod, mod, "leave")
		s.restricted("knock_restricted", mod)
	}},
	{"5.3.5.3", "otherwise", "", func(s *scene) { s.restricted("knock_restricted", creator) }},
	{"5.3.5.3", "banned all the same", "5.3.3", func(s *scene) {
		s.member(admin, stranger, "ban")
		s.restricted("knock_restricted", creator)
	}},
	{"5.3.6", "public", "", func(s *scene) { s.joinRule("public"); s.sendsMembership(stranger, stranger, "join") }},
	{"5.3.6", "private", "5.3.7", func(s *scene) { s.joinRule("private"); s.sendsMembership(stranger, stranger, "join") }},
	{"5.3.7", "unknown join rule, creator", "5.3.7", func(s *scene) { s.joinRule("magic"); s.sendsMembership(creator, creator, "join") }},
	{"5.3.7", "known join rule", "", func(s *scene) { s.joinRule("knock"); s.sendsMembership(creator, creator, "join") }},

	{"5.4.1.1", "not banned", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.1", "banned", "5.4.1.1", func(s *scene) { s.member(admin, stranger, "ban"); s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.2", "signed", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.2", "not signed", "5.4.1.2", func(s *scene) {
		s.sendsMember(mod, stranger, map[string]any{"membership": "invite", "third_party_invite": map[string]any{}})
	}},
	{"5.4.1.3", "both", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.3", "no mxid", "5.4.1.3", func(s *scene) {
		s.thirdParty(mod, publicKey(), func(signed map[string]any) { delete(signed, "mxid") })
	}},
	{"5.4.1.3", "no token", "5.4.1.3", func(s *scene) {
		s.thirdParty(mod, publicKey(), func(signed map[string]any) { delete(signed, "token") })
	}},
	{"5.4.1.4", "same user", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.4", "another user", "5.4.1.4", func(s *scene) {
		s.thirdParty(mod, publicKey(), func(signed map[string]any) { signed["mxid"] = gone })
	}},
	{"5.4.1.5", "token known", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.5", "token not known", "5.4.1.5", func(s *scene) {
		s.thirdParty(mod, publicKey(), func(signed map[string]any) { signed["token"] = "other" })
	}},
	{"5.4.1.6", "same sender", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.6", "another sender", "5.4.1.6", func(s *scene) { s.thirdParty(admin, publicKey(), nil) }},
	{"5.4.1.7.1", "public_key", "", func(s *scene) { s.thirdParty(mod, publicKey(), nil) }},
	{"5.4.1.7.1", "another public_key", "5.4.1.8", func(s *scene) {
		s.thirdParty(mod, map[string]any{"public_key": strings.Repeat("B", 43)}, nil)
	}},
	{"5.4.1.7.2", "public_keys", "", func(s *scene) {
		s.thirdParty(mod, map[string]any{"public_key": 1, "public_keys": []any{1, map[string]any{}, publicKey()}}, nil)
	}},
	{"5.4.1.7.2", "padded, standard alphabet", "", func(s *scene) {
		k := base64.StdEncoding.EncodeToString(identity.Public().(ed25519.PublicKey))
		s.thirdParty(mod, map[string]any{"public_keys": []any{map[string]any{"public_key": k}}}, nil)
	}},
	{"5.4.1.7.2", "no keys", "5.4.1.8", func(s *scene) { s.thirdParty(mod, map[string]any{"public_keys": []any{}}, nil) }},
	{"5.4.1.8", "what was signed was changed", "5.4.1.8", func(s *scene) {
		s.thirdParty(mod, publicKey(), func(signed map[string]any) { signed["sender"] = "x" })
	}},
	{"5.4.1.8", "unsigned was changed", "", func(s *scene) {
		s.thirdParty(mod, publicKey(), func(signed map[string]any) { signed["unsigned"] = map[string]any{"x": 1} })
	}},
	{"5.4.1.8", "more keys than anybody has", "5.4.1.8", func(s *scene) {
		list := []any{publicKey()}
		for i := range 40 {
			list = append(list, map[string]any{"public_key": fmt.Sprintf("%042dA", i)})
		}
		s.thirdParty(mod, map[string]any{"public_keys": list}, nil)
	}},
	{"5.4.2", "joined", "", func(s *scene) { s.sendsMembership(mod, stranger, "invite") }},
	{"5.4.2", "not joined", "5.4.2", func(s *scene) { s.member(mod, mod, "leave"); s.sendsMembership(mod, stranger, "invite") }},
	{"5.4.3", "left", "", func(s *scene) { s.sendsMembership(mod, gone, "invite") }},
	{"5.4.3", "invited again", "", func(s *scene) { s.sendsMembership(mod, invited, "invite") }},
	{"5.4.3", "knocking", "", func(s *scene) { s.sendsMembership(mod, knocking, "invite") }},
	{"5.4.3", "joined", "5.4.3", func(s *scene) { s.sendsMembership(mod, user, "invite") }},
	{"5.4.3", "banned", "5.4.3", func(s *scene) { s.sendsMembership(admin, banned, "invite") }},
	{"5.4.4", "invite level", "", func(s *scene) {
		s.power(map[string]any{"users/" + string(user): 25})
		s.sendsMembership(user, stranger, "invite")
	}},
	{"5.4.4", "default invite level", "", func(s *scene) { s.power(map[string]any{"invite": nil}); s.sendsMembership(user, stranger, "invite") }},
	{"5.4.4", "below", "5.4.5", func(s *scene) {
		s.power(map[string]any{"users/" + string(user): 24})
		s.sendsMembership(user, stranger, "invite")
	}},
	{"5.4.5", "creator, whatever the level", "", func(s *scene) {
		s.power(map[string]any{"invite": int64(1)<<53 - 1})
		s.sendsMembership(coCreator, stranger, "invite")
	}},
	{"5.4.5", "no power levels: 0 suffices", "", func(s *scene) {
		delete(s.state, room.Key{Type: "m.room.power_levels"})
		s.sendsMembership(user, stranger, "invite")
	}},
	{"5.4.5", "negative level", "5.4.5", func(s *scene) {
		s.power(map[string]any{"invite": 0, "users_default": -1})
		s.sendsMembership(user, stranger, "invite")
	}},

	{"5.5.1", "joined", "", func(s *scene) { s.sendsMembership(user, user, "leave") }},
	{"5.5.1", "invited", "", func(s *scene) { s.sendsMembership(invited, invited, "leave") }},
	{"5.5.1", "knocking", "", func(s *scene) { s.sendsMembership(knocking, knocking, "leave") }},
	{"5.5.1", "left", "5.5.1", func(s *scene) { s.sendsMembership(gone, gone, "leave") }},
	{"5.5.1", "banned", "5.5.1", func(s *scene) { s.sendsMembership(banned, banned, "leave") }},
	{"5.5.1", "never there", "5.5.1", func(s *scene) { s.sendsMembership(stranger, stranger, "leave") }},
	{"5.5.2", "joined", "", func(s *scene) { s.sendsMembership(mod, user, "leave") }},
	{"5.5.2", "not joined", "5.5.2", func(s *scene) { s.member(mod, mod, "leave"); s.sendsMembership(mod, user, "leave") }},
	{"5.5.3", "ban level", "", func(s *scene) { s.sendsMembership(admin, banned, "leave") }},
	{"5.5.3", "kick level only", "5.5.3", func(s *scene) { s.sendsMembership(mod, banned, "leave") }},
	{"5.5.4", "kick level and more power", "", func(s *scene) { s.sendsMembership(mod, user, "leave") }},
	{"5.5.4", "kick an invited user", "", func(s *scene) { s.sendsMembership(mod, invited, "leave") }},
	{"5.5.4", "as much power", "5.5.5", func(s *scene) { s.sendsMembership(admin, admin2, "leave") }},
	{"5.5.5", "ban level but no kick level", "5.5.5", func(s *scene) {
		s.power(map[string]any{"kick": 101})
		s.sendsMembership(admin, banned, "leave")
	}},
	{"5.5.5", "creator kicks admin", "", func(s *scene) { s.sendsMembership(coCreator, admin, "leave") }},
	{"5.5.5", "creator kicks creator", "5.5.5", func(s *scene) { s.sendsMembership(creator, coCreator, "leave") }},
	{"5.6.1", "joined", "", func(s *scene) { s.sendsMembership(admin, user, "ban") }},
	{"5.6.1", "not joined", "5.6.1", func(s *scene) { s.member(admin, admin, "leave"); s.sendsMembership(admin, user, "ban") }},
	{"5.6.2", "ban level and more power", "", func(s *scene) { s.sendsMembership(admin, mod, "ban") }},
	{"5.6.2", "somebody who never was there", "", func(s *scene) { s.sendsMembership(admin, stranger, "ban") }},
	{"5.6.2", "as much power", "5.6.3", func(s *scene) { s.sendsMembership(admin, admin2, "ban") }},
	{"5.6.3", "below the ban level", "5.6.3", func(s *scene) { s.sendsMembership(mod, user, "ban") }},
	{"5.6.3", "oneself", "5.6.3", func(s *scene) { s.sendsMembership(creator, creator, "ban") }},
	{"5.6.3", "default ban level", "", func(s *scene) { s.power(map[string]any{"ban": nil}); s.sendsMembership(mod, user, "ban") }},
	{"5.7.1", "knock", "", func(s *scene) { s.joinRule("knock"); s.sendsMembership(stranger, stranger, "knock") }},
	{"5.7.1", "knock_restricted", "", func(s *scene) { s.joinRule("knock_restricted"); s.sendsMembership(stranger, stranger, "knock") }},
	{"5.7.1", "invite", "5.7.1", func(s *scene) { s.sendsMembership(stranger, stranger, "knock") }},
	{"5.7.2", "oneself", "", func(s *scene) { s.joinRule("knock"); s.sendsMembership(gone, gone, "knock") }},
	{"5.7.2", "somebody else", "5.7.2", func(s *scene) { s.joinRule("knock"); s.sendsMembership(user, stranger, "knock") }},
	{"5.7.3", "knocking again", "", func(s *scene) { s.joinRule("knock"); s.sendsMembership(knocking, knocking, "knock") }},
	{"5.7.3", "joined", "5.7.4", func(s *scene) { s.joinRule("knock"); s.sendsMembership(user, user, "knock") }},
	{"5.7.4", "invited", "5.7.4", func(s *scene) { s.joinRule("knock"); s.sendsMembership(invited, invited, "knock") }},
	{"5.7.4", "banned", "5.7.4", func(s *scene) { s.joinRule("knock"); s.sendsMembership(banned, banned, "knock") }},
	{"5.7.4", "left", "", func(s *scene) { s.joinRule("knock"); s.sendsMembership(gone, gone, "knock") }},
	{"5.8", "known", "", func(s *scene) { s.sendsMembership(user, user, "join") }},
	{"5.8", "unknown", "5.8", func(s *scene) { s.sendsMembership(creator, creator, "dance") }},
	{"5.8", "no string", "5.8", func(s *scene) { s.sendsMember(creator, creator, map[string]any{"membership": 1}) }},

	{"6", "joined", "", func(s *scene) { s.sends(user, "m.room.message", nil, nil) }},
	{"6", "invited", "6", func(s *scene) { s.sends(invited, "m.room.message", nil, nil) }},
	{"6", "creator who left", "6", func(s *scene) { s.member(creator, creator, "leave"); s.sends(creator, "m.room.message", nil, nil) }},
	{"7.1", "invite level, whatever the type takes", "", func(s *scene) {
		s.power(map[string]any{"events/m.room.third_party_invite": 99})
		s.sends(mod, "m.room.third_party_invite", key("t"), map[string]any{})
	}},
	{"7.1", "below", "7.1", func(s *scene) { s.sends(user, "m.room.third_party_invite", key("t"), map[string]any{}) }},
	{"8", "message", "", func(s *scene) { s.sends(user, "m.room.message", nil, nil) }},
	{"8", "state", "8", func(s *scene) { s.sends(user, "m.room.topic", key(""), nil) }},
	{"8", "state by a moderator", "", func(s *scene) { s.sends(mod, "m.room.topic", key(""), nil) }},
	{"8", "level of the type", "8", func(s *scene) { s.sends(mod, "im.high", nil, nil) }},
	{"8", "level of the type, met", "", func(s *scene) { s.sends(admin, "im.high", nil, nil) }},
	{"8", "events_default", "8", func(s *scene) {
		s.power(map[string]any{"events_default": 10})
		s.sends(user, "m.room.message", nil, nil)
	}},
	{"8", "redactions are events like others", "", func(s *scene) {
		s.sends(user, "m.room.redaction", nil, map[string]any{"redacts": "$x"})
	}},
	{"8", "no power levels: state takes 50", "8", func(s *scene) {
		delete(s.state, room.Key{Type: "m.room.power_levels"})
		s.sends(admin, "m.room.topic", key(""), nil)
	}},
	{"8", "no power levels: creators are creators", "", func(s *scene) {
		delete(s.state, room.Key{Type: "m.room.power_levels"})
		s.sends(coCreator, "m.room.topic", key(""), nil)
	}},
	{"9", "own state key", "", func(s *scene) { s.sends(mod, "im.status", key(string(mod)), nil) }},
	{"9", "foreign state key", "9", func(s *scene) { s.sends(creator, "im.status", key(string(mod)), nil) }},
	{"9", "something behind the own", "9", func(s *scene) { s.sends(mod, "im.status", key(string(mod)+"x"), nil) }},

	{"10.1", "integers", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"kick": 51, "redact": -3}) }},
	{"10.1", "string", "10.1", func(s *scene) { s.sendsLevels(creator, map[string]any{"kick": "50"}) }},
	{"10.1", "null", "10.1", func(s *scene) { s.sendsLevels(creator, map[string]any{"users_default": json.RawMessage("null")}) }},
	{"10.2", "integers", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"events/x": 1, "notifications/x": 1}) }},
	{"10.2", "events is a list", "10.2", func(s *scene) { s.sendsLevels(creator, map[string]any{"events": []int{}}) }},
	{"10.2", "string in events", "10.2", func(s *scene) { s.sendsLevels(creator, map[string]any{"events/x": "1"}) }},
	{"10.2", "boolean in notifications", "10.2", func(s *scene) { s.sendsLevels(creator, map[string]any{"notifications/x": true}) }},
	{"10.3", "user ids", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/@new:x": 1}) }},
	{"10.3", "no users", "", func(s *scene) { s.sendsLevels(creator, map[string]any{"users": nil}) }},
	{"10.3", "no object", "10.3", func(s *scene) { s.sendsLevels(creator, map[string]any{"users": 1}) }},
	{"10.3", "no user id", "10.3", func(s *scene) { s.sendsLevels(creator, map[string]any{"users/new:x": 1}) }},
	{"10.3", "no integer", "10.3", func(s *scene) { s.sendsLevels(creator, map[string]any{"users/@new:x": "1"}) }},
	{"10.4", "no creator", "", func(s *scene) { s.sendsLevels(creator, map[string]any{"users/" + string(user): 100}) }},
	{"10.4", "the creator", "10.4", func(s *scene) { s.sendsLevels(creator, map[string]any{"users/" + string(creator): 100}) }},
	{"10.4", "an additional creator", "10.4", func(s *scene) { s.sendsLevels(creator, map[string]any{"users/" + string(coCreator): 100}) }},
	{"10.4", "the creator, in the first power levels", "10.4", func(s *scene) {
		c := s.levels(map[string]any{"users/" + string(creator): 100})
		delete(s.state, room.Key{Type: "m.room.power_levels"})
		s.sends(creator, "m.room.power_levels", key(""), c)
	}},
	{"10.5", "first power levels", "", func(s *scene) {
		delete(s.state, room.Key{Type: "m.room.power_levels"})
		s.sends(creator, "m.room.power_levels", key(""), map[string]any{"users": map[string]int{"@x:y": 1 << 40}, "ban": 1 << 40})
	}},
	{"10.5", "not the first", "10.6.2", func(s *scene) { s.sendsLevels(admin, map[string]any{"ban": 1 << 40}) }},
	{"10.6.1", "current value within", "", func(s *scene) { s.sendsLevels(mod, map[string]any{"kick": 20}) }},
	{"10.6.1", "current value above, lowered", "10.6.1", func(s *scene) { s.sendsLevels(mod, map[string]any{"ban": 20}) }},
	{"10.6.1", "current value above, removed", "10.6.1", func(s *scene) { s.sendsLevels(mod, map[string]any{"ban": nil}) }},
	{"10.6.2", "new value within", "", func(s *scene) { s.sendsLevels(mod, map[string]any{"redact": 50}) }},
	{"10.6.2", "new value above", "10.6.2", func(s *scene) { s.sendsLevels(mod, map[string]any{"kick": 51}) }},
	{"10.6.2", "added above", "10.6.2", func(s *scene) { s.sendsLevels(mod, map[string]any{"redact": 51}) }},
	{"10.7.1", "current value within", "", func(s *scene) { s.sendsLevels(mod, map[string]any{"events/m.room.name": 0}) }},
	{"10.7.1", "removed", "", func(s *scene) { s.sendsLevels(mod, map[string]any{"notifications/room": nil}) }},
	{"10.7.1", "events, above", "10.7.1", func(s *scene) { s.sendsLevels(mod, map[string]any{"events/im.high": 0}) }},
	{"10.7.1", "notifications, above, removed", "10.7.1", func(s *scene) { s.sendsLevels(mod, map[string]any{"notifications/im.high": nil}) }},
	{"10.8.1", "new value within", "", func(s *scene) { s.sendsLevels(mod, map[string]any{"events/new": 50}) }},
	{"10.8.1", "changed above", "10.8.1", func(s *scene) { s.sendsLevels(mod, map[string]any{"events/m.room.name": 51}) }},
	{"10.8.1", "added above", "10.8.1", func(s *scene) { s.sendsLevels(mod, map[string]any{"notifications/new": 51}) }},
	{"10.9.1", "somebody below", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(mod): 0}) }},
	{"10.9.1", "removes somebody below", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(mod): nil}) }},
	{"10.9.1", "lowers oneself", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(admin): 1}) }},
	{"10.9.1", "removes oneself", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(admin): nil}) }},
	{"10.9.1", "somebody equal", "10.9.1", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(admin2): 99}) }},
	{"10.9.1", "removes somebody equal", "10.9.1", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(admin2): nil}) }},
	{"10.9.1", "creator lowers an admin", "", func(s *scene) { s.sendsLevels(creator, map[string]any{"users/" + string(admin): 0}) }},
	{"10.10.1", "to the own level", "", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(user): 100}) }},
	{"10.10.1", "above", "10.10.1", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(user): 101}) }},
	{"10.10.1", "oneself", "10.10.1", func(s *scene) { s.sendsLevels(admin, map[string]any{"users/" + string(admin): 101}) }},
	{"10.11", "nothing changes", "", func(s *scene) { s.sendsLevels(mod, nil) }},
	{"10.11", "below the level of the type", "8", func(s *scene) { s.sendsLevels(user, nil) }},
	{"11", "anything", "", func(s *scene) { s.sends(user, "im.anything", nil, map[string]any{"x": []int{1}}) }},
	{"11", "anything, with state key", "8", func(s *scene) { s.sends(user, "im.anything", key(""), nil) }},
}

// restricted lets stranger join by grace of a user.
func (s *scene) restricted(joinRule string, via event.UserID) {
	s.joinRule(joinRule)
	s.sendsMember(stranger, stranger, map[string]any{"membership": "join", "join_authorised_via_users_server": via})
	s.sigs = []event.Server{via.Server()}
}

func TestRules(t *testing.T) {
	for _, c := range ruleCases {
		t.Run(c.rule+" "+c.name, func(t *testing.T) {
			s := newScene(t)
			c.set(s)
			v, err := s.judge()
			if got := rule(t, err); got != c.want {
				t.Fatalf("refused by rule %q (%v), want %q", got, err, c.want)
			}
			if want := map[bool]room.Verdict{true: room.Accepted, false: room.Rejected}[c.want == ""]; v != want {
				t.Errorf("verdict %d, want %d", v, want)
			}
		})
	}
}

// Every rule must have an event that it lets through and one that it, or for
// rules that allow the next one, refuses. Rule 1.2 has a test of its own.
func TestRulesAreAllTested(t *testing.T) {
	for _, number := range strings.Fields(`1.1 1.3 1.4 1.5 2 3.1 3.2 3.3 3.4 4 5.1 5.2.1
		5.3.1 5.3.2 5.3.3 5.3.4 5.3.5.1 5.3.5.2 5.3.5.3 5.3.6 5.3.7
		5.4.1.1 5.4.1.2 5.4.1.3 5.4.1.4 5.4.1.5 5.4.1.6 5.4.1.7.1 5.4.1.7.2 5.4.1.8 5.4.2 5.4.3 5.4.4 5.4.5
		5.5.1 5.5.2 5.5.3 5.5.4 5.5.5 5.6.1 5.6.2 5.6.3 5.7.1 5.7.2 5.7.3 5.7.4 5.8
		6 7.1 8 9 10.1 10.2 10.3 10.4 10.5 10.6.1 10.6.2 10.7.1 10.8.1 10.9.1 10.10.1 10.11 11`) {
		for _, accept := range []bool{true, false} {
			if !slices.ContainsFunc(ruleCases, func(c ruleCase) bool { return c.rule == number && (c.want == "") == accept }) {
				t.Errorf("rule %s: no case with accept %v", number, accept)
			}
		}
	}
}

// Rule 1.2. The bytes of a create event that names a room never become an event;
// one that claims another room than its own is refused.
func TestCreateNamesNoRoom(t *testing.T) {
	e := &event.Event{Body: event.Body{Type: "m.room.create", StateKey: key(""), Sender: creator, Content: []byte("{}"), Room: roomID}}
	if _, err := room.Judge(e, room.Input{}); rule(t, err) != "1.2" {
		t.Errorf("error %v, want rule 1.2", err)
	}
	raw := []byte(`{"auth_events":[],"content":{},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":1,"prev_events":[],"room_id":"` +
		string(roomID) + `","sender":"@creator:a","signatures":{},"state_key":"","type":"m.room.create"}`)
	if _, err := event.Parse(raw); err == nil {
		t.Error("a create event with room_id was read")
	}
}

// A refusal because of power says what level would do and what the sender has.
func TestReasonNamesLevels(t *testing.T) {
	s := newScene(t)
	s.sends(user, "m.room.topic", key(""), nil)
	_, err := s.judge()
	if want := "power level 50 is needed to send m.room.topic, @user:d has 0 (rule 8)"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	s.sendsMembership(creator, coCreator, "ban")
	_, err = s.judge()
	if want := "nobody can ban @cocreator:b, who is a creator of the group (rule 5.6.3)"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	s.sendsMembership(admin, admin2, "ban")
	_, err = s.judge()
	if want := "to ban @admin2:b a power level above 100 is needed, @admin:b has 100 (rule 5.6.3)"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

// Judge tells the three states apart.
func TestJudgeChecksThreeStates(t *testing.T) {
	s := newScene(t)
	s.sends(user, "m.room.message", nil, nil)
	without := func(k room.Key) mapState {
		m := mapState{}
		for at, e := range s.state {
			if at != k {
				m[at] = e
			}
		}
		return m
	}
	member := room.Key{Type: "m.room.member", StateKey: string(user)}
	power := room.Key{Type: "m.room.power_levels"}
	for _, c := range []struct {
		name            string
		auth            []room.Key
		before, current room.State
		want            room.Verdict
	}{
		{"allowed by all", []room.Key{power, member}, s.state, s.state, room.Accepted},
		{"current state not given", []room.Key{power, member}, s.state, nil, room.Accepted},
		{"refused by its auth events", []room.Key{power}, s.state, s.state, room.Rejected},
		{"refused by the state before", []room.Key{power, member}, without(member), s.state, room.Rejected},
		{"refused by the current state", []room.Key{power, member}, s.state, without(member), room.SoftFailed},
		{"levels differ, all allow it", []room.Key{member}, s.state, without(power), room.Accepted},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := s.e
			b.Room = roomID
			in := room.Input{Create: s.state[room.Key{Type: "m.room.create"}], Before: c.before, Current: c.current}
			for _, k := range c.auth {
				b.Auth = append(b.Auth, s.state[k].ID())
				in.Auth = append(in.Auth, room.Found{Event: s.state[k]})
			}
			v, err := room.Judge(made(t, labelID("new"), b), in)
			if v != c.want || (err == nil) != (v == room.Accepted) {
				t.Errorf("verdict %d, %v; want %d", v, err, c.want)
			}
			if err != nil {
				rule(t, err)
			}
		})
	}
}

// What cannot be decided is an error that is no refusal.
func TestJudgeFailsWithoutInput(t *testing.T) {
	s := newScene(t)
	e := made(t, labelID("new"), event.Body{Room: roomID, Type: "m.room.message", Sender: user, Content: content(nil),
		Auth: []event.ID{labelID("m_room_member_user_d")}})
	create := s.state[room.Key{Type: "m.room.create"}]
	power := room.Found{Event: s.state[room.Key{Type: "m.room.power_levels"}]}
	broken := stateFunc(func(string, string) (*event.Event, error) { return nil, errBroken })
	member := room.Found{Event: s.state[room.Key{Type: "m.room.member", StateKey: string(user)}]}
	for name, in := range map[string]room.Input{
		"no state":            {Create: create, Auth: []room.Found{member}},
		"no auth events":      {Create: create, Before: s.state},
		"other auth events":   {Create: create, Before: s.state, Auth: []room.Found{power}},
		"empty auth events":   {Create: create, Before: s.state, Auth: []room.Found{{}}},
		"state fails":         {Create: create, Before: broken, Auth: []room.Found{member}},
		"current state fails": {Create: create, Before: s.state, Current: broken, Auth: []room.Found{member}},
	} {
		if v, err := room.Judge(e, in); err == nil || v == room.Accepted || strings.Contains(err.Error(), "(rule ") {
			t.Errorf("%s: verdict %d, error %v", name, v, err)
		}
	}
	if err := room.Authorize(e, nil, s.state); err == nil {
		t.Error("authorized without create event")
	}
	if err := room.Authorize(e, create, broken); err == nil {
		t.Error("authorized by a broken state")
	}
}

type stateFunc func(typ, key string) (*event.Event, error)

func (f stateFunc) StateEvent(typ, key string) (*event.Event, error) { return f(typ, key) }

var errBroken = fmt.Errorf("broken")
