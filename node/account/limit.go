package account

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/tokenim/tokenim/node/event"
)

// The login limits (reliability B34): in any minute at most ten attempts on an
// account, a success clearing its count, and a generous budget for an address
// block, which may be a whole office.
const (
	accountEvery  = 12 * time.Second
	accountBurst  = 5
	blockEvery    = time.Second
	blockBurst    = 100
	limitEntries  = 10_000 // accounts or blocks remembered
	tokenEvery    = 2 * time.Second
	tokenBurst    = 30
	v4Block       = 24 // bits of an address block
	v6Block       = 56
	minLimitDelay = 100 * time.Millisecond
)

// LimitError is an ErrLimited with the time after which to try again.
type LimitError struct{ Wait time.Duration }

// Error returns the text of ErrLimited.
func (e *LimitError) Error() string { return ErrLimited.Error() }

// Unwrap returns ErrLimited.
func (e *LimitError) Unwrap() error { return ErrLimited }

// loginLimits bounds password attempts and guesses of registration tokens. A
// nil one has no limits.
type loginLimits struct {
	mu       sync.Mutex // guards the caches and their buckets
	accounts *simplelru.LRU[event.UserID, *rate.Limiter]
	blocks   *simplelru.LRU[netip.Prefix, *rate.Limiter]
	tokens   *simplelru.LRU[netip.Prefix, *rate.Limiter]
}

func newLoginLimits() *loginLimits {
	accounts, err1 := simplelru.NewLRU[event.UserID, *rate.Limiter](limitEntries, nil)
	blocks, err2 := simplelru.NewLRU[netip.Prefix, *rate.Limiter](limitEntries, nil)
	tokens, err3 := simplelru.NewLRU[netip.Prefix, *rate.Limiter](limitEntries, nil)
	if err1 != nil || err2 != nil || err3 != nil {
		panic("cache size below one")
	}
	return &loginLimits{accounts: accounts, blocks: blocks, tokens: tokens}
}

// block returns the address block that shares a budget.
func block(ip string) netip.Prefix {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := v6Block
	if addr.Is4() {
		bits = v4Block
	}
	p, _ := addr.Prefix(bits) // the bits fit the family
	return p
}

// bucket finds or makes the bucket of a key.
func bucket[K comparable](c *simplelru.LRU[K, *rate.Limiter], key K, every time.Duration, burst int) *rate.Limiter {
	if b, ok := c.Get(key); ok {
		return b
	}
	b := rate.NewLimiter(rate.Every(every), burst)
	c.Add(key, b)
	return b
}

// take spends an attempt of the account and of the address block, or none of
// both and returns a LimitError.
func (l *loginLimits) take(u event.UserID, ip string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	account := bucket(l.accounts, u, accountEvery, accountBurst)
	origin := bucket(l.blocks, block(ip), blockEvery, blockBurst)
	return spend(account, origin)
}

// takeToken spends an attempt of an address block to name a registration token.
func (l *loginLimits) takeToken(ip string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return spend(bucket(l.tokens, block(ip), tokenEvery, tokenBurst))
}

// spend takes one of each bucket, or of none.
func spend(buckets ...*rate.Limiter) error {
	now := time.Now()
	var taken []*rate.Reservation
	for _, b := range buckets {
		r := b.ReserveN(now, 1)
		taken = append(taken, r)
		if wait := r.DelayFrom(now); wait > 0 {
			for _, r := range taken {
				r.CancelAt(now)
			}
			return &LimitError{Wait: max(wait, minLimitDelay)}
		}
	}
	return nil
}

// succeeded clears the account's count. The block's stays: who has one account
// must not be able to clear it for guessing others.
func (l *loginLimits) succeeded(u event.UserID) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts.Remove(u)
}
