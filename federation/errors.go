package federation

import "errors"

var (
	// ErrName says that a data directory belongs to a node of another name.
	ErrName = errors.New("the node has another name")

	// ErrIdentity says that the identity files of a data directory are damaged or incomplete.
	ErrIdentity = errors.New("damaged identity")

	// ErrLink says that a text is no peer link.
	ErrLink = errors.New("invalid peer link")

	// ErrPinned says that a pin stands in the way: the name or the peer id is
	// pinned to something else, or by the configuration.
	ErrPinned = errors.New("pinned otherwise")

	// ErrMode says that a federation mode is not one this version offers.
	ErrMode = errors.New("federation mode is not available")

	// errRecord says that bytes are no valid server record.
	errRecord = errors.New("invalid server record")

	// errFrame says that bytes are no gossip envelope or no pubsub frame.
	errFrame = errors.New("invalid gossip frame")

	// errClosed says that the network has ended.
	errClosed = errors.New("network is closed")
)
