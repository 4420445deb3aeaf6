package store

import (
	"container/list"
	"sync"

	"github.com/tokenim/tokenim/node/event"
)

// cache is a least-recently-used map bounded by the sum of its entries' costs.
type cache[K comparable, V any] struct {
	mu    sync.Mutex // guards all below
	limit int64
	used  int64
	order *list.List // newest first, of *cached
	byKey map[K]*list.Element
}

type cached[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

func newCache[K comparable, V any](limit int64) *cache[K, V] {
	return &cache[K, V]{limit: limit, order: list.New(), byKey: map[K]*list.Element{}}
}

func (c *cache[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.getLocked(k)
}

func (c *cache[K, V]) getLocked(k K) (v V, ok bool) {
	e, ok := c.byKey[k]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached[K, V]).value, true
}

// add keeps v unless the key is there, and returns what is kept.
func (c *cache[K, V]) add(k K, v V, cost int64) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addLocked(k, v, cost)
}

func (c *cache[K, V]) addLocked(k K, v V, cost int64) V {
	if old, ok := c.getLocked(k); ok {
		return old
	}
	c.byKey[k] = c.order.PushFront(&cached[K, V]{k, v, cost})
	c.used += cost
	c.trimLocked()
	return v
}

// replaceLocked is addLocked, but the new value is kept.
func (c *cache[K, V]) replaceLocked(k K, v V, cost int64) {
	e, ok := c.byKey[k]
	if !ok {
		c.addLocked(k, v, cost)
		return
	}
	c.order.MoveToFront(e)
	old := e.Value.(*cached[K, V])
	c.used += cost - old.cost
	old.value, old.cost = v, cost
	c.trimLocked()
}

func (c *cache[K, V]) trimLocked() {
	for c.used > c.limit && c.order.Len() > 1 {
		c.removeLocked(c.order.Back())
	}
}

func (c *cache[K, V]) removeLocked(e *list.Element) {
	old := c.order.Remove(e).(*cached[K, V])
	delete(c.byKey, old.key)
	c.used -= old.cost
}

// eventCache holds parsed events. The stored form of an event changes when it
// is redacted; the epoch keeps readers of an older snapshot from putting the
// old form back.
type eventCache struct {
	cache[hash, *event.Event]
	epoch uint64 // guarded by mu; counts purges
}

func newEventCache(limit int64) *eventCache {
	return &eventCache{cache: *newCache[hash, *event.Event](limit)}
}

// eventOverhead is about what a parsed event takes besides its bytes.
const eventOverhead = 600

// now returns the epoch; take it before the snapshot.
func (c *eventCache) now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

func (c *eventCache) keep(h hash, e *event.Event, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		c.addLocked(h, e, int64(2*len(e.JSON())+eventOverhead))
	}
}

// purge forgets events whose stored form changed, after the commit is visible.
func (c *eventCache) purge(hs []hash) {
	if len(hs) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, h := range hs {
		c.forgetLocked(h)
	}
}

func (c *cache[K, V]) forget(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(k)
}

func (c *cache[K, V]) forgetLocked(k K) {
	if e, ok := c.byKey[k]; ok {
		c.removeLocked(e)
	}
}
