package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenim/tokenim/node/event"
)

// bump adds one to a counter, so that a function that is applied twice or lost
// shows, and takes a position.
func bump(tx *Tx, name string) error {
	p, err := tx.Cursor(name)
	if err != nil {
		return err
	}
	if _, err := tx.NextPosition(); err != nil {
		return err
	}
	return tx.SetCursor(name, p+1)
}

func counter(t testing.TB, s *Store, name string) Position {
	t.Helper()
	var p Position
	view(t, s, func(tx *Tx) (err error) {
		p, err = tx.Cursor(name)
		return err
	})
	return p
}

var errRefused = errors.New("refused")

// tooBig writes more than a transaction holds, in rows that must not go early.
func tooBig(tx *Tx) error {
	for i := range 8 {
		if err := tx.set(keyText(kindRecord, fmt.Sprint("big", i)), make([]byte, 900<<10)); err != nil {
			return err
		}
	}
	return nil
}

// calls of Update that a model test mixes, with what they must answer.
var mix = []struct {
	name string
	fn   func(*Tx) error
	good bool
	want error
}{
	{"good", func(tx *Tx) error { return bump(tx, "n") }, true, nil},
	{"good large", func(tx *Tx) error {
		if err := tx.PutServerRecord("large.example", make([]byte, 300<<10)); err != nil {
			return err
		}
		return bump(tx, "n")
	}, true, nil},
	{"reads only", func(tx *Tx) error { _, err := tx.Cursor("n"); return err }, false, nil},
	{"fails first", func(*Tx) error { return errRefused }, false, errRefused},
	{"fails after writing", func(tx *Tx) error { return errors.Join(bump(tx, "n"), errRefused) }, false, errRefused},
	{"too big", func(tx *Tx) error { return errors.Join(bump(tx, "n"), tooBig(tx)) }, false, ErrTooBig},
	{"panics", func(tx *Tx) error { _ = bump(tx, "n"); panic("oh") }, false, nil},
	{"ends its goroutine", func(tx *Tx) error { _ = bump(tx, "n"); runtime.Goexit(); return nil }, false, nil},
}

// call runs one of the mix; a panic comes back as an error.
func call(s *Store, i int) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return s.Update(context.Background(), mix[i].fn)
}

func checkAnswer(i int, err error) error {
	m := mix[i]
	switch m.name {
	case "panics":
		if err == nil || !strings.Contains(err.Error(), "oh") {
			return fmt.Errorf("%s: got %v", m.name, err)
		}
	case "ends its goroutine":
		if err == nil {
			return fmt.Errorf("%s: no error", m.name)
		}
	default:
		if !errors.Is(err, m.want) {
			return fmt.Errorf("%s: got %v, want %v", m.name, err, m.want)
		}
	}
	return nil
}

func TestUpdateModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{InMemory: true})
		if err != nil {
			rt.Fatal(err)
		}
		plan := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, len(mix)-1), 1, 20), 1, 8).Draw(rt, "plan")
		var wg sync.WaitGroup
		errs := make(chan error, 200)
		var want Position
		for _, calls := range plan {
			for _, i := range calls {
				if mix[i].good {
					want++
				}
			}
			wg.Go(func() {
				for _, i := range calls {
					if err := checkAnswer(i, call(s, i)); err != nil {
						errs <- err
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			rt.Error(err)
		}
		err = s.View(func(tx *Tx) error {
			n, err := tx.Cursor("n")
			if err != nil {
				return err
			}
			p, err := tx.Position()
			if n != want || p != want {
				rt.Errorf("counted %d, position %d, want %d", n, p, want)
			}
			return err
		})
		if err := errors.Join(err, s.Close()); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestUpdateIsSeenByNext(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	var wg sync.WaitGroup
	seen := make([]int, 400)
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				var at Position
				err := s.Update(t.Context(), func(tx *Tx) error {
					if err := bump(tx, "n"); err != nil {
						return err
					}
					var err error
					at, err = tx.Cursor("n")
					if i%2 == 0 { // iterate over what is pending, too
						err = errors.Join(err, tx.each(key0(kindCursor), nil, func(_, v []byte) error {
							n, err := decodeNumber(v, "cursor")
							if Position(n) != at {
								t.Errorf("iteration sees %d, get %d", n, at)
							}
							return err
						}))
					}
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				seen[at-1]++
				if got := counter(t, s, "n"); got < at {
					t.Errorf("a view after Update sees %d, wrote %d", got, at)
				}
				if got := s.Position(); got < at {
					t.Errorf("Position is %d after %d", got, at)
				}
			}
		})
	}
	wg.Wait()
	for i, n := range seen {
		if n != 1 {
			t.Errorf("%d was given out %d times", i+1, n)
		}
	}
}

func TestIterateMergesWrites(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{InMemory: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := s.db.Close(); err != nil { // no Check: the rows mean nothing
				rt.Error(err)
			}
		}()
		model := map[byte]byte{}
		base, batch, own := newWrites(), newWrites(), newWrites()
		key := func(b byte) []byte { return append([]byte("Cx"), b) }
		for i, w := range []*writes{base, batch, own} {
			for _, b := range rapid.SliceOf(rapid.ByteRange(0, 20)).Draw(rt, "keys") {
				if rapid.Bool().Draw(rt, "delete") {
					delete(model, b)
					w.put(string(key(b)), write{})
				} else {
					model[b] = byte(i)
					w.put(string(key(b)), write{value: []byte{byte(i)}})
				}
			}
		}
		if err := s.commit(base); err != nil {
			rt.Fatal(err)
		}
		tx := s.newView()
		defer tx.end()
		tx.own, tx.under = own, []*writes{batch}
		from := rapid.ByteRange(0, 20).Draw(rt, "from")
		back := rapid.Bool().Draw(rt, "back")
		var got []byte
		err = tx.iterate([]byte("Cx"), key(from), back, func(k, v []byte) error {
			got = append(got, k[2], v[0])
			return nil
		})
		var want []byte
		for i := 0; i <= 20; i++ {
			b := byte(i)
			if back {
				b = byte(20 - i)
			}
			if v, ok := model[b]; ok && ((!back && b >= from) || (back && b <= from)) {
				want = append(want, b, v)
			}
		}
		if err != nil || string(got) != string(want) {
			rt.Fatalf("got %v, want %v (%v)", got, want, err)
		}
		for b := byte(0); b <= 20; b++ {
			v, err := tx.get(key(b))
			if w, ok := model[b]; ok != (err == nil) || (ok && v[0] != w) {
				rt.Fatalf("get %d: %v, %v", b, v, err)
			}
		}
		close(s.stopGC)
		<-s.gcDone
		close(s.requests)
		<-s.writerDone
		<-s.committerDone
	})
}

func TestUpdateCancelled(t *testing.T) {
	s := mustOpen(t, Options{})
	hold, held := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- s.Update(context.Background(), func(tx *Tx) error {
			close(held)
			<-hold
			return bump(tx, "n")
		})
	}()
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() {
		second <- s.Update(ctx, func(tx *Tx) error {
			t.Error("a withdrawn function was run")
			return bump(tx, "n")
		})
	}()
	waitFor(t, func() bool { return len(s.requests) == 1 })
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("withdrawn: %v", err)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := s.Update(ctx, func(*Tx) error { t.Error("run"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("already cancelled: %v", err)
	}
	if n := counter(t, s, "n"); n != 1 {
		t.Errorf("counted %d", n)
	}
}

// waitFor polls until cond holds.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("timed out")
		}
	}
}

func TestFailedCommit(t *testing.T) {
	s := mustOpen(t, Options{})
	update(t, s, func(tx *Tx) error { return bump(tx, "n") })
	started, release := make(chan struct{}), make(chan struct{})
	s.failCommit = func() error {
		close(started)
		<-release
		return errors.New("input/output error")
	}
	results := make(chan error, 3)
	go func() { results <- s.Update(t.Context(), func(tx *Tx) error { return bump(tx, "n") }) }()
	<-started
	// These see what is not durable yet: neither may be answered before it is.
	for _, fn := range []func(*Tx) error{
		func(tx *Tx) error { _, err := tx.Cursor("n"); return err },
		func(tx *Tx) error { return bump(tx, "n") },
	} {
		ran := make(chan struct{})
		go func() {
			results <- s.Update(t.Context(), func(tx *Tx) error {
				defer close(ran)
				if n, err := tx.Cursor("n"); n < 2 || err != nil {
					t.Errorf("a function does not see the one before it: %d, %v", n, err)
				}
				return fn(tx)
			})
		}()
		<-ran
	}
	if n := counter(t, s, "n"); n != 1 {
		t.Errorf("a view sees %d before the commit", n)
	}
	close(release)
	for range 3 {
		if err := <-results; !errors.Is(err, ErrFailed) {
			t.Errorf("got %v", err)
		}
	}
	<-s.Failed()
	if err := s.Update(t.Context(), func(tx *Tx) error { return nil }); !errors.Is(err, ErrFailed) {
		t.Errorf("after the failure: %v", err)
	}
	if n := counter(t, s, "n"); n != 1 || s.Position() != 1 {
		t.Errorf("counted %d, position %d", n, s.Position())
	}
}

func TestViewDoesNotWaitForCommit(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	started, release := make(chan struct{}), make(chan struct{})
	s.failCommit = func() error {
		close(started)
		<-release
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- s.Update(context.Background(), func(tx *Tx) error { return bump(tx, "n") }) }()
	<-started
	if n := counter(t, s, "n"); n != 0 { // would hang if it waited
		t.Errorf("sees %d", n)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.failCommit = nil
}

func TestViewIsASnapshot(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	update(t, s, func(tx *Tx) error { return bump(tx, "n") })
	view(t, s, func(tx *Tx) error {
		for range 100 {
			update(t, s, func(tx *Tx) error { return bump(tx, "n") })
		}
		n, err := tx.Cursor("n")
		if n != 1 {
			t.Errorf("sees %d", n)
		}
		if err := tx.SetCursor("n", 7); !errors.Is(err, errReadOnly) {
			t.Errorf("write in a view: %v", err)
		}
		return err
	})
}

// Rows that nothing refers to may exceed a transaction: a join brings them.
func TestLargeFunction(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	w := newWorld(t, s)
	var evs []*event.Event
	for i := range 40 {
		evs = append(evs, w.sign(event.Body{
			Room: w.room, Type: "m.room.message", Sender: w.admin, Depth: 1, Time: int64(i),
			Content: []byte(fmt.Sprintf(`{"body":"%0*d"}`, 60000, i)), Prev: []event.ID{w.room.Create()}, Auth: []event.ID{},
		}))
	}
	many := func(tx *Tx) error {
		for i := range 3 {
			for _, e := range evs {
				h, _ := eventHash(e.ID())
				h[0] = byte(i)
				if err := tx.put(keyHash(kindFilter, h), e.JSON(), true); err != nil {
					return err
				}
			}
		}
		return nil
	}
	update(t, s, func(tx *Tx) error {
		if err := many(tx); err != nil {
			return err
		}
		for _, e := range evs {
			if err := tx.PutOutlier(e); err != nil {
				return err
			}
		}
		return bump(tx, "n")
	})
	// All or nothing holds for rows that are not early.
	err := s.Update(t.Context(), func(tx *Tx) error { return errors.Join(many(tx), bump(tx, "n"), errRefused) })
	if !errors.Is(err, errRefused) {
		t.Error(err)
	}
	if n := counter(t, s, "n"); n != 1 {
		t.Errorf("counted %d", n)
	}
	view(t, s, func(tx *Tx) error {
		for _, e := range evs {
			got, err := tx.Event(e.ID())
			if err != nil {
				return err
			}
			if got.Status != Outlier || string(got.JSON()) != string(e.JSON()) {
				t.Fatalf("event %s is wrong", e.ID())
			}
		}
		return nil
	})
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, Options{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				err := s.Update(context.Background(), func(tx *Tx) error { return bump(tx, "n") })
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	waitFor(t, func() bool { return s.Position() > 20 })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("view: %v", err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("check: %v", err)
	}
}

func TestReadersKeepOldest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newReaders(0)
		var in []uint64
		last := uint64(0)
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			switch k := rapid.IntRange(0, 2).Draw(t, "step"); {
			case k == 0:
				in = append(in, r.enter())
			case k == 1 && len(in) > 0:
				i := rapid.IntRange(0, len(in)-1).Draw(t, "who")
				r.leave(in[i])
				in = append(in[:i], in[i+1:]...)
			default:
				last++
				oldest := r.advance(last)
				want := last
				for _, x := range in {
					want = min(want, x)
				}
				if oldest != want {
					t.Fatalf("oldest is %d, want %d of %v", oldest, want, in)
				}
			}
		}
	})
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", n), func(b *testing.B) {
			s := mustOpen(b, Options{Dir: b.TempDir()})
			value := make([]byte, 900)
			for i := range value {
				value[i] = byte(rand.Uint32())
			}
			work := make(chan uint64)
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range n {
				wg.Go(func() {
					for i := range work {
						err := s.Update(context.Background(), func(tx *Tx) error {
							if _, err := tx.NextPosition(); err != nil {
								return err
							}
							key := binary.BigEndian.AppendUint64([]byte{kindRecord}, i)
							return tx.set(key, value)
						})
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range b.N {
				work <- uint64(i)
			}
			close(work)
			wg.Wait()
		})
	}
}
