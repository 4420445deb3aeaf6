package federation

import (
	"context"

	"github.com/tokenim/tokenim/node/event"
)

// Handler receives what peers send. *node.Node implements it, and the recorder
// of federation/nettest. Calls come from many goroutines at once. from is the
// name bound to the connection, never something the peer wrote.
type Handler interface {
	// HandleGossip takes events of the room from its topic. nil: hand them on to
	// the mesh. An error that wraps event.ErrInvalid: the peer who handed them
	// on is at fault. Any other error: do not hand on, nobody's fault.
	// It must not block on anything but short CPU work.
	HandleGossip(ctx context.Context, from event.Server, r event.RoomID, pdus [][]byte, heads []event.ID) error

	// HandleEphemeral takes a message of the room's second topic; errors as above.
	HandleEphemeral(ctx context.Context, from event.Server, r event.RoomID, edu []byte) error

	// HandleCall answers a request. A *event.RemoteError goes to the peer as it
	// is; other errors are logged and answered without detail.
	HandleCall(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error)

	// HandlePeer says that a peer is connected and has shown its record, or is gone.
	HandlePeer(s event.Server, connected bool)

	// HandleLoss says that gossip of a room was dropped somewhere; an empty room
	// means any. The room wants an exchange of heads.
	HandleLoss(r event.RoomID)

	// LoadRecords returns the records kept by SaveRecord.
	LoadRecords() ([][]byte, error)

	// SaveRecord keeps a verified record for good.
	SaveRecord(s event.Server, raw []byte) error
}
