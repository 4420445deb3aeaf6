//go:build unix

package store

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// dirLock is the lock that a process holds on a data directory while it lives.
type dirLock struct{ f *os.File }

func lockDir(dir string) (*dirLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dirError(dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, lockedError(dir, f)
		}
		return nil, dirError(dir, err)
	}
	if err := writePid(f); err != nil {
		return nil, errors.Join(dirError(dir, err), f.Close())
	}
	return &dirLock{f}, nil
}

// release gives the lock back. The file stays: removing it would let two
// processes lock two files of one name.
func (l *dirLock) release() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
