package federation

import (
	"errors"
	"strings"
	"testing"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// letThrough lets topics and ids pass that begin with "y".
type letThrough struct{}

func yes(s string) bool { return strings.HasPrefix(s, "y") }

func (letThrough) subscription(topic string, _ bool) bool { return yes(topic) }
func (letThrough) topic(_ part, topic string) bool        { return yes(topic) }
func (letThrough) id(_ protowire.Number, id string) bool  { return yes(id) }
func (letThrough) offer(_, id string) bool                { return yes(id) }

// model does to a decoded frame what filterFrame does to its bytes.
func model(in *pb.RPC) *pb.RPC {
	out := &pb.RPC{}
	for _, s := range in.Subscriptions {
		if yes(s.GetTopicid()) {
			out.Subscriptions = append(out.Subscriptions, s)
		}
	}
	for _, m := range in.Publish {
		if yes(m.GetTopic()) {
			out.Publish = append(out.Publish, m)
		}
	}
	ids := func(in []string) (out []string) {
		for _, id := range in {
			if yes(id) {
				out = append(out, id)
			}
		}
		return out
	}
	if in.Control == nil {
		return out
	}
	c := &pb.ControlMessage{}
	for _, x := range in.Control.Ihave {
		if left := ids(x.MessageIDs); yes(x.GetTopicID()) && len(left) > 0 {
			c.Ihave = append(c.Ihave, &pb.ControlIHave{TopicID: x.TopicID, MessageIDs: left})
		}
	}
	for _, x := range in.Control.Iwant {
		if left := ids(x.MessageIDs); len(left) > 0 || len(x.MessageIDs) == 0 {
			c.Iwant = append(c.Iwant, &pb.ControlIWant{MessageIDs: left})
		}
	}
	for _, x := range in.Control.Graft {
		if yes(x.GetTopicID()) {
			c.Graft = append(c.Graft, x)
		}
	}
	for _, x := range in.Control.Prune {
		if yes(x.GetTopicID()) {
			c.Prune = append(c.Prune, x)
		}
	}
	for _, x := range in.Control.Idontwant {
		if left := ids(x.MessageIDs); len(left) > 0 || len(x.MessageIDs) == 0 {
			c.Idontwant = append(c.Idontwant, &pb.ControlIDontWant{MessageIDs: left})
		}
	}
	if proto.Size(c) > 0 || proto.Size(in.Control) == 0 {
		out.Control = c
	}
	return out
}

func genRPC(t *rapid.T) *pb.RPC {
	topic := rapid.SampledFrom([]string{"yes", "no", "y", "", "n\x00"})
	id := rapid.SampledFrom([]string{"y1", "n1", "y2", ""})
	ids := rapid.SliceOfN(id, 0, 4)
	rpc := &pb.RPC{}
	n := func(label string) int { return rapid.IntRange(0, 3).Draw(t, label) }
	for range n("subs") {
		rpc.Subscriptions = append(rpc.Subscriptions, &pb.RPC_SubOpts{Subscribe: proto.Bool(rapid.Bool().Draw(t, "sub")), Topicid: proto.String(topic.Draw(t, "topic"))})
	}
	for range n("messages") {
		rpc.Publish = append(rpc.Publish, &pb.Message{Data: rapid.SliceOf(rapid.Byte()).Draw(t, "data"), Topic: proto.String(topic.Draw(t, "topic"))})
	}
	if rapid.Bool().Draw(t, "control") {
		c := &pb.ControlMessage{}
		for range n("ihave") {
			c.Ihave = append(c.Ihave, &pb.ControlIHave{TopicID: proto.String(topic.Draw(t, "topic")), MessageIDs: ids.Draw(t, "ids")})
		}
		for range n("iwant") {
			c.Iwant = append(c.Iwant, &pb.ControlIWant{MessageIDs: ids.Draw(t, "ids")})
		}
		for range n("graft") {
			c.Graft = append(c.Graft, &pb.ControlGraft{TopicID: proto.String(topic.Draw(t, "topic"))})
		}
		for range n("prune") {
			c.Prune = append(c.Prune, &pb.ControlPrune{TopicID: proto.String(topic.Draw(t, "topic")), Backoff: proto.Uint64(5)})
		}
		for range n("idontwant") {
			c.Idontwant = append(c.Idontwant, &pb.ControlIDontWant{MessageIDs: ids.Draw(t, "ids")})
		}
		rpc.Control = c
	}
	return rpc
}

func TestFilterFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rpc := genRPC(t)
		in, err := proto.Marshal(rpc)
		if err != nil {
			t.Fatal(err)
		}
		out, err := filterFrame(in, letThrough{})
		if err != nil {
			t.Fatal(err)
		}
		got := &pb.RPC{}
		if err := proto.Unmarshal(out, got); err != nil {
			t.Fatal(err)
		}
		if want := model(rpc); !proto.Equal(got, want) {
			t.Fatalf("of %v\npasses %v\nwant   %v", rpc, got, want)
		}
	})
}

func TestFilterFrameAllocations(t *testing.T) {
	in, err := proto.Marshal(&pb.RPC{Publish: []*pb.Message{{Data: make([]byte, 1000), Topic: proto.String("yes")}}})
	if err != nil {
		t.Fatal(err)
	}
	allocs := testing.AllocsPerRun(100, func() {
		if out, err := filterFrame(in, letThrough{}); err != nil || &out[0] != &in[0] {
			t.Fatal("a frame that may pass is copied")
		}
	})
	if allocs > 4 {
		t.Errorf("%v allocations", allocs)
	}
}

// What is not known does not pass, and a topic cannot be named twice.
func TestFilterFrameStrict(t *testing.T) {
	unknown := appendBytes(nil, 10, appendBytes(nil, 1, []byte("yes")))
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 7, protowire.VarintType), 1)
	unknown = appendBytes(unknown, rpcControl, appendBytes(nil, 6, []byte("x")))
	if out, err := filterFrame(unknown, letThrough{}); err != nil || len(out) != 0 {
		t.Errorf("passes %x, %v", out, err)
	}
	twice := appendBytes(appendBytes(nil, messageTopic, []byte("yes")), messageTopic, []byte("no"))
	for _, bad := range [][]byte{
		appendBytes(nil, rpcMessage, twice), {0xff}, {0x0a, 0x05, 1},
		appendBytes(nil, rpcControl, appendBytes(nil, controlIHave, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1))),
		appendBytes(nil, rpcSubscription, []byte{0xff, 0xff}),
	} {
		if out, err := filterFrame(bad, letThrough{}); !errors.Is(err, errFrame) {
			t.Errorf("%x passes as %x, %v", bad, out, err)
		}
	}
}

func FuzzFilterFrame(f *testing.F) {
	for _, rpc := range []*pb.RPC{
		{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: proto.Bool(true), Topicid: proto.String("no")}, {Subscribe: proto.Bool(true), Topicid: proto.String("yes")}}},
		{Publish: []*pb.Message{{Data: []byte("x"), Topic: proto.String("no")}, {Data: []byte("x"), Topic: proto.String("yes")}}},
		{Control: &pb.ControlMessage{
			Ihave: []*pb.ControlIHave{{TopicID: proto.String("yes"), MessageIDs: []string{"y", "n"}}}, Iwant: []*pb.ControlIWant{{MessageIDs: []string{"n"}}},
			Graft: []*pb.ControlGraft{{TopicID: proto.String("no")}}, Prune: []*pb.ControlPrune{{TopicID: proto.String("yes")}},
		}},
	} {
		b, err := proto.Marshal(rpc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := filterFrame(in, letThrough{})
		if err != nil {
			if !errors.Is(err, errFrame) {
				t.Errorf("error %v", err)
			}
			return
		}
		// Nothing passes that the router on the other side would take for
		// something that may not.
		got := &pb.RPC{}
		if proto.Unmarshal(out, got) != nil {
			return
		}
		if want := model(got); !proto.Equal(got, want) {
			t.Errorf("%x passes as %v", in, got)
		}
		again, err := filterFrame(out, letThrough{})
		if err != nil || string(again) != string(out) {
			t.Errorf("%x, then %x, %v", out, again, err)
		}
	})
}
