package node

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tokenim/tokenim/store"
)

// Token is a place in a user's stream: what the node had stored up to a
// position, and what it knew of typing users. It is text for clients:
//
//	s<position>                        nobody was typing
//	s<position>_<epoch>_<generation>   typing users were told; base 36
//	t<position>                        a place in a timeline
//
// Positions survive restarts. A generation belongs to one run of the node, its
// epoch; a later run tells the client anew who is typing.
type Token struct {
	Position store.Position
	epoch    uint64 // 0: the client knows that nobody is typing
	gen      uint64
	timeline bool
}

// TimelineToken returns the token of the place behind a position.
func TimelineToken(p store.Position) Token { return Token{Position: p, timeline: true} }

// String returns the text that clients get.
func (t Token) String() string {
	b := make([]byte, 0, 48)
	if t.timeline {
		b = append(b, 't')
	} else {
		b = append(b, 's')
	}
	b = strconv.AppendUint(b, uint64(t.Position), 10)
	if t.epoch != 0 {
		b = append(b, '_')
		b = strconv.AppendUint(b, t.epoch, 36)
		b = append(b, '_')
		b = strconv.AppendUint(b, t.gen, 36)
	}
	return string(b)
}

// ParseToken reads a token that String made. Errors wrap ErrParam.
func ParseToken(s string) (Token, error) {
	bad := fmt.Errorf("%w: token is not one of this server's", ErrParam)
	if len(s) < 2 || len(s) > 64 || s[0] != 's' && s[0] != 't' {
		return Token{}, bad
	}
	t := Token{timeline: s[0] == 't'}
	pos, rest, more := strings.Cut(s[1:], "_")
	p, err := strconv.ParseUint(pos, 10, 64)
	if err != nil {
		return Token{}, bad
	}
	t.Position = store.Position(p)
	if more {
		epoch, gen, _ := strings.Cut(rest, "_")
		var e1, e2 error
		t.epoch, e1 = strconv.ParseUint(epoch, 36, 64)
		t.gen, e2 = strconv.ParseUint(gen, 36, 64)
		if e1 != nil || e2 != nil || t.timeline {
			return Token{}, bad
		}
	}
	if t.String() != s { // one spelling each: no signs, zeros in front or capitals
		return Token{}, bad
	}
	return t, nil
}
