package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// Unread counts what a user has not read yet in a room or a thread.
type Unread struct {
	Notifications int
	Highlights    int // of these, with the user's attention asked for
}

// unreadScan is how many events are looked at: counts stop there.
const unreadScan = 100

// unreadRooms is of how many rooms notices are remembered, about 25 KiB each.
const unreadRooms = 512

// notice is what the default push rules make of an event, for whoever reads it.
type notice struct {
	pos    store.Position
	id     event.ID
	sender event.UserID
	thread string         // the thread it is in, "main" outside of threads
	parent event.ID       // what it relates to
	undoes event.ID       // what it redacts
	notify bool           // a rule for everybody matches
	loud   bool           // with a highlight for everybody
	users  []event.UserID // mentioned: notified with a highlight
}

// notices remembers the last events of rooms, so that the counts of a room's
// members are not each made by reading them again.
type notices struct {
	mu    sync.Mutex // guards rooms and its entries; the lists are only appended to or replaced
	rooms *lru.LRU[event.RoomID, roomNotices]
}

// roomNotices is a room's list, oldest first: the last events up to a position.
type roomNotices struct {
	to   store.Position
	list []notice
}

func newNotices() *notices {
	rooms, err := lru.NewLRU[event.RoomID, roomNotices](unreadRooms, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &notices{rooms: rooms}
}

// get returns a room's list up to at least the newest position tx sees.
func (n *notices) get(tx *store.Tx, r event.RoomID, now store.Position) (roomNotices, error) {
	n.mu.Lock()
	have, ok := n.rooms.Get(r)
	n.mu.Unlock()
	if ok && have.to >= now {
		return have, nil
	}
	var evs []*store.Stored
	var more bool
	var err error
	if ok {
		evs, more, err = tx.Timeline(r, have.to, now, unreadScan)
	}
	fresh := !ok || more
	if fresh && err == nil {
		if evs, _, err = tx.TimelineBack(r, now, unreadScan); err == nil {
			slices.Reverse(evs)
		}
	}
	if err != nil {
		return roomNotices{}, err
	}
	add := make([]notice, len(evs))
	for i, e := range evs {
		if add[i], err = noticeOf(tx, e); err != nil {
			return roomNotices{}, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	latest, ok := n.rooms.Get(r)
	switch {
	case ok && latest.to >= now: // somebody was faster
		return latest, nil
	case fresh:
		have = roomNotices{}
	case latest.to != have.to: // somebody added some; the next one adds the rest
		return roomNotices{now, link(slices.Clone(have.list), add)}, nil
	}
	have.to = now
	have.list = link(have.list, add)
	if len(have.list) > 2*unreadScan {
		have.list = slices.Clone(have.list[len(have.list)-unreadScan:])
	}
	n.rooms.Add(r, have)
	return have, nil
}

// maxHops is how far a relation is followed to find a thread (Marking
// notifications as read).
const maxHops = 3

// link appends notices, finds the threads of those that relate to earlier ones,
// and silences what they redact.
func link(list, add []notice) []notice {
	for _, a := range add {
		if i := slices.IndexFunc(list, func(n notice) bool { return n.id == a.undoes }); a.undoes != "" && i >= 0 {
			list = slices.Clone(list) // others may be reading it
			list[i].notify, list[i].loud, list[i].users = false, false, nil
		}
		for hop, parent := 0, a.parent; a.thread == "" && parent != "" && hop < maxHops; hop++ {
			i := slices.IndexFunc(list, func(n notice) bool { return n.id == parent })
			if i < 0 {
				break
			}
			// A root of a thread is in the main timeline, and what relates to it is too.
			a.thread, parent = list[i].thread, list[i].parent
		}
		if a.thread == "" {
			a.thread = mainThread
		}
		list = append(list, a)
	}
	return list
}

// mainThread is the thread id of what is in no thread.
const mainThread = "main"

// noticeOf applies the predefined push rules (Push, Predefined Rules), those that
// do not depend on who reads, and collects who is mentioned.
func noticeOf(tx *store.Tx, e *store.Stored) (notice, error) {
	n := notice{pos: e.Position, id: e.ID(), sender: e.Sender}
	if e.RedactedBy != "" {
		return n, nil
	}
	if e.Type == typeRedaction && e.StateKey == nil {
		target, err := tx.Event(e.Redacts())
		if err == nil && target.RedactedBy == e.ID() {
			n.undoes = target.ID()
		}
		return n, nil
	}
	var c struct {
		MsgType  json.RawMessage `json:"msgtype"`
		Mentions struct {
			Users []event.UserID `json:"user_ids"`
			Room  any            `json:"room"`
		} `json:"m.mentions"`
		Relates struct {
			Type  string   `json:"rel_type"`
			Event event.ID `json:"event_id"`
		} `json:"m.relates_to"`
	}
	if hasAny(e.Content, `"m.mentions"`, `"m.relates_to"`, `"msgtype"`) {
		// Fields of other types than expected are as good as absent.
		var wrong *json.UnmarshalTypeError
		if err := json.Unmarshal(e.Content, &c); err != nil && !errors.As(err, &wrong) {
			return n, err
		}
	}
	n.parent = c.Relates.Event
	if c.Relates.Type == "m.thread" {
		n.thread = string(c.Relates.Event)
	}
	switch {
	case string(c.MsgType) == `"m.notice"`, e.Type == typeMember: // suppress_notices, member_event
		return n, nil
	case e.Type == "m.room.tombstone" && e.StateKey != nil && *e.StateKey == "": // tombstone
		n.notify, n.loud = true, true
		return n, nil
	}
	n.users = c.Mentions.Users // is_user_mention
	if c.Mentions.Room == true {
		may, err := mayNotify(tx, e, "room") // is_room_mention
		if err != nil {
			return n, err
		}
		n.loud = may
	}
	if n.loud {
		n.notify = true
		return n, nil
	}
	switch {
	case e.StateKey != nil, e.Type == "m.reaction", c.Relates.Type == "m.replace": // reaction, server_acl, suppress_edits
	case e.Type == "m.room.message", e.Type == "m.room.encrypted", e.Type == "m.call.invite":
		n.notify = true
	}
	return n, nil
}

func hasAny(b []byte, subs ...string) bool {
	for _, s := range subs {
		if bytes.Contains(b, []byte(s)) {
			return true
		}
	}
	return false
}

// mayNotify reports whether the sender has the power for notifications of a kind;
// "room" is a mention of everybody.
func mayNotify(tx *store.Tx, e *store.Stored, kind string) (bool, error) {
	create, err := tx.Event(e.Room.Create())
	if err != nil {
		return false, err
	}
	st, err := tx.State(e.Before)
	if err != nil {
		return false, err
	}
	levels, err := room.LevelsOf(create.Event, st)
	if err != nil {
		return false, nil // power levels that nobody understands allow nothing
	}
	return levels.User(e.Sender) >= levels.Notification(kind), nil
}

// readUpTo says how far a user has read.
type readUpTo struct {
	all     store.Position            // of everything
	threads map[string]store.Position // of single threads
}

// readMarks returns how far a user has read in a room: up to the receipts, of a
// public and a private one the one that is further on.
func readMarks(tx *store.Tx, r event.RoomID, user event.UserID) (readUpTo, error) {
	var out readUpTo
	receipts, err := tx.UserReceipts(r, user, receiptRead, receiptPrivate)
	if err != nil {
		return out, err
	}
	for _, rc := range receipts {
		e, err := tx.Event(rc.Event)
		if errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return out, err
		}
		if rc.Thread == "" {
			out.all = max(out.all, e.Position)
			continue
		}
		if out.threads == nil {
			out.threads = map[string]store.Position{}
		}
		out.threads[rc.Thread] = max(out.threads[rc.Thread], e.Position)
	}
	return out, nil
}

// unread fills in what the user has not read. Sending an event counts as reading
// what came before it (Marking notifications as read).
func (s *syncer) unread(v *viewer, m *store.Membership, out *JoinedRoom) error {
	read, err := readMarks(s.tx, m.Room, s.req.User)
	if err != nil {
		return err
	}
	if read.all == 0 && read.threads == nil {
		read.all = m.Position // nothing that came before one joined is new
	}
	ns, err := s.n.notices.get(s.tx, m.Room, s.now)
	if err != nil {
		return err
	}
	if s.judge == nil {
		rules, err := s.n.push.rules(s.tx, s.req.User)
		if err != nil {
			return err
		}
		s.judge = &judge{tx: s.tx, user: s.req.User, rules: rules, work: pushWork}
	}
	s.judge.joined = v.room.Joined
	byThread := s.filter.Room.Timeline.UnreadThreads
	sent := map[string]bool{}
	scanned := 0
	for _, n := range slices.Backward(ns.list) {
		if n.pos > s.now {
			continue
		}
		if scanned++; scanned > unreadScan || n.pos <= read.all {
			break
		}
		if n.sender == s.req.User {
			if !byThread {
				break
			}
			sent[n.thread] = true
			continue
		}
		if n.pos <= read.threads[n.thread] || sent[n.thread] || s.ignored.has(n.sender) {
			continue
		}
		loud := n.loud || slices.Contains(n.users, s.req.User)
		notify := n.notify || loud
		if s.judge.rules != nil {
			if notify, loud, err = s.judge.notice(n.id); err != nil {
				return err
			}
		}
		if !notify {
			continue
		}
		u := &out.Unread
		if byThread && n.thread != mainThread {
			if out.Threads == nil {
				out.Threads = map[event.ID]Unread{}
			}
			t := out.Threads[event.ID(n.thread)]
			t.add(loud)
			out.Threads[event.ID(n.thread)] = t
			continue
		}
		u.add(loud)
	}
	return nil
}

// notice applies the user's rules to an event. What was redacted is silent.
func (j *judge) notice(id event.ID) (notify, loud bool, err error) {
	e, err := j.tx.Event(id)
	if errors.Is(err, store.ErrNotFound) || err == nil && e.RedactedBy != "" {
		return false, false, nil
	} else if err != nil {
		return false, false, err
	}
	return j.verdict(e)
}

func (u *Unread) add(loud bool) {
	u.Notifications++
	if loud {
		u.Highlights++
	}
}
