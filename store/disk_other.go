//go:build !(linux || darwin || freebsd)

package store

import "io/fs"

// freeBytes is not known on this system.
func freeBytes(string) (uint64, bool) { return 0, false }

func diskBytes(f fs.FileInfo) int64 { return f.Size() }
