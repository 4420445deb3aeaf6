package event

import (
	"bytes"
	"unicode/utf8"
)

// shortEscape returns the character that a backslash and c mean.
func shortEscape(c byte) (rune, bool) {
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 't':
		return '\t', true
	case 'n':
		return '\n', true
	case 'f':
		return '\f', true
	case 'r':
		return '\r', true
	}
	return 0, false
}

// hex4 reads the \uXXXX that b starts with.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		r <<= 4
		switch {
		case '0' <= c && c <= '9':
			r |= rune(c - '0')
		case 'a' <= c && c <= 'f':
			r |= rune(c - 'a' + 10)
		case 'A' <= c && c <= 'F':
			r |= rune(c - 'A' + 10)
		default:
			return 0, false
		}
	}
	return r, true
}

// compareKeys orders the texts of two canonical strings by code point. UTF-8
// keeps that order; only escapes have to be undone, one byte for each.
func compareKeys(a, b []byte) int {
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return bytes.Compare(a, b)
	}
	for len(a) > 0 && len(b) > 0 {
		x, n := firstByte(a)
		y, m := firstByte(b)
		if x != y {
			return int(x) - int(y)
		}
		a, b = a[n:], b[m:]
	}
	return len(a) - len(b)
}

// firstByte returns the first byte of the text that b writes and how many bytes
// it is written with. Canonical escapes mean ASCII characters only.
func firstByte(b []byte) (byte, int) {
	if b[0] != '\\' || len(b) < 2 {
		return b[0], 1
	}
	if r, ok := hex4(b); ok {
		return byte(r), 6
	}
	r, _ := shortEscape(b[1])
	return byte(r), 2
}

// appendRune appends one character of a string in its canonical form.
func appendRune(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r >= 0x20:
		return utf8.AppendRune(dst, r)
	case r == '\b':
		return append(dst, '\\', 'b')
	case r == '\t':
		return append(dst, '\\', 't')
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\f':
		return append(dst, '\\', 'f')
	case r == '\r':
		return append(dst, '\\', 'r')
	}
	return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
}

// appendText appends s, which must be valid UTF-8, as a canonical string.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			dst = appendRune(append(dst, s[plain:i]...), rune(c))
			plain = i + 1
		}
	}
	dst = append(dst, s[plain:]...)
	return append(dst, '"')
}

// The rest of this file reads what is known to be canonical. Bytes that are not
// (a damaged disk) give wrong answers, never a panic.

// appendUnquoted appends the text that the canonical string v, quotes included,
// stands for. ok is false if v is no string.
func appendUnquoted(dst, v []byte) (_ []byte, ok bool) {
	if len(v) < 2 || v[0] != '"' {
		return dst, false
	}
	v = v[1 : len(v)-1]
	if bytes.IndexByte(v, '\\') < 0 {
		return append(dst, v...), true
	}
	for len(v) > 0 {
		c, n := firstByte(v)
		dst = append(dst, c)
		v = v[n:]
	}
	return dst, true
}

// skip returns the index behind the value that starts at b[i], -1 if there is
// none.
func skip(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipText(b, i)
	case '{', '[':
		for depth := 0; i >= 0 && i < len(b); {
			switch b[i] {
			case '"':
				i = skipText(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// skipText returns the index behind the string that starts at b[i].
func skipText(b []byte, i int) int {
	for i++; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		end := i + n
		back := end
		for back > i && b[back-1] == '\\' {
			back--
		}
		if (end-back)%2 == 0 {
			return end + 1
		}
		i = end + 1
	}
}

// reader steps through the members of a canonical object or the elements of a
// canonical array. bad is set when the bytes turn out to be neither.
type reader struct {
	b     []byte
	i     int
	start int // where the current member or element starts
	bad   bool
}

// read returns a reader of v if it starts with open, '{' or '['.
func read(v []byte, open byte) reader {
	if len(v) < 2 || v[0] != open {
		return reader{bad: true}
	}
	return reader{b: v, i: 1}
}

// element returns the next element of an array.
func (r *reader) element() ([]byte, bool) {
	if r.bad || r.b[r.i] == ']' || r.b[r.i] == '}' {
		return nil, false
	}
	r.start = r.i
	end := skip(r.b, r.i)
	if end < 0 || end >= len(r.b) {
		r.bad = true
		return nil, false
	}
	v := r.b[r.i:end:end]
	r.i = end
	if r.b[end] == ',' {
		if r.i++; r.i >= len(r.b) {
			r.bad = true
		}
	}
	return v, true
}

// member returns the next member of an object: the key as written, without its
// quotes, and the value.
func (r *reader) member() (key, value []byte, ok bool) {
	if r.bad || r.b[r.i] != '"' {
		r.bad = r.bad || r.b[r.i] != '}'
		return nil, nil, false
	}
	start := r.i
	end := skipText(r.b, r.i)
	if end < 0 || end+1 >= len(r.b) || r.b[end] != ':' {
		r.bad = true
		return nil, nil, false
	}
	key = r.b[r.i+1 : end-1]
	r.i = end + 1
	value, ok = r.element()
	r.start = start
	if !ok {
		r.bad = true
	}
	return key, value, ok
}

// lookup returns the value of a member of the object v, nil if there is none.
// key must be ASCII that needs no escape.
func lookup(v []byte, key string) []byte {
	for r := read(v, '{'); ; {
		k, value, ok := r.member()
		if !ok {
			return nil
		}
		if string(k) == key {
			return value
		}
	}
}
