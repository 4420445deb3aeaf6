//go:build !unix

package store

import (
	"errors"
	"os"
	"path/filepath"
)

// dirLock is a file that exists while a process has the directory open. After a
// crash Badger's own lock decides: the file is taken over.
type dirLock struct{ f *os.File }

func lockDir(dir string) (*dirLock, error) {
	name := filepath.Join(dir, fileLock)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		if f, err := os.Open(name); err == nil { // still open elsewhere
			defer f.Close()
			return nil, lockedError(dir, f)
		}
		return nil, dirError(dir, err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dirError(dir, err)
	}
	if err := writePid(f); err != nil {
		return nil, errors.Join(dirError(dir, err), f.Close())
	}
	return &dirLock{f}, nil
}

func (l *dirLock) release() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

func isNotDir(error) bool { return false }
