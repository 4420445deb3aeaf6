// Package room decides whether an event is allowed and what follows from it:
// authorization rules, power levels, auth event selection, state resolution
// v2.1 and history visibility of room version 12.
//
// It is pure: no I/O, clock, goroutine or lock. The same input gives the same
// verdict on every node.
//
// Judge and Authorize apply the rules (auth.go, member.go, thirdparty.go,
// power.go), each under its number. The rules see nothing of a state but the
// places that AuthKeys names, so states that agree on these give one answer.
//
// Resolve and ResolveConflicts are state resolution (resolve.go: what is in
// conflict; graph.go, common.go: walks over auth events; replay.go: orders and
// iterative auth checks). All walks are loops that take every edge once, so
// neither the length of auth chains nor the number of ways through them can
// exhaust a node: time and memory grow with the number of events in the auth
// chains of what is in conflict.
package room
