package node

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// benchNode is a node on disk that nobody else is connected to.
func benchNode(b *testing.B) *member {
	b.Helper()
	st, err := store.Open(store.Options{Dir: b.TempDir(), Server: acme})
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld(b, 1)
	return w.addOn(acme, st)
}

// BenchmarkSend measures durable sends of members of ten groups.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 16, 64} {
		for _, rooms := range []int{1, 10} {
			name := fmt.Sprintf("senders=%d/rooms=%d", senders, rooms)
			b.Run(name, func(b *testing.B) { benchSend(b, senders, rooms) })
		}
	}
}

func benchSend(b *testing.B, senders, rooms int) {
	m := benchNode(b)
	ids := make([]event.RoomID, rooms)
	alice := m.user("alice")
	for i := range ids {
		ids[i] = m.create(alice, CreateRequest{Preset: "public_chat"})
	}
	users := make([]event.UserID, senders)
	for i := range users {
		users[i] = m.user(fmt.Sprint("user", i))
		m.world.must(m.Join(ctx0, users[i], ids[i%rooms], nil, nil))
	}
	var who atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	procs := max(1, senders/2) // the machine's two cores times this
	b.SetParallelism(procs)
	content := message("a body of about one hundred bytes, which is what people write to each other most of the time, more or less")
	b.RunParallel(func(pb *testing.PB) {
		i := int(who.Add(1)-1) % senders
		for k := 0; pb.Next(); k++ {
			_, err := m.Send(ctx0, SendRequest{
				User: users[i], Device: "D", Room: ids[i%rooms], Type: "m.room.message", Content: content,
				Scope: "send", TxnID: fmt.Sprint(i, "-", k),
			})
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkRemoteCommit measures what an event of another server costs from the
// network to the disk: pages of a catch-up.
func BenchmarkRemoteCommit(b *testing.B) {
	w := newWorld(b, 1)
	a := w.add(acme)
	alice := a.user("alice")
	st, err := store.Open(store.Options{Dir: b.TempDir(), Server: birch})
	if err != nil {
		b.Fatal(err)
	}
	bm := w.addOn(birch, st)
	bob := bm.user("bob")
	r := a.create(alice, CreateRequest{Preset: "public_chat"})
	w.wait("a connection", func() error { return bm.Join(ctx0, bob, r, []event.Server{acme}, nil) })
	w.net.Unlink(acme, birch)
	page := make(pdus, b.N)
	for i := range page {
		id := a.say(alice, r, "hello")
		events, err := a.load(r, []event.ID{id}, 1, maxPage)
		if err != nil {
			b.Fatal(err)
		}
		page[i] = events.events[0].JSON()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for len(page) > 0 {
		k := min(len(page), maxPageIDs)
		if _, err := bm.ingest(ctx0, source{peer: acme, room: r}, page[:k], nil); err != nil {
			b.Fatal(err)
		}
		page = page[k:]
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkDelivery measures from a send at one server until another one has
// stored the event, one at a time, both on disk.
func BenchmarkDelivery(b *testing.B) {
	w := newWorld(b, 1)
	var ms [2]*member
	for i, s := range []event.Server{acme, birch} {
		st, err := store.Open(store.Options{Dir: b.TempDir(), Server: s})
		if err != nil {
			b.Fatal(err)
		}
		ms[i] = w.addOn(s, st)
	}
	alice, bob := ms[0].user("alice"), ms[1].user("bob")
	r := ms[0].create(alice, CreateRequest{Preset: "public_chat"})
	w.wait("a connection", func() error { return ms[1].Join(ctx0, bob, r, []event.Server{acme}, nil) })
	w.net.SetFaults(simnet.Faults{})
	w.agree(r, acme, birch)
	b.ResetTimer()
	for range b.N {
		ticket := ms[1].Feed.Ticket("u:" + string(bob))
		id := ms[0].say(alice, r, "hello")
		for {
			if known, err := ms[1].knows(id); err != nil {
				b.Fatal(err)
			} else if st, err := ms[1].status(id); known && err == nil && st == store.Accepted {
				break
			}
			if err := ticket.Wait(ctx0); err != nil {
				b.Fatal(err)
			}
			ticket = ms[1].Feed.Ticket("u:" + string(bob))
		}
		ticket.Close()
	}
}

// BenchmarkFederation measures members of three servers who speak in one group as
// fast as they can, until all have stored everything.
func BenchmarkFederation(b *testing.B) {
	names := []event.Server{acme, birch, cedar}
	w := newWorld(b, 1)
	w.every = headsEvery
	var ms []*member
	var users []event.UserID
	var r event.RoomID
	for i, s := range names {
		st, err := store.Open(store.Options{Dir: b.TempDir(), Server: s})
		if err != nil {
			b.Fatal(err)
		}
		m := w.addOn(s, st)
		ms, users = append(ms, m), append(users, m.user("u"))
		if i == 0 {
			r = m.create(users[0], CreateRequest{Preset: "public_chat"})
			continue
		}
		w.wait("a join", func() error { return m.Join(ctx0, users[i], r, []event.Server{acme}, nil) })
	}
	w.agree(r, names...)
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range 3 * 8 {
		wg.Go(func() {
			for k := i; k < b.N; k += 24 {
				ms[i%3].say(users[i%3], r, "hello")
			}
		})
	}
	wg.Wait()
	sent := b.Elapsed()
	w.wait("agreement", func() error {
		for _, m := range ms[1:] {
			if err := same(ms[0], m, r); err != nil {
				return err
			}
		}
		return nil
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric((b.Elapsed()-sent).Seconds()*1000, "ms-behind")
}
