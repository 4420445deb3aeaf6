package simnet

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// recordLife is how long a record holds; the age at which it is renewed is half.
const recordLife = 7 * 24 * time.Hour

// Peer is one life of one node of a Net: what lasts from Add to the end of Run.
// It implements node.Network. All methods may be called from any goroutine,
// before Run too.
type Peer struct {
	net  *Net
	name event.Server
	key  event.SigningKey

	wake   chan struct{} // the inbox has changed
	notify chan struct{} // there are reports

	// net.mu guards what follows.
	handler Handler // nil unless running
	ctx     context.Context
	cancel  context.CancelFunc
	over    bool
	done    chan struct{}  // closed when Run has returned
	calls   sync.WaitGroup // added to under net.mu while running
	rooms   map[event.RoomID]*roomSet
	seen    map[[32]byte]time.Time
	inbox   inbox
	reports []report
	records map[event.Server]*record
	refused map[event.Server]int
}

// roomSet is what SetRoom said.
type roomSet struct {
	salt    string
	members map[event.Server]bool
}

// report is something the handler is to be told, apart from gossip and calls.
type report struct {
	peer      event.Server
	connected bool
	gone      bool
	loss      bool
	room      event.RoomID
	record    *record
}

// errOver says that Run has returned or Add has begun another life.
var errOver = fmt.Errorf("%w: this node has stopped", event.ErrUnreachable)

// Run connects the node and delivers to h until ctx ends or Stop is called. It
// can be called once. It returns nil, or the error of LoadRecords.
func (p *Peer) Run(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stored, err := h.LoadRecords()
	if err != nil {
		return fmt.Errorf("simnet: %w", err)
	}

	n := p.net
	n.mu.Lock()
	if p.over || p.handler != nil {
		n.mu.Unlock()
		return errors.New("simnet: Run is called for a second time")
	}
	p.handler, p.ctx, p.cancel, p.done = h, ctx, cancel, make(chan struct{})
	defer close(p.done)
	for _, raw := range stored {
		if r, err := n.parseRecord(raw); err == nil && r.Name != p.name {
			p.keep(r)
		}
	}
	p.renew()
	n.connect()
	n.mu.Unlock()

	var wg sync.WaitGroup
	wg.Go(func() { p.deliver(ctx, h) })
	wg.Go(func() { p.tell(ctx, h) })
	<-ctx.Done()

	n.mu.Lock()
	p.over, p.handler = true, nil
	p.inbox = nil
	n.connect()
	n.mu.Unlock()
	wg.Wait()
	p.calls.Wait()
	return nil
}

// Stop ends Run as a crash does: what is under way is lost. It returns when Run
// has returned, so a handler must not call it. Add begins the next life.
func (p *Peer) Stop() {
	p.net.mu.Lock()
	cancel, done := p.cancel, p.done
	p.over = true
	p.net.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// tell reports peers, losses and new records to h, in order.
func (p *Peer) tell(ctx context.Context, h Handler) {
	for {
		p.net.mu.Lock()
		reports := p.reports
		p.reports = nil
		p.net.mu.Unlock()
		for _, r := range reports {
			if ctx.Err() != nil {
				return
			}
			switch {
			case r.record != nil:
				// Records are exchanged again; one that was not kept costs nothing.
				_ = h.SaveRecord(r.record.Name, r.record.raw)
			case r.loss:
				h.HandleLoss(r.room)
			default:
				h.HandlePeer(r.peer, r.connected)
			}
		}
		if len(reports) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-p.notify:
		}
	}
}

// report queues r. The caller holds net.mu.
func (p *Peer) report(r report) {
	p.reports = append(p.reports, r)
	select {
	case p.notify <- struct{}{}:
	default:
	}
}

// Self implements node.Network.
func (p *Peer) Self() event.Server { return p.name }

// SetRoom implements node.Network.
func (p *Peer) SetRoom(r event.RoomID, salt []byte, members []event.Server) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if len(members) == 0 {
		delete(p.rooms, r)
		return
	}
	set := &roomSet{salt: string(salt), members: make(map[event.Server]bool, len(members))}
	for _, m := range members {
		set.members[m] = true
	}
	p.rooms[r] = set
}

// Peers implements node.Network. Every node with a link to this one counts as
// pinned; the ids and addresses are made up.
func (p *Peer) Peers() []event.Peer {
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	peers := []event.Peer{}
	for _, s := range slices.Sorted(maps.Keys(n.peers)) {
		if s == p.name || n.cut[pair(s, p.name)] {
			continue
		}
		peer := event.Peer{Name: s, PeerID: "sim-" + string(s), State: "disconnected", Addresses: []string{"/memory/" + string(s)}}
		if n.connected(p.name, s) {
			peer.State, peer.Transport = "connected", "tcp"
		}
		peers = append(peers, peer)
	}
	return peers
}

// Refused returns how many gossip frames from a peer the handler found invalid.
func (p *Peer) Refused(from event.Server) int {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	return p.refused[from]
}

// Call implements node.Network. Who is not connected is unreachable at once:
// connections come by themselves as soon as they can.
func (p *Peer) Call(ctx context.Context, to event.Server, method string, body []byte) ([]byte, error) {
	n := p.net
	n.mu.Lock()
	target, c := n.peers[to], n.conns[pair(p.name, to)]
	if p.over || target == nil || c == nil {
		n.mu.Unlock()
		return nil, fmt.Errorf("%w: %s is not connected", event.ErrUnreachable, to)
	}
	die := n.die(p.name, to)
	lost, there, back := die.Float64(), n.delay(die), n.delay(die)
	chance := n.faults.CallLoss
	h, life := target.handler, target.ctx
	target.calls.Add(1)
	n.mu.Unlock()

	type answer struct {
		body []byte
		err  error
	}
	answers := make(chan answer, 1)
	body = slices.Clone(body)
	hctx, cancel := context.WithCancel(life)
	defer cancel() // the handler learns that nobody waits any more
	defer context.AfterFunc(c.ctx, cancel)()
	go func() {
		defer target.calls.Done()
		if lost < chance/2 || !sleep(hctx, there) {
			return
		}
		b, err := h.HandleCall(hctx, p.name, method, body)
		if lost >= chance && sleep(hctx, back) {
			answers <- answer{slices.Clone(b), err}
		}
	}()
	if lost < chance {
		wait(ctx, c.ctx, there+back)
		return nil, errors.Join(fmt.Errorf("%w: %s: the call was lost", event.ErrUnreachable, to), ctx.Err())
	}
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, refusal(a.err)
		}
		return a.body, nil
	case <-c.ctx.Done():
		return nil, fmt.Errorf("%w: the connection to %s broke", event.ErrUnreachable, to)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %s: %w", event.ErrUnreachable, to, ctx.Err())
	}
}

// refusal is what the caller sees of a handler's error.
func refusal(err error) error {
	var refused *event.RemoteError
	if errors.As(err, &refused) {
		return &event.RemoteError{Code: refused.Code, Message: refused.Message}
	}
	return &event.RemoteError{Code: "M_UNKNOWN", Message: "internal error"}
}

// sleep waits for d and reports whether ctx lasted as long.
func sleep(ctx context.Context, d time.Duration) bool {
	wait(ctx, context.Background(), d)
	return ctx.Err() == nil
}

// wait waits for d or the end of one of two contexts.
func wait(a, b context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.Done():
	case <-b.Done():
	}
}

func (p *Peer) public() ed25519.PublicKey { return p.key.Private.Public().(ed25519.PublicKey) }

// renew makes this node's own record unless it has a fresh one. The caller
// holds net.mu.
func (p *Peer) renew() {
	now := time.Now()
	if r := p.records[p.name]; r != nil && r.ValidUntil-now.UnixMilli() > (recordLife/2).Milliseconds() {
		return
	}
	p.net.seqs[p.name]++
	r := &record{
		Name:       p.name,
		Seq:        p.net.seqs[p.name],
		ValidUntil: now.Add(recordLife).UnixMilli(),
		VerifyKeys: map[event.KeyID]recordKey{p.key.ID: {Key: p.public()}},
	}
	raw, err := json.Marshal(r)
	if err == nil {
		r.raw, err = event.SignJSON(raw, p.key)
	}
	if err != nil {
		panic("simnet: " + err.Error())
	}
	p.records[p.name] = r
}

// keep takes a verified record unless a newer one is known. The caller holds
// net.mu.
func (p *Peer) keep(r *record) bool {
	if old := p.records[r.Name]; old != nil && old.Seq >= r.Seq {
		return false
	}
	p.records[r.Name] = r
	return true
}

// learn keeps a verified record and has it saved. The caller holds net.mu.
func (p *Peer) learn(r *record) {
	if p.keep(r) {
		p.report(report{record: r})
	}
}

// Key implements node.Network.
func (p *Peer) Key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error) {
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s == p.name {
		p.renew()
	} else if n.connected(p.name, s) {
		// Connected peers hand over their records before those run out.
		n.peers[s].renew()
		p.learn(n.peers[s].records[s])
	}
	r := p.records[s]
	if r == nil {
		return nil, fmt.Errorf("%w: no record of %s", event.ErrUnknownKey, s)
	}
	k, ok := r.VerifyKeys[kid]
	if !ok || ts > r.ValidUntil {
		return nil, fmt.Errorf("%w: the record of %s does not cover %s at %d", event.ErrUnknownKey, s, kid, ts)
	}
	return slices.Clone(k.Key), nil
}

// Records implements node.Network.
func (p *Peer) Records(servers []event.Server) [][]byte {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	p.renew()
	var records [][]byte
	for _, s := range servers {
		if r := p.records[s]; r != nil {
			records = append(records, slices.Clone(r.raw))
		}
	}
	return records
}

// Learn implements node.Network. A record is good if it is signed by a key that
// the Net knows for its name, which stands for the pin.
func (p *Peer) Learn(records [][]byte) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for _, raw := range records {
		if r, err := p.net.parseRecord(raw); err == nil && r.Name != p.name {
			p.learn(r)
		}
	}
}
