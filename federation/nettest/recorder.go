package nettest

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/tokenim/tokenim/node/event"
)

// Gossip is what HandleGossip or HandleEphemeral was called with.
type Gossip struct {
	From  event.Server
	Room  event.RoomID
	PDUs  [][]byte
	Heads []event.ID
	EDU   []byte // of HandleEphemeral
}

// Recorder is a Handler that keeps what it is given. The zero value accepts
// all gossip and echoes calls. Set the functions before the network runs.
type Recorder struct {
	// Verdict, if set, decides on gossip; EDU is set for ephemeral messages.
	Verdict func(g Gossip) error
	// Answer, if set, answers calls.
	Answer func(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error)

	mu        sync.Mutex
	gossip    []Gossip
	connected map[event.Server]bool
	changes   map[event.Server][]bool
	losses    []event.RoomID
	records   map[event.Server][]byte
}

// HandleGossip implements Handler.
func (r *Recorder) HandleGossip(_ context.Context, from event.Server, room event.RoomID, pdus [][]byte, heads []event.ID) error {
	return r.record(Gossip{From: from, Room: room, PDUs: pdus, Heads: heads})
}

// HandleEphemeral implements Handler.
func (r *Recorder) HandleEphemeral(_ context.Context, from event.Server, room event.RoomID, edu []byte) error {
	return r.record(Gossip{From: from, Room: room, EDU: edu})
}

func (r *Recorder) record(g Gossip) error {
	r.mu.Lock()
	r.gossip = append(r.gossip, g)
	r.mu.Unlock()
	if r.Verdict != nil {
		return r.Verdict(g)
	}
	return nil
}

// HandleCall implements Handler.
func (r *Recorder) HandleCall(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error) {
	if r.Answer != nil {
		return r.Answer(ctx, from, method, body)
	}
	return body, nil
}

// HandlePeer implements Handler.
func (r *Recorder) HandlePeer(s event.Server, connected bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connected == nil {
		r.connected, r.changes = map[event.Server]bool{}, map[event.Server][]bool{}
	}
	r.connected[s] = connected
	r.changes[s] = append(r.changes[s], connected)
}

// HandleLoss implements Handler.
func (r *Recorder) HandleLoss(room event.RoomID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses = append(r.losses, room)
}

// LoadRecords implements Handler.
func (r *Recorder) LoadRecords() ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.records)), nil
}

// SaveRecord implements Handler.
func (r *Recorder) SaveRecord(s event.Server, raw []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records == nil {
		r.records = map[event.Server][]byte{}
	}
	r.records[s] = bytes.Clone(raw)
	return nil
}

// Gossip returns what arrived so far, in order.
func (r *Recorder) Gossip() []Gossip {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.gossip)
}

// Has reports whether an event or ephemeral message that contains text arrived
// in the room.
func (r *Recorder) Has(room event.RoomID, text string) bool { return r.Count(room, text) > 0 }

// Count returns how many events and ephemeral messages that contain text
// arrived in the room.
func (r *Recorder) Count(room event.RoomID, text string) int {
	n := 0
	for _, g := range r.Gossip() {
		if g.Room != room {
			continue
		}
		for _, data := range append([][]byte{g.EDU}, g.PDUs...) {
			if data != nil && bytes.Contains(data, []byte(text)) {
				n++
			}
		}
	}
	return n
}

// Connected reports whether the last HandlePeer for s said so.
func (r *Recorder) Connected(s event.Server) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected[s]
}

// Changes returns what HandlePeer said of s, in order.
func (r *Recorder) Changes(s event.Server) []bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.changes[s])
}

// Losses returns the rooms HandleLoss was called with, in order.
func (r *Recorder) Losses() []event.RoomID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.losses)
}

// Saved returns the record that SaveRecord was last called with for s, or nil.
func (r *Recorder) Saved(s event.Server) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.records[s])
}
