package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be the program: under the name "tokenim" in
// scripts, and with runAsProgram set in the process tests.
func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		os.Unsetenv(runAsProgram)
		main()
	}
	testscript.Main(cleanEnv{m}, map[string]func(){"tokenim": main})
}

// cleanEnv runs the tests without the configuration of whoever runs them.
type cleanEnv struct{ m *testing.M }

func (c cleanEnv) Run() int {
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, envPrefix) && name != testEnv {
			os.Unsetenv(name)
		}
	}
	return c.m.Run()
}

// runAsProgram makes the test binary behave as the program.
const runAsProgram = "GO_TEST_RUN_TOKENIM"

// waitLimit bounds every wait for something that must happen.
const waitLimit = time.Minute

// eventually waits until check returns nil, and returns its last error if that
// takes too long.
func eventually(check func() error) error {
	deadline := time.Now().Add(waitLimit)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    scriptExits,
			"waitnode": scriptWaitNode,
			"waitpeer": scriptWaitPeer,
			"http":     scriptHTTP,
			"oneline":  scriptOneLine,
			"mode":     scriptMode,
			"setfrom":  scriptSetFrom,
		},
	})
}

// exits CODE PROGRAM ARGS...: runs the program and compares its exit status.
func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit status %d, want %s\nstderr: %s", code, want, ts.ReadFile("stderr"))
	}
}

// waitnode DATA [VAR]: waits until a node answers on the data directory and
// puts its URL into the variable.
func scriptWaitNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: waitnode DATA [VAR]")
	}
	var info nodeInfo
	err := eventually(func() error {
		return callControl(context.Background(), Config{Data: ts.MkAbs(args[0])}, "/node", nil, &info)
	})
	if err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	if len(args) == 2 {
		ts.Setenv(args[1], info.URL)
		ts.Setenv(args[1]+"_PID", strconv.Itoa(info.PID))
		ts.Setenv(args[1]+"_ADDR", strings.TrimPrefix(info.URL, "http://"))
	}
}

// waitpeer DATA NAME STATE: waits until the node of the data directory reports
// the state of a peer; "gone" means that it does not know the peer.
func scriptWaitPeer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: waitpeer DATA NAME STATE")
	}
	err := eventually(func() error {
		var peers []peerOut
		if err := callControl(context.Background(), Config{Data: ts.MkAbs(args[0])}, "/peers", nil, &peers); err != nil {
			return err
		}
		state := "gone"
		for _, p := range peers {
			if string(p.Name) == args[1] {
				state = p.State
			}
		}
		if state != args[2] {
			return fmt.Errorf("%s is %s", args[1], state)
		}
		return nil
	})
	if err != nil {
		ts.Fatalf("%v", err)
	}
}

// http METHOD URL [BODY]: prints the status and the body of the answer.
func scriptHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: http METHOD URL [BODY]")
	}
	var body io.Reader
	if len(args) == 3 {
		body = strings.NewReader(args[2])
	}
	req, err := http.NewRequest(args[0], args[1], body)
	ts.Check(err)
	if token := ts.Getenv("TOKEN"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s\n", resp.StatusCode, raw)
}

// oneline FILE...: each file (stdout and stderr too) has exactly one line.
func scriptOneLine(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args {
		text := ts.ReadFile(file)
		if one := strings.Count(text, "\n") == 1 && strings.HasSuffix(text, "\n"); one == neg {
			ts.Fatalf("%s: %q", file, text)
		}
	}
}

// mode MODE FILE: compares the permissions of a file, in octal.
func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	fi, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%#o", fi.Mode().Perm()); (got == args[0]) == neg {
		ts.Fatalf("%s has mode %s", args[1], got)
	}
}

// setfrom VAR FILE: sets a variable to the content of a file without the line end.
func scriptSetFrom(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// writeTestFile writes a file below a new directory and returns its path.
func writeTestFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
