// Package federation moves events between nodes over libp2p: identity, peers,
// topics, streams, bytes, policy. It knows what an event is and nothing of
// rooms, stores or clients; what arrives goes to a Handler.
package federation
