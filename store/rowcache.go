package store

// Bytes that the caches of rows and of scans keep in memory.
const (
	rowCacheBytes  = 6 << 20
	scanCacheBytes = 4 << 20
)

// keptOverhead is about what a kept row takes besides key and value.
const keptOverhead = 200

// snapCache holds what was read of rows that are read again and again: a look-up
// in Badger goes through all its tables, an iterator is made of all of them.
//
// What is kept is of the newest commit. A snapshot that is older than the commit
// which changed it does not find it here, and what such a snapshot reads is not
// kept.
type snapCache[V any] struct {
	cache[string, keptValue[V]]
	newest uint64 // guarded by mu; timestamp of the last commit
}

type keptValue[V any] struct {
	value V
	since uint64 // timestamp of a commit at or after the last change of it
}

func newSnapCache[V any](limit int64, newest uint64) *snapCache[V] {
	return &snapCache[V]{cache: *newCache[string, keptValue[V]](limit), newest: newest}
}

// find returns what the snapshot at readTs sees, if that is known.
func (c *snapCache[V]) find(key []byte, readTs uint64) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[string(key)] // without a copy of the key, which getLocked would take
	if !ok {
		return v, false
	}
	kept := e.Value.(*cached[string, keptValue[V]]).value
	if kept.since > readTs {
		return v, false
	}
	c.order.MoveToFront(e)
	return kept.value, true
}

// keep keeps what the snapshot at readTs read, if it is the newest one.
func (c *snapCache[V]) keep(key []byte, v V, cost int64, readTs uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if readTs == c.newest {
		c.keepLocked(string(key), v, cost, readTs)
	}
}

func (c *snapCache[V]) keepLocked(key string, v V, cost int64, since uint64) {
	c.replaceLocked(key, keptValue[V]{v, since}, int64(len(key))+cost+keptOverhead)
}

// rowCache keeps single rows that are read for nearly every event or sync: how
// events stand in the graph, rooms, totals, account data. nil stands for a row
// that is not there.
type rowCache struct{ snapCache[[]byte] }

func newRowCache(limit int64, newest uint64) *rowCache {
	return &rowCache{*newSnapCache[[]byte](limit, newest)}
}

// isKept says whether rows of a kind are kept.
func isKept(kind byte) bool {
	return kind == kindNode || kind == kindRoom || kind == kindTotals || kind == kindData
}

// committed takes over what a commit wrote. It is called when the commit is
// durable and before a snapshot can see it.
func (c *rowCache) committed(w *writes, ts uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = ts
	for k, row := range w.rows {
		if isKept(k[0]) {
			c.keepLocked(k, row.value, int64(len(row.value)), ts)
		}
	}
}

// scanCache keeps what was made of all rows with a prefix (scanPrefix).
type scanCache struct{ snapCache[any] }

func newScanCache(limit int64, newest uint64) *scanCache {
	return &scanCache{*newSnapCache[any](limit, newest)}
}

// committed forgets what a commit changed; see rowCache.committed.
func (c *scanCache) committed(w *writes, ts uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = ts
	for k := range w.rows {
		if prefix, ok := scanPrefix(k); ok {
			c.forgetLocked(prefix)
		}
	}
}

// scan returns what read makes of the rows with a prefix that scanPrefix knows.
// In a View it is kept, so nobody may change it. Its cost is in bytes.
func scan[V any](tx *Tx, prefix []byte, cost func(V) int64, read func() (V, error)) (V, error) {
	if tx.own != nil || tx.scans == nil {
		return read()
	}
	if v, ok := tx.scans.find(prefix, tx.readTs); ok {
		return v.(V), nil
	}
	v, err := read()
	if err == nil {
		tx.scans.keep(prefix, v, cost(v), tx.readTs)
	}
	return v, err
}
