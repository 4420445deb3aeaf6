package federation

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	gossipRate  = 16 << 20 // bytes a second of gossip from one peer
	gossipBurst = 64 << 20
	peerCalls   = 32 // calls of one peer that are answered at once
)

// budget bounds what one peer can make this node do (protocol C8). A nil limit
// allows everything; the number of calls at once is always bounded.
type budget struct {
	calls  chan struct{} // one token for each call in progress
	gossip *rate.Limiter

	mu      sync.Mutex // guards methods
	methods map[string]*rate.Limiter
}

func newBudget(limits bool) *budget {
	b := &budget{calls: make(chan struct{}, peerCalls)}
	if limits {
		b.gossip = rate.NewLimiter(gossipRate, gossipBurst)
		b.methods = map[string]*rate.Limiter{}
	}
	return b
}

// allowGossip charges the bytes of an RPC.
func (b *budget) allowGossip(n int) bool {
	return b.gossip == nil || b.gossip.AllowN(time.Now(), n)
}

// allowCall charges a call; the bucket belongs to the method as the table of
// methods knows it, so a peer cannot make new buckets.
func (b *budget) allowCall(m methodLimits) bool {
	if b.methods == nil {
		return true
	}
	b.mu.Lock()
	l := b.methods[m.bucket]
	if l == nil {
		l = rate.NewLimiter(m.rate, m.burst)
		b.methods[m.bucket] = l
	}
	b.mu.Unlock()
	return l.Allow()
}
