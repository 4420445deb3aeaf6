package client

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// benchRooms makes rooms with members each, who all said something.
func benchRooms(b *testing.B, rooms, members, messages int) (*server, []*person, []event.RoomID) {
	b.Helper()
	s := open(b)
	people := make([]*person, members)
	for i := range people {
		people[i] = s.person(fmt.Sprint("user", i))
	}
	ids := make([]event.RoomID, rooms)
	for i := range ids {
		id, err := s.node.CreateRoom(b.Context(), people[0].id, node.CreateRequest{Preset: "public_chat", Name: fmt.Sprint("Group ", i), Topic: "Things"})
		if err != nil {
			b.Fatal(err)
		}
		ids[i] = id
		for _, p := range people[1:] {
			if err := s.node.Join(b.Context(), p.id, id, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
		for k := range messages {
			people[k%members].post(b, id, k)
		}
	}
	return s, people, ids
}

func (p *person) post(b *testing.B, r event.RoomID, k int) {
	_, err := p.s.node.Send(b.Context(), node.SendRequest{User: p.id, Device: p.device, Room: r, Type: "m.room.message",
		Content: fmt.Appendf(nil, `{"body":"message %d of about a hundred bytes, as people write them to each other all day long","msgtype":"m.text"}`, k)})
	if err != nil {
		b.Fatal(err)
	}
}

// get answers a request without a network.
func (p *person) get(b *testing.B, path string) *httptest.ResponseRecorder {
	req := httptest.NewRequest("GET", path, nil)
	req.Header.Set("Authorization", "Bearer "+p.token)
	w := httptest.NewRecorder()
	p.s.api.ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		b.Fatal(w.Code, w.Body)
	}
	return w
}

// BenchmarkInitialSync is a first sync of 50 rooms with 10 members and 30 messages
// each.
func BenchmarkInitialSync(b *testing.B) {
	for _, f := range []struct{ name, filter string }{{"plain", ""}, {"lazy", "?filter=%7B%22room%22:%7B%22state%22:%7B%22lazy_load_members%22:true%7D%7D%7D"}} {
		b.Run(f.name, func(b *testing.B) {
			_, people, _ := benchRooms(b, 50, 10, 30)
			p := people[3]
			n := p.get(b, v3+"/sync"+f.filter).Body.Len()
			b.ReportAllocs()
			for b.Loop() {
				p.get(b, v3+"/sync"+f.filter)
			}
			b.ReportMetric(float64(n), "bytes/sync")
		})
	}
}

// BenchmarkIncrementalSync is a sync that brings one message, of a user in 1, 50
// and 500 rooms.
func BenchmarkIncrementalSync(b *testing.B) {
	for _, rooms := range []int{1, 50, 500} {
		b.Run(fmt.Sprint("rooms=", rooms), func(b *testing.B) {
			s, people, ids := benchRooms(b, rooms, 2, 1)
			since := node.Token{Position: s.store.Position()}
			people[0].post(b, ids[0], 0)
			path := v3 + "/sync?since=" + since.String()
			b.ReportAllocs()
			for b.Loop() {
				people[1].get(b, path)
			}
		})
	}
}

// BenchmarkSyncWakeUp is the way from a message to the answer of a long-poll, over
// HTTP.
func BenchmarkSyncWakeUp(b *testing.B) {
	_, people, ids := benchRooms(b, 1, 2, 1)
	alice, bob := people[0], people[1]
	bob.s.http.Transport = http.DefaultTransport // without validation
	defer http.DefaultClient.CloseIdleConnections()
	c := bob.syncing("")
	c.next()
	b.ReportAllocs()
	for b.Loop() {
		done := make(chan struct{})
		go func() {
			c.next("timeout", "30000")
			close(done)
		}()
		alice.post(b, ids[0], 1)
		<-done
	}
}

// BenchmarkIdlePolls reports the memory of 2,000 clients that wait in a long-poll,
// in groups of 50, and how long a message takes to reach all 50 of one group.
func BenchmarkIdlePolls(b *testing.B) {
	const polls, group = 2000, 50
	s := open(b)
	people := make([]*person, polls)
	rooms := make([]event.RoomID, polls/group)
	for i := range people {
		people[i] = s.light(b, i)
		if i%group == 0 {
			id, err := s.node.CreateRoom(b.Context(), people[i].id, node.CreateRequest{Preset: "public_chat"})
			if err != nil {
				b.Fatal(err)
			}
			rooms[i/group] = id
		} else if err := s.node.Join(b.Context(), people[i].id, rooms[i/group], nil, nil); err != nil {
			b.Fatal(err)
		}
	}
	before := inUse()
	since := node.Token{Position: s.store.Position()}
	answers := make(chan struct{}, polls)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards since
	stop := make(chan struct{})
	for _, p := range people {
		wg.Go(func() {
			for {
				mu.Lock()
				from := since
				mu.Unlock()
				ctx := b.Context()
				if _, err := s.node.Sync(ctx, node.SyncRequest{Viewer: node.Viewer{User: p.id, Device: p.device}, Since: &from, Timeout: time.Minute}); err != nil {
					return
				}
				select {
				case <-stop:
					return
				case answers <- struct{}{}:
				}
			}
		})
	}
	waiting := func(n int) {
		for s.node.Feed.Waiting() != n {
			runtime.Gosched()
		}
	}
	waiting(polls)
	each := float64(inUse()-before) / polls / 1024
	for b.Loop() {
		mu.Lock()
		since = node.Token{Position: s.store.Position() + 1}
		mu.Unlock()
		people[0].post(b, rooms[0], 1)
		for range group {
			<-answers
		}
		waiting(polls)
	}
	b.ReportMetric(each, "KiB/poll")
	close(stop)
	for i, r := range rooms {
		people[i*group].post(b, r, 1)
	}
	wg.Wait()
}

// light is person without the cost of a password.
func (s *server) light(b *testing.B, i int) *person {
	id := event.UserID(fmt.Sprintf("@light%d:%s", i, s.name))
	if err := s.store.Update(b.Context(), func(tx *store.Tx) error { return tx.PutUser(&store.User{ID: id, Role: "user"}) }); err != nil {
		b.Fatal(err)
	}
	return &person{s: s, id: id, device: "D"}
}

// inUse returns the bytes of heap and stacks in use.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
