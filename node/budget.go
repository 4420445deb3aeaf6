package node

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxBudgets is how many budgets are kept; beyond it all begin anew, which gives
// nobody more than one burst.
const maxBudgets = 10000

// budgets limit how often something is done for each of many (invariant I7).
type budgets struct {
	every time.Duration
	burst int

	mu sync.Mutex // guards by
	by map[string]*rate.Limiter
}

func newBudgets(every time.Duration, burst int) *budgets {
	return &budgets{every: every, burst: burst, by: map[string]*rate.Limiter{}}
}

// allow takes one from a budget, if there is one left.
func (b *budgets) allow(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.by[key]
	if l == nil {
		if len(b.by) >= maxBudgets {
			clear(b.by)
		}
		l = rate.NewLimiter(rate.Every(b.every), b.burst)
		b.by[key] = l
	}
	return l.Allow()
}
