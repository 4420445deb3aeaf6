package client

import (
	"encoding/json"
	"time"

	"github.com/tokenim/tokenim/node"
)

// routesMessages are Getting events for a room, and Event Context.
func routesMessages() []route {
	return []route{
		{"GET", v3 + "/rooms/{roomId}/messages", user, (*Server).messages},
		{"GET", v3 + "/rooms/{roomId}/context/{eventId}", user, (*Server).eventContext},
		{"GET", v3 + "/rooms/{roomId}/event/{eventId}", user, (*Server).event},
	}
}

// defaultPage is how many events a page has if the client does not say.
const defaultPage = 10

// messages implements GET /rooms/{roomId}/messages (message_pagination.yaml).
func (s *Server) messages(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	req := node.PageRequest{Room: r}
	switch c.URL.Query().Get("dir") {
	case "b":
	case "f":
		req.Forward = true
	case "":
		return nil, missingParam("dir")
	default:
		return nil, invalidParam("dir is neither b nor f")
	}
	if req.From, err = c.token("from"); err != nil {
		return nil, err
	}
	if req.To, err = c.token("to"); err != nil {
		return nil, err
	}
	if req.Limit, err = c.number("limit", defaultPage, 1, node.MaxPage); err != nil {
		return nil, err
	}
	if req.Filter, err = c.eventFilter(); err != nil {
		return nil, err
	}
	p, err := s.node.Messages(c.Context(), c.viewer(), req)
	if err != nil {
		return nil, err
	}
	f := wholeFormat()
	b := make([]byte, 0, 256+size(p.Events)+size(p.State))
	b = append(b, `{"chunk":`...)
	b = f.appendAll(b, p.Events)
	if p.End != nil {
		b = append(b, `,"end":`...)
		b = appendText(b, p.End.String())
	}
	b = append(b, `,"start":`...)
	b = appendText(b, p.Start.String())
	if len(p.State) > 0 {
		b = append(b, `,"state":`...)
		b = f.appendAll(b, p.State)
	}
	return json.RawMessage(append(b, '}')), nil
}

// wholeFormat is the format of events outside of /sync.
func wholeFormat() *format { return &format{room: true, now: time.Now().UnixMilli()} }

// eventFilter reads the query parameter filter, a RoomEventFilter; nil if absent.
func (c *call) eventFilter() (*node.EventFilter, error) {
	text := c.URL.Query().Get("filter")
	if text == "" {
		return nil, nil
	}
	return node.ParseEventFilter([]byte(text))
}

// eventContext implements GET /rooms/{roomId}/context/{eventId} (event_context.yaml).
func (s *Server) eventContext(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	id, err := c.shownEvent()
	if err != nil {
		return nil, err
	}
	limit, err := c.number("limit", defaultPage, 0, node.MaxPage)
	if err != nil {
		return nil, err
	}
	filter, err := c.eventFilter()
	if err != nil {
		return nil, err
	}
	x, err := s.node.EventContext(c.Context(), c.viewer(), r, id, limit, filter)
	if err != nil {
		return nil, err
	}
	f := wholeFormat()
	b := make([]byte, 0, 1024+size(x.Before)+size(x.After)+size(x.State))
	b = append(b, `{"end":`...)
	b = appendText(b, x.End.String())
	b = append(b, `,"event":`...)
	b = f.append(b, x.Event)
	b = append(b, `,"events_after":`...)
	b = f.appendAll(b, x.After)
	b = append(b, `,"events_before":`...)
	b = f.appendAll(b, x.Before)
	b = append(b, `,"start":`...)
	b = appendText(b, x.Start.String())
	b = append(b, `,"state":`...)
	b = f.appendAll(b, x.State)
	return json.RawMessage(append(b, '}')), nil
}

// event implements GET /rooms/{roomId}/event/{eventId} (rooms.yaml).
func (s *Server) event(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	id, err := c.shownEvent()
	if err != nil {
		return nil, err
	}
	e, err := s.node.Event(c.Context(), c.viewer(), r, id)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(wholeFormat().append(nil, e)), nil
}
