package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The files of a data directory.
const (
	fileSchema = "SCHEMA" // schema version as text; read before anything is touched
	fileLock   = "LOCK"   // held by the process that has the store open; its pid
	dirBadger  = "badger" // the database
)

// prepareDir checks and locks a directory and returns where Badger's files are.
// The schema is read first, so that a directory of a newer version stays as it is.
func prepareDir(dir string) (*dirLock, string, error) {
	if dir == "" {
		return nil, "", errors.New("no data directory is given")
	}
	version, err := readSchema(dir)
	if err != nil {
		return nil, "", err
	}
	if version > schemaVersion {
		return nil, "", newerSchema(dir, version)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", dirError(dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, "", err
	}
	path, err := prepareLocked(dir)
	if err != nil {
		return nil, "", errors.Join(err, lock.release())
	}
	return lock, path, nil
}

// prepareLocked reads the schema again under the lock and makes what is missing.
func prepareLocked(dir string) (string, error) {
	path := filepath.Join(dir, dirBadger)
	version, err := readSchema(dir)
	if err != nil {
		return "", err
	}
	if version > schemaVersion {
		return "", newerSchema(dir, version)
	}
	if version == 0 {
		if _, err := os.Stat(filepath.Join(path, "MANIFEST")); err == nil {
			return "", fmt.Errorf("%w: %s is missing beside %s: restore it from a backup", errCorrupt, fileSchema, path)
		}
		if err := writeSchema(dir); err != nil {
			return "", dirError(dir, err)
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", dirError(dir, err)
	}
	return path, nil
}

// readSchema returns the version in the file, 0 if there is none.
func readSchema(dir string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, fileSchema))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, dirError(dir, err)
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%w: %s does not hold a version number: restore it from a backup",
			errCorrupt, filepath.Join(dir, fileSchema))
	}
	return v, nil
}

// writeSchema puts the version in place before the database exists, durably.
func writeSchema(dir string) error {
	name := filepath.Join(dir, fileSchema)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", schemaVersion)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func newerSchema(dir string, version uint64) error {
	return fmt.Errorf("%w: %s has schema %d, this program knows up to %d; start the newer version again or restore a backup of the older one",
		ErrNewerSchema, dir, version, schemaVersion)
}

// dirError says what to do about a directory that cannot be used.
func dirError(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot write to the data directory %s: make it writable for this user or choose another one: %w", dir, err)
	case isNotDir(err):
		return fmt.Errorf("the data directory %s is or lies below a file: choose another one: %w", dir, err)
	}
	return fmt.Errorf("data directory %s: %w", dir, err)
}

func openError(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return dirError(dir, err)
	}
	return fmt.Errorf("open the database in %s: %w", dir, err)
}

// lockHolder reads the pid in the lock file, for the text of ErrLocked.
func lockHolder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid := strings.TrimSpace(string(b[:n]))
	if pid == "" {
		return "another process"
	}
	return "the process with pid " + pid
}

func lockedError(dir string, f *os.File) error {
	return fmt.Errorf("%w: %s is open in %s; stop it first or choose another directory", ErrLocked, dir, lockHolder(f))
}

// writePid puts this process into the lock file.
func writePid(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
