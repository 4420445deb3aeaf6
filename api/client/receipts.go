package client

import (
	"encoding/json"

	"github.com/tokenim/tokenim/node"
	"github.com/tokenim/tokenim/node/event"
)

// routesReceipts are Receipts, and Fully read markers.
func routesReceipts() []route {
	return []route{
		{"POST", v3 + "/rooms/{roomId}/receipt/{receiptType}/{eventId}", user, (*Server).receipt},
		{"POST", v3 + "/rooms/{roomId}/read_markers", user, (*Server).readMarkers},
	}
}

// receipt implements POST /rooms/{roomId}/receipt/{receiptType}/{eventId} (receipts.yaml).
func (s *Server) receipt(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	id, err := c.event()
	if err != nil {
		return nil, err
	}
	var body struct {
		Thread json.RawMessage `json:"thread_id"`
	}
	if err := c.decodeOptional(&body); err != nil { // older clients send no body
		return nil, err
	}
	thread := ""
	if body.Thread != nil {
		// 400 M_INVALID_PARAM: the thread_id is not a string, or it is empty.
		if json.Unmarshal(body.Thread, &thread) != nil || thread == "" || len(thread) > 255 {
			return nil, invalidParam("thread_id is not a non-empty string")
		}
	}
	return nil, s.node.SetReceipts(c.Context(), node.ReceiptRequest{User: c.Session.User, Room: r, Thread: thread,
		Receipt: map[string]event.ID{c.PathValue("receiptType"): id}})
}

// readMarkers implements POST /rooms/{roomId}/read_markers (read_markers.yaml).
func (s *Server) readMarkers(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var body struct {
		FullyRead string `json:"m.fully_read"`
		Read      string `json:"m.read"`
		Private   string `json:"m.read.private"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	req := node.ReceiptRequest{User: c.Session.User, Room: r, Receipt: map[string]event.ID{}}
	for typ, text := range map[string]string{"m.fully_read": body.FullyRead, "m.read": body.Read, "m.read.private": body.Private} {
		if text == "" {
			continue
		}
		id, err := event.ParseID(text)
		if err != nil {
			return nil, invalidParam(typ + " is not an event id")
		}
		req.Receipt[typ] = id
	}
	return nil, s.node.SetReceipts(c.Context(), req)
}
