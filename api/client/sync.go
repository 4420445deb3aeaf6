package client

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/store"
)

// routesSync are Syncing.
func routesSync() []route {
	return []route{{"GET", v3 + "/sync", user, (*Server).sync}}
}

// sync implements GET /sync (sync.yaml).
func (s *Server) sync(c *call) (any, error) {
	q := c.URL.Query()
	req := node.SyncRequest{Viewer: c.viewer()}
	var err error
	if since := q.Get("since"); since != "" {
		t, err := node.ParseToken(since)
		if err != nil {
			return nil, err
		}
		req.Since = &t
	}
	if req.Since == nil {
		// Accounts that tools made have had no login that wrote them. A disk that
		// is full must not end reading.
		if err := s.ensurePushRules(c.Context(), c.Session.User); err != nil {
			s.log.Warn("the default push rules were not written", "err", err)
		}
	}
	if req.FullState, err = c.flag("full_state"); err != nil {
		return nil, err
	}
	if req.StateAfter, err = c.flag("use_state_after"); err != nil {
		return nil, err
	}
	// Accepted, and without effect while there is no presence.
	switch q.Get("set_presence") {
	case "", "online", "offline", "unavailable":
	default:
		return nil, invalidParam("set_presence is not valid")
	}
	ms, err := c.number("timeout", 0, 0, int(node.MaxSyncTimeout/time.Millisecond))
	if err != nil {
		return nil, err
	}
	req.Timeout = time.Duration(ms) * time.Millisecond
	if req.Filter, err = s.filter(c, q.Get("filter")); err != nil {
		return nil, err
	}
	res, err := s.node.Sync(c.Context(), req)
	if err != nil {
		return nil, err
	}
	w := syncWriter{f: format{now: time.Now().UnixMilli(), fields: req.Filter.EventFields, federation: req.Filter.Federation()},
		after: req.StateAfter}
	return w.write(res), nil
}

// filter returns the filter that a query parameter holds or names: an object if it
// begins with a brace, an id otherwise.
func (s *Server) filter(c *call, text string) (*node.Filter, error) {
	switch {
	case text == "":
		return &node.Filter{}, nil
	case text[0] == '{':
		return node.ParseFilter([]byte(text))
	}
	var raw json.RawMessage
	err := s.store.View(func(tx *store.Tx) error {
		var err error
		raw, err = tx.Filter(c.Session.User, text)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, invalidParam("filter is not known")
	} else if err != nil {
		return nil, err
	}
	return node.ParseFilter(raw)
}

// viewer says for whom a request is answered.
func (c *call) viewer() node.Viewer {
	return node.Viewer{User: c.Session.User, Device: c.Session.Device}
}

// flag reads a query parameter that is true or false.
func (c *call) flag(name string) (bool, error) {
	switch c.URL.Query().Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalidParam("query parameter " + name + " is not valid")
}

// token reads a query parameter that is a pagination token, nil if it is absent.
func (c *call) token(name string) (*node.Token, error) {
	text := c.URL.Query().Get(name)
	if text == "" {
		return nil, nil
	}
	t, err := node.ParseToken(text)
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// syncWriter writes the answer of /sync.
type syncWriter struct {
	b     []byte
	f     format
	after bool // use_state_after
}

// write writes a whole answer.
func (w *syncWriter) write(r *node.SyncResult) json.RawMessage {
	n := 512
	for _, j := range r.Join {
		n += 512 + size(j.Timeline.Events) + size(j.State) + 200*len(j.Receipts)
	}
	for _, l := range r.Leave {
		n += 256 + size(l.Timeline.Events) + size(l.State)
	}
	w.b = make([]byte, 0, n)
	w.text(`{"account_data":`)
	w.accountData(r.AccountData)
	w.text(`,"device_lists":{"changed":[],"left":[]},"device_one_time_keys_count":{},"device_unused_fallback_key_types":[],"next_batch":`)
	w.b = appendText(w.b, r.Next.String())
	w.text(`,"presence":{"events":[]}`)
	if len(r.Join)+len(r.Invite)+len(r.Knock)+len(r.Leave) > 0 {
		w.rooms(r)
	}
	w.text(`,"to_device":{"events":[]}}`)
	return w.b
}

func (w *syncWriter) text(s string) { w.b = append(w.b, s...) }

// key writes the name of a property whose value follows, with a comma before it
// unless it is the first.
func (w *syncWriter) key(first bool, name string) {
	if !first {
		w.b = append(w.b, ',')
	}
	w.b = append(appendText(w.b, name), ':')
}

func (w *syncWriter) rooms(r *node.SyncResult) {
	w.text(`,"rooms":{"join":{`)
	for i, j := range r.Join {
		w.key(i == 0, string(j.ID))
		w.joined(j)
	}
	w.text(`},"invite":{`)
	w.stripped(r.Invite, "invite_state")
	w.text(`},"knock":{`)
	w.stripped(r.Knock, "knock_state")
	w.text(`},"leave":{`)
	for i, l := range r.Leave {
		w.key(i == 0, string(l.ID))
		w.text(`{"account_data":`)
		w.accountData(l.AccountData)
		w.state(l.State)
		w.timeline(&l.Timeline)
		w.text(`}`)
	}
	w.text(`}}`)
}

func (w *syncWriter) joined(j *node.JoinedRoom) {
	w.text(`{"account_data":`)
	w.accountData(j.AccountData)
	w.text(`,"ephemeral":{"events":`)
	w.ephemeral(j)
	w.text(`}`)
	w.state(j.State)
	if s := j.Summary; s != nil {
		w.text(`,"summary":{`)
		if s.Heroes != nil {
			w.text(`"m.heroes":`)
			w.b = appendIDs(w.b, s.Heroes)
			w.text(`,`)
		}
		w.text(`"m.invited_member_count":`)
		w.b = strconv.AppendInt(w.b, int64(s.Invited), 10)
		w.text(`,"m.joined_member_count":`)
		w.b = strconv.AppendInt(w.b, int64(s.Joined), 10)
		w.text(`}`)
	}
	w.timeline(&j.Timeline)
	w.text(`,"unread_notifications":`)
	w.unread(j.Unread)
	if len(j.Threads) > 0 {
		w.text(`,"unread_thread_notifications":{`)
		first := true
		for id, u := range j.Threads {
			w.key(first, string(id))
			w.unread(u)
			first = false
		}
		w.text(`}`)
	}
	w.text(`}`)
}

func (w *syncWriter) unread(u node.Unread) {
	w.text(`{"highlight_count":`)
	w.b = strconv.AppendInt(w.b, int64(u.Highlights), 10)
	w.text(`,"notification_count":`)
	w.b = strconv.AppendInt(w.b, int64(u.Notifications), 10)
	w.text(`}`)
}

// state writes the state under the name that the client asked for.
func (w *syncWriter) state(events []*node.Shown) {
	if w.after {
		w.text(`,"state_after":{"events":`)
	} else {
		w.text(`,"state":{"events":`)
	}
	w.b = w.f.appendAll(w.b, events)
	w.text(`}`)
}

func (w *syncWriter) timeline(t *node.RoomTimeline) {
	w.text(`,"timeline":{"events":`)
	w.b = w.f.appendAll(w.b, t.Events)
	w.text(`,"limited":`)
	w.b = strconv.AppendBool(w.b, t.Limited)
	w.text(`,"prev_batch":`)
	w.b = appendText(w.b, t.Prev.String())
	w.text(`}`)
}

func (w *syncWriter) accountData(list []store.AccountData) {
	w.text(`{"events":[`)
	for i, d := range list {
		if i > 0 {
			w.text(`,`)
		}
		w.text(`{"content":`)
		w.b = append(w.b, d.Content...)
		w.text(`,"type":`)
		w.b = appendText(w.b, d.Type)
		w.text(`}`)
	}
	w.text(`]}`)
}

func (w *syncWriter) stripped(rooms []node.StrippedRoom, name string) {
	for i, r := range rooms {
		w.key(i == 0, string(r.ID))
		w.text(`{`)
		w.key(true, name)
		w.text(`{"events":[`)
		for k, e := range r.State {
			if k > 0 {
				w.text(`,`)
			}
			w.b = append(w.b, e...)
		}
		w.text(`]}}`)
	}
}
