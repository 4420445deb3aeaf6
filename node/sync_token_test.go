package node

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/store"
)

func TestToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tok := Token{
			Position: store.Position(rapid.Uint64().Draw(t, "position")),
			epoch:    rapid.Uint64().Draw(t, "epoch"),
		}
		if tok.epoch != 0 {
			tok.gen = rapid.Uint64().Draw(t, "generation")
		}
		got, err := ParseToken(tok.String())
		if err != nil || got != tok {
			t.Fatalf("%s: %+v, %v", tok, got, err)
		}
		tl := TimelineToken(tok.Position)
		if got, err := ParseToken(tl.String()); err != nil || got != tl {
			t.Fatalf("%s: %+v, %v", tl, got, err)
		}
	})
	if s := (Token{Position: math.MaxUint64}).String(); s != "s18446744073709551615" {
		t.Error(s)
	}
}

func TestMalformedToken(t *testing.T) {
	for _, s := range []string{"", "s", "t", "x1", "1", "s-1", "s+1", "s01", "s1_", "s1_2", "s1_0_0", "s1_2_3_4", "t1_2_3", "s1_A_3",
		"s18446744073709551616", "s1 ", " s1", "s1_2_", "s１", "s1_2_3zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"} {
		if _, err := ParseToken(s); !errors.Is(err, ErrParam) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"s1", "t72594", "s72594_4483_1934", "s0", "s1_z_0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrParam) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if tok.String() != s {
			t.Fatalf("%q reads as %q", s, tok)
		}
	})
}
