package node

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		text, pattern string
		words, want   bool
	}{
		{"Lunch plans", "lunc?*", false, true},
		{"LUNCH", "lunc?*", false, true},
		{" lunch", "lunc?*", false, false},
		{"lunc", "lunc?*", false, false},
		{"", "", false, true},
		{"", "*", false, true},
		{"x", "", false, false},
		{"m.notice", "m.notice", false, true},
		{"An example event.", "ex*ple", true, true},
		{"exple", "ex*ple", true, true},
		{"An exciting triple-whammy", "ex*ple", true, true},
		{"anexample", "ex*ple", true, false},
		{"examples", "ex*ple", true, false},
		{"Cake!", "cake", true, true},
		{"pancakes", "cake", true, false},
		{"cake_", "cake", true, false},
		{"écake", "cake", true, true}, // only ASCII letters make words
		{"I like cake", "i like cake", true, true},
		{"Ärger", "ärger", true, true},
		{"a.b", "a.b", true, true},
		{"axb", "a.b", true, false},
	} {
		j := judge{work: pushWork}
		if got := j.match(tt.text, tt.pattern, tt.words); got != tt.want {
			t.Errorf("%q ~ %q (words %v): %v", tt.text, tt.pattern, tt.words, got)
		}
	}
	j := judge{work: pushWork}
	for range 100 {
		j.match(strings.Repeat("a", 60_000), strings.Repeat("a*", 2000)+"b", true)
	}
	if j.work >= 0 {
		t.Error("patterns may work without end")
	}
}

// The matcher agrees with regular expressions.
func TestGlobProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab_-é")), 0, 12, -1).Draw(t, "text")
		pattern := rapid.StringOfN(rapid.RuneFrom([]rune("ab_-é*?")), 0, 6, -1).Draw(t, "pattern")
		words := rapid.Bool().Draw(t, "words")
		re := strings.NewReplacer(`\*`, "(?s:.*)", `\?`, "(?s:.)").Replace(regexp.QuoteMeta(pattern))
		want := false
		runes := []rune(text)
		whole := regexp.MustCompile("^(?:" + re + ")$")
		edge := func(i int) bool {
			return i == 0 || i == len(runes) || !wordRune(runes[i-1]) || !wordRune(runes[i])
		}
		for from := 0; from <= len(runes); from++ {
			for to := from; to <= len(runes); to++ {
				if words && edge(from) && edge(to) || from == 0 && to == len(runes) {
					want = want || whole.MatchString(string(runes[from:to]))
				}
			}
		}
		j := judge{work: pushWork}
		if got := j.match(text, pattern, words); got != want {
			t.Fatalf("%q ~ %q (words %v): %v, want %v", text, pattern, words, got, want)
		}
	})
}

func TestCountIs(t *testing.T) {
	for is, want := range map[string]bool{
		"2": true, "==2": true, ">1": true, ">=2": true, "<=2": true, "<3": true,
		"3": false, "<2": false, ">2": false, "": false, "=2": false, "=>2": false, "x": false, "+2": false, "==": false, "<-1": false,
	} {
		if countIs(2, is) != want {
			t.Errorf("2 %s: %v", is, !want)
		}
	}
}

func TestSameValue(t *testing.T) {
	for _, tt := range []struct {
		property, value string
		want            bool
	}{
		{`true`, `true`, true}, {`"true"`, `true`, false}, {`1`, `true`, false}, {`1`, `1`, true}, {`"1"`, `1`, false},
		{`null`, `null`, true}, {`{}`, `{}`, false}, {`[]`, `[]`, false}, {`"a"`, `"A"`, false}, {`null`, ``, false},
	} {
		if got := sameValue(decodeAny(json.RawMessage(tt.property)), json.RawMessage(tt.value)); got != tt.want {
			t.Errorf("%s is %s: %v", tt.property, tt.value, got)
		}
	}
	if sameValue(noProperty{}, json.RawMessage(`null`)) {
		t.Error("an absent property is null")
	}
}

func TestPredefinedRulesNeedNoJudge(t *testing.T) {
	rule := func(s string) *pushRules {
		return parsePushRules(json.RawMessage(`{"global":{"override":[` + s + `]}}`))
	}
	for _, plain := range []string{
		``, `{"rule_id":".m.rule.master","default":true,"enabled":false,"actions":[]}`,
		`{"rule_id":".m.rule.tombstone","default":true,"enabled":true,"actions":["notify",{"set_tweak":"highlight"}]}`,
		`{"rule_id":".m.rule.of_old","default":true,"enabled":true,"actions":["notify"]}`,
	} {
		if rule(plain) != nil {
			t.Errorf("rules of one's own: %s", plain)
		}
	}
	for _, own := range []string{
		`{"rule_id":".m.rule.master","default":true,"enabled":true,"actions":[]}`,
		`{"rule_id":".m.rule.reaction","default":true,"enabled":false,"actions":[]}`,
		`{"rule_id":".m.rule.tombstone","default":true,"enabled":true,"actions":["notify",{"set_tweak":"highlight","value":false}]}`,
		`{"rule_id":"x","default":false,"enabled":true,"actions":[]}`,
	} {
		if rule(own) == nil {
			t.Errorf("as the predefined ones: %s", own)
		}
	}
	if parsePushRules(json.RawMessage(`{"global":[]}`)) != nil {
		t.Error("what has no meaning has an effect")
	}
}
