package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/p2p/net/gostream"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

// callers starts two connected nodes, the second of which answers with f.
func callers(t testing.TB, limits bool, f func(ctx context.Context, method string, body []byte) ([]byte, error)) (a, b *testNode) {
	t.Helper()
	a, b = newTestNode(t, ""), newTestNode(t, "")
	b.cfg.Limits = limits
	ra := &nettest.Recorder{}
	a.start(t, ra)
	b.start(t, &nettest.Recorder{Answer: func(ctx context.Context, _ event.Server, method string, body []byte) ([]byte, error) {
		return f(ctx, method, body)
	}})
	for _, x := range [][2]*testNode{{a, b}, {b, a}} {
		if _, err := x[0].n.AddPeer(x[1].link(t)); err != nil {
			t.Fatal(err)
		}
	}
	nettest.Wait(t, "the connection", func() bool { return ra.Connected(b.n.Self()) })
	return a, b
}

func echo(_ context.Context, _ string, body []byte) ([]byte, error) { return body, nil }

// raw makes a request past the limits of Call.
func raw(t *testing.T, a, b *testNode, method, path string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+string(selfName(b.cfg.Identity.peerID))+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := a.n.transport.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

func code(err error) string {
	var refused *event.RemoteError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return fmt.Sprint(err)
}

func TestCallRefusals(t *testing.T) {
	a, b := callers(t, false, func(_ context.Context, method string, body []byte) ([]byte, error) {
		switch method {
		case "panics":
			panic("at the handler")
		case "large":
			return make([]byte, otherMethod.response+1), nil
		case "unknown":
			return nil, &event.RemoteError{Code: "M_UNRECOGNIZED", Message: "no such method"}
		}
		return body, nil
	})
	for _, tt := range []struct{ method, code string }{
		{"panics", "M_UNKNOWN"}, {"large", "M_TOO_LARGE"}, {"unknown", "M_UNRECOGNIZED"},
	} {
		if _, err := a.n.Call(t.Context(), b.n.Self(), tt.method, nil); code(err) != tt.code {
			t.Errorf("%s: %v", tt.method, err)
		}
	}
	for _, method := range []string{"", "../x", "UPPER", "a/b", strings.Repeat("x", 65)} {
		if _, err := a.n.Call(t.Context(), b.n.Self(), method, nil); err == nil || errors.Is(err, event.ErrUnreachable) {
			t.Errorf("method %q: %v", method, err)
		}
	}
	if _, err := a.n.Call(t.Context(), b.n.Self(), "alias", make([]byte, methods["alias"].request+1)); err == nil || errors.Is(err, event.ErrUnreachable) {
		t.Errorf("large request: %v", err)
	}
	tooLarge := make([]byte, methods["alias"].request+1)
	for _, tt := range []struct {
		method, path string
		body         io.Reader
		status       int
		code         string
	}{
		{"GET", "/heads", nil, 405, "M_UNRECOGNIZED"},
		{"POST", "/a/b", nil, 404, "M_UNRECOGNIZED"},
		{"POST", "/", nil, 404, "M_UNRECOGNIZED"},
		{"POST", "/alias", bytes.NewReader(tooLarge), 413, "M_TOO_LARGE"},
		{"POST", "/alias", io.MultiReader(bytes.NewReader(tooLarge)), 413, "M_TOO_LARGE"}, // of unknown length
		{"POST", "/unknown", nil, 404, "M_UNRECOGNIZED"},
	} {
		if status, text := raw(t, a, b, tt.method, tt.path, tt.body); status != tt.status || !strings.Contains(text, tt.code) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, status, text)
		}
	}
	// Nothing of that did any harm.
	if got, err := a.n.Call(t.Context(), b.n.Self(), "heads", []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("Call = %q, %v", got, err)
	}
}

// A peer cannot hold more than its share of calls, and is told so.
func TestCallsAtOnce(t *testing.T) {
	release := make(chan struct{})
	var entered sync.WaitGroup
	entered.Add(peerCalls)
	a, b := callers(t, false, func(ctx context.Context, method string, _ []byte) ([]byte, error) {
		if method == "wait" {
			entered.Done()
			<-release
		}
		return nil, nil
	})
	var calls sync.WaitGroup
	for range peerCalls {
		calls.Go(func() {
			if _, err := a.n.Call(t.Context(), b.n.Self(), "wait", nil); err != nil {
				t.Errorf("Call: %v", err)
			}
		})
	}
	entered.Wait()
	// The transport of the caller keeps to the limit by itself; another one does not.
	c, err := gostream.Dial(t.Context(), a.n.host, b.cfg.Identity.peerID, protoRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /heads HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !bytes.Contains(answer, []byte(" 429 ")) || !bytes.Contains(answer, []byte("M_LIMIT_EXCEEDED")) {
		t.Errorf("one call more: %q, %v", answer, err)
	}
	close(release)
	calls.Wait()
	if _, err := a.n.Call(t.Context(), b.n.Self(), "heads", nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// With limits on, a peer that calls without pause is told to wait; its other
// methods, and with limits off all of them, are not.
func TestCallBudget(t *testing.T) {
	for _, limits := range []bool{true, false} {
		a, b := callers(t, limits, echo)
		refused := 0
		for range methods["invite"].burst * 2 {
			switch _, err := a.n.Call(t.Context(), b.n.Self(), "invite", nil); {
			case code(err) == "M_LIMIT_EXCEEDED":
				refused++
			case err != nil:
				t.Fatal(err)
			}
		}
		if (refused > 0) != limits {
			t.Errorf("limits %v: %d refused", limits, refused)
		}
		if _, err := a.n.Call(t.Context(), b.n.Self(), "heads", nil); err != nil {
			t.Errorf("another method: %v", err)
		}
	}
}

// Slow clients end by deadline; the deadline of a slow header is short enough
// to wait for.
func TestSlowClient(t *testing.T) {
	a, b := callers(t, false, echo)
	c, err := gostream.Dial(t.Context(), a.n.host, b.cfg.Identity.peerID, protoRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /heads HTTP/1.1\r\nHos"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(c); err == nil && bytes.Contains(answer, []byte("200 OK")) {
		t.Errorf("half a request is answered: %q", answer)
	}
	if got, err := a.n.Call(t.Context(), b.n.Self(), "heads", []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("Call = %q, %v", got, err)
	}
}

// An answer that is larger than announced by the table is not read to its end.
func TestAnswerTooLarge(t *testing.T) {
	a, b := callers(t, false, echo)
	b.n.host.RemoveStreamHandler(protoRPC)
	l, err := gostream.Listen(b.n.host, protoRPC)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/alias" {
			w.Header().Set("Content-Length", fmt.Sprint(1<<40))
		}
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()
	for _, method := range []string{"alias", "profile"} {
		if got, err := a.n.Call(t.Context(), b.n.Self(), method, nil); !errors.Is(err, errAnswer) || len(got) > 0 {
			t.Errorf("%s: %d bytes, %v", method, len(got), err)
		}
	}
}

func TestRefusalText(t *testing.T) {
	for text, want := range map[string]string{
		`{"errcode":"M_FORBIDDEN","error":"no"}`:         "M_FORBIDDEN",
		`{"errcode":"ORG.EXAMPLE_X","error":"no"}`:       "ORG.EXAMPLE_X",
		`{"errcode":"<script>","error":"no"}`:            "M_UNKNOWN",
		`{"errcode":"` + strings.Repeat("M", 200) + `"}`: "M_UNKNOWN",
		`{}`:     "M_UNKNOWN",
		`<html>`: "M_UNKNOWN",
	} {
		resp := &http.Response{StatusCode: 400, Status: "400 Bad Request", Body: io.NopCloser(strings.NewReader(text))}
		if err := refusal(resp); code(err) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func BenchmarkCall1KB(b *testing.B) {
	x, y := callers(b, false, echo)
	to := y.n.Self()
	body := make([]byte, 1024)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := x.n.Call(b.Context(), to, "heads", body); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
