package event

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxInteger is the largest integer of canonical JSON, 2^53-1; the smallest is
// its negative (Appendices, Canonical JSON).
const MaxInteger = 1<<53 - 1

// MaxNesting is how deep arrays and objects may stand in one another. The
// specification sets no limit; without one, readers that recurse can be made
// to exhaust their stacks.
const MaxNesting = 32

// Canonical returns the canonical JSON of raw (Appendices, Canonical JSON):
// strict input, sorted keys, no insignificant space, integers within ±(2^53-1).
// Refused are duplicate keys, invalid UTF-8, lone surrogates, fractions,
// exponents, -0, integers out of range and nesting beyond MaxNesting: what is
// not canonical in value has no canonical form. The result may share memory
// with raw. Errors wrap ErrInvalid.
func Canonical(raw []byte) ([]byte, error) {
	if isCanonical(raw) {
		return raw, nil
	}
	return canonicalize(raw)
}

// canonicalize is the slow path of Canonical: it reads any JSON and writes the
// canonical form.
func canonicalize(raw []byte) ([]byte, error) {
	e := encoder{src: raw, out: make([]byte, 0, len(raw))}
	e.space()
	if err := e.value(0); err != nil {
		return nil, err
	}
	e.space()
	if e.i != len(e.src) {
		return nil, e.fail("text behind the value")
	}
	return e.out, nil
}

// encoder reads JSON from src and appends its canonical form to out.
type encoder struct {
	src     []byte
	i       int
	out     []byte
	members []member // of the objects that are open, innermost last
	scratch []byte   // for reordering
}

// member is where a member of an object stands in encoder.out.
type member struct {
	key, colon, end int // out[key:colon] is the key in quotes
}

func (e *encoder) fail(what string) error {
	return fmt.Errorf("%w: JSON: %s at byte %d", ErrInvalid, what, e.i)
}

func (e *encoder) space() {
	for e.i < len(e.src) {
		switch e.src[e.i] {
		case ' ', '\t', '\n', '\r':
			e.i++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end (no JSON token starts with 0).
func (e *encoder) peek() byte {
	if e.i < len(e.src) {
		return e.src[e.i]
	}
	return 0
}

func (e *encoder) value(depth int) error {
	switch c := e.peek(); {
	case c == '{':
		return e.object(depth + 1)
	case c == '[':
		return e.array(depth + 1)
	case c == '"':
		return e.text()
	case c == 't':
		return e.literal("true")
	case c == 'f':
		return e.literal("false")
	case c == 'n':
		return e.literal("null")
	case c == '-' || '0' <= c && c <= '9':
		return e.number()
	}
	return e.fail("no value")
}

func (e *encoder) literal(s string) error {
	if !bytes.HasPrefix(e.src[e.i:], []byte(s)) {
		return e.fail("no value")
	}
	e.i += len(s)
	e.out = append(e.out, s...)
	return nil
}

func (e *encoder) number() error {
	n := integer(e.src[e.i:])
	if n <= 0 {
		return e.fail("not an integer within ±(2^53-1)")
	}
	e.out = append(e.out, e.src[e.i:e.i+n]...)
	e.i += n
	return nil
}

func (e *encoder) array(depth int) error {
	if depth > MaxNesting {
		return e.fail("nested too deeply")
	}
	e.i++
	e.out = append(e.out, '[')
	e.space()
	for first := true; ; first = false {
		if first && e.peek() == ']' {
			break
		}
		if err := e.value(depth); err != nil {
			return err
		}
		e.space()
		if e.peek() != ',' {
			break
		}
		e.i++
		e.out = append(e.out, ',')
		e.space()
	}
	if e.peek() != ']' {
		return e.fail("array not closed")
	}
	e.i++
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) object(depth int) error {
	if depth > MaxNesting {
		return e.fail("nested too deeply")
	}
	e.i++
	e.out = append(e.out, '{')
	first := len(e.members)
	e.space()
	for e.peek() == '"' {
		m := member{key: len(e.out)}
		if err := e.text(); err != nil {
			return err
		}
		m.colon = len(e.out)
		e.space()
		if e.peek() != ':' {
			return e.fail("no colon behind a key")
		}
		e.i++
		e.out = append(e.out, ':')
		e.space()
		if err := e.value(depth); err != nil {
			return err
		}
		m.end = len(e.out)
		e.members = append(e.members, m)
		e.space()
		if e.peek() != ',' {
			break
		}
		e.i++
		e.out = append(e.out, ',')
		e.space()
		if e.peek() != '"' {
			return e.fail("no key")
		}
	}
	if e.peek() != '}' {
		return e.fail("object not closed")
	}
	e.i++
	if err := e.sort(e.members[first:]); err != nil {
		return err
	}
	e.members = e.members[:first]
	e.out = append(e.out, '}')
	return nil
}

// sort puts the members, which end e.out, into the order of their keys.
func (e *encoder) sort(ms []member) error {
	sorted := true
	for i := 1; i < len(ms) && sorted; i++ {
		sorted = e.compare(ms[i-1], ms[i]) < 0
	}
	if sorted {
		return nil
	}
	start := ms[0].key
	slices.SortFunc(ms, e.compare)
	for i := 1; i < len(ms); i++ {
		if e.compare(ms[i-1], ms[i]) == 0 {
			return e.fail("duplicate key " + string(e.out[ms[i].key:ms[i].colon]))
		}
	}
	e.scratch = e.scratch[:0]
	for i, m := range ms {
		if i > 0 {
			e.scratch = append(e.scratch, ',')
		}
		e.scratch = append(e.scratch, e.out[m.key:m.end]...)
	}
	e.out = append(e.out[:start], e.scratch...)
	return nil
}

func (e *encoder) compare(a, b member) int {
	return compareKeys(e.out[a.key+1:a.colon-1], e.out[b.key+1:b.colon-1])
}

// text reads a string with any escapes and appends it with canonical ones.
func (e *encoder) text() error {
	e.i++
	e.out = append(e.out, '"')
	for e.i < len(e.src) {
		c := e.src[e.i]
		switch {
		case c == '"':
			e.i++
			e.out = append(e.out, '"')
			return nil
		case c == '\\':
			r, err := e.escape()
			if err != nil {
				return err
			}
			e.out = appendRune(e.out, r)
		case c < 0x20:
			return e.fail("control character in a string")
		case c < utf8.RuneSelf:
			e.out = append(e.out, c)
			e.i++
		default:
			r, n := utf8.DecodeRune(e.src[e.i:])
			if r == utf8.RuneError && n == 1 {
				return e.fail("invalid UTF-8")
			}
			e.out = append(e.out, e.src[e.i:e.i+n]...)
			e.i += n
		}
	}
	return e.fail("string not closed")
}

// escape reads one escaped character, a surrogate pair included.
func (e *encoder) escape() (rune, error) {
	if e.i+1 >= len(e.src) {
		return 0, e.fail("string not closed")
	}
	c := e.src[e.i+1]
	if c != 'u' {
		r, ok := shortEscape(c)
		if !ok {
			return 0, e.fail("unknown escape")
		}
		e.i += 2
		return r, nil
	}
	r, ok := hex4(e.src[e.i:])
	if !ok {
		return 0, e.fail("bad \\u escape")
	}
	if !utf16.IsSurrogate(r) {
		e.i += 6
		return r, nil
	}
	low, ok := hex4(e.src[e.i+6:])
	if !ok {
		return 0, e.fail("lone surrogate")
	}
	pair := utf16.DecodeRune(r, low)
	if pair == utf8.RuneError {
		return 0, e.fail("lone surrogate")
	}
	e.i += 12
	return pair, nil
}
