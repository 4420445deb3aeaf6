package node

import (
	"slices"
	"strings"
)

// contains reports whether a pattern matches a part of a text that begins and
// ends at word boundaries (Push Rules, content rules).
func (j *judge) contains(text, pattern string) bool { return j.match(text, pattern, true) }

// match reports whether a glob matches a text without regard to case (Appendices,
// Glob-style matching): all of it, or with words a part of it between word
// boundaries. It follows all ways to match at once, so that it takes time in
// proportion to both lengths, which it takes from j.work.
func (j *judge) match(text, pattern string, words bool) bool {
	if !words && !strings.ContainsAny(pattern, "*?") {
		return strings.EqualFold(text, pattern)
	}
	t, g := []rune(strings.ToLower(text)), []rune(strings.ToLower(pattern))
	g = slices.CompactFunc(g, func(a, b rune) bool { return a == '*' && b == '*' })
	if j.work -= (len(t) + 1) * (len(g) + 1); j.work < 0 {
		return false
	}
	at, next := make([]bool, len(g)+1), make([]bool, len(g)+1)
	for i := 0; ; i++ {
		edge := i == 0 || i == len(t) || !wordRune(t[i-1]) || !wordRune(t[i])
		if i == 0 || words && edge {
			at[0] = true
		}
		for k, c := range g { // a star may stand for nothing
			at[k+1] = at[k+1] || at[k] && c == '*'
		}
		if at[len(g)] && (i == len(t) || words && edge) {
			return true
		}
		if i == len(t) {
			return false
		}
		clear(next)
		for k, c := range g {
			switch {
			case !at[k]:
			case c == '*':
				next[k] = true
			case c == '?' || c == t[i]:
				next[k+1] = true
			}
		}
		at, next = next, at
	}
}

// wordRune reports whether a character is part of a word.
func wordRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_'
}
