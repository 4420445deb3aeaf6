package client

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
)

func TestProfile(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{})
	path := v3 + "/profile/" + string(alice.id)
	hold(t, "empty profile", s.ok("GET", path, "", nil).json, obj{})
	alice.fails(404, "M_NOT_FOUND", "GET", path+"/displayname", nil)
	alice.ok("PUT", path+"/displayname", obj{"displayname": "Alice"})
	alice.ok("PUT", path+"/avatar_url", obj{"avatar_url": "mxc://hq/a"})
	alice.ok("PUT", path+"/m.tz", obj{"m.tz": "Europe/Berlin"})
	alice.ok("PUT", path+"/org.example.lang", obj{"org.example.lang": []string{"de"}})
	hold(t, "profile", s.ok("GET", path, "", nil).json,
		obj{"displayname": "Alice", "avatar_url": "mxc://hq/a", "m.tz": "Europe/Berlin", "org.example.lang": []string{"de"}})
	hold(t, "one field", bob.ok("GET", path+"/org.example.lang", nil).json, obj{"org.example.lang": []string{"de"}})
	hold(t, "member event", alice.ok("GET", in(room, "/state/m.room.member/%s", alice.id), nil).at("displayname"), "Alice")
	alice.ok("DELETE", path+"/displayname", nil)
	alice.ok("DELETE", path+"/displayname", nil)
	alice.fails(404, "M_NOT_FOUND", "GET", path+"/displayname", nil)
	alice.ok("PUT", path+"/avatar_url", obj{"avatar_url": ""})
	alice.fails(404, "M_NOT_FOUND", "GET", path+"/avatar_url", nil)

	for _, tt := range []struct {
		key    string
		status int
		code   string
		body   any
	}{
		{"displayname", 400, "M_MISSING_PARAM", obj{"name": "x"}},
		{"displayname", 400, "M_BAD_JSON", obj{"displayname": nil}},
		{"displayname", 400, "M_BAD_JSON", obj{"displayname": 1}},
		{"displayname", 400, "M_INVALID_PARAM", obj{"displayname": strings.Repeat("x", 257)}},
		{"displayname", 400, "M_NOT_JSON", ""},
		{"avatar_url", 400, "M_INVALID_PARAM", obj{"avatar_url": "https://example.com/a.png"}},
		{"Bad.Key", 400, "M_INVALID_PARAM", obj{"Bad.Key": 1}},
		{"nodots", 400, "M_INVALID_PARAM", obj{"nodots": 1}},
		{"a." + strings.Repeat("b", 254), 400, "M_KEY_TOO_LARGE", obj{}},
		{"a.b", 400, "M_PROFILE_TOO_LARGE", obj{"a.b": strings.Repeat("x", 65_600)}},
	} {
		alice.fails(tt.status, tt.code, "PUT", path+"/"+tt.key, tt.body)
	}
	bob.fails(403, "M_FORBIDDEN", "PUT", path+"/displayname", obj{"displayname": "Eve"})
	bob.fails(403, "M_FORBIDDEN", "DELETE", path+"/m.tz", nil)
	alice.fails(400, "M_INVALID_PARAM", "DELETE", path+"/nodots", nil)
	s.fails(401, "M_MISSING_TOKEN", "PUT", path+"/displayname", "", obj{"displayname": "x"})
	alice.fails(404, "M_NOT_FOUND", "GET", v3+"/profile/@nobody:hq", nil)
	alice.fails(400, "M_INVALID_PARAM", "GET", v3+"/profile/nobody", nil)
}

func TestFilters(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	path := v3 + "/user/" + url.PathEscape(string(alice.id)) + "/filter"
	filter := obj{"room": obj{"timeline": obj{"limit": 3}}, "org.example": 1}
	id := alice.ok("POST", path, filter).str("filter_id")
	if id == "" || id[0] == '{' {
		t.Errorf("filter id %q", id)
	}
	hold(t, "filter", alice.ok("GET", path+"/"+id, nil).json, filter)
	if again := alice.ok("POST", path, filter).str("filter_id"); again != id {
		t.Errorf("an equal filter has another id: %q and %q", id, again)
	}
	alice.fails(404, "M_NOT_FOUND", "GET", path+"/none", nil)
	bob.fails(403, "M_FORBIDDEN", "GET", path+"/"+id, nil)
	bob.fails(403, "M_FORBIDDEN", "POST", path, obj{})
	alice.fails(400, "M_NOT_JSON", "POST", path, "{")
	if a := alice.do("POST", path, obj{"room": 1}); a.status != 400 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a := alice.do("POST", path, obj{"event_format": "x"}); a.status != 400 {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestAccountData(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{})
	mine := v3 + "/user/" + url.PathEscape(string(alice.id))
	for _, path := range []string{mine + "/account_data/org.example%2Fx", mine + "/rooms/" + url.PathEscape(room) + "/account_data/org.example.x"} {
		alice.fails(404, "M_NOT_FOUND", "GET", path, nil)
		alice.ok("PUT", path, obj{"a": obj{"b": []int{1}}})
		hold(t, path, alice.ok("GET", path, nil).json, obj{"a": obj{"b": []int{1}}})
		alice.ok("PUT", path, obj{})
		hold(t, path, alice.ok("GET", path, nil).json, obj{})
		bob.fails(403, "M_FORBIDDEN", "GET", path, nil)
		bob.fails(403, "M_FORBIDDEN", "PUT", path, obj{})
		alice.fails(400, "M_NOT_JSON", "PUT", path, "x")
		alice.fails(400, "M_BAD_JSON", "PUT", path, "[]")
		s.fails(401, "M_MISSING_TOKEN", "GET", path, "", nil)
	}
	for _, typ := range []string{"m.fully_read", "m.push_rules"} {
		alice.fails(405, "M_BAD_JSON", "PUT", mine+"/account_data/"+typ, obj{})
		alice.fails(405, "M_BAD_JSON", "PUT", mine+"/rooms/"+url.PathEscape(room)+"/account_data/"+typ, obj{})
	}
	if alice.ok("GET", mine+"/account_data/m.push_rules", nil).at("global", "override") == nil {
		t.Error("push rules are not in the account data")
	}
	alice.fails(400, "M_INVALID_PARAM", "PUT", mine+"/rooms/!x/account_data/a", obj{})
	alice.fails(400, "M_INVALID_PARAM", "PUT", mine+"/account_data/"+strings.Repeat("x", 256), obj{})
	// A waiting sync sees the change.
	since := alice.ok("GET", v3+"/sync", nil).str("next_batch")
	got := make(chan answer)
	go func() { got <- alice.do("GET", v3+"/sync?timeout=10000&since="+since, nil) }()
	eventually(t, "sync waits", func() bool { return s.node.Feed.Waiting() > 0 })
	alice.ok("PUT", mine+"/account_data/org.example.wake", obj{"x": 1})
	if a := <-got; !strings.Contains(string(a.raw), "org.example.wake") {
		t.Errorf("%s", a.raw)
	}
}

func TestTags(t *testing.T) {
	s := open(t)
	alice, bob := s.person("alice"), s.person("bob")
	room := alice.room(obj{})
	path := v3 + "/user/" + url.PathEscape(string(alice.id)) + "/rooms/" + url.PathEscape(room) + "/tags"
	hold(t, "no tags", alice.ok("GET", path, nil).json, obj{"tags": obj{}})
	alice.ok("PUT", path+"/m.favourite", obj{"order": 0.5})
	alice.ok("PUT", path+"/u.a%2Fb", obj{})
	hold(t, "tags", alice.ok("GET", path, nil).json, obj{"tags": obj{"m.favourite": obj{"order": 0.5}, "u.a/b": obj{}}})
	data := v3 + "/user/" + url.PathEscape(string(alice.id)) + "/rooms/" + url.PathEscape(room) + "/account_data/m.tag"
	hold(t, "as account data", alice.ok("GET", data, nil).json, obj{"tags": obj{"m.favourite": obj{"order": 0.5}, "u.a/b": obj{}}})
	alice.ok("DELETE", path+"/u.a%2Fb", nil)
	alice.ok("DELETE", path+"/u.a%2Fb", nil)
	hold(t, "tags", alice.ok("GET", path, nil).json, obj{"tags": obj{"m.favourite": obj{"order": 0.5}}})
	alice.fails(400, "M_BAD_JSON", "PUT", path+"/u.x", obj{"order": "first"})
	alice.fails(400, "M_NOT_JSON", "PUT", path+"/u.x", nil)
	alice.fails(400, "M_INVALID_PARAM", "PUT", path+"/"+strings.Repeat("x", 256), obj{})
	bob.fails(403, "M_FORBIDDEN", "GET", path, nil)
	bob.fails(403, "M_FORBIDDEN", "PUT", path+"/u.x", obj{})
	bob.fails(403, "M_FORBIDDEN", "DELETE", path+"/m.favourite", nil)
	// What a client wrote into m.tag itself does no harm.
	alice.ok("PUT", data, obj{"tags": obj{"bad": 1, "good": obj{}}})
	hold(t, "tags", alice.ok("GET", path, nil).json, obj{"tags": obj{"good": obj{}}})
	alice.ok("PUT", data, obj{"tags": 7})
	hold(t, "tags", alice.ok("GET", path, nil).json, obj{"tags": obj{}})
}

func TestDefaultPushRules(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	global := alice.ok("GET", v3+"/pushrules/", nil).at("global")
	for _, path := range []string{"/pushrules/global/", "/pushrules/global"} {
		hold(t, path, alice.ok("GET", v3+path, nil).json, global)
	}
	hold(t, "without slash", alice.ok("GET", v3+"/pushrules", nil).at("global"), global)
	var set ruleset
	raw, err := json.Marshal(global)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	names := func(rules []pushRule) (list []string) {
		for _, r := range rules {
			if !r.Default || r.Enabled != (r.ID != masterRule) {
				t.Errorf("%+v", r)
			}
			list = append(list, strings.TrimPrefix(r.ID, ".m.rule."))
		}
		return list
	}
	hold(t, "override", names(set.Override), []string{"master", "suppress_notices", "invite_for_me", "member_event", "is_user_mention",
		"is_room_mention", "tombstone", "reaction", "room.server_acl", "suppress_edits"})
	hold(t, "underride", names(set.Underride), []string{"call", "encrypted_room_one_to_one", "room_one_to_one", "message", "encrypted"})
	for _, tt := range []struct{ path, conditions, actions string }{
		{"override/.m.rule.master", `[]`, `[]`},
		{"override/.m.rule.suppress_notices", `[{"key":"content.msgtype","kind":"event_match","pattern":"m.notice"}]`, `[]`},
		{"override/.m.rule.invite_for_me", `[{"key":"type","kind":"event_match","pattern":"m.room.member"},
			{"key":"content.membership","kind":"event_match","pattern":"invite"},{"key":"state_key","kind":"event_match","pattern":"@alice:hq"}]`,
			`["notify",{"set_tweak":"sound","value":"default"}]`},
		{"override/.m.rule.is_user_mention", `[{"key":"content.m\\.mentions.user_ids","kind":"event_property_contains","value":"@alice:hq"}]`,
			`["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]`},
		{"override/.m.rule.is_room_mention", `[{"key":"content.m\\.mentions.room","kind":"event_property_is","value":true},
			{"key":"room","kind":"sender_notification_permission"}]`, `["notify",{"set_tweak":"highlight"}]`},
		{"override/.m.rule.tombstone", `[{"key":"type","kind":"event_match","pattern":"m.room.tombstone"},
			{"key":"state_key","kind":"event_match","pattern":""}]`, `["notify",{"set_tweak":"highlight"}]`},
		{"override/.m.rule.suppress_edits", `[{"key":"content.m\\.relates_to.rel_type","kind":"event_property_is","value":"m.replace"}]`, `[]`},
		{"underride/.m.rule.call", `[{"key":"type","kind":"event_match","pattern":"m.call.invite"}]`, `["notify",{"set_tweak":"sound","value":"ring"}]`},
		{"underride/.m.rule.room_one_to_one", `[{"is":"2","kind":"room_member_count"},{"key":"type","kind":"event_match","pattern":"m.room.message"}]`,
			`["notify",{"set_tweak":"sound","value":"default"}]`},
		{"underride/.m.rule.encrypted", `[{"key":"type","kind":"event_match","pattern":"m.room.encrypted"}]`, `["notify"]`},
	} {
		var conditions, actions any
		if err := json.Unmarshal([]byte(tt.conditions), &conditions); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(tt.actions), &actions); err != nil {
			t.Fatal(err)
		}
		rule := alice.ok("GET", v3+"/pushrules/global/"+tt.path, nil)
		hold(t, tt.path, rule.at("conditions"), conditions)
		hold(t, tt.path, rule.at("actions"), actions)
	}
}

func TestPushRules(t *testing.T) {
	s := open(t)
	alice := s.person("alice")
	const base = v3 + "/pushrules/global/"
	order := func(kind string) string {
		t.Helper()
		var ids []string
		list, _ := alice.ok("GET", base, nil).at(kind).([]any)
		for _, r := range list {
			id, _ := r.(obj)["rule_id"].(string)
			if !strings.HasPrefix(id, ".") || id == masterRule {
				ids = append(ids, id)
			}
		}
		return strings.Join(ids, " ")
	}
	rule := obj{"actions": []any{"notify"}, "conditions": []obj{{"kind": "event_match", "key": "type", "pattern": "x"}}}
	alice.ok("PUT", base+"override/a", rule)
	alice.ok("PUT", base+"override/b", rule)
	alice.ok("PUT", base+"override/c?after=a", rule)
	alice.ok("PUT", base+"override/d?before=a&after=b", rule)
	if got := order("override"); got != ".m.rule.master b d a c" {
		t.Errorf("order: %s", got)
	}
	alice.ok("PUT", base+"override/c?before=b", rule)
	alice.ok("PUT", base+"override/b", obj{"actions": []any{"dont_notify", obj{"set_tweak": "sound", "value": "x"}, "coalesce"}}) // stays where it is
	if got := order("override"); got != ".m.rule.master c b d a" {
		t.Errorf("order: %s", got)
	}
	hold(t, "rule", alice.ok("GET", base+"override/b", nil).json, obj{"rule_id": "b", "default": false, "enabled": true,
		"conditions": []any{}, "actions": []any{obj{"set_tweak": "sound", "value": "x"}}})

	alice.ok("PUT", base+"content/cake", obj{"actions": []any{"notify"}, "pattern": "cake*lie"})
	hold(t, "pattern", alice.ok("GET", base+"content/cake", nil).at("pattern"), "cake*lie")
	alice.ok("PUT", base+"room/"+url.PathEscape("!room:x"), obj{"actions": []any{}})
	alice.ok("PUT", base+"sender/"+url.PathEscape("@spam:x"), obj{"actions": []any{}})

	// enabled and actions, of own rules and of default ones.
	for _, path := range []string{base + "override/a", base + "underride/.m.rule.message"} {
		alice.ok("PUT", path+"/enabled", obj{"enabled": false})
		hold(t, path, alice.ok("GET", path+"/enabled", nil).json, obj{"enabled": false})
		alice.ok("PUT", path+"/actions", obj{"actions": []any{"notify", obj{"set_tweak": "highlight"}}})
		hold(t, path, alice.ok("GET", path+"/actions", nil).json, obj{"actions": []any{"notify", obj{"set_tweak": "highlight"}}})
		hold(t, path, alice.ok("GET", path, nil).at("enabled"), false)
		alice.fails(400, "M_MISSING_PARAM", "PUT", path+"/enabled", obj{})
		alice.fails(400, "M_BAD_JSON", "PUT", path+"/enabled", obj{"enabled": "yes"})
		alice.fails(400, "M_MISSING_PARAM", "PUT", path+"/actions", obj{})
	}
	alice.ok("PUT", base+"override/a", rule) // an update does not enable
	hold(t, "after an update", alice.ok("GET", base+"override/a/enabled", nil).json, obj{"enabled": false})

	for _, tt := range []struct {
		name   string
		status int
		code   string
		path   string
		body   any
	}{
		{"reserved id", 400, "M_INVALID_PARAM", "override/.mine", rule},
		{"slash", 400, "M_INVALID_PARAM", "override/a%2Fb", rule},
		{"backslash", 400, "M_INVALID_PARAM", "override/a%5Cb", rule},
		{"unknown kind", 400, "M_INVALID_PARAM", "sideways/a", rule},
		{"relative to nothing", 400, "M_UNKNOWN", "override/x?before=nothing", rule},
		{"relative to a default rule", 400, "M_UNKNOWN", "override/x?after=.m.rule.master", rule},
		{"relative to itself", 400, "M_UNKNOWN", "override/a?after=a", rule},
		{"no actions", 400, "M_MISSING_PARAM", "override/x", obj{}},
		{"unknown action", 400, "M_INVALID_PARAM", "override/x", obj{"actions": []any{"dance"}}},
		{"action of the wrong type", 400, "M_BAD_JSON", "override/x", obj{"actions": []any{1}}},
		{"action without tweak", 400, "M_BAD_JSON", "override/x", obj{"actions": []any{obj{"value": 1}}}},
		{"actions of the wrong type", 400, "M_BAD_JSON", "override/x", obj{"actions": 1}},
		{"condition without kind", 400, "M_MISSING_PARAM", "override/x", obj{"actions": []any{}, "conditions": []obj{{}}}},
		{"condition of the wrong type", 400, "M_BAD_JSON", "override/x", obj{"actions": []any{}, "conditions": []any{1}}},
		{"content without pattern", 400, "M_MISSING_PARAM", "content/x", obj{"actions": []any{}}},
		{"room rule of no room", 400, "M_INVALID_PARAM", "room/x", obj{"actions": []any{}}},
		{"sender rule of no user", 400, "M_INVALID_PARAM", "sender/x", obj{"actions": []any{}}},
		{"too large", 400, "M_INVALID_PARAM", "content/x", obj{"actions": []any{}, "pattern": strings.Repeat("x", 5000)}},
		{"not JSON", 400, "M_NOT_JSON", "override/x", "{"},
	} {
		t.Run(tt.name, func(t *testing.T) { alice.fails(tt.status, tt.code, "PUT", base+tt.path, tt.body) })
	}
	for _, tail := range []string{"", "/enabled", "/actions"} {
		alice.fails(404, "M_NOT_FOUND", "GET", base+"override/none"+tail, nil)
		alice.fails(400, "M_INVALID_PARAM", "GET", base+"sideways/a"+tail, nil)
	}
	alice.fails(404, "M_NOT_FOUND", "PUT", base+"override/none/enabled", obj{"enabled": true})
	alice.fails(404, "M_NOT_FOUND", "PUT", base+"override/none/actions", obj{"actions": []any{}})
	alice.fails(404, "M_NOT_FOUND", "DELETE", base+"override/none", nil)
	alice.fails(404, "M_NOT_FOUND", "DELETE", base+"override/.m.rule.master", nil)
	alice.ok("DELETE", base+"override/d", nil)
	if got := order("override"); got != ".m.rule.master c b a" {
		t.Errorf("order: %s", got)
	}
	hold(t, "sync", strings.Contains(string(alice.ok("GET", v3+"/sync", nil).raw), `"m.push_rules"`), true)
}

// Whatever rules are placed where, defaults stay as they are and where they
// are, and a rule that names another stands next to it.
func TestPlaceRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := defaultRules("@a:hq")
		ids := []string{"a", "b", "c", "d", "e"}
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			fresh := pushRule{ID: rapid.SampledFrom(ids).Draw(t, "id"), Enabled: true, Actions: json.RawMessage("[]")}
			pick := rapid.SampledFrom(append([]string{"", "", masterRule}, ids...))
			before, after := pick.Draw(t, "before"), pick.Draw(t, "after")
			was := append([]pushRule{}, set.Override...)
			err := placeRule(&set.Override, fresh, before, after)
			at := indexRule(set.Override, fresh.ID)
			switch {
			case err != nil:
				if len(was) != len(set.Override) {
					t.Fatal("a refusal changed the rules")
				}
				continue
			case at < 1 || set.Override[at].Default:
				t.Fatalf("placed at %d", at)
			case before != "" && set.Override[at+1].ID != before:
				t.Fatalf("%s does not stand before %s", fresh.ID, before)
			case before == "" && after != "" && set.Override[at-1].ID != after:
				t.Fatalf("%s does not stand after %s", fresh.ID, after)
			}
		}
		again := withDefaults("@a:hq", set)
		hold(t, "rules read back", again, set)
		if set.Override[0].ID != masterRule || len(set.Override) > 15 {
			t.Fatalf("%+v", set.Override)
		}
	})
}

// Changes of default rules survive, rules that are gone disappear, new ones
// appear.
func TestWithDefaults(t *testing.T) {
	stored := ruleset{
		Override: []pushRule{
			{ID: "own", Enabled: true, Actions: json.RawMessage("[]")},
			{ID: ".m.rule.contains_display_name", Default: true, Enabled: true, Actions: json.RawMessage("[]")},
			{ID: masterRule, Default: true, Enabled: true, Actions: json.RawMessage("[]")},
			{ID: ".m.rule.tombstone", Default: true, Enabled: false, Actions: json.RawMessage(`["notify"]`)},
		},
	}
	got := withDefaults(event.UserID("@a:hq"), stored)
	if len(got.Override) != 11 || got.Override[0].ID != masterRule || !got.Override[0].Enabled || got.Override[1].ID != "own" {
		t.Errorf("%+v", got.Override)
	}
	if i := indexRule(got.Override, ".m.rule.tombstone"); got.Override[i].Enabled || string(got.Override[i].Actions) != `["notify"]` ||
		!strings.Contains(string(got.Override[i].Conditions), "m.room.tombstone") {
		t.Errorf("%+v", got.Override[i])
	}
	if len(got.Underride) != 5 || got.Content == nil || got.Room == nil || got.Sender == nil {
		t.Errorf("%+v", got)
	}
}
