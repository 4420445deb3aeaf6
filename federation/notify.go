package federation

import (
	"sync"

	"github.com/tokenim/tokenim/node/event"
)

// notifier tells the handler that peers come and go: for one peer in order, for
// different peers independently, so that a slow answer about one holds up no
// other.
type notifier struct {
	n *Network

	mu    sync.Mutex // guards queue
	queue map[event.Server][]bool
}

func newNotifier(n *Network) *notifier { return &notifier{n: n, queue: map[event.Server][]bool{}} }

// reportPeer is called with peers.mu held.
func (n *Network) reportPeer(r *remote, connected bool) {
	n.told.mu.Lock()
	_, running := n.told.queue[r.name]
	n.told.queue[r.name] = append(n.told.queue[r.name], connected)
	n.told.mu.Unlock()
	if !running {
		n.start(func() { n.told.run(r) })
	}
}

func (t *notifier) run(r *remote) {
	for {
		t.mu.Lock()
		q := t.queue[r.name]
		if len(q) == 0 {
			delete(t.queue, r.name)
			t.mu.Unlock()
			return
		}
		t.queue[r.name] = q[1:]
		t.mu.Unlock()
		t.n.tellPeer(r, q[0])
	}
}

func (n *Network) tellPeer(r *remote, connected bool) {
	if n.ctx.Err() != nil {
		return
	}
	if connected {
		n.log.Info("a peer is connected", "peer", r.name)
		if n.access.shares(r.name) {
			n.gated.announce(n.ctx, r.id)
		}
	} else {
		n.log.Info("a peer is disconnected", "peer", r.name)
	}
	if h := n.handler(); h != nil {
		h.HandlePeer(r.name, connected)
	}
}
