package client

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// The client rate limits. They are generous: they stop a client that runs wild,
// not one that works. Logins have limits of their own (node/account).
const (
	sendRate      = 50 // events a second and user
	sendBurst     = 500
	registerRate  = rate.Limit(1.0 / 6) // accounts a second and address: 10 a minute
	registerBurst = 20
	limitEntries  = 10_000 // users or addresses remembered at once
)

// limits are the rate limits of one server. The zero value lets everything pass.
type limits struct {
	send, register *limiter
}

func newLimits(on bool) limits {
	if !on {
		return limits{}
	}
	return limits{send: newLimiter(sendRate, sendBurst), register: newLimiter(registerRate, registerBurst)}
}

// limiter holds a token bucket for each key, the most recently used ones.
type limiter struct {
	limit   rate.Limit
	burst   int
	buckets *lru.Cache[string, *rate.Limiter]
}

func newLimiter(limit rate.Limit, burst int) *limiter {
	buckets, err := lru.New[string, *rate.Limiter](limitEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &limiter{limit: limit, burst: burst, buckets: buckets}
}

// take spends one token of key, or returns 429 with the time to wait. A nil
// limiter has no limit.
func (l *limiter) take(key string) error {
	if l == nil {
		return nil
	}
	b, ok := l.buckets.Get(key)
	if !ok {
		fresh := rate.NewLimiter(l.limit, l.burst)
		if before, found, _ := l.buckets.PeekOrAdd(key, fresh); found {
			b = before
		} else {
			b = fresh
		}
	}
	r := b.Reserve()
	if wait := r.Delay(); wait > 0 {
		r.Cancel()
		return limited(max(wait, 10*time.Millisecond))
	}
	return nil
}
