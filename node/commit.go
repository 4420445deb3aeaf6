package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

const (
	typeCreate      = "m.room.create"
	typePowerLevels = "m.room.power_levels"
	typeJoinRules   = "m.room.join_rules"
	typeAlias       = "m.room.canonical_alias"
	typeName        = "m.room.name"
	typeTopic       = "m.room.topic"
	typeRedaction   = "m.room.redaction"

	saltKey = "im.tokenim.topic_salt" // in the content of m.room.create (protocol C2)
)

var base64url = base64.RawURLEncoding

// missingError says what an event refers to and the node does not hold. It is no
// verdict: the event can be committed once these are there.
type missingError struct {
	prev []event.ID // not in the graph
	auth []event.ID // not known at all
}

// Error counts what is missing.
func (e *missingError) Error() string {
	return fmt.Sprintf("%d prev_events and %d auth_events are missing", len(e.prev), len(e.auth))
}

// effects is what has to happen after a commit is durable. The functions given
// to store.Update may run more than once, so each run starts with reset.
type effects struct {
	moved    []moved
	forked   []forked
	rooms    []event.RoomID // with new events that clients are shown, each once
	users    []event.UserID // local users whose own membership changed
	local    bool           // the publisher has work
	forward  []*store.Stored
	horizon  []*store.Stored // whose past is not held here
	parcels  []parcel
	goodbyes []goodbye
	accepted int // events that are new in the graph, rejected ones apart
}

func (fx *effects) reset() { *fx = effects{} }

// how says how an event comes to be committed.
type how struct {
	store.ApplyOptions
	before  *store.State // the state before it if it was given (a join, protocol C12.2), else nil
	hidden  bool         // keep it from the timeline even if it is accepted
	refuse  bool         // an event that is not accepted is an error and changes nothing
	forward bool         // the publisher hands it on though another node made it (protocol C12.13)
}

// commit decides about an event and adds it to the graph. Every change to a
// room, by a local user or by a peer, comes through here. Signatures have been
// verified. A known event changes nothing and is returned as it is stored.
//
// Errors: *missingError if something it refers to is not here, ErrUnknownRoom,
// and with how.refuse the *room.RuleError of a refusal; nothing is written then.
func (n *Node) commit(tx *store.Tx, fx *effects, e *event.Event, o how) (*store.Stored, error) {
	if !o.Local { // what was signed a moment ago cannot be known
		known, err := tx.Event(e.ID())
		if err == nil && known.Status != store.Outlier {
			return known, nil
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	in, rm, err := n.input(tx, e, o)
	if err != nil {
		return nil, err
	}
	verdict, err := room.Judge(e, in)
	if err != nil && !errors.Is(err, room.ErrForbidden) { // could not be decided
		return nil, err
	}
	if verdict != room.Accepted && (o.refuse || o.Local) {
		return nil, err
	}
	if verdict == room.Accepted && o.hidden {
		verdict = room.SoftFailed
	}
	st, err := tx.Apply(e, verdict, in.Before.(*store.State), o.ApplyOptions)
	if err != nil {
		return nil, err
	}
	if o.Horizon {
		fx.horizon = append(fx.horizon, st)
	}
	return st, fx.note(tx, st, rm, o, n.Server())
}

// input collects what the verdict depends on, and the room as it is before; an
// empty one if its graph begins with the event.
func (n *Node) input(tx *store.Tx, e *event.Event, o how) (in room.Input, rm *store.Room, err error) {
	rm = &store.Room{}
	if e.Type == typeCreate {
		in.Before, err = tx.State(0)
		return in, rm, err
	}
	create, err := tx.Event(e.Room.Create())
	if errors.Is(err, store.ErrNotFound) {
		return in, rm, fmt.Errorf("%w: %s", ErrUnknownRoom, e.Room)
	} else if err != nil {
		return in, rm, err
	}
	in.Create = create.Event
	missing := &missingError{}
	before := o.before
	if before == nil {
		if before, err = tx.StateAt(e.Room, e.Prev); errors.Is(err, store.ErrNotFound) {
			missing.prev, err = absent(tx, e.Prev)
		}
		if err != nil {
			return in, rm, err
		}
	}
	in.Before = before
	for _, id := range e.Auth {
		found, err := tx.Lookup(id)
		if errors.Is(err, store.ErrNotFound) {
			missing.auth = append(missing.auth, id)
			continue
		} else if err != nil {
			return in, rm, err
		}
		in.Auth = append(in.Auth, found)
	}
	if len(missing.prev)+len(missing.auth) > 0 {
		return in, rm, missing
	}
	if now, err := tx.Room(e.Room); errors.Is(err, store.ErrNotFound) { // a room that is being joined
		return in, rm, nil
	} else if err != nil {
		return in, rm, err
	} else {
		rm = now
	}
	// Where both states are one, check 6 repeats check 5. A given state says more
	// about the room than what was known here before.
	if o.before == nil && rm.State != before.ID() {
		if in.Current, err = stateOf(tx, rm.State); err != nil {
			return in, rm, err
		}
	}
	return in, rm, nil
}

// stateOf is tx.State as an interface that is nil on errors.
func stateOf(tx *store.Tx, id store.StateID) (room.State, error) {
	st, err := tx.State(id)
	if err != nil {
		return nil, err
	}
	return st, nil
}

// absent returns those of the ids that are not in the graph.
func absent(tx *store.Tx, ids []event.ID) (out []event.ID, err error) {
	for _, id := range ids {
		has, err := tx.Has(id)
		if err != nil {
			return nil, err
		}
		if !has {
			out = append(out, id)
		}
	}
	return out, nil
}

// note records what has to happen once the transaction is durable.
func (fx *effects) note(tx *store.Tx, st *store.Stored, was *store.Room, o how, self event.Server) error {
	if st.Status == store.Rejected {
		return nil
	}
	fx.accepted++
	if o.forward && st.Status == store.Accepted {
		fx.forward = append(fx.forward, st)
	}
	if st.Status == store.Accepted {
		fx.local = fx.local || o.Local
		if !slices.Contains(fx.rooms, st.Room) {
			fx.rooms = append(fx.rooms, st.Room)
		}
	}
	// The common case: a message on the one head there is.
	if st.StateKey == nil && len(was.Heads) == 1 && len(st.Prev) == 1 && st.Prev[0] == was.Heads[0] {
		return nil
	}
	id, from := st.Room, was.State
	rm, err := tx.Room(id)
	if err != nil {
		return err
	}
	fx.forked = append(fx.forked, forked{id, len(rm.Heads)})
	if rm.State == from {
		return nil
	}
	at, err := tx.Position()
	if err != nil {
		return err
	}
	users, local, err := memberMoves(tx, from, rm.State, self)
	if err != nil {
		return err
	}
	fx.users = append(fx.users, local...)
	fx.moved = append(fx.moved, moved{room: id, from: from, to: rm.State, at: at, users: users})
	if o.Local && st.Type == typeMember {
		return fx.direct(tx, st, self)
	}
	return nil
}

// after does what a durable commit asks for. The network's lists of servers come
// first: who was removed gets nothing more once clients see it.
func (n *Node) after(fx *effects) {
	for _, st := range fx.horizon {
		n.horizons.add(st)
	}
	for _, m := range fx.moved {
		n.residents.move(m, n.Server())
	}
	for _, m := range fx.moved {
		if len(m.users) > 0 {
			n.tellNetwork(m.room)
		}
	}
	for _, f := range fx.forked {
		n.residents.fork(f, n.cfg.Now())
	}
	for _, r := range fx.rooms {
		n.touch(r)
		n.wakeRoom(r)
	}
	n.wake(fx.users...)
	if len(fx.forward) > 0 || fx.local {
		n.publisher.kick(fx.forward)
	}
	for _, p := range fx.parcels {
		n.peers.send(p)
	}
	for _, g := range fx.goodbyes {
		n.peers.sayGoodbye(g)
	}
}

// update runs fn on the writer and after it what the commits in it ask for.
func (n *Node) update(ctx context.Context, fn func(*store.Tx, *effects) error) error {
	var fx effects
	err := n.store.Update(ctx, func(tx *store.Tx) error {
		fx.reset()
		return fn(tx, &fx)
	})
	if err == nil {
		n.after(&fx)
	}
	return err
}

// draft makes an event of a local user at the current end of a room. ErrForbidden
// if the room's graph is not held here.
func (n *Node) draft(tx *store.Tx, r event.RoomID, sender event.UserID, typ string, key *string, content json.RawMessage) (*event.Event, error) {
	b, err := n.draftBody(tx, r, sender, typ, key, content)
	if err != nil {
		return nil, err
	}
	return event.Sign(b, n.cfg.Key)
}

// draftBody is draft without the signature, for any sender.
func (n *Node) draftBody(tx *store.Tx, r event.RoomID, sender event.UserID, typ string, key *string, content json.RawMessage) (b event.Body, err error) {
	rm, err := tx.Room(r)
	if errors.Is(err, store.ErrNotFound) {
		return b, fmt.Errorf("%w: you are not in the group", ErrForbidden)
	} else if err != nil {
		return b, err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return b, err
	}
	now := n.cfg.Now().UnixMilli()
	at := room.Room{ID: r, Heads: rm.Heads, Depth: rm.Depth}
	if len(rm.Heads) > 1 { // a fork: with many heads the deepest are chosen
		for _, id := range rm.Heads {
			head, err := tx.Event(id)
			if err != nil {
				return b, err
			}
			at.HeadDepths = append(at.HeadDepths, head.Depth)
		}
	}
	b, err = at.Draft(st, sender, typ, key, content, now)
	if err == nil && len(b.Prev) < len(rm.Heads) {
		// Not all heads fit: the event stands on the state after those it names.
		if st, err = tx.StateAt(r, b.Prev); err != nil {
			return b, err
		}
		at.Heads, at.HeadDepths = b.Prev, nil
		b, err = at.Draft(st, sender, typ, key, content, now)
	}
	if err != nil || key == nil {
		return b, err
	}
	for _, id := range b.Auth {
		a, err := tx.Event(id)
		if err != nil {
			return b, err
		}
		b.Time = timeAfter(a.Event, b.Time, now)
	}
	return b, nil
}

// maxLead is how far ahead of the clock the time of an event of this node can be.
const maxLead = 10 * time.Second

// timeAfter moves the time of an event behind that of an auth event. State
// resolution orders membership events of one standing by time (Room version 12,
// Mainline ordering), so two of one user in the same millisecond, or with a clock
// that was set back in between, would resolve as if the older one came last. What
// claims a time far ahead is not followed.
func timeAfter(auth *event.Event, t, now int64) int64 {
	if auth.Time >= t && auth.Time < now+maxLead.Milliseconds() {
		return auth.Time + 1
	}
	return t
}

// topicSalt reads the salt of a room's topics from its create event; none is
// fine. The create event keeps its content when it is redacted.
func topicSalt(create *event.Event) []byte {
	text := strings.TrimRight(create.Field(saltKey), "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if salt, err := enc.DecodeString(text); err == nil {
			return salt
		}
	}
	return nil
}
