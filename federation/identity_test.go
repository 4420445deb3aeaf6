package federation

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// contents reads all files of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "deep")
	if _, err := LoadIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadIdentity of nothing: %v", err)
	}
	id, err := CreateIdentity(dir, "hq")
	if err != nil {
		t.Fatal(err)
	}
	if id.Name != "hq" || id.EventKey.Server != "hq" || !isKeyID(string(id.EventKey.ID)) || len(id.EventKey.ID) != len("ed25519:")+8 {
		t.Errorf("identity %+v", id)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", info.Mode(), err)
	}
	before := contents(t, dir)
	for _, file := range []string{fileName, fileNodeKey, fileEventKey, fileSeq, fileEpoch} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
	}
	if len(before) != 5 {
		t.Errorf("files: %v", before)
	}
	for _, name := range []string{"hq", ""} {
		again, err := CreateIdentity(dir, name)
		if err != nil || again.Name != "hq" || again.PeerID() != id.PeerID() || !again.EventKey.Private.Equal(id.EventKey.Private) {
			t.Errorf("second run with %q: %v", name, err)
		}
	}
	if _, err := CreateIdentity(dir, "other"); !errors.Is(err, ErrName) {
		t.Errorf("another name: %v", err)
	}
	if _, err := CreateIdentity(dir, "Not a name"); !errors.Is(err, event.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
	if after := contents(t, dir); !mapsEqual(before, after) {
		t.Errorf("files changed: %v to %v", before, after)
	}
	if id.PeerID() == string(id.EventKey.ID) || selfName(id.peerID) == "" {
		t.Error("keys are not apart")
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func TestIdentitySelfCertifying(t *testing.T) {
	dir := t.TempDir()
	id, err := CreateIdentity(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := event.ParseServer(string(id.Name)); err != nil || !isSelfName(string(id.Name)) || id.Name != selfName(id.peerID) {
		t.Errorf("name %q: %v", id.Name, err)
	}
	// The name of another key is nobody's to choose, and nothing is left behind that binds.
	other := t.TempDir()
	if _, err := CreateIdentity(other, string(id.Name)); !errors.Is(err, ErrName) {
		t.Errorf("the name of another key: %v", err)
	}
	if _, err := LoadIdentity(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a refusal: %v", err)
	}
	// An invalid name changes nothing.
	nothing := filepath.Join(t.TempDir(), "x")
	if _, err := CreateIdentity(nothing, "UPPER"); err == nil {
		t.Error("UPPER is a name")
	}
	if _, err := os.Stat(nothing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused name left a directory: %v", err)
	}
}

// A creation that was cut short at any file is completed with what is there.
func TestIdentityInterrupted(t *testing.T) {
	order := []string{fileNodeKey, fileEventKey, fileEpoch, fileSeq, fileName}
	for n := range order {
		dir := t.TempDir()
		if _, err := CreateIdentity(dir, "hq"); err != nil {
			t.Fatal(err)
		}
		before := contents(t, dir)
		for _, file := range order[n:] {
			if err := os.Remove(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := LoadIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d files: %v", n, err)
		}
		if _, err := CreateIdentity(dir, "hq"); err != nil {
			t.Errorf("%d files: %v", n, err)
		}
		after := contents(t, dir)
		for _, file := range order[:n] {
			if before[file] != after[file] {
				t.Errorf("%s was overwritten", file)
			}
		}
	}
}

func TestIdentityDamaged(t *testing.T) {
	for _, tt := range []struct{ file, content string }{
		{fileNodeKey, ""}, {fileNodeKey, "AAAA"}, {fileNodeKey, "!"},
		{fileEventKey, ""}, {fileEventKey, "ed25519:a QUJD"}, {fileEventKey, "rsa:1 " + strings.Repeat("A", 43)},
		{fileName, "Bad Name"}, {fileEpoch, "x"}, {fileEpoch, "-1"}, {fileEpoch, "4294967296"},
	} {
		dir := t.TempDir()
		if _, err := CreateIdentity(dir, "hq"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir); !errors.Is(err, ErrIdentity) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s %q: %v", tt.file, tt.content, err)
		}
	}
	for _, file := range []string{fileNodeKey, fileEventKey, fileEpoch} {
		dir := t.TempDir()
		if _, err := CreateIdentity(dir, "hq"); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
		before := contents(t, dir)
		// A lost key is no reason to make another one under the same name.
		if _, err := CreateIdentity(dir, "hq"); !errors.Is(err, ErrIdentity) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without %s: %v", file, err)
		}
		if after := contents(t, dir); !mapsEqual(before, after) {
			t.Errorf("without %s: files changed", file)
		}
	}
}

// Two processes that start at once agree.
func TestIdentityConcurrent(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	ids := map[string]int{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id, err := CreateIdentity(dir, []string{"one", "two"}[i%2])
			if err != nil && !errors.Is(err, ErrName) {
				t.Errorf("CreateIdentity: %v", err)
			}
			if err == nil {
				mu.Lock()
				ids[string(id.Name)+id.PeerID()+string(id.EventKey.ID)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Errorf("identities: %v", ids)
	}
	left := contents(t, dir)
	if len(left) != 5 {
		t.Errorf("files: %v", left)
	}
}

func TestRecordSeq(t *testing.T) {
	dir := t.TempDir()
	id, err := CreateIdentity(dir, "hq")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(time.Minute)
	var last int64
	// The clock stands still, then goes back a day, then the file is lost or damaged.
	for i, at := range []time.Time{now, now, now, now.Add(-24 * time.Hour), now.Add(time.Second), now.Add(2 * time.Second), now.Add(3 * time.Second)} {
		switch i {
		case 5:
			err = os.Remove(filepath.Join(dir, fileSeq))
		case 6:
			err = os.WriteFile(filepath.Join(dir, fileSeq), []byte("junk"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		seq, err := id.nextSeq(at)
		if err != nil || seq <= last {
			t.Errorf("%d: seq %d after %d: %v", i, seq, last, err)
		}
		last = seq
		if kept, err := readNumber(filepath.Join(dir, fileSeq)); err != nil || kept != seq {
			t.Errorf("%d: the file says %d: %v", i, kept, err)
		}
	}
}

func TestDefaultPort(t *testing.T) {
	// The port is taken by somebody, if not by this test.
	if l, err := net.Listen("tcp", ":"+strconv.Itoa(DefaultPort)); err == nil {
		defer l.Close()
	}
	dir := t.TempDir()
	id, err := CreateIdentity(dir, "hq")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := Addresses(dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := choosePort(dir)
	if err != nil || p <= DefaultPort {
		t.Fatalf("chose %d: %v", p, err)
	}
	for _, a := range addrs {
		if !strings.HasSuffix(a, "/p2p/"+id.PeerID()) || !strings.Contains(a, "/"+strconv.Itoa(p)) ||
			strings.Contains(a, "/0.0.0.0/") || strings.Contains(a, "/ip6/::/") {
			t.Errorf("address %s with port %d", a, p)
		}
	}
	// Kept, even if another one would be free now; what is printed does not change.
	l, err := net.Listen("tcp", ":"+strconv.Itoa(p))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if again, err := Addresses(dir, nil, nil); err != nil || !slices.Equal(addrs, again) {
		t.Errorf("addresses %v, then %v: %v", addrs, again, err)
	}
	// A start moves on, and keeps the new one.
	n, err := Open(t.Context(), Config{Identity: id, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer n.shut(nil)
	moved, err := choosePort(dir)
	if err != nil || moved == p || len(n.Addrs()) == 0 {
		t.Errorf("listens on port %d, %v: %v", moved, n.Addrs(), err)
	}
	for _, a := range n.Addrs() {
		if !strings.Contains(a, "/"+strconv.Itoa(moved)) {
			t.Errorf("listens on %s, the port is %d", a, moved)
		}
	}
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Addresses(dir, nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without identity: %v", err)
	}
	id, err := CreateIdentity(dir, "hq")
	if err != nil {
		t.Fatal(err)
	}
	at := "/p2p/" + id.PeerID()
	for _, tt := range []struct {
		listen, announce, want []string
		err                    string
	}{
		{listen: []string{"/ip4/127.0.0.1/tcp/4000"}, want: []string{"/ip4/127.0.0.1/tcp/4000" + at}},
		{listen: []string{"/ip4/0.0.0.0/tcp/0"}, announce: []string{"/dns/hq.example/tcp/1"}, want: []string{"/dns/hq.example/tcp/1" + at}},
		{announce: []string{"/ip4/192.0.2.1/udp/1/quic-v1" + at}, want: []string{"/ip4/192.0.2.1/udp/1/quic-v1" + at}},
		{listen: []string{"/ip4/127.0.0.1/tcp/0"}, err: "p2p.announce"},
		{listen: []string{"/ip4/127.0.0.1/udp/4000"}, err: "quic-v1"},
		{listen: []string{"/ip4/127.0.0.1/tcp/4000/ws"}, err: "tcp"},
		{listen: []string{"127.0.0.1:4000"}, err: "127.0.0.1:4000"},
		{announce: []string{"/unix/x"}, err: "p2p.announce"},
	} {
		got, err := Addresses(dir, tt.listen, tt.announce)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v %v: %v", tt.listen, tt.announce, err)
			}
		case err != nil || !slices.Equal(got, tt.want):
			t.Errorf("%v %v: %v %v", tt.listen, tt.announce, got, err)
		}
	}
	got, err := Addresses(dir, []string{"/ip4/0.0.0.0/tcp/4000"}, nil)
	if err != nil || len(got) == 0 {
		t.Fatalf("%v %v", got, err)
	}
	for _, a := range got {
		if strings.Contains(a, "0.0.0.0") || !strings.HasSuffix(a, "/tcp/4000"+at) {
			t.Errorf("address %s", a)
		}
	}
	l := Link{Name: id.Name, PeerID: id.PeerID(), Addrs: got}
	if back, err := ParseLink(l.String()); err != nil || strings.Contains(l.String(), "p2p") || len(back.Addrs) != len(got) {
		t.Errorf("link %s: %v", l, err)
	}
}
