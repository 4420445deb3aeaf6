package node

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/node/room"
	"github.com/tokenim/tokenim/store"
)

// greet has all rooms that are shared with a peer compared: it has just
// connected, and either side may have been away.
func (n *Node) greet(s event.Server) error {
	rooms, err := n.sharedRooms(s)
	if err != nil {
		return err
	}
	mine := rooms[:0]
	for _, r := range rooms {
		if _, here, err := n.servers(r); err == nil && here {
			mine = append(mine, r)
		}
	}
	n.peers.compare(s, mine...)
	return nil
}

// exchange compares rooms with a peer and has fetched what only the peer holds;
// the peer does the same (protocol C4.3). after says, for each room, behind
// which leaf of the peer to begin.
func (n *Node) exchange(ctx context.Context, s event.Server, rooms []event.RoomID, after []event.ID) error {
	req := headsRequest{Rooms: make([]heads, 0, len(rooms))}
	err := n.store.View(func(tx *store.Tx) error {
		req.Rooms = req.Rooms[:0]
		for i, r := range rooms {
			h, err := n.headsOf(tx, r, "")
			if errors.Is(err, store.ErrNotFound) {
				continue
			} else if err != nil {
				return err
			}
			h.After = after[i]
			req.Rooms = append(req.Rooms, h)
		}
		return nil
	})
	if err != nil || len(req.Rooms) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := ask[headsAnswer](ctx, n, s, CallHeads, req)
	if err != nil {
		return err
	}
	for i, theirs := range answer.Rooms {
		if i < len(req.Rooms) && theirs.Room == req.Rooms[i].Room && theirs.Error == "" {
			if err := n.learnHeads(s, req.Rooms[i], theirs); err != nil {
				return err
			}
		}
	}
	return nil
}

// learnHeads takes what a peer says about a room.
func (n *Node) learnHeads(s event.Server, mine, theirs heads) error {
	r := mine.Room
	if !theirs.Removed {
		n.compareStates(s, mine, theirs)
		if mine.LeafDigest == theirs.LeafDigest {
			return nil
		}
	}
	if len(theirs.Leaves) > maxLeaves || checkIDs(theirs.Leaves, maxLeaves) != nil {
		return refuse(codeInvalid, "bad leaves")
	}
	unknown, err := n.unknown(theirs.Leaves)
	if err != nil {
		return err
	}
	n.peers.want(s, r, unknown, 0)
	if k := len(theirs.Leaves); theirs.More && k > 0 && theirs.Leaves[k-1] > mine.After {
		n.peers.moreLeaves(s, r, theirs.Leaves[k-1])
	}
	return nil
}

// compareStates raises the alarm where two nodes stand on the same forward
// extremities and see different states: one of them is wrong (protocol C4.1).
func (n *Node) compareStates(s event.Server, mine, theirs heads) {
	if mine.HeadDigest != theirs.HeadDigest || mine.StateHash == theirs.StateHash {
		return
	}
	n.divergences.Add(1)
	n.log.Error("ALARM: the same forward extremities lead to different states here and at a peer; the group's state cannot be trusted until this is understood",
		"room", mine.Room, "peer", s)
}

// Divergences counts how often a peer with the same forward extremities reported
// another state of a room (protocol C4.1). It must stay 0.
func (n *Node) Divergences() int64 { return n.divergences.Load() }

// unknown returns those of the ids that are not in the graph.
func (n *Node) unknown(ids []event.ID) (out []event.ID, err error) {
	err = n.store.View(func(tx *store.Tx) error {
		out, err = absent(tx, ids)
		return err
	})
	return out, err
}

// headsOf describes a room, with the leaves behind after. store.ErrNotFound if
// its graph is not held here.
func (n *Node) headsOf(tx *store.Tx, r event.RoomID, after event.ID) (h heads, err error) {
	rm, err := tx.Room(r)
	if err != nil {
		return h, err
	}
	h = heads{Room: r, Count: rm.Events, LeafDigest: digestOf(rm.Leaves), HeadDigest: digestOf(rm.Heads)}
	i, found := slices.BinarySearch(rm.Leaves, after)
	if found {
		i++
	}
	h.Leaves = rm.Leaves[i:]
	if len(h.Leaves) > maxLeaves {
		h.Leaves, h.More = h.Leaves[:maxLeaves], true
	}
	h.StateHash, err = n.stateHash(tx, rm.State)
	return h, err
}

// digestOf covers a sorted list of ids.
func digestOf(ids []event.ID) digest {
	h := sha256.New()
	for _, id := range ids {
		h.Write([]byte(id))
		h.Write([]byte{'\n'})
	}
	return digest(h.Sum(nil))
}

// stateHash returns the hash of a stored state, remembering it: states do not
// change, and hashing one costs as much as it has places.
func (n *Node) stateHash(tx *store.Tx, id store.StateID) (digest, error) {
	if h, ok := n.hashes.Get(id); ok {
		return h, nil
	}
	st, err := tx.State(id)
	if err != nil {
		return digest{}, err
	}
	h, err := st.Hash()
	if err != nil {
		return digest{}, err
	}
	n.hashes.Add(id, h)
	return h, nil
}

// handleHeads answers an exchange, and has fetched what only the asker holds.
func (n *Node) handleHeads(_ context.Context, from event.Server, body []byte) (any, error) {
	req, err := decode[headsRequest](body)
	if err != nil {
		return nil, err
	}
	if len(req.Rooms) > maxRooms {
		return nil, refuse(codeTooLarge, "%d rooms", len(req.Rooms))
	}
	answer := headsAnswer{Rooms: make([]heads, len(req.Rooms))}
	for i, theirs := range req.Rooms {
		mine, err := n.answerHeads(from, theirs)
		var re *event.RemoteError
		if errors.As(err, &re) {
			mine = heads{Room: theirs.Room, Error: re.Code}
		} else if err != nil {
			return nil, err
		}
		answer.Rooms[i] = mine
	}
	return answer, nil
}

// answerHeads answers for one room. Who is not in it gets nothing beyond the end
// of its own membership, but may hold what is not known here: a user who joined
// at the same time as the last other one was removed, or through a server that is
// gone. And a node that thinks it has left may be told of a join whose answer was
// lost (protocol C12.13). What a ban forbids is soft-failed; a budget bounds the
// rest.
func (n *Node) answerHeads(from event.Server, theirs heads) (mine heads, err error) {
	if err := checkRoom(theirs.Room); err != nil {
		return mine, err
	}
	if err := checkIDs(theirs.Leaves, maxLeaves); err != nil {
		return mine, err
	}
	resident, err := n.isResident(theirs.Room, from)
	if errors.Is(err, store.ErrNotFound) {
		return mine, errNotHere
	} else if err != nil {
		return mine, err
	}
	_, here, err := n.servers(theirs.Room)
	if err != nil {
		return mine, err
	}
	var unknown []event.ID
	err = n.store.View(func(tx *store.Tx) (err error) {
		if unknown, err = absent(tx, theirs.Leaves); err != nil {
			return err
		}
		if here != resident && len(unknown) > 0 && n.strangers.allow(string(from)) {
			n.peers.want(from, theirs.Room, unknown, strangerPages)
		}
		if !resident {
			mine, err = endOf(tx, theirs.Room, from)
			return err
		}
		mine, err = n.headsOf(tx, theirs.Room, theirs.After)
		return err
	})
	if err != nil || !here || !resident {
		return mine, err
	}
	n.compareStates(from, theirs, mine)
	n.peers.want(from, theirs.Room, unknown, 0)
	if k := len(theirs.Leaves); theirs.More && k > 0 && theirs.LeafDigest != mine.LeafDigest {
		n.peers.moreLeaves(from, theirs.Room, theirs.Leaves[k-1])
	}
	return mine, nil
}

// endOf says to a server that its users are not in a room any more, by the
// events that ended their memberships (protocol C12.3): it may have been away.
func endOf(tx *store.Tx, r event.RoomID, from event.Server) (h heads, err error) {
	rm, err := tx.Room(r)
	if err != nil {
		return h, err
	}
	st, err := tx.State(rm.State)
	if err != nil {
		return h, err
	}
	h = heads{Room: r, Removed: true}
	err = st.Each(typeMember, func(k room.Key, id event.ID) error {
		if event.UserID(k.StateKey).Server() != from || len(h.Leaves) >= maxLeaves {
			return nil
		}
		ended, err := endsMembership(tx, id, r, from)
		if ended {
			h.Leaves = append(h.Leaves, id)
		}
		return err
	})
	if err == nil && len(h.Leaves) == 0 {
		err = errNotHere
	}
	return h, err
}

// ask makes a call with JSON on both sides. Without a deadline of its own it
// waits callTimeout.
func ask[T any](ctx context.Context, n *Node, to event.Server, method string, req any) (T, error) {
	var none T
	body, err := json.Marshal(req)
	if err != nil {
		return none, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	answer, err := n.net.Call(ctx, to, method, body)
	if err != nil {
		return none, err
	}
	v, err := decode[T](answer)
	if err != nil {
		return none, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	return v, nil
}

// errBadAnswer says that a peer answered a call with what cannot be used.
var errBadAnswer = errors.New("the answer of a peer makes no sense")

// fetchKeys asks a peer for the records of servers, and lets events that wait
// for them be tried again.
func (n *Node) fetchKeys(ctx context.Context, from event.Server, servers []event.Server) error {
	defer n.inbox.unstageAll(from)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := ask[keysAnswer](ctx, n, from, CallKeys, keysRequest{Servers: servers})
	if err != nil {
		return err
	}
	n.learn(answer.Records)
	return nil
}

// learn hands records of a peer to the network.
func (n *Node) learn(records [][]byte) {
	if len(records) > 0 {
		n.net.Learn(records[:min(len(records), maxRecords)])
	}
}

// handleKeys answers with the records that are known.
func (n *Node) handleKeys(_ context.Context, _ event.Server, body []byte) (any, error) {
	req, err := decode[keysRequest](body)
	if err != nil {
		return nil, err
	}
	if len(req.Servers) > maxRecords {
		return nil, refuse(codeTooLarge, "%d servers", len(req.Servers))
	}
	return keysAnswer{Records: n.net.Records(req.Servers)}, nil
}

// recordsOf returns the records of the servers that signed the events.
func (n *Node) recordsOf(events []*event.Event) [][]byte {
	var servers []event.Server
	for _, e := range events {
		for _, s := range e.Signers() {
			if !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
	}
	if len(servers) == 0 {
		return nil
	}
	return n.net.Records(servers)
}
