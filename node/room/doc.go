// Package room decides whether an event is allowed and what follows from it:
// authorization rules, power levels, auth event selection, state resolution
// v2.1 and history visibility of room version 12.
//
// It is pure: no I/O, clock, goroutine or lock. The same input gives the same
// verdict on every node.
package room
