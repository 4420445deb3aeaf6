//go:build linux || darwin || freebsd

package store

import (
	"io/fs"
	"syscall"
)

// freeBytes returns the space that this user can still fill.
func freeBytes(dir string) (uint64, bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return uint64(st.Bavail) * uint64(st.Bsize), true
}

// diskBytes returns what a file takes; Badger's are larger than what is in them.
func diskBytes(f fs.FileInfo) int64 {
	if st, ok := f.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return f.Size()
}
