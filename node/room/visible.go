package room

import "github.com/tokenim/tokenim/node/event"

// HistoryVisibility returns who may read what is sent while st holds:
// "world_readable", "shared", "invited" or "joined". It is "shared" where
// nothing is set and for any value that is not understood.
func HistoryVisibility(st State) (string, error) {
	e, err := st.StateEvent("m.room.history_visibility", "")
	if err != nil || e == nil {
		return "shared", err
	}
	return visibilityOf(e), nil
}

func visibilityOf(e *event.Event) string {
	switch v, _ := stringOf(property(e.Content, "history_visibility")); v {
	case "world_readable", "invited", "joined":
		return v
	}
	return "shared"
}

// Membership returns the membership of a user in st, "leave" for those who never
// had one.
func Membership(st State, u event.UserID) (string, error) {
	e, err := st.StateEvent("m.room.member", string(u))
	if err != nil || e == nil {
		return "leave", err
	}
	return e.Membership(), nil
}

// Visible reports whether a user sees an event (Client-Server API, Room history
// visibility): visibility and membership are those of the state at the event
// (for events that change them, the more permissive of before and after), and
// joinedLater says that the user joined at some point after the event.
//
//  1. world_readable: yes.
//  2. The user was joined: yes.
//  3. shared, and the user joined at any point after the event: yes.
//  4. invited, and the user was invited: yes.
//  5. Otherwise no.
//
// Any other visibility counts as shared. See does the comparison of before and
// after.
func Visible(visibility, membership string, joinedLater bool) bool {
	switch visibility {
	case "world_readable":
		return true
	case "invited":
		return membership == "join" || membership == "invite"
	case "joined":
		return membership == "join"
	}
	return membership == "join" || joinedLater
}

// See is Visible for an event and the state before it. An m.room.history_visibility
// event is seen if the visibility before or after it allows it, the user's own
// member event if the membership before or after it does. The error is that of
// before.
func See(e *event.Event, before State, u event.UserID, joinedLater bool) (bool, error) {
	visibility, err := HistoryVisibility(before)
	if err != nil {
		return false, err
	}
	membership, err := Membership(before, u)
	if err != nil {
		return false, err
	}
	if Visible(visibility, membership, joinedLater) {
		return true, nil
	}
	switch {
	case e.Is("m.room.history_visibility", ""):
		visibility = visibilityOf(e)
	case e.Is("m.room.member", string(u)):
		membership = e.Membership()
	}
	return Visible(visibility, membership, joinedLater), nil
}
