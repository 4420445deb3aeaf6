// Package node is one organization's node: every change to a room goes through
// its commit, whether a local user sends or a peer hands it on. It receives,
// catches up, publishes, and answers clients' reads.
//
// It knows neither how peers are reached (Network) nor how clients ask
// (packages api/...). cmd/tokenim introduces them.
package node
