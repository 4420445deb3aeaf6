package federation

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxSmallFile bounds the files of the data directory that are read whole.
const maxSmallFile = 64 << 10

// writeNew creates a file with mode 0600 that is complete or not there. If the
// path exists the error wraps fs.ErrExist and nothing changes.
func writeNew(path string, data []byte) error {
	return writeAtomic(path, data, func(tmp string) error {
		// A hard link fails if the name exists, so two processes that start at
		// once cannot overwrite each other's keys.
		err := os.Link(tmp, path)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
		// File systems without hard links.
		if _, statErr := os.Lstat(path); statErr == nil {
			return fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		return os.Rename(tmp, path)
	})
}

// writeReplace writes a file with mode 0600 so that the old or the new content
// is there at every moment, after a power cut too.
func writeReplace(path string, data []byte) error {
	return writeAtomic(path, data, func(tmp string) error { return os.Rename(tmp, path) })
}

func writeAtomic(path string, data []byte, place func(tmp string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer func() { _ = os.Remove(tmp) }() // fails after a rename, which is right
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = place(tmp)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename or a removal in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// readLine returns the content of a one-line file without surrounding space.
func readLine(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSmallFile {
		return "", fmt.Errorf("%s is no small regular file", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
