// Package store keeps everything that a node must not forget, in Badger.
//
// There is one writer: functions given to Update run one at a time on one
// goroutine and share transactions and disk syncs; Update returns after the
// synced commit. Readers use View and never wait for the writer. keys.go is
// the whole schema and the only file that builds a key.
//
// Goroutines, all of them owned by the Store and waited for by Close:
//
//	writer     (writer.run)      runs the functions; gathers what they write
//	committer  (writer.commits)  carries out commits, so that functions run meanwhile
//	collector  (Store.collect)   lets Badger give back space of its value log
//
// Badger has its own, which end with it. Locks guard single fields (see there);
// none is held while calling another package.
package store
