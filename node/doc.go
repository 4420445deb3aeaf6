// Package node is one organization's node: every change to a room goes through
// its commit, whether a local user sends or a peer hands it on. It receives,
// catches up, publishes, and answers clients' reads.
//
// It knows neither how peers are reached (Network) nor how clients ask
// (packages api/...). cmd/tokenim introduces them.
//
// # The ways in
//
// Local users: Send, CreateRoom, Join and the other memberships make an event at
// the current end of a room and commit it. Gossip: HandleGossip checks what the
// bytes of an event say and queues it (inbox); a few goroutines commit. Calls:
// HandleCall answers peers; a join, an invite or the end of a membership is
// committed at once. Catch-up: what a comparison of leaves with a peer shows to be
// missing is fetched, oldest first, and committed (peers, wish).
//
// # Goroutines
//
// All are started by Run, which waits for their end: the publisher (Run's own);
// four that serve the inbox; one that keeps the time of comparisons and of heads
// that did not come; one for what is ephemeral; one for each peer while there is
// something to do with it, at most 32 that talk at once. Timers: one for a room
// whose events wait for their ancestors, one for a peer whose parcels wait for the
// next attempt; both are stopped and waited for.
//
// # Locks
//
// Each guards a few maps in memory, says so at its field, and is never held while
// another package is called: residents.mu, peers.mu, inbox.mu, suspects.mu,
// horizons.mu, budgets.mu, publisher.mu, turns.mu; those of the clients' side
// stand with their types. None is taken while another one is held.
package node
