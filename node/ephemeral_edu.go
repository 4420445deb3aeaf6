package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// The kinds of messages on a room's second topic (protocol C6).
const (
	eduTyping  = "typing"
	eduReceipt = "receipt"
)

// Limits of these messages.
const (
	maxEDU      = 64 << 10        // bytes
	maxEDUAge   = 5 * time.Minute // difference of clocks and delay together
	maxReceipts = 100             // in one message
	typingTTL   = 30 * time.Second
	typingEvery = 5 * time.Second // between two notices of a user that go out
	maxTyping   = 2 * time.Minute // the longest time a client may ask for
)

// edu is a message on a room's second topic. It is signed by the event key of
// its origin (protocol C10), so that any member may hand it on.
type edu struct {
	Kind       string                                  `json:"kind"`
	Origin     event.Server                            `json:"origin"`
	Room       event.RoomID                            `json:"room_id"`
	Seq        uint64                                  `json:"seq"` // rises with every message of the origin
	Time       int64                                   `json:"ts"`  // milliseconds
	Body       json.RawMessage                         `json:"body"`
	Signatures map[event.Server]map[event.KeyID]string `json:"signatures,omitempty"`
}

// typingBody says that a user began to type, or stopped.
type typingBody struct {
	User   event.UserID `json:"user_id"`
	Typing bool         `json:"typing"`
}

// receiptBody holds public receipts, newer ones in place of older ones.
type receiptBody struct {
	Receipts []receiptItem `json:"receipts"`
}

type receiptItem struct {
	User   event.UserID `json:"user_id"`
	Event  event.ID     `json:"event_id"`
	Thread string       `json:"thread_id,omitempty"`
	Time   int64        `json:"ts"`
}

// eduSequence numbers this node's messages. It begins with the time, so that a
// restart does not repeat numbers; below 2^53, as canonical JSON wants.
type eduSequence struct {
	mu   sync.Mutex // guards next
	next uint64
}

func (s *eduSequence) take(now time.Time) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == 0 {
		s.next = uint64(now.Unix()) << 20
	}
	s.next++
	return s.next
}

// eduWindow remembers which messages have been seen, by origin and kind: a bit
// for each of the last numbers. What is older than the window counts as seen.
type eduWindow struct {
	mu   sync.Mutex // guards seen
	seen map[eduSource]*eduBits
}

type eduSource struct {
	origin event.Server
	kind   string
}

const eduWindowSize = 1024

type eduBits struct {
	top  uint64 // largest number seen
	bits [eduWindowSize / 64]uint64
}

// fresh reports whether the message was not seen before, and marks it. Kinds that
// are not known share one window, or who makes them up could fill the memory.
func (w *eduWindow) fresh(origin event.Server, kind string, seq uint64) bool {
	if kind != eduTyping && kind != eduReceipt {
		kind = ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := eduSource{origin, kind}
	b := w.seen[key]
	if b == nil {
		b = &eduBits{}
		w.seen[key] = b
	}
	switch {
	case seq > b.top:
		for n := b.top + 1; n < seq && n <= b.top+eduWindowSize; n++ {
			b.clear(n)
		}
		b.top = seq
	case b.top-seq >= eduWindowSize, b.has(seq):
		return false
	}
	b.set(seq)
	return true
}

func (b *eduBits) has(n uint64) bool {
	return b.bits[n%eduWindowSize/64]&(1<<(n%64)) != 0
}
func (b *eduBits) set(n uint64)   { b.bits[n%eduWindowSize/64] |= 1 << (n % 64) }
func (b *eduBits) clear(n uint64) { b.bits[n%eduWindowSize/64] &^= 1 << (n % 64) }

// publishEDU signs a message and hands it to a room's second topic, if other
// servers are in the room. Loss is normal; nothing is returned.
func (n *Node) publishEDU(ctx context.Context, kind string, r event.RoomID, body any) {
	others, here, err := n.servers(r)
	if err != nil || len(others) == 0 || !here {
		return
	}
	raw, err := json.Marshal(body)
	if err != nil {
		n.log.Error("ephemeral message cannot be encoded", "kind", kind, "error", err)
		return
	}
	now := n.cfg.Now()
	msg, err := json.Marshal(edu{Kind: kind, Origin: n.Server(), Room: r, Seq: n.ephemeral.seq.take(now), Time: now.UnixMilli(), Body: raw})
	if err == nil {
		msg, err = event.SignJSON(msg, n.cfg.Key)
	}
	if err == nil {
		err = n.net.PublishEphemeral(ctx, r, msg)
	}
	if err != nil {
		n.log.Debug("ephemeral message was not published", "kind", kind, "error", err)
	}
}

// Reasons to drop a message that are nobody's fault.
var (
	errStale   = errors.New("ephemeral message is too old or was seen before")
	errNoBody  = errors.New("ephemeral message says nothing about this room")
	errBacklog = errors.New("too many receipts are waiting")
)

// HandleEphemeral implements federation.Handler: it takes a typing notice or
// receipts of users of the server that signed them.
func (n *Node) HandleEphemeral(_ context.Context, _ event.Server, r event.RoomID, raw []byte) error {
	m, err := n.readEDU(r, raw)
	if err != nil {
		return err
	}
	switch m.Kind {
	case eduTyping:
		return n.takeTyping(m)
	case eduReceipt:
		return n.takeReceipts(m)
	default: // of a newer version; members that know it want it
		return nil
	}
}

// readEDU checks all that does not depend on the kind. The order is by cost.
func (n *Node) readEDU(r event.RoomID, raw []byte) (*edu, error) {
	var m edu
	if len(raw) > maxEDU {
		return nil, fmt.Errorf("%w: ephemeral message is too large", event.ErrInvalid)
	}
	if err := json.Unmarshal(raw, &m); err != nil || m.Kind == "" || m.Room != r {
		return nil, fmt.Errorf("%w: ephemeral message is malformed", event.ErrInvalid)
	}
	if age := n.cfg.Now().Sub(time.UnixMilli(m.Time)); age > maxEDUAge || age < -maxEDUAge {
		return nil, errStale
	}
	if resident, err := n.isResident(r, m.Origin); err != nil || !resident {
		return nil, errors.Join(errNoBody, err)
	}
	if err := n.verifyEDU(&m, raw); err != nil {
		return nil, err
	}
	if !n.ephemeral.window.fresh(m.Origin, m.Kind, m.Seq) {
		return nil, errStale
	}
	return &m, nil
}

// verifyEDU checks the signature by a key that is known; who handed on a message
// with a bad one is at fault.
func (n *Node) verifyEDU(m *edu, raw []byte) error {
	err := fmt.Errorf("%w: ephemeral message is not signed", event.ErrInvalid)
	for kid := range m.Signatures[m.Origin] {
		key, kerr := n.net.Key(m.Origin, kid, m.Time)
		if kerr != nil {
			err = kerr
			continue
		}
		if verr := event.VerifyJSON(raw, m.Origin, kid, key); verr != nil {
			return fmt.Errorf("%w: %w", event.ErrInvalid, verr)
		}
		return nil
	}
	return err
}

// joinedTo returns those of a server's users that are joined to a room.
func (n *Node) joinedTo(r event.RoomID, origin event.Server, users []event.UserID) (map[event.UserID]bool, error) {
	out := map[event.UserID]bool{}
	err := n.store.View(func(tx *store.Tx) error {
		rm, err := tx.Room(r)
		if err != nil {
			return err
		}
		st, err := tx.State(rm.State)
		if err != nil {
			return err
		}
		for _, u := range users {
			if u.Server() != origin {
				continue
			}
			e, err := st.StateEvent(typeMember, string(u))
			if err != nil {
				return err
			}
			out[u] = memberOf(e) == join
		}
		return nil
	})
	return out, err
}

// takeTyping takes a typing notice of another server.
func (n *Node) takeTyping(m *edu) error {
	var b typingBody
	if json.Unmarshal(m.Body, &b) != nil || b.User.Server() != m.Origin {
		return fmt.Errorf("%w: typing notice is malformed", event.ErrInvalid)
	}
	joined, err := n.joinedTo(m.Room, m.Origin, []event.UserID{b.User})
	if err != nil || !joined[b.User] {
		return errors.Join(errNoBody, err)
	}
	ttl := typingTTL
	if !b.Typing {
		ttl = 0
	}
	if n.typing.set(m.Room, b.User, ttl) {
		n.wakeRoom(m.Room)
	}
	return nil
}

// SetTyping says that a local user is typing in a room for some time (at most two
// minutes, 0: 30 s), or stopped. ErrForbidden unless the user is in the room.
func (n *Node) SetTyping(ctx context.Context, user event.UserID, r event.RoomID, is bool, d time.Duration) error {
	if err := n.mustBeJoined(user, r); err != nil {
		return err
	}
	switch {
	case !is:
		d = 0
	case d <= 0:
		d = typingTTL
	}
	changed := n.typing.set(r, user, min(d, maxTyping))
	if changed {
		n.wakeRoom(r)
	}
	if n.typing.announce(r, user, is) {
		n.publishEDU(ctx, eduTyping, r, typingBody{user, is})
	}
	return nil
}

// mustBeJoined returns errNotMember unless the user is in the room.
func (n *Node) mustBeJoined(user event.UserID, r event.RoomID) error {
	return n.store.View(func(tx *store.Tx) error { return isJoined(tx, user, r) })
}

func isJoined(tx *store.Tx, user event.UserID, r event.RoomID) error {
	rm, err := tx.Room(r)
	if errors.Is(err, store.ErrNotFound) {
		return errNotMember
	} else if err != nil {
		return err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return err
	}
	id, ok, err := st.Get(room.Key{Type: typeMember, StateKey: string(user)})
	if err != nil {
		return err
	}
	if !ok {
		return errNotMember
	}
	e, err := tx.Event(id)
	if err != nil {
		return err
	}
	if e.Membership() != join {
		return errNotMember
	}
	return nil
}
