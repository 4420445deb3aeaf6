// Package store keeps everything that a node must not forget, in Badger.
//
// There is one writer: functions given to Update run one at a time on one
// goroutine and share transactions and disk syncs; Update returns after the
// synced commit. Readers use View and never wait for the writer. keys.go is
// the whole schema and the only file that builds a key.
package store
