package admin

import (
	"net/http"
	"time"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// Stats is the answer of GET /_tokenim/admin/v1/stats. It grows; nothing in it
// is ever renamed.
type Stats struct {
	Name    event.Server `json:"name"`
	Version string       `json:"version"`
	Uptime  int64        `json:"uptime_s"` // seconds
	Users   UserStats    `json:"users"`
	Rooms   RoomStats    `json:"rooms"`
	Events  EventStats   `json:"events"`
	Peers   []PeerStats  `json:"peers"` // by name
	Store   StoreStats   `json:"store"`
}

// UserStats counts accounts.
type UserStats struct {
	Local  int `json:"local"`  // accounts that are not deactivated
	Online int `json:"online"` // of these, seen within five minutes
}

// RoomStats counts rooms.
type RoomStats struct {
	Local     int `json:"local"`     // rooms held here
	Federated int `json:"federated"` // of these, shared with other nodes
}

// EventStats counts accepted events.
type EventStats struct {
	Local  int64 `json:"local"`  // made by this node
	Remote int64 `json:"remote"` // made by others
}

// PeerStats is one pinned or connected peer.
type PeerStats struct {
	Name   event.Server `json:"name"`
	PeerID string       `json:"peer_id"`
	State  string       `json:"state"` // connected, connecting or disconnected
}

// StoreStats is the size of the store.
type StoreStats struct {
	Bytes int64 `json:"bytes"` // on disk
}

// collect gathers the statistics of this moment.
func (s *Server) collect() (Stats, error) {
	var counts store.Counts
	err := s.cfg.Store.View(func(tx *store.Tx) (err error) {
		counts, err = tx.Counts()
		return err
	})
	if err != nil {
		return Stats{}, err
	}
	out := Stats{
		Name: s.cfg.Node.Server(), Version: s.cfg.Version, Uptime: int64(time.Since(s.started).Seconds()),
		Users:  UserStats{counts.Users, s.cfg.Accounts.Online()},
		Rooms:  RoomStats{counts.Rooms, counts.Federated},
		Events: EventStats{counts.LocalEvents, counts.RemoteEvents},
		Peers:  []PeerStats{},
		Store:  StoreStats{s.cfg.Store.Size()},
	}
	for _, p := range s.cfg.Peers.Peers() {
		out.Peers = append(out.Peers, PeerStats{p.Name, p.PeerID, p.State})
	}
	return out, nil
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) error {
	out, err := s.collect()
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}

// peer is a peer in the answers below.
type peer struct {
	Name      event.Server `json:"name"`
	PeerID    string       `json:"peer_id"`
	State     string       `json:"state,omitempty"`
	Addresses []string     `json:"addresses,omitempty"`
	Transport string       `json:"transport,omitempty"`
}

func (s *Server) listPeers(w http.ResponseWriter, r *http.Request) error {
	out := []peer{}
	for _, p := range s.cfg.Peers.Peers() {
		out = append(out, peer{p.Name, p.PeerID, p.State, p.Addresses, p.Transport})
	}
	return writeJSON(w, http.StatusOK, map[string]any{"peers": out})
}

// addPeer pins the peer of a link. Again changes nothing.
func (s *Server) addPeer(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Link *string `json:"link"`
	}
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.Link == nil {
		return &apiError{http.StatusBadRequest, "M_MISSING_PARAM", "link is missing"}
	}
	p, err := s.cfg.Peers.AddPeer(*req.Link)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, peer{Name: p.Name, PeerID: p.PeerID})
}

func (s *Server) removePeer(w http.ResponseWriter, r *http.Request) error {
	name, err := event.ParseServer(r.PathValue("name"))
	if err != nil {
		return &apiError{http.StatusBadRequest, "M_INVALID_PARAM", "not a server name"}
	}
	if err := s.cfg.Peers.RemovePeer(name); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct{}{})
}
