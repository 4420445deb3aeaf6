// Package federation moves events between nodes over libp2p: identity, peers,
// topics, streams, bytes, policy. It knows what an event is and nothing of
// rooms, stores or clients; what arrives goes to a Handler.
//
// # Who is let in
//
// In mode closed, the only one there is so far, connections exist with pinned
// peers alone: the gater refuses every other peer id as soon as the transport
// has proven it. A pin binds a server name to a peer id; it comes from the
// configuration or from a file in the directory of links, which is watched. On
// every connection, before anything else, both sides show their signed server
// record; until it is verified, and names the pinned name and the peer id of
// the connection, the peer counts as not connected and none of its streams is
// served. The origin of whatever arrives later is the pinned name, never
// something the peer wrote.
//
// Trust is transitive for history, not for connections: records that a peer
// hands on are kept for verifying events (Learn, Key), and never lead to a
// connection.
//
// # Who sees what
//
// Each room has two gossip topics with names that say nothing without the
// room's salt. SetRoom says who may see them. The router of the library asks
// for permission in few of the places where it writes, so guards stand around
// it: one takes apart every frame on its way to a peer and lets pass what the
// peer may see at that moment, one does the same with what comes from a peer
// and tells the router of members that come and go. The router opens streams
// only to connected peers that share a room.
//
// Gossip is a hint. What the router drops on the way is reported by
// HandleLoss, so that the node exchanges heads instead.
//
// # Wire
//
// /tokenim/record/1 exchanges records, /tokenim/meshsub/1.2.0 is gossipsub,
// /tokenim/rpc/1 carries calls: HTTP/1.1 over streams, POST /METHOD, a refusal
// as {"errcode","error"}. A gossip message is a version byte, a codec byte and
// a protobuf message (see envelope.go).
//
// # Goroutines
//
// All are started by Network.start and waited for by Run, which ends them
// within two seconds of the end of its context:
//
//	keepRooms       one       carries out SetRoom, in order
//	dialLoop        per peer  keeps a pinned peer connected
//	greet           per connection, until the records are exchanged
//	callRecord      per connection, when the own record was renewed
//	notifier.run    per peer, while there is news for HandlePeer
//	losses.run      one       reports losses
//	saveRecords     one       hands new records to the handler
//	renewLoop       one       renews the own record
//	watch           one       looks for peers whose gossip stands still
//	watchPins       one       follows the directory of links
//	outGuard.run    per outbound gossip stream
//	inGuard.pump    per inbound gossip stream
//	http.Server     the library's, for calls, ended by Close
//
// libp2p and the router have goroutines of their own, which end with the host
// and the context.
//
// # Locks
//
// peers.mu, access.mu, keyring.mu, gossip.mu, losses.mu, notifier.mu,
// budget.mu, the mu of the guards and Network.mu each guard the fields named
// beside them and are held for map operations only. Where two are held,
// peers.mu comes first, then notifier.mu or Network.mu. Two locks may be held
// while bytes are written or files are read, since that is what they serialize;
// both are channels of capacity one: outGuard.frame, one frame at a time, which
// SetRoom waits for with a deadline; and Network.scanning, one reading of the
// directory of links at a time.
package federation
