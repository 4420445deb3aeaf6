package node

import (
	"context"
	"encoding/json"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// MaxSyncTimeout is how long a long-poll waits at most.
const MaxSyncTimeout = 60 * time.Second

// SyncRequest is one GET /sync.
type SyncRequest struct {
	Viewer
	Since      *Token // nil: an initial sync
	Filter     *Filter
	FullState  bool          // all state of all rooms; never waits
	StateAfter bool          // the state at the end of the timeline instead of at its start
	Timeout    time.Duration // how long to wait for something new; at most MaxSyncTimeout
}

// SyncResult is what is new for a user since a token.
type SyncResult struct {
	Next        Token
	AccountData []store.AccountData // global
	Join        []*JoinedRoom
	Invite      []StrippedRoom
	Knock       []StrippedRoom
	Leave       []*LeftRoom
}

// RoomTimeline is the end of a room's timeline, oldest first.
type RoomTimeline struct {
	Events  []*Shown
	Limited bool  // events between the request's token and Prev were left out
	Prev    Token // where Events begin
}

// JoinedRoom is what is new in a room that the user is in.
type JoinedRoom struct {
	ID          event.RoomID
	Summary     *Summary // nil: as before
	Timeline    RoomTimeline
	State       []*Shown
	Typing      []event.UserID // nil: as before
	Receipts    []store.Receipt
	AccountData []store.AccountData
	Unread      Unread
	Threads     map[event.ID]Unread // if the filter asks for them
}

// LeftRoom is what is new in a room up to where the user's membership ended.
type LeftRoom struct {
	ID          event.RoomID
	Timeline    RoomTimeline
	State       []*Shown
	AccountData []store.AccountData
}

// StrippedRoom is a room that the user knows only from an invite or a knock.
type StrippedRoom struct {
	ID    event.RoomID
	State []json.RawMessage // stripped state events
}

// empty reports whether there is nothing new.
func (r *SyncResult) empty() bool {
	return len(r.AccountData)+len(r.Join)+len(r.Invite)+len(r.Knock)+len(r.Leave) == 0
}

// Sync returns what is new for a user, waiting for it if need be. When ctx ends
// it returns at once what it would return after the timeout.
func (n *Node) Sync(ctx context.Context, req SyncRequest) (*SyncResult, error) {
	if req.Filter == nil {
		req.Filter = &Filter{}
	}
	var timeout <-chan time.Time
	for {
		ticket := n.Feed.Ticket(userKey(req.User)) // before looking
		res, err := n.syncOnce(ctx, &req)
		if err != nil || req.Since == nil || req.FullState || req.Timeout <= 0 || !res.empty() {
			ticket.Close()
			return res, err
		}
		if timeout == nil {
			timer := time.NewTimer(min(req.Timeout, MaxSyncTimeout))
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-ticket.C():
		case <-timeout:
			ticket.Close()
			return res, nil
		case <-ctx.Done():
			ticket.Close()
			return res, nil
		}
	}
}

// userKey is the feed key of a local user.
func userKey(u event.UserID) string { return "u:" + string(u) }

// syncer makes one answer in one transaction.
type syncer struct {
	n       *Node
	tx      *store.Tx
	req     *SyncRequest
	filter  *Filter
	since   store.Position // 0: initial
	now     store.Position
	ignored ignoring
	typing  map[event.RoomID][]event.UserID
	data    map[event.RoomID][]store.AccountData // new account data by room
	judge   *judge                               // of the user's push rules, when they are first needed
	res     *SyncResult
}

// syncOnce looks without waiting. Few syncs of everything are made at once: each
// holds all of its answer in memory.
func (n *Node) syncOnce(ctx context.Context, req *SyncRequest) (*SyncResult, error) {
	if req.Since == nil || req.FullState {
		select {
		case n.whole <- struct{}{}:
			defer func() { <-n.whole }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	res := &SyncResult{}
	err := n.store.View(func(tx *store.Tx) error {
		s := &syncer{n: n, tx: tx, req: req, filter: req.Filter, res: res}
		return s.run()
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// run fills the result.
func (s *syncer) run() error {
	var err error
	if s.now, err = s.tx.Position(); err != nil {
		return err
	}
	since := Token{}
	// A position that lies ahead is of a store that was restored since: what the
	// client knows is not what this node knows. It gets everything anew.
	if s.req.Since != nil && s.req.Since.Position <= s.now {
		since = *s.req.Since
	}
	s.since = since.Position
	s.res.Next = Token{Position: s.now}
	rows, err := s.tx.Memberships(s.req.User)
	if err != nil {
		return err
	}
	joined := make([]event.RoomID, 0, len(rows))
	for i := range rows {
		if rows[i].Membership == join {
			joined = append(joined, rows[i].Room)
		}
	}
	s.typing = s.n.typing.changes(joined, since, &s.res.Next)
	if s.ignored, err = ignoredUsers(s.tx, s.req.User); err != nil {
		return err
	}
	if err := s.accountData(); err != nil {
		return err
	}
	for i := range rows {
		if s.filter.Room.room(rows[i].Room) {
			if err := s.membership(&rows[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// accountData takes the new account data, global and of rooms.
func (s *syncer) accountData() error {
	all, err := s.tx.AllAccountData(s.req.User, s.since)
	if err != nil {
		return err
	}
	for _, d := range all {
		switch {
		case d.Room == "" && s.filter.AccountData.typ(d.Type):
			s.res.AccountData = append(s.res.AccountData, d)
		case d.Room != "" && s.filter.Room.AccountData.room(d.Room) && s.filter.Room.AccountData.typ(d.Type):
			if s.data == nil {
				s.data = map[event.RoomID][]store.AccountData{}
			}
			s.data[d.Room] = append(s.data[d.Room], d)
		}
	}
	return nil
}

// membership adds what is new in one room.
func (s *syncer) membership(m *store.Membership) error {
	fresh := m.Position > s.since
	switch m.Membership {
	case join:
		return s.joined(m)
	case invite:
		if (fresh || s.req.FullState) && !s.ignored.has(m.Sender) {
			return s.stripped(m, &s.res.Invite)
		}
	case knock:
		if fresh || s.req.FullState {
			return s.stripped(m, &s.res.Knock)
		}
	case leave, ban:
		if m.Forgotten || !fresh || s.since == 0 && !s.filter.Room.IncludeLeave {
			return nil
		}
		return s.left(m)
	}
	return nil
}

// clientSide is what a node remembers in memory for its clients' reads, and of the
// rooms' second topics. All of it can be lost.
type clientSide struct {
	lazy      *lazySent
	notices   *notices
	push      *pushCache
	ephemeral *ephemeral
	whole     chan struct{} // a place for each initial sync that is being made
}

// wholeSyncs is how many initial syncs are made at once.
const wholeSyncs = 16

func newClientSide() clientSide {
	return clientSide{lazy: newLazySent(), notices: newNotices(), push: newPushCache(), ephemeral: newEphemeral(), whole: make(chan struct{}, wholeSyncs)}
}
