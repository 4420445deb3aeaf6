package room

import (
	"encoding/json"
)

// maxInteger bounds the integers of canonical JSON on both sides.
const maxInteger = 1<<53 - 1

// scanObject calls fn with each property of a JSON object: the key without
// quotes, escapes replaced, and the value as written. It stops when fn returns
// false. The result is false if raw is no object.
//
// The bytes of events were checked when they were read, so this only has to
// find its way through them without allocating: the rules look at two or three
// properties of objects that can have thousands. Broken input ends the scan and
// never harms.
func scanObject(raw []byte, fn func(key, value []byte) bool) bool {
	i := skipSpace(raw, 0)
	if i >= len(raw) || raw[i] != '{' {
		return false
	}
	for i = skipSpace(raw, i+1); i < len(raw) && raw[i] == '"'; i = skipSpace(raw, i+1) {
		end, escaped := skipString(raw, i)
		if end < 0 {
			return false
		}
		key := raw[i+1 : end-1]
		if escaped {
			s, ok := stringOf(raw[i:end])
			if !ok {
				return false
			}
			key = []byte(s)
		}
		if i = skipSpace(raw, end); i >= len(raw) || raw[i] != ':' {
			return false
		}
		start := skipSpace(raw, i+1)
		if end = skipValue(raw, start); end < 0 {
			return false
		}
		if !fn(key, raw[start:end]) {
			return true
		}
		if i = skipSpace(raw, end); i >= len(raw) || raw[i] != ',' {
			break
		}
	}
	return i < len(raw) && raw[i] == '}'
}

// scanArray calls fn with each element of a JSON array. It stops when fn returns
// false. The result is false if raw is no array.
func scanArray(raw []byte, fn func(value []byte) bool) bool {
	i := skipSpace(raw, 0)
	if i >= len(raw) || raw[i] != '[' {
		return false
	}
	if i = skipSpace(raw, i+1); i < len(raw) && raw[i] == ']' {
		return true
	}
	for {
		end := skipValue(raw, i)
		if end < 0 {
			return false
		}
		if !fn(raw[i:end]) {
			return true
		}
		if i = skipSpace(raw, end); i >= len(raw) || raw[i] != ',' {
			return i < len(raw) && raw[i] == ']'
		}
		i = skipSpace(raw, i+1)
	}
}

// property returns the value of a property of an object, as written, or nil.
func property(object []byte, name string) []byte {
	var found []byte
	scanObject(object, func(key, value []byte) bool {
		if string(key) != name {
			return true
		}
		found = value
		return false
	})
	return found
}

// stringOf decodes a JSON string; ok is false for any other value.
func stringOf(value []byte) (s string, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	if end, escaped := skipString(value, 0); end == len(value) && !escaped {
		return string(value[1 : end-1]), true
	}
	if json.Unmarshal(value, &s) != nil {
		return "", false
	}
	return s, true
}

// integerOf decodes an integer as canonical JSON writes it; ok is false for
// fractions, exponents, strings and integers beyond ±(2^53-1).
func integerOf(value []byte) (n int64, ok bool) {
	digits := value
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 16 || digits[0] == '0' && len(value) > 1 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if n > maxInteger {
		return 0, false
	}
	if value[0] == '-' {
		n = -n
	}
	return n, true
}

func skipSpace(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the index behind the string that starts at i, or -1.
func skipString(raw []byte, i int) (end int, escaped bool) {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			return i + 1, escaped
		}
	}
	return -1, escaped
}

// skipValue returns the index behind the value that starts at i, or -1.
func skipValue(raw []byte, i int) int {
	if i >= len(raw) {
		return -1
	}
	switch raw[i] {
	case '"':
		end, _ := skipString(raw, i)
		return end
	case '{', '[':
		for depth := 0; i < len(raw); i++ {
			switch raw[i] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			case '"':
				end, _ := skipString(raw, i)
				if end < 0 {
					return -1
				}
				i = end - 1
			}
		}
		return -1
	}
	start := i
	for i < len(raw) && raw[i] != ',' && raw[i] != '}' && raw[i] != ']' && raw[i] > ' ' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
