package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
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
			"open": func(*rapid.T) {
				if len(open) < 3 {
					open = append(open, s.newView())
				}
			},
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
	c := newRowCache(3*(keptOverhead+100), 1)
	for i := range 10 {
		c.keep(fmt.Append(nil, i), make([]byte, 80), 80, 1)
	}
	if n := len(c.byKey); n != 3 || c.order.Len() != 3 {
		t.Errorf("%d rows are kept", n)
	}
	if _, ok := c.find([]byte("9"), 1); !ok {
		t.Error("the last row is not there")
	}
	c.keep([]byte("8"), make([]byte, 650), 650, 1)
	if n := len(c.byKey); n != 1 || c.used != 651+keptOverhead {
		t.Errorf("%d rows of %d bytes are kept beside a large one", n, c.used)
	}
}

// TestScanSnapshots: what is kept of scans is what every snapshot would read
// itself, whatever was written in between.
func TestScanSnapshots(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, Options{InMemory: true})
	w := newWorld(t, s)
	users := []event.UserID{user("alice", home), user("bob", home)}
	said := []event.ID{w.say(nil, w.admin, "1").ID(), w.say(nil, w.admin, "2").ID()}
	rapid.Check(t, func(t *rapid.T) {
		var open []*Tx
		defer func() {
			for _, tx := range open {
				tx.end()
			}
		}()
		read := func(tx *Tx) string {
			var b strings.Builder
			for _, u := range users {
				ms, err := tx.Memberships(u)
				fmt.Fprintln(&b, ms, err)
				for after := range Position(2) {
					data, err := tx.AllAccountData(u, after*s.Position()/2)
					fmt.Fprintln(&b, data, err)
				}
				ignored, err := tx.AccountData(u, "", "a")
				fmt.Fprintln(&b, ignored, errors.Is(err, ErrNotFound))
				own, err := tx.UserReceipts(w.room, u, "m.read", "m.read.private")
				fmt.Fprintln(&b, own, err)
			}
			rs, err := tx.Receipts(w.room, s.Position()/2)
			last, err2 := tx.Last(w.room)
			fmt.Fprintln(&b, rs, err, last, err2)
			return b.String()
		}
		anyUser := rapid.SampledFrom(users)
		write := func(t *rapid.T, fn func(*Tx, event.UserID) error) {
			u := anyUser.Draw(t, "user")
			if err := s.Update(context.Background(), func(tx *Tx) error { return fn(tx, u) }); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {},
			"read": func(t *rapid.T) {
				for _, tx := range open {
					plain := *tx
					plain.kept, plain.scans, plain.totalsOf = nil, nil, nil
					if got, want := read(tx), read(&plain); got != want {
						t.Fatalf("read\n%s\nit is\n%s", got, want)
					}
				}
			},
			"open": func(*rapid.T) {
				if len(open) < 3 {
					open = append(open, s.newView())
				}
			},
			"close": func(*rapid.T) {
				if len(open) > 0 {
					open[0].end()
					open = open[1:]
				}
			},
			"membership": func(t *rapid.T) {
				in := fakeHash(rapid.IntRange(1, 3).Draw(t, "room")).room()
				write(t, func(tx *Tx, u event.UserID) error {
					return tx.PutMembership(Membership{Room: in, User: u, Membership: "invite", Event: fakeHash(9).event(), Raw: []byte(`{}`)})
				})
			},
			"account data": func(t *rapid.T) {
				typ := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "type")
				write(t, func(tx *Tx, u event.UserID) error {
					return tx.PutAccountData(u, AccountData{Type: typ, Content: []byte(`{}`)})
				})
			},
			"receipt": func(t *rapid.T) {
				typ := rapid.SampledFrom([]string{"m.read", "m.read.private"}).Draw(t, "type")
				id := rapid.SampledFrom(said).Draw(t, "event")
				write(t, func(tx *Tx, u event.UserID) error {
					return tx.PutReceipt(Receipt{Room: w.room, Type: typ, User: u, Event: id})
				})
			},
		})
	})
}
