// Package event says what an event is: typed names, canonical bytes, hashes,
// signatures and redaction, exactly as room version 12 of the Matrix
// specification has them.
//
// It is the vocabulary that every other package speaks. It imports nothing of
// this project, does no I/O, reads no clock, starts no goroutine and holds no
// lock. Bytes that are signed are the bytes that are hashed, gossiped and
// stored: an Event keeps its canonical JSON and never encodes it again.
package event
