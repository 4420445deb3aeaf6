package federation

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/tokenim/tokenim/node/event"
)

// protoMesh is gossipsub 1.2 under a name of our own: no router of another
// network answers to it, and flood subscription does not exist beside it.
const protoMesh protocol.ID = "/tokenim/meshsub/1.2.0"

const (
	messageIDs      = 32_768 // ids of recent messages whose topic is remembered
	idLength        = 20
	maxRPCMessages  = 1_024
	maxRPCIDs       = 10_000
	dontWantMinSize = 16 << 10
	meshSize        = 6 // peers that get a message at once
)

// gossip is the router with the topics this node is in.
type gossip struct {
	n   *Network
	ps  *pubsub.PubSub
	ids *seenMessages

	mu     sync.Mutex // guards joined
	joined map[string]*joinedTopic
}

type joinedTopic struct {
	topic  *pubsub.Topic
	cancel pubsub.RelayCancelFunc
}

// newGossip starts the router on the gated host; ctx ends it.
func newGossip(ctx context.Context, n *Network, h *gatedHost) (*gossip, error) {
	g := &gossip{n: n, ids: h.ids, joined: map[string]*joinedTopic{}}
	params := pubsub.DefaultGossipSubParams()
	params.D, params.Dlo, params.Dhi, params.Dlazy = meshSize, 4, 12, 6
	params.HistoryLength, params.HistoryGossip = 6, 4
	params.MaxIHaveLength = 1_000
	params.IDontWantMessageThreshold = dontWantMinSize
	quiet := n.quiet
	opts := []pubsub.Option{
		pubsub.WithGossipSubProtocols([]protocol.ID{protoMesh}, meshFeatures),
		pubsub.WithGossipSubParams(params),
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(g.messageID),
		pubsub.WithFloodPublish(false),
		pubsub.WithPeerExchange(false),
		pubsub.WithPeerFilter(func(id peer.ID, topic string) bool {
			r := n.peers.get(id)
			return r != nil && n.access.see(r.name, topic)
		}),
		pubsub.WithSubscriptionFilter(ourTopics{}),
		pubsub.WithDefaultValidator(g.validate, pubsub.WithValidatorConcurrency(8192)),
		pubsub.WithValidateQueueSize(8192),
		pubsub.WithValidateThrottle(65536),
		pubsub.WithPeerOutboundQueueSize(4096),
		pubsub.WithMaxMessageSize(maxFrame),
		pubsub.WithMaxControlMessageSize(maxFrame),
		pubsub.WithAppSpecificRpcInspector(g.inspect),
		pubsub.WithRawTracer(n.tracer),
		pubsub.WithPeerScore(peerScore(), &pubsub.PeerScoreThresholds{
			SkipAtomicValidation: true, GossipThreshold: -40, PublishThreshold: -80, GraylistThreshold: -160,
		}),
		pubsub.WithLogger(quiet),
		pubsub.WithRPCLogger(quiet),
	}
	ps, err := pubsub.NewGossipSub(ctx, h, opts...)
	if err != nil {
		return nil, err
	}
	g.ps = ps
	return g, nil
}

// meshFeatures says what protoMesh can do; the library's own function knows
// only the library's names.
func meshFeatures(f pubsub.GossipSubFeature, id protocol.ID) bool {
	return id == protoMesh && (f == pubsub.GossipSubFeatureMesh || f == pubsub.GossipSubFeatureIdontwant)
}

// ourTopics is the subscription filter: names of our form. Which of them a peer
// may follow is for the guards to say.
type ourTopics struct{}

// CanSubscribe implements pubsub.SubscriptionFilter.
func (ourTopics) CanSubscribe(topic string) bool {
	return len(topic) == len(topicEvents)+topicHash &&
		(strings.HasPrefix(topic, topicEvents) || strings.HasPrefix(topic, topicEphemeral))
}

// FilterIncomingSubscriptions implements pubsub.SubscriptionFilter.
func (o ourTopics) FilterIncomingSubscriptions(_ peer.ID, subs []*pb.RPC_SubOpts) ([]*pb.RPC_SubOpts, error) {
	return pubsub.FilterSubscriptions(subs, o.CanSubscribe), nil
}

// peerScore has the penalties of protocol C3: invalid messages and breaches of
// the protocol count, being quiet does not.
func peerScore() *pubsub.PeerScoreParams {
	return &pubsub.PeerScoreParams{
		SkipAtomicValidation:      true,
		Topics:                    map[string]*pubsub.TopicScoreParams{},
		AppSpecificScore:          func(peer.ID) float64 { return 0 },
		AppSpecificWeight:         1,
		TopicScoreCap:             10,
		BehaviourPenaltyWeight:    -10,
		BehaviourPenaltyThreshold: 6,
		BehaviourPenaltyDecay:     pubsub.ScoreParameterDecayWithBase(10*time.Minute, time.Second, 0.1),
		DecayInterval:             time.Second,
		DecayToZero:               0.1,
		RetainScore:               10 * time.Minute,
	}
}

func topicScore() *pubsub.TopicScoreParams {
	return &pubsub.TopicScoreParams{
		SkipAtomicValidation:           true,
		TopicWeight:                    1,
		TimeInMeshWeight:               0.001,
		TimeInMeshQuantum:              time.Second,
		TimeInMeshCap:                  1000,
		FirstMessageDeliveriesWeight:   0.1,
		FirstMessageDeliveriesDecay:    pubsub.ScoreParameterDecayWithBase(10*time.Minute, time.Second, 0.1),
		FirstMessageDeliveriesCap:      50,
		InvalidMessageDeliveriesWeight: -10,
		InvalidMessageDeliveriesDecay:  pubsub.ScoreParameterDecayWithBase(10*time.Minute, time.Second, 0.1),
	}
}

// messageID names all bytes of a message (invariant I8): with an id that left
// anything out, a forged copy could go first and suppress the honest one.
func (g *gossip) messageID(m *pb.Message) string {
	h := sha256.New()
	h.Write([]byte("tokenim/1"))
	h.Write([]byte(m.GetTopic()))
	h.Write(m.GetData())
	id := string(h.Sum(nil)[:idLength])
	g.ids.add(id, m.GetTopic())
	return id
}

// inspect bounds an RPC by counts and, with limits on, a peer by bytes (protocol
// C3, stage 0).
func (g *gossip) inspect(from peer.ID, rpc *pubsub.RPC) error {
	ids, size := 0, 0
	for _, c := range rpc.GetControl().GetIhave() {
		ids += len(c.GetMessageIDs())
	}
	for _, c := range rpc.GetControl().GetIwant() {
		ids += len(c.GetMessageIDs())
	}
	for _, c := range rpc.GetControl().GetIdontwant() {
		ids += len(c.GetMessageIDs())
	}
	for _, m := range rpc.GetPublish() {
		size += len(m.GetData())
	}
	if len(rpc.GetPublish()) > maxRPCMessages || ids > maxRPCIDs {
		return fmt.Errorf("%w: %d messages, %d ids", errFrame, len(rpc.GetPublish()), ids)
	}
	r := g.n.peers.get(from)
	if r == nil || !r.budget.allowGossip(size) {
		g.n.loss.mark("")
		return fmt.Errorf("peer is over its budget")
	}
	return nil
}

// join subscribes to a topic. It relays instead of subscribing: what arrives is
// taken in by the validator, and no queue of a subscription can overflow.
func (g *gossip) join(topic string) error {
	t, err := g.ps.Join(topic)
	if err != nil {
		return err
	}
	if err := t.SetScoreParams(topicScore()); err != nil {
		return err
	}
	cancel, err := t.Relay()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.joined[topic] = &joinedTopic{topic: t, cancel: cancel}
	g.mu.Unlock()
	return nil
}

func (g *gossip) leave(topic string) error {
	g.mu.Lock()
	j := g.joined[topic]
	delete(g.joined, topic)
	g.mu.Unlock()
	if j == nil {
		return nil
	}
	j.cancel()
	return j.topic.Close()
}

func (g *gossip) handle(topic string) *pubsub.Topic {
	g.mu.Lock()
	defer g.mu.Unlock()
	if j := g.joined[topic]; j != nil {
		return j.topic
	}
	return nil
}

// publish hands a message to a topic of a room: 0 events, 1 ephemeral.
func (g *gossip) publish(ctx context.Context, which int, e *envelope) error {
	room := g.n.access.room(e.room)
	if room == nil {
		return fmt.Errorf("this node is not in %s", e.room)
	}
	t := g.handle(room.topics[which])
	if t == nil {
		return fmt.Errorf("this node is leaving %s", e.room)
	}
	e.sent = time.Now().UnixMilli()
	data, err := e.encode()
	if err != nil {
		return err
	}
	err = t.Publish(ctx, data)
	if errors.Is(err, pubsub.ErrTopicClosed) || g.n.ctx.Err() != nil {
		return errClosed
	}
	return err
}

// validate decides about a message (protocol C3, stages 1 to 3) and is where it
// is taken in: Reject only what every honest forwarder must have seen.
func (g *gossip) validate(ctx context.Context, from peer.ID, msg *pubsub.Message) (verdict pubsub.ValidationResult) {
	if from == g.n.host.ID() {
		return pubsub.ValidationAccept
	}
	topic := msg.GetTopic()
	r := g.n.peers.get(from)
	room := g.n.access.byTopic(topic)
	if r == nil || room == nil || !has(room, r.name) {
		return pubsub.ValidationIgnore
	}
	ephemeral := topic == room.topics[1]
	e, err := decodeEnvelope(msg.GetData(), ephemeral)
	if err != nil || e.room != room.id {
		g.n.log.Warn("a peer sent a malformed gossip message", "peer", r.name, "err", err)
		return pubsub.ValidationReject
	}
	h := g.n.handler()
	if h == nil {
		return pubsub.ValidationIgnore
	}
	defer func() {
		if p := recover(); p != nil {
			g.n.log.Error("panic while a gossip message was handled", "panic", p)
			g.n.loss.mark(room.id)
			verdict = pubsub.ValidationIgnore
		}
	}()
	if ephemeral {
		err = h.HandleEphemeral(ctx, r.name, room.id, e.edu)
	} else {
		err = h.HandleGossip(ctx, r.name, room.id, e.pdus, e.heads)
	}
	switch {
	case err == nil:
		return pubsub.ValidationAccept
	case errors.Is(err, event.ErrInvalid):
		return pubsub.ValidationReject
	}
	return pubsub.ValidationIgnore
}
