package store

// rowCacheBytes bounds the rows that are kept in memory.
const rowCacheBytes = 6 << 20

// rowCacheOverhead is about what a kept row takes besides key and value.
const rowCacheOverhead = 200

// rowCache holds rows that are read for nearly every event: how events stand in
// the graph, rooms, totals. A look-up in Badger goes through all its tables.
//
// A kept row is that of the newest commit. A snapshot that is older than the
// commit which wrote the row does not find it here, and what such a snapshot
// reads is not kept.
type rowCache struct {
	cache[string, keptRow]
	newest uint64 // guarded by mu; timestamp of the last commit
}

type keptRow struct {
	value []byte
	since uint64 // timestamp of a commit at or after the one that wrote it
}

func newRowCache(limit int64, newest uint64) *rowCache {
	return &rowCache{cache: *newCache[string, keptRow](limit), newest: newest}
}

// isKept says whether rows of a kind are kept.
func isKept(kind byte) bool { return kind == kindNode || kind == kindRoom || kind == kindTotals }

// find returns a row as the snapshot at readTs has it, if that is known.
func (c *rowCache) find(key []byte, readTs uint64) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[string(key)] // without a copy of the key, which getLocked would take
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	r := e.Value.(*cached[string, keptRow]).value
	return r.value, r.since <= readTs
}

// keep keeps what the snapshot at readTs read, if it is the newest one.
func (c *rowCache) keep(key, value []byte, readTs uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if readTs == c.newest {
		c.keepLocked(string(key), value, readTs)
	}
}

func (c *rowCache) keepLocked(key string, value []byte, since uint64) {
	c.replaceLocked(key, keptRow{value, since}, int64(len(key)+len(value)+rowCacheOverhead))
}

// committed takes over what a commit wrote. It is called when the commit is
// durable and before a snapshot can see it.
func (c *rowCache) committed(w *writes, ts uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = ts
	for k, row := range w.rows {
		switch {
		case !isKept(k[0]):
		case row.value == nil:
			c.forgetLocked(k)
		default:
			c.keepLocked(k, row.value, ts)
		}
	}
}
