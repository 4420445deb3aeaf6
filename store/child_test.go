package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tokenim/tokenim/node/event"
)

// runChild is what the test binary does as a child process.
func runChild(task string) int {
	s, err := Open(Options{Dir: os.Getenv("STORE_TEST_DIR"), Server: home})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, ErrLocked) {
			return 7
		}
		return 1
	}
	if task == "write" {
		writeUntilKilled(s)
	}
	return 1
}

// writeUntilKilled prints the number of every write that was acknowledged.
func writeUntilKilled(s *Store) {
	var wg sync.WaitGroup
	var out sync.Mutex
	for range 8 {
		wg.Go(func() {
			for {
				var n Position
				err := s.Update(context.Background(), func(tx *Tx) error {
					if err := bump(tx, "n"); err != nil {
						return err
					}
					var err error
					if n, err = tx.Cursor("n"); err != nil {
						return err
					}
					return tx.PutServerRecord(writeName(n), make([]byte, 500))
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(n)
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

// child starts the test binary again.
func child(t *testing.T, task, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), exe)
	c.Env = append(os.Environ(), "STORE_TEST_CHILD="+task, "STORE_TEST_DIR="+dir)
	return c
}

// writeName is the server name that a numbered write uses.
func writeName(n Position) event.Server { return event.Server(fmt.Sprint("write", n)) }

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, Options{Dir: dir})
	out, err := child(t, "open", dir).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("does not name the pid: %s", out)
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("twice in one process: %v", err)
	}
	update(t, s, func(tx *Tx) error { return bump(tx, "n") }) // undisturbed
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, Options{Dir: dir})
	if n := counter(t, s, "n"); n != 1 {
		t.Errorf("counted %d", n)
	}
}

// kill -9 loses nothing that was acknowledged and applies nothing twice.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	last := 0
	for cycle := range 4 {
		c := child(t, "write", dir)
		c.Stderr = os.Stderr
		pipe, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		acked := map[int]bool{}
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				break // cut off by the kill
			}
			if acked[n] {
				t.Errorf("%d was given out twice", n)
			}
			acked[n] = true
			if len(acked) == 300+cycle*37 {
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := c.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		s := mustOpen(t, Options{Dir: dir})
		n := int(counter(t, s, "n"))
		if p := s.Position(); int(p) != n {
			t.Errorf("cycle %d: position %d, counter %d", cycle, p, n)
		}
		view(t, s, func(tx *Tx) error {
			for i := range acked {
				if i <= last || i > n {
					t.Errorf("cycle %d: %d was acknowledged; the counter went from %d to %d", cycle, i, last, n)
				}
			}
			for i := 1; i <= n; i++ {
				if _, err := tx.ServerRecord(writeName(Position(i))); err != nil {
					t.Errorf("cycle %d: write %d of %d: %v", cycle, i, n, err)
				}
			}
			return nil
		})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n-last < len(acked) {
			t.Errorf("cycle %d: %d acknowledged, %d there", cycle, len(acked), n-last)
		}
		last = n
	}
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file, filepath.Join(file, "below")} {
		_, err := Open(Options{Dir: dir})
		if err == nil || strings.Contains(err.Error(), "%!") {
			t.Errorf("%q: %v", dir, err)
		}
		if dir != "" && !strings.Contains(err.Error(), "choose another") {
			t.Errorf("%q: %v does not say what to do", dir, err)
		}
	}
	if err := dirError("d", os.ErrPermission); !strings.Contains(err.Error(), "writable") {
		t.Error(err)
	}
}

func TestDiskFull(t *testing.T) {
	s := mustOpen(t, Options{Dir: t.TempDir()})
	update(t, s, func(tx *Tx) error { return bump(tx, "n") })
	s.disk.minFree = 1 << 62
	waitFor(t, func() bool {
		err := s.Update(t.Context(), func(tx *Tx) error { return bump(tx, "m") })
		if err != nil && !errors.Is(err, ErrDiskFull) {
			t.Fatal(err)
		}
		return err != nil
	})
	if n := counter(t, s, "n"); n != 1 { // reading goes on
		t.Errorf("counted %d", n)
	}
	s.disk.minFree = 1
	waitFor(t, func() bool { return s.Update(t.Context(), func(tx *Tx) error { return bump(tx, "n") }) == nil })
}
