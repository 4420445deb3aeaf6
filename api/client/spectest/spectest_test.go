package spectest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Every schema of every answer compiles, so that no answer goes unchecked.
func TestSchemasCompile(t *testing.T) {
	s := Open(t)
	n := 0
	for _, o := range s.Operations() {
		for code, r := range o.responses {
			if dig(r, "content", "application/json", "schema") == nil {
				continue
			}
			n++
			if _, err := s.schema(o.url + "#" + o.pointer + "/responses/" + code + "/content/application~1json/schema"); err != nil {
				t.Errorf("%s %s %s: %v", o.Method, o.Path, code, err)
			}
		}
	}
	if n < 200 || len(s.ops) < 140 {
		t.Errorf("only %d schemas of %d operations found", n, len(s.ops))
	}
}

func TestCheck(t *testing.T) {
	s := Open(t)
	for _, tt := range []struct {
		name, method, path string
		status             int
		body               string
		want               string // part of the error; empty: good
	}{
		{"good", "POST", "/_matrix/client/v3/createRoom", 200, `{"room_id":"!a"}`, ""},
		{"missing key", "POST", "/_matrix/client/v3/createRoom", 200, `{}`, "room_id"},
		{"wrong type", "GET", "/_matrix/client/versions", 200, `{"versions":[1]}`, "got number, want string"},
		{"reference to another file", "GET", "/_matrix/client/v3/devices", 200, `{"devices":[{"display_name":"x"}]}`, "device_id"},
		{"pattern", "POST", "/_matrix/client/v3/join/%23a:b", 200, `{"room_id":"a"}`, "pattern"},
		{"query", "GET", "/_matrix/client/v3/sync?since=x", 200, `{"next_batch":"x"}`, ""},
		{"status", "GET", "/_matrix/client/versions", 201, `{"versions":[]}`, "no such status"},
		{"not JSON", "GET", "/_matrix/client/versions", 200, `<html>`, "not JSON"},
		{"standard error anywhere", "GET", "/_matrix/client/versions", 500, `{"errcode":"M_UNKNOWN","error":"x"}`, ""},
		{"error without code", "GET", "/_matrix/client/versions", 500, `{"error":"x"}`, "errcode"},
		{"flows", "POST", "/_matrix/client/v3/register", 401, `{"flows":[{"stages":["m.login.dummy"]}],"session":"x"}`, ""},
		{"unknown token with flows possible", "POST", "/_matrix/client/v3/account/password", 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, ""},
		{"neither flows nor error", "POST", "/_matrix/client/v3/register", 401, `{"session":"x"}`, "flows"},
		{"empty state key", "GET", "/_matrix/client/v3/rooms/!a/state/m.room.name/", 200, `{"name":"x"}`, ""},
		{"no state key", "PUT", "/_matrix/client/v3/rooms/!a/state/m.room.name", 200, `{}`, "event_id"},
		{"state of a room", "GET", "/_matrix/client/v3/rooms/!a/state", 200, `{}`, "want array"},
		{"literal beats parameter", "GET", "/_matrix/client/v3/user/a/rooms/b/tags", 200, `{"tags":1}`, "tags"},
		{"push rules without slash", "GET", "/_matrix/client/v3/pushrules", 200, `{}`, "global"},
		{"either of two forms", "POST", "/_matrix/client/v3/rooms/!a/invite", 200, `{}`, ""},
		{"unknown endpoint", "GET", "/_matrix/client/v3/nothing", 404, `{"errcode":"M_UNRECOGNIZED","error":"x"}`, ""},
		{"unknown endpoint answered", "GET", "/_matrix/client/v3/nothing", 200, `{}`, "no such operation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := s.Check(tt.method, tt.path, tt.status, []byte(tt.body))
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// recorder stands in for the test that a bad answer fails.
type recorder struct {
	testing.TB
	errors int
}

func (r *recorder) Errorf(string, ...any) { r.errors++ }

func TestTransport(t *testing.T) {
	s := Open(t)
	kind, body := "application/json", `{"versions":["v1.1"]}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	rec := &recorder{TB: t}
	client := &http.Client{Transport: s.Transport(rec, nil)}
	get := func(path string) string {
		t.Helper()
		resp, err := client.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if got := get("/_matrix/client/versions"); got != body || rec.errors != 0 {
		t.Errorf("good answer: body %q, %d errors", got, rec.errors)
	}
	body = `{"versions":"v1.1"}`
	if got := get("/_matrix/client/versions"); got != body || rec.errors != 1 {
		t.Errorf("bad answer: body %q, %d errors", got, rec.errors)
	}
	if get("/healthz"); rec.errors != 1 {
		t.Error("a path of another API was checked")
	}
	kind = "text/html"
	if get("/_matrix/client/versions"); rec.errors != 2 {
		t.Error("a wrong Content-Type was not seen")
	}
}

func TestOperations(t *testing.T) {
	byID := map[string]Operation{}
	for _, o := range Open(t).Operations() {
		if o.ID == "" || byID[o.ID].ID != "" {
			t.Errorf("%s %s: operation id %q empty or twice", o.Method, o.Path, o.ID)
		}
		byID[o.ID] = o
	}
	if o := byID["getVersions"]; o.Auth || o.Path != "/_matrix/client/versions" || o.Method != "GET" {
		t.Errorf("getVersions: %+v", o)
	}
	if o := byID["createRoom"]; !o.Auth || o.Path != "/_matrix/client/v3/createRoom" || o.Method != "POST" {
		t.Errorf("createRoom: %+v", o)
	}
}

func BenchmarkCheck(b *testing.B) {
	s := Open(b)
	body, err := json.Marshal(map[string]any{"room_id": "!a"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Check("POST", "/_matrix/client/v3/createRoom", 200, body); err != nil {
			b.Fatal(err)
		}
	}
}
