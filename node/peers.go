package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

const (
	workers     = 32   // peers that are worked with at once
	maxParcels  = 1000 // parcels waiting for one peer
	parcelTries = 100  // answers to a parcel that it cannot be taken yet
	askPeers    = 2    // peers that a doubtful room is compared with
	retryFirst  = time.Second
	retryLast   = 5 * time.Minute
	callTimeout = 15 * time.Second
	pageTimeout = 30 * time.Second
)

// parcel is something that one peer must get and gossip may not carry: the end
// of a membership of one of its users, an invite, a leave of ours. It is tried
// until the peer answers, while the node runs.
type parcel struct {
	to     event.Server
	method string
	body   []byte
	what   event.ID   // for the log
	reject *rejection // set: the handshake of a leave instead of method and body
	tries  int        // attempts that the peer answered
}

// goodbye is the leave of this node's last user in a room. Nobody may see the
// room's topics here any more, so some of those who stay are told directly.
type goodbye struct {
	room event.RoomID
	body []byte
	what event.ID
	to   []event.Server
}

// peers does everything that one peer at a time is asked for: heads, missing
// events, records, parcels. A peer has at most one goroutine, so that a slow one
// delays nobody else, and what is wanted meanwhile adds up to one request.
type peers struct {
	node  *Node
	slots chan struct{} // limits the goroutines that talk at once

	mu        sync.Mutex // guards the fields below and those of all peers
	all       map[event.Server]*peer
	connected map[event.Server]bool
	run       context.Context // nil before Run and after its end: no goroutine is started
	wg        sync.WaitGroup  // goroutines and timers of peers; Add only with mu held and run set
}

// peer is what is to be done with one peer.
type peer struct {
	name     event.Server
	busy     bool                      // a goroutine works
	greet    bool                      // it has just connected
	keys     map[event.Server]struct{} // servers whose records are wanted
	heads    []event.RoomID            // rooms to compare, each once
	listed   map[event.RoomID]struct{} // the same
	after    map[event.RoomID]event.ID // where the next page of its leaves begins
	wishes   []*wish                   // missing events, one wish for each room
	parcels  []parcel
	failures int
	timer    *time.Timer // set while parcels wait for the next attempt
}

func newPeers(n *Node) *peers {
	return &peers{
		node: n, slots: make(chan struct{}, workers),
		all: map[event.Server]*peer{}, connected: map[event.Server]bool{},
	}
}

// get returns the entry of a peer. mu must be held.
func (ps *peers) get(s event.Server) *peer {
	p := ps.all[s]
	if p == nil {
		p = &peer{name: s, keys: map[event.Server]struct{}{}, after: map[event.RoomID]event.ID{},
			listed: map[event.RoomID]struct{}{}}
		ps.all[s] = p
	}
	return p
}

// start allows goroutines until stop; work that was asked for before begins.
func (ps *peers) start(ctx context.Context) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.run = ctx
	for _, p := range ps.node.net.Peers() {
		if p.State == "connected" {
			ps.connected[p.Name] = true
			ps.get(p.Name).greet = true
		}
	}
	for _, p := range ps.all {
		ps.kick(p)
	}
}

// stop waits for all goroutines; the context of start must have ended.
func (ps *peers) stop() {
	ps.mu.Lock()
	ps.run = nil
	for _, p := range ps.all {
		ps.cancel(p)
	}
	ps.mu.Unlock()
	ps.wg.Wait()
}

// cancel ends the wait for the next attempt to deliver. mu must be held.
func (ps *peers) cancel(p *peer) {
	if p.timer != nil && p.timer.Stop() {
		ps.wg.Done()
	}
	p.timer = nil
}

// kick starts the goroutine of a peer that has something to do. mu must be held.
func (ps *peers) kick(p *peer) {
	if p.busy || ps.run == nil || ps.run.Err() != nil || p.idle() {
		return
	}
	p.busy = true
	ps.wg.Add(1)
	go ps.work(ps.run, p)
}

func (p *peer) idle() bool {
	return !p.greet && len(p.keys) == 0 && len(p.heads) == 0 && len(p.wishes) == 0 &&
		(len(p.parcels) == 0 || p.timer != nil)
}

// connect notes that a peer is connected or gone.
func (ps *peers) connect(s event.Server, on bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if !on {
		delete(ps.connected, s)
		return
	}
	ps.connected[s] = true
	p := ps.get(s)
	p.greet, p.failures = true, 0
	ps.cancel(p) // do not wait longer
	ps.kick(p)
}

// send queues a parcel.
func (ps *peers) send(c parcel) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.get(c.to)
	if len(p.parcels) >= maxParcels {
		ps.node.log.Warn("a peer that does not answer has too much waiting, an event is not sent to it", "peer", c.to, "event", c.what)
		return
	}
	p.parcels = append(p.parcels, c)
	if ps.connected[c.to] {
		ps.cancel(p) // the wait is for what could not be taken before
	}
	ps.kick(p)
}

// reject queues the rejection of an invite.
func (ps *peers) reject(x rejection) { ps.send(parcel{to: x.to, reject: &x}) }

// sayGoodbye hands a leave to some of those who stay, connected ones first.
func (ps *peers) sayGoodbye(g goodbye) {
	for _, s := range ps.choose(g.to, askPeers+1, false) {
		ps.send(parcel{to: s, method: CallSend, body: g.body, what: g.what})
	}
}

// choose draws some of the servers, connected ones first or only.
func (ps *peers) choose(from []event.Server, limit int, onlyConnected bool) []event.Server {
	from = slices.Clone(from)
	rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var near, far []event.Server
	for _, s := range from {
		if ps.connected[s] {
			near = append(near, s)
		} else {
			far = append(far, s)
		}
	}
	if !onlyConnected {
		near = append(near, far...)
	}
	return near[:min(limit, len(near))]
}

// near sorts connected servers before others.
func (ps *peers) near(list []event.Server) []event.Server {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	slices.SortStableFunc(list, func(a, b event.Server) int {
		switch near := ps.connected[a]; {
		case near == ps.connected[b]:
			return 0
		case near:
			return -1
		}
		return 1
	})
	return list
}

// doubt has a room compared with some connected residents other than one.
func (ps *peers) doubt(r event.RoomID, except event.Server) {
	others, here, err := ps.node.servers(r)
	if err != nil || !here {
		return
	}
	others = slices.DeleteFunc(others, func(s event.Server) bool { return s == except })
	for _, s := range ps.choose(others, askPeers, true) {
		ps.compare(s, r)
	}
}

// compare has rooms compared with a peer.
func (ps *peers) compare(s event.Server, rooms ...event.RoomID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.get(s)
	for _, r := range rooms {
		if _, ok := p.listed[r]; !ok {
			p.listed[r] = struct{}{}
			p.heads = append(p.heads, r)
		}
	}
	ps.kick(p)
}

// want has events of a room fetched from a peer, with their ancestors, in at most
// limit pages if that is not 0.
func (ps *peers) want(s event.Server, r event.RoomID, ids []event.ID, limit int) {
	if len(ids) == 0 {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.get(s)
	for _, id := range ids {
		p.add(id, r, limit)
	}
	ps.kick(p)
}

// add puts an event into a wish for its room that has not begun and has place.
func (p *peer) add(id event.ID, r event.RoomID, limit int) {
	var w *wish
	for _, x := range p.wishes {
		if x.room != r || x.begun || x.limit != limit {
			continue
		}
		if slices.Contains(x.want, id) {
			return
		}
		if len(x.want) < maxWant {
			w = x
		}
	}
	if w == nil {
		w = &wish{room: r, limit: limit}
		p.wishes = append(p.wishes, w)
	}
	w.want = append(w.want, id)
}

// wantKeys has server records fetched from a peer.
func (ps *peers) wantKeys(s event.Server, servers []event.Server) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.get(s)
	for _, k := range servers {
		if len(p.keys) < maxRecords {
			p.keys[k] = struct{}{}
		}
	}
	ps.kick(p)
}

// work does what there is to do with a peer, one thing after another.
func (ps *peers) work(ctx context.Context, p *peer) {
	defer ps.wg.Done()
	select {
	case ps.slots <- struct{}{}:
		defer func() { <-ps.slots }()
	case <-ctx.Done():
		ps.rest(p)
		return
	}
	for ctx.Err() == nil {
		do := ps.next(p)
		if do == nil {
			return
		}
		if err := do(ctx); err != nil {
			ps.node.log.Debug("a peer could not be asked", "peer", p.name, "error", err)
			if errors.Is(err, event.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) {
				ps.giveUp(p)
			}
		}
	}
	ps.rest(p)
}

// rest ends the goroutine's claim on a peer.
func (ps *peers) rest(p *peer) {
	ps.mu.Lock()
	p.busy = false
	ps.mu.Unlock()
}

// next takes the next thing to do, nil if there is nothing: the claim has ended
// then.
func (ps *peers) next(p *peer) func(context.Context) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := ps.node
	switch {
	case len(p.parcels) > 0 && p.timer == nil:
		c := p.parcels[0]
		return func(ctx context.Context) error { return n.deliver(ctx, p, c) }
	case len(p.keys) > 0:
		servers := make([]event.Server, 0, len(p.keys))
		for s := range p.keys {
			servers = append(servers, s)
		}
		clear(p.keys)
		return func(ctx context.Context) error { return n.fetchKeys(ctx, p.name, servers) }
	case len(p.wishes) > 0:
		w := p.wishes[0]
		p.wishes = p.wishes[1:]
		return func(ctx context.Context) error { return n.fulfil(ctx, p.name, w) }
	case p.greet:
		p.greet = false
		return func(context.Context) error { return n.greet(p.name) }
	case len(p.heads) > 0:
		k := min(len(p.heads), maxRooms)
		rooms := slices.Clone(p.heads[:k])
		p.heads = slices.Delete(p.heads, 0, k)
		after := make([]event.ID, k)
		for i, r := range rooms {
			after[i] = p.after[r]
			delete(p.after, r)
			delete(p.listed, r)
		}
		return func(ctx context.Context) error { return n.exchange(ctx, p.name, rooms, after) }
	}
	p.busy = false
	return nil
}

// more puts a wish with further pages behind the others.
func (ps *peers) more(s event.Server, w *wish) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.get(s)
	p.wishes = append(p.wishes, w)
	ps.kick(p)
}

// moreLeaves has the next page of a peer's leaves fetched.
func (ps *peers) moreLeaves(s event.Server, r event.RoomID, after event.ID) {
	ps.mu.Lock()
	ps.get(s).after[r] = after
	ps.mu.Unlock()
	ps.compare(s, r)
}

// giveUp drops what was wanted from a peer that cannot be reached: the next
// connection begins with a comparison of everything. Others are asked for what
// was known to be missing. Parcels wait.
func (ps *peers) giveUp(p *peer) {
	ps.mu.Lock()
	var rooms []event.RoomID
	for _, w := range p.wishes {
		rooms = append(rooms, w.room)
	}
	p.wishes, p.heads, p.greet = nil, nil, false
	clear(p.keys)
	clear(p.after)
	clear(p.listed)
	if len(p.parcels) > 0 && p.timer == nil && ps.run != nil {
		ps.postpone(p)
	}
	ps.mu.Unlock()
	for _, r := range rooms {
		ps.node.inbox.unstage(r)
		ps.doubt(r, p.name)
	}
}

// postpone sets the time of the next attempt to deliver. mu must be held, and run
// set.
func (ps *peers) postpone(p *peer) {
	wait := retryLast
	if p.failures < 10 {
		wait = min(wait, retryFirst<<p.failures)
	}
	p.failures++
	wait += rand.N(wait / 4)
	ps.wg.Add(1)
	var mine *time.Timer
	mine = time.AfterFunc(wait, func() {
		defer ps.wg.Done()
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if p.timer == mine {
			p.timer = nil
			ps.kick(p)
		}
	})
	p.timer = mine
}

// deliver hands over a parcel. What the peer refuses is not sent again; what it
// cannot take yet waits behind the others, and not for ever: nothing holds up what
// stands behind it.
func (n *Node) deliver(ctx context.Context, p *peer, c parcel) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := n.hand(ctx, c)
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	if err != nil && errors.Is(err, event.ErrUnreachable) || ctx.Err() != nil {
		if p.timer == nil && n.peers.run != nil {
			n.peers.postpone(p)
		}
		return err
	}
	p.parcels = slices.Delete(p.parcels, 0, 1) // this goroutine alone removes
	if c.tries++; err != nil && isPassing(err) && c.tries < parcelTries {
		p.parcels = append(p.parcels, c)
		if p.timer == nil && n.peers.run != nil && p.parcels[0].tries >= c.tries { // all have had their turn
			n.peers.postpone(p)
		}
		return err
	}
	if err != nil {
		n.log.Warn("a peer did not take an event", "peer", c.to, "event", c.what, "error", err)
	}
	p.failures = 0
	return nil
}

// isPassing reports whether a peer that answered may answer otherwise later.
func isPassing(err error) bool {
	return !isRefusal(err) || isCode(err, codeRetry) || isCode(err, codeUnknown) || isCode(err, codeLimit)
}

// hand makes the calls of a parcel.
func (n *Node) hand(ctx context.Context, c parcel) error {
	if c.reject != nil {
		return n.tellRejection(ctx, *c.reject)
	}
	answer, err := n.net.Call(ctx, c.to, c.method, c.body)
	if err != nil || c.method != CallSend {
		return err
	}
	a, err := decode[sendAnswer](answer)
	if err != nil {
		return err
	}
	for _, code := range a.Codes {
		if code != "" {
			return refuse(code, "the event was not taken")
		}
	}
	return nil
}

// isRefusal reports whether err is a peer's answer.
func isRefusal(err error) bool {
	var re *event.RemoteError
	return errors.As(err, &re) && !errors.Is(err, errBadAnswer)
}
