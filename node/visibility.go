package node

import (
	"errors"
	"fmt"
	"math"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

const (
	typeMember     = "m.room.member"
	typeVisibility = "m.room.history_visibility"

	join        = "join"
	leave       = "leave"
	invite      = "invite"
	ban         = "ban"
	knock       = "knock"
	worldReader = "world_readable"
)

// maxMemberships is how many earlier member events of a user are looked at to
// find the last time that the user was joined.
const maxMemberships = 100

// viewer answers what one user may see of one room. It is valid while its
// transaction is.
type viewer struct {
	tx   *store.Tx
	user event.UserID
	room *store.Room

	membership string         // now; leave if there never was one
	lastJoin   store.Position // newest position at which the user became joined; for joined users the largest
	until      store.Position // where a user who left saw the room last; for joined users the largest

	seen map[store.StateID]seen // what states say; few, since states change rarely
}

// seen is what the visibility of an event depends on.
type seen struct{ visibility, membership string }

// errNotMember is what those get who may not look into a room, and all who ask
// for a room that is not held here, so that nobody learns which rooms exist.
var errNotMember = fmt.Errorf("%w: you are not a member of the group", ErrForbidden)

// newViewer looks up what the user is and was in a room. ErrNotFound if the room
// is not held here.
func newViewer(tx *store.Tx, user event.UserID, id event.RoomID) (*viewer, error) {
	r, err := tx.Room(id)
	if err != nil {
		return nil, err
	}
	v := &viewer{tx: tx, user: user, room: r, seen: map[store.StateID]seen{}}
	return v, v.history()
}

// newMember is newViewer for who is known to be joined.
func newMember(tx *store.Tx, user event.UserID, r *store.Room) *viewer {
	return &viewer{tx: tx, user: user, room: r, seen: map[store.StateID]seen{},
		membership: join, lastJoin: math.MaxUint64, until: math.MaxUint64}
}

// enter is newViewer for a request about a room. errNotMember if the user is not
// and was not in the room, or has forgotten it, and not everyone may read it.
func enter(tx *store.Tx, user event.UserID, id event.RoomID) (*viewer, error) {
	v, err := newViewer(tx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNotMember
	} else if err != nil {
		return nil, err
	}
	if v.membership == join {
		return v, nil
	}
	now, err := v.state(v.room.State)
	if err != nil {
		return nil, err
	}
	if now.visibility == worldReader { // peeking (Room history visibility, rule 1)
		v.until = math.MaxUint64
		return v, nil
	}
	if v.lastJoin == 0 {
		return nil, errNotMember
	}
	m, err := tx.Membership(user, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if m != nil && m.Forgotten {
		return nil, errNotMember
	}
	return v, nil
}

// history finds the user's membership now, when it last became join, and when
// it ended.
func (v *viewer) history() error {
	st, err := v.tx.State(v.room.State)
	if err != nil {
		return err
	}
	v.membership = leave
	for i := 0; i < maxMemberships; i++ {
		id, ok, err := st.Get(room.Key{Type: typeMember, StateKey: string(v.user)})
		if err != nil || !ok {
			return err
		}
		e, err := v.tx.Event(id)
		if err != nil {
			return err
		}
		m := e.Membership()
		if i == 0 {
			v.membership = m
		}
		if m == join {
			if i == 0 {
				v.lastJoin, v.until = math.MaxUint64, math.MaxUint64
			} else {
				v.lastJoin = max(e.Position, 1) // 0 for a state that came with a join of ours
			}
			return nil
		}
		v.until = e.Position
		if st, err = v.tx.State(e.Before); err != nil {
			return err
		}
	}
	return nil
}

// state returns what a state says, remembering it.
func (v *viewer) state(id store.StateID) (seen, error) {
	if s, ok := v.seen[id]; ok {
		return s, nil
	}
	s := seen{visibility: "shared", membership: leave}
	st, err := v.tx.State(id)
	if err != nil {
		return s, err
	}
	vis, err := st.StateEvent(typeVisibility, "")
	if err != nil {
		return s, err
	}
	if vis != nil {
		s.visibility = vis.Field("history_visibility")
	}
	m, err := st.StateEvent(typeMember, string(v.user))
	if err != nil {
		return s, err
	}
	if m != nil {
		s.membership = m.Membership()
	}
	v.seen[id] = s
	return s, nil
}

// sees decides whether the user sees an event of the timeline (Room history
// visibility, Server behaviour), and returns the user's membership at the event,
// changes by the event itself included.
func (v *viewer) sees(e *store.Stored) (bool, string, error) {
	if e.Status != store.Accepted {
		return false, "", nil
	}
	before, err := v.state(e.Before)
	if err != nil {
		return false, "", err
	}
	membership := before.membership
	later := e.Position < v.lastJoin
	ok := room.Visible(before.visibility, before.membership, later)
	own := e.Is(typeMember, string(v.user))
	if own || e.Is(typeVisibility, "") {
		after, err := v.state(e.After)
		if err != nil {
			return false, "", err
		}
		membership = after.membership
		ok = ok || room.Visible(after.visibility, after.membership, later)
	}
	if e.Position > v.until && before.visibility != worldReader {
		ok = false
	}
	// A user is always told of the end of the own membership, or the room would
	// never leave the list of one who rejects an invite.
	if own && membership != join && membership != invite {
		ok = true
	}
	return ok, membership, nil
}

// position returns the newest position that the user may see: now for those who
// are in the room, the end of their membership for those who left.
func (v *viewer) position() (store.Position, error) {
	now, err := v.tx.Position()
	return min(now, v.until), err
}

// current returns the state that the user may see: the current one, or the one
// at the end of the user's membership (GET /rooms/{roomId}/state).
func (v *viewer) current() (*store.State, error) {
	if v.until == math.MaxUint64 {
		return v.tx.State(v.room.State)
	}
	return v.tx.CurrentAt(v.room.ID, v.until)
}
