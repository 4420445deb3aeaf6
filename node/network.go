package node

import (
	"context"
	"crypto/ed25519"

	"github.com/tokenim/tokenim/node/event"
)

// Network moves bytes between nodes. *federation.Network and *simnet.Peer
// implement it; federation/nettest checks both.
//
// Contract: Publish may lose, repeat and reorder; Call is what makes nodes
// agree. All methods may be called from any goroutine. None calls back into the
// node before it returns.
type Network interface {
	// Self returns the name of this node.
	Self() event.Server

	// SetRoom says which servers may see the room's topics from now on (ACL(R),
	// protocol C2) and subscribes to them. No members: leave the topics. The
	// change is in effect for every byte written after SetRoom returned.
	SetRoom(r event.RoomID, salt []byte, members []event.Server)

	// Publish hands events, as signed, and this node's forward extremities to
	// the room's topic. At most 50 events and 256 KiB at once; one event always fits.
	Publish(ctx context.Context, r event.RoomID, pdus [][]byte, heads []event.ID) error

	// PublishEphemeral hands a typing notice or receipt to the room's second
	// topic. It is a hint: loss is normal.
	PublishEphemeral(ctx context.Context, r event.RoomID, edu []byte) error

	// Call asks a peer and returns its answer. It dials if need be and waits up
	// to 10 s for that. Errors: *event.RemoteError if the peer refused,
	// event.ErrUnreachable if it could not be asked.
	Call(ctx context.Context, to event.Server, method string, body []byte) ([]byte, error)

	// Peers returns what is known of every pinned or connected peer, by name.
	Peers() []event.Peer

	// Key returns the key of a server if a known, verified server record says
	// that it was valid at ts (milliseconds); event.ErrUnknownKey otherwise.
	Key(s event.Server, kid event.KeyID, ts int64) (ed25519.PublicKey, error)

	// Records returns the signed records of the servers, of those that are
	// known; this node's own among them if asked for.
	Records(servers []event.Server) [][]byte

	// Learn verifies records that a peer handed on and keeps the good ones that
	// are newer (protocol C1). A pinned name never moves.
	Learn(records [][]byte)
}

// The methods of Call. The bodies are JSON, defined in wire.go.
const (
	CallMakeJoin  = "make_join" // ask for what a join event must refer to
	CallSendJoin  = "send_join" // hand over a join event, get the state before it
	CallInvite    = "invite"    // hand over an invite for a user of the peer
	CallMakeLeave = "make_leave"
	CallSend      = "send"    // hand over single events: a leave, a kick of a user of the peer
	CallHeads     = "heads"   // exchange leaves of a room (protocol C4.3)
	CallMissing   = "missing" // fetch events between two sets of leaves (C4.4)
	CallState     = "state"   // fetch an event and the state before it (C12.2)
	CallEvents    = "events"  // fetch events by id
	CallKeys      = "keys"    // fetch server records
	CallAlias     = "alias"   // resolve an alias of the peer
	CallProfile   = "profile" // fetch the profile of a user of the peer
)
