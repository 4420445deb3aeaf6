package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestRowCacheSnapshots: whatever is written and in whatever order snapshots
// read, every snapshot sees the rows of its own time, as without the cache.
func TestRowCacheSnapshots(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, Options{InMemory: true})
	base := byte(0)
	rapid.Check(t, func(t *rapid.T) {
		base++ // keys of this run alone: a room row that Check could not read must not stay
		keys := make([][]byte, 4)
		for i := range keys {
			keys[i] = keyHash(kindRoom, hash{base, byte(i), 0xff})
		}
		var open []*Tx
		defer func() {
			for _, tx := range open {
				tx.end()
			}
			err := s.Update(context.Background(), func(tx *Tx) error {
				for _, k := range keys {
					if err := tx.delete(k); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}()
		read := func(tx *Tx, key []byte) string {
			got, err := tx.get(key)
			plain := *tx
			plain.kept = nil
			want, wantErr := plain.get(key)
			if !bytes.Equal(got, want) || errors.Is(err, ErrNotFound) != errors.Is(wantErr, ErrNotFound) {
				t.Fatalf("read %q, %v; it is %q, %v", got, err, want, wantErr)
			}
			return string(got)
		}
		key := rapid.SampledFrom(keys)
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {},
			"write": func(t *rapid.T) {
				n++
				k, gone := key.Draw(t, "key"), rapid.Bool().Draw(t, "delete")
				err := s.Update(context.Background(), func(tx *Tx) error {
					read(tx, k)
					if gone {
						return tx.delete(k)
					}
					return tx.set(k, fmt.Append(nil, n))
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			"open": func(*rapid.T) { open = append(open, s.newView()) },
			"close": func(*rapid.T) {
				if len(open) > 0 {
					open[0].end()
					open = open[1:]
				}
			},
			"read": func(t *rapid.T) {
				if len(open) > 0 {
					read(rapid.SampledFrom(open).Draw(t, "snapshot"), key.Draw(t, "key"))
				}
			},
		})
	})
}

// TestRowCacheBound: the cache forgets the rows that were not used for longest,
// and counts rows that grow.
func TestRowCacheBound(t *testing.T) {
	t.Parallel()
	c := newRowCache(3*(rowCacheOverhead+100), 1)
	for i := range 10 {
		c.keep(fmt.Append(nil, i), make([]byte, 80), 1)
	}
	if n := len(c.byKey); n != 3 || c.order.Len() != 3 {
		t.Errorf("%d rows are kept", n)
	}
	if _, ok := c.find([]byte("9"), 1); !ok {
		t.Error("the last row is not there")
	}
	c.keep([]byte("8"), make([]byte, 650), 1)
	if n := len(c.byKey); n != 1 || c.used != 651+rowCacheOverhead {
		t.Errorf("%d rows of %d bytes are kept beside a large one", n, c.used)
	}
}
