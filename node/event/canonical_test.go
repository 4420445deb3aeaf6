package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestCanonical(t *testing.T) {
	tests := []struct{ name, in, want string }{
		// Appendices, Canonical JSON, Examples.
		{"empty", "{}", `{}`},
		{"space", "{\n    \"one\": 1,\n    \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"order", "{\n    \"b\": \"2\",\n    \"a\": \"1\"\n}", `{"a":"1","b":"2"}`},
		{"order without space", `{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{"nested", `{
    "auth": {
        "success": true,
        "mxid": "@john.doe:example.com",
        "profile": {
            "display_name": "John Doe",
            "three_pids": [
                {
                    "medium": "email",
                    "address": "john.doe@example.org"
                },
                {
                    "medium": "msisdn",
                    "address": "123456789"
                }
            ]
        }
    }
}`, `{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{"UTF-8", `{ "a": "日本語" }`, `{"a":"日本語"}`},
		{"order by code point", `{ "本": 2, "日": 1 }`, `{"日":1,"本":2}`},
		{"escaped", `{ "a": "\u65E5" }`, `{"a":"日"}`},
		{"null", `{ "a": null }`, `{"a":null}`},

		{"other values", " [ true , false,null , \"\", 0, -1 ] ", `[true,false,null,"",0,-1]`},
		{"empty containers", "[ { } , [ ] ]", `[{},[]]`},
		{"escapes", `"\u0022\u005c\/\u0008\u0009\u000a\u000C\u000d\u001F\u0000\u007f\b\f\n\r\t\"\\"`,
			`"\"\\/\b\t\n\f\r\u001f\u0000` + "\x7f" + `\b\f\n\r\t\"\\"`},
		{"pair of surrogates", `"\ud83d\uDE00"`, `"😀"`},
		{"order above the basic plane", `{"😀":1,"\uffee":2}`, `{"` + "\uffee" + `":2,"😀":1}`},
		{"escaped keys", `{"a\\b":1,"a\"b":2,"a\u0001b":3,"ab":4,"a":5,"a\u000ab":6}`,
			`{"a":5,"a\u0001b":3,"a\nb":6,"a\"b":2,"a\\b":1,"ab":4}`},
		{"largest integers", `[9007199254740991, -9007199254740991]`, `[9007199254740991,-9007199254740991]`},
		{"as deep as allowed", strings.Repeat("[ ", MaxNesting) + strings.Repeat("]", MaxNesting),
			strings.Repeat("[", MaxNesting) + strings.Repeat("]", MaxNesting)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Canonical([]byte(tt.in))
			if err != nil || string(got) != tt.want {
				t.Errorf("Canonical(%s) = %s, %v; want %s", tt.in, got, err, tt.want)
			}
			if !isCanonical([]byte(tt.want)) {
				t.Errorf("isCanonical(%s) = false", tt.want)
			}
			if tt.in != tt.want && isCanonical([]byte(tt.in)) {
				t.Errorf("isCanonical(%s) = true", tt.in)
			}
		})
	}
}

func TestCanonicalRefuses(t *testing.T) {
	tests := []struct{ name, in string }{
		{"nothing", ""},
		{"only space", "  "},
		{"two values", "{} {}"},
		{"text behind", "{}x"},
		{"byte order mark", "\ufeff{}"},
		{"duplicate key", `{"a":1,"a":1}`},
		{"duplicate key by escape", `{"a":1,"\u0061":1}`},
		{"duplicate key far apart", `{"a":1,"b":2,"a":3}`},
		{"duplicate key inside", `{"x":[{"a":1,"a":2}]}`},
		{"invalid UTF-8", "\"\xff\""},
		{"overlong UTF-8", "\"\xc0\xaf\""},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\""},
		{"cut UTF-8", "\"\xe6\x97\""},
		{"lone high surrogate", `"\ud83d"`},
		{"lone low surrogate", `"\ude00"`},
		{"two high surrogates", `"\ud83d\ud83d"`},
		{"high surrogate and text", `"\ud83dabcdef"`},
		{"invalid UTF-8 in a key", "{\"\xff\":1}"},
		// The last example of the appendix turns -0 into 0 and 1e10 into an
		// integer; room versions from 6 on have both refused in events.
		{"negative zero", "-0"},
		{"fraction", "1.5"},
		{"fraction of zero", "1.0"},
		{"exponent", "1e10"},
		{"capital exponent", "1E1"},
		{"leading zero", "01"},
		{"negative leading zero", "-01"},
		{"plus", "+1"},
		{"only a sign", "-"},
		{"2^53", "9007199254740992"},
		{"-2^53", "-9007199254740992"},
		{"17 digits", "10000000000000000"},
		{"not a number", "NaN"},
		{"control character", "\"\x01\""},
		{"raw newline", "\"\n\""},
		{"unknown escape", `"\x"`},
		{"cut escape", `"\`},
		{"cut hexadecimal", `"\u00"`},
		{"bad hexadecimal", `"\u00g0"`},
		{"open string", `"abc`},
		{"open array", `[1`},
		{"open object", `{"a":1`},
		{"comma at the end of an array", `[1,]`},
		{"comma at the end of an object", `{"a":1,}`},
		{"comma alone", `[,]`},
		{"no colon", `{"a" 1}`},
		{"no value", `{"a":}`},
		{"no key", `{1:1}`},
		{"no comma", `[1 2]`},
		{"wrong bracket", `[1}`},
		{"capital literal", `True`},
		{"cut literal", `tru`},
		{"single quotes", `'a'`},
		{"comment", `{}/**/`},
		{"too deep", strings.Repeat("[", MaxNesting+1) + strings.Repeat("]", MaxNesting+1)},
		{"far too deep", strings.Repeat("[", 1<<20)},
		{"objects too deep", strings.Repeat(`{"a":`, MaxNesting+1) + "1" + strings.Repeat("}", MaxNesting+1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Canonical([]byte(tt.in))
			if !errors.Is(err, ErrInvalid) || got != nil {
				t.Errorf("Canonical(%.80q) = %.80q, %v; want ErrInvalid", tt.in, got, err)
			}
			if isCanonical([]byte(tt.in)) {
				t.Errorf("isCanonical(%.80q) = true", tt.in)
			}
		})
	}
}

func TestCanonicalCheckAllocatesNothing(t *testing.T) {
	e := golden(t, "message")
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Canonical(e.raw); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Canonical of canonical input: %v allocations", n)
	}
}

// value generates JSON values of the canonical kind.
func value(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return text().Draw(t, "text")
		case 1:
			return rapid.Int64Range(-MaxInteger, MaxInteger).Draw(t, "integer")
		case 2:
			return rapid.Bool().Draw(t, "bool")
		case 3:
			return nil
		case 4:
			return rapid.SliceOfN(value(depth-1), 0, 4).Draw(t, "array")
		}
		return rapid.MapOfN(text(), value(depth-1), 0, 6).Draw(t, "object")
	})
}

// text generates strings with many characters that need care.
func text() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.OneOf(
		rapid.SampledFrom([]rune("\x00\x01\b\t\n\f\r\x1f\"\\/:,{}[]a\x7f\u2028<>&日😀\ufffd\uffff\U0010ffff")),
		rapid.Rune(),
	), 0, 8, -1).Filter(utf8.ValidString)
}

// messy writes v as JSON with random space, escapes and order of keys.
func messy(t *rapid.T, v any) []byte {
	space := func() string { return rapid.SampledFrom([]string{"", "", " ", "\n\t", "\r "}).Draw(t, "space") }
	quote := func(s string) string {
		b := strings.Builder{}
		b.WriteByte('"')
		for _, r := range s {
			switch {
			case r < 0x20 || r == '"' || r == '\\' || r < 0x10000 && rapid.IntRange(0, 3).Draw(t, "escape") == 0:
				fmt.Fprintf(&b, `\u%04X`, r)
			case r >= 0x10000 && rapid.Bool().Draw(t, "pair"):
				fmt.Fprintf(&b, `\u%04x\u%04x`, (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00)
			default:
				b.WriteRune(r)
			}
		}
		return b.String() + `"`
	}
	var b bytes.Buffer
	b.WriteString(space())
	switch v := v.(type) {
	case string:
		b.WriteString(quote(v))
	case []any:
		b.WriteString("[" + space())
		for i, x := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(messy(t, x))
		}
		b.WriteString("]")
	case map[string]any:
		b.WriteString("{" + space())
		first := true
		for k, x := range v {
			if !first {
				b.WriteString("," + space())
			}
			first = false
			b.WriteString(quote(k) + space() + ":")
			b.Write(messy(t, x))
		}
		b.WriteString("}")
	default:
		s, _ := json.Marshal(v)
		b.Write(s)
	}
	b.WriteString(space())
	return b.Bytes()
}

// Whatever the writing, the canonical form is the same, and encoding/json, which
// sorts keys by their bytes too, reads the same value from it.
func TestCanonicalIsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := value(4).Draw(t, "value")
		a, err := Canonical(messy(t, v))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Canonical(messy(t, v))
		if err != nil || !bytes.Equal(a, b) {
			t.Fatalf("two forms of one value:\n%s\n%s\n%v", a, b, err)
		}
		if !isCanonical(a) {
			t.Fatalf("%s is not canonical", a)
		}
		want, _ := json.Marshal(v)
		if !sameJSON(a, want) {
			t.Fatalf("canonical form %s has another value than %s", a, want)
		}
	})
}

func sameJSON(a, b []byte) bool {
	decode := func(raw []byte) string {
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			return err.Error()
		}
		out, _ := json.Marshal(v)
		return string(out)
	}
	return decode(a) == decode(b)
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[true,false,null,"\u65E5\n",-5]}`, `{"a\\b":1,"a\"b":2}`, `"\ud83d\ude00"`,
		`9007199254740992`, `{"a":1,"a":2}`, "[[[[]]]]", `-0`, `1e3`, "\"\xff\"", `{"\u0000":{"\u001f":{}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Canonical(raw)
		if err != nil {
			if isCanonical(raw) {
				t.Fatalf("refused although canonical: %q: %v", raw, err)
			}
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v does not wrap ErrInvalid", err)
			}
			return
		}
		if !isCanonical(got) {
			t.Fatalf("%q is not canonical", got)
		}
		if !json.Valid(raw) || !sameJSON(raw, got) {
			t.Fatalf("%q became %q", raw, got)
		}
		slow, err := canonicalize(raw)
		if err != nil || !bytes.Equal(slow, got) {
			t.Fatalf("slow path %q, %v; fast path %q", slow, err, got)
		}
	})
}

// Reading damaged bytes gives wrong answers or errors, never a panic.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"a":{"signed":1},"b":["x",2]}`), "a")
	f.Add([]byte(`{"a"`), "a")
	f.Add([]byte(`["\"`), "")
	f.Fuzz(func(t *testing.T, raw []byte, key string) {
		find(raw, key)
		lookup(raw, key)
		isSignatures(raw)
		for r := read(raw, '['); ; {
			if _, ok := r.element(); !ok {
				break
			}
		}
		appendUnquoted(nil, raw)
		for _, typ := range []string{"", "m.room.create", "m.room.member"} {
			appendRedacted(nil, raw, typ, true)
		}
		appendWith(nil, raw, key, []byte("1"))
		_, _ = Load("$"+ID(strings.Repeat("A", 43)), raw, false)
	})
}
