package federation

import (
	"fmt"
	"math/rand/v2"
	"testing"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"google.golang.org/protobuf/proto"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

// BenchmarkPublish sends events of 1 KB to one other node and waits for them,
// with at most window on their way.
func BenchmarkPublish(b *testing.B) {
	for _, window := range []int{1, 64} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			arrived := make(chan struct{}, 1<<16) // never full, so the handler never waits
			c := &cluster{nodes: map[int]*testNode{}}
			ra := &nettest.Recorder{}
			x, _ := c.Start(b, 0, ra)
			y, _ := c.Start(b, 1, &nettest.Recorder{Verdict: func(nettest.Gossip) error {
				arrived <- struct{}{}
				return nil
			}})
			c.Link(b, 0, 1)
			nettest.Wait(b, "the connection", func() bool { return ra.Connected(y.Self()) })
			members := []event.Server{x.Self(), y.Self()}
			x.SetRoom(testRoom, nil, members)
			y.SetRoom(testRoom, nil, members)
			random := rand.NewChaCha8([32]byte{})
			pdu := make([]byte, 1024)
			send := func() {
				_, _ = random.Read(pdu[:512]) // the other half compresses
				if err := x.Publish(b.Context(), testRoom, [][]byte{pdu}, nil); err != nil {
					b.Fatal(err)
				}
			}
			nettest.Wait(b, "the mesh", func() bool {
				send()
				select {
				case <-arrived:
					return true
				default:
					return false
				}
			})
			for len(arrived) > 0 {
				<-arrived
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(pdu)))
			for i := 0; b.Loop(); i++ {
				if i >= window {
					<-arrived
				}
				send()
			}
		})
	}
}

func BenchmarkEnvelope(b *testing.B) {
	pdu := make([]byte, 1024)
	_, _ = rand.NewChaCha8([32]byte{}).Read(pdu[:512])
	e := &envelope{room: testRoom, pdus: [][]byte{pdu}, heads: []event.ID{event.ID("$" + testRoom[1:])}}
	data, err := e.encode()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.encode(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decodeEnvelope(data, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkFilterFrame(b *testing.B) {
	in, err := proto.Marshal(&pb.RPC{Publish: []*pb.Message{{Data: make([]byte, 1024), Topic: proto.String("yes")}}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := filterFrame(in, letThrough{}); err != nil {
			b.Fatal(err)
		}
	}
}
