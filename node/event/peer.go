package event

import "errors"

// Peer is what a node knows of another node at one moment.
type Peer struct {
	Name      Server   // server name
	PeerID    string   // libp2p peer id in its usual text form
	State     string   // "connected", "connecting" or "disconnected"
	Addresses []string // multiaddresses of the link or the record, without /p2p
	Transport string   // "quic", "tcp" or empty while not connected
}

// RemoteError is a refusal that a peer answered to a call: the peer was
// reached, understood the request and said no.
type RemoteError struct {
	Code    string // Matrix style code, for example M_FORBIDDEN
	Message string // for people
}

// Error returns the code and the message.
func (e *RemoteError) Error() string { return e.Code + ": " + e.Message }

// ErrUnreachable says that a peer could not be asked: not connected, not
// allowed, or no answer in time. Asking again later can succeed.
var ErrUnreachable = errors.New("peer is unreachable")

// ErrUnknownKey says that no known server record covers the key that a
// signature names. It is no verdict about the event.
var ErrUnknownKey = errors.New("signing key is not known")
