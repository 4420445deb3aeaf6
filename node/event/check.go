package event

import (
	"strings"
	"unicode/utf8"
)

// isCanonical reports, in one pass and without allocating, whether b is
// canonical JSON as Canonical defines it.
func isCanonical(b []byte) bool {
	c := checker{b: b}
	return c.value(0) && c.i == len(b)
}

// checker walks over canonical JSON; its methods report whether what stands at
// i is canonical, and move behind it.
type checker struct {
	b []byte
	i int
}

func (c *checker) value(depth int) bool {
	if c.i >= len(c.b) {
		return false
	}
	switch ch := c.b[c.i]; ch {
	case '"':
		_, ok := c.text()
		return ok
	case '{':
		return depth < MaxNesting && c.object(depth+1)
	case '[':
		return depth < MaxNesting && c.array(depth+1)
	case 't':
		return c.literal("true")
	case 'f':
		return c.literal("false")
	case 'n':
		return c.literal("null")
	default:
		n := integer(c.b[c.i:])
		c.i += n
		return n > 0
	}
}

func (c *checker) literal(s string) bool {
	if len(c.b)-c.i < len(s) || string(c.b[c.i:c.i+len(s)]) != s {
		return false
	}
	c.i += len(s)
	return true
}

// at reports whether ch comes next, and moves behind it if so.
func (c *checker) at(ch byte) bool {
	if c.i < len(c.b) && c.b[c.i] == ch {
		c.i++
		return true
	}
	return false
}

func (c *checker) array(depth int) bool {
	c.i++
	if c.at(']') {
		return true
	}
	for c.value(depth) {
		if c.at(',') {
			continue
		}
		return c.at(']')
	}
	return false
}

func (c *checker) object(depth int) bool {
	c.i++
	if c.at('}') {
		return true
	}
	var last []byte
	for first := true; ; first = false {
		if c.i >= len(c.b) || c.b[c.i] != '"' {
			return false
		}
		key, ok := c.text()
		if !ok || !first && compareKeys(last, key) >= 0 || !c.at(':') || !c.value(depth) {
			return false
		}
		last = key
		if !c.at(',') {
			return c.at('}')
		}
	}
}

// special marks the bytes that end a run of plain characters in a string.
var special = func() (t [256]bool) {
	for i := range t {
		t[i] = i < 0x20 || i >= utf8.RuneSelf || i == '"' || i == '\\'
	}
	return t
}()

// text returns what stands between the quotes, as written.
func (c *checker) text() ([]byte, bool) {
	b, i := c.b, c.i+1
	start := i
	for i < len(b) {
		ch := b[i]
		switch {
		case !special[ch]:
			i++
		case ch == '"':
			c.i = i + 1
			return b[start:i], true
		case ch == '\\':
			n := canonicalEscape(b[i:])
			if n == 0 {
				return nil, false
			}
			i += n
		case ch < 0x20:
			return nil, false
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return nil, false
			}
			i += n
		}
	}
	return nil, false
}

// canonicalEscape returns the length of the escape that b starts with, 0 if the
// shortest encoding of its character is another one.
func canonicalEscape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	if b[1] != 'u' {
		if _, ok := shortEscape(b[1]); !ok || b[1] == '/' {
			return 0
		}
		return 2
	}
	r, ok := hex4(b)
	if !ok || r >= 0x20 || strings.ContainsRune("\b\t\n\f\r", r) || 'A' <= b[5] && b[5] <= 'F' {
		return 0
	}
	return 6
}

// integer returns the length of the number that b starts with, 0 if it is not
// written as an integer of canonical JSON. Whatever else may belong to a number
// must not follow.
func integer(b []byte) int {
	const largest = "9007199254740991" // MaxInteger
	i := 0
	if len(b) > 0 && b[0] == '-' {
		i = 1
	}
	start := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	n := i - start
	switch {
	case n == 0 || n > len(largest),
		b[start] == '0' && (n > 1 || start == 1),
		n == len(largest) && string(b[start:i]) > largest,
		i < len(b) && (b[i] == '.' || b[i] == 'e' || b[i] == 'E'):
		return 0
	}
	return i
}
