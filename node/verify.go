package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/tokenim/tokenim/node/event"
)

// verify checks the signatures that an event must carry (Server-Server API,
// Checks performed on receipt of a PDU, 2). event.ErrSignature: one is missing or
// wrong. event.ErrUnknownKey: a record is needed to tell.
func (n *Node) verify(e *event.Event) error {
	for _, s := range e.Signers() {
		if err := n.verifyBy(e, s); err != nil {
			return err
		}
	}
	return nil
}

// verifyBy checks for one valid signature of a server.
func (n *Node) verifyBy(e *event.Event, s event.Server) error {
	err := fmt.Errorf("%w: none by %s", event.ErrSignature, s)
	for i, kid := range e.Keys(s) {
		if i == 5 { // more would only be work
			break
		}
		key, kerr := n.key(s, kid, e.Time)
		if kerr != nil {
			err = kerr
			continue
		}
		verr := e.Verify(s, kid, key)
		if verr == nil {
			return nil
		}
		if !errors.Is(err, event.ErrUnknownKey) {
			err = verr
		}
	}
	return err
}

// key returns the key of a server at a time, this node's own without asking.
func (n *Node) key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error) {
	if s == n.cfg.Key.Server && kid == n.cfg.Key.ID {
		return n.cfg.Key.Private.Public().(ed25519.PublicKey), nil
	}
	return n.net.Key(s, kid, ts)
}

// received is an event from a peer and what its bytes alone say about it.
type received struct {
	*event.Event
	by  *event.Event // of a redacted copy: the redaction that came along
	err error        // why it cannot be taken; Event is nil if it could not be read
}

// errBadCopy says that the content of an event is not what its author signed, and
// nothing shows that it was redacted. It is no verdict: another copy may be good
// (protocol C12.1).
var errBadCopy = errors.New("the content hash does not match")

// read parses events of a room and checks their signatures, on all cores.
// Nothing of it needs the store. A redacted copy is taken if one of redactions, or
// of the events, is a redaction of it.
func (n *Node) read(r event.RoomID, raws, redactions pdus) []received {
	out := n.readAll(r, raws)
	redacted := map[event.ID]*event.Event{}
	for _, x := range slices.Concat(out, n.readAll(r, redactions)) {
		if x.err == nil && x.Type == typeRedaction {
			redacted[x.Redacts()] = x.Event
		}
	}
	for i, x := range out {
		if x.err != nil || !x.Redacted() {
			continue
		}
		if out[i].by = redacted[x.ID()]; out[i].by == nil {
			out[i].err = errBadCopy
		}
	}
	return out
}

// readAll is read without a look at redactions.
func (n *Node) readAll(r event.RoomID, raws pdus) []received {
	out := make([]received, len(raws))
	read := func(i int) {
		e, err := event.Parse(raws[i])
		if err == nil && e.Room != r {
			e, err = nil, fmt.Errorf("%w: it is of another room", event.ErrInvalid)
		}
		if err == nil {
			err = n.verify(e)
		}
		out[i] = received{Event: e, err: err}
	}
	cores := min(runtime.GOMAXPROCS(0), (len(raws)+7)/8)
	if cores <= 1 {
		for i := range raws {
			read(i)
		}
		return out
	}
	var wg sync.WaitGroup
	for c := range cores {
		wg.Go(func() {
			for i := c; i < len(raws); i += cores {
				read(i)
			}
		})
	}
	wg.Wait()
	return out
}

// unknownSigners lists the servers whose records are needed to check events.
func (n *Node) unknownSigners(in []received) (servers []event.Server) {
	for _, x := range in {
		if x.Event == nil || !errors.Is(x.err, event.ErrUnknownKey) {
			continue
		}
		for _, s := range x.Signers() {
			if !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
	}
	return servers
}
