package nettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenim/tokenim/node/event"
)

// answering starts two linked nodes, the second of which answers with f.
func (c *cluster) answering(f func(ctx context.Context, from event.Server, method string, body []byte) ([]byte, error)) (a, b *node) {
	c.t.Helper()
	a, b = c.run(0, &Recorder{}), c.run(1, &Recorder{Answer: f})
	c.nodes = []*node{a, b}
	c.Link(c.t, 0, 1)
	c.meet(a, b)
	return a, b
}

func testCall(t *testing.T, c *cluster) {
	a, b := c.answering(func(_ context.Context, from event.Server, method string, body []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%s %s %s", from, method, body), nil
	})
	for _, method := range []string{"make_join", "heads", "missing", "events"} {
		got, err := a.Call(t.Context(), b.Self(), method, []byte(`{"from":"mallory"}`))
		want := fmt.Sprintf("%s %s %s", a.Self(), method, `{"from":"mallory"}`)
		if err != nil || string(got) != want {
			t.Errorf("Call = %q, %v; want %q", got, err, want)
		}
	}
	// The other direction over the same link.
	if got, err := b.Call(t.Context(), a.Self(), "heads", []byte("{}")); err != nil || string(got) != "{}" {
		t.Errorf("Call back = %q, %v", got, err)
	}
}

func testCallSizes(t *testing.T, c *cluster) {
	random := rand.NewChaCha8([32]byte{})
	answer := make([]byte, MaxAnswer)
	_, _ = random.Read(answer)
	a, b := c.answering(func(_ context.Context, _ event.Server, method string, body []byte) ([]byte, error) {
		switch method {
		case "events":
			return answer, nil
		case "keys":
			return nil, nil
		}
		return body, nil
	})
	for _, size := range []int{0, 1, 4095, 65536, MaxRequest} {
		body := make([]byte, size)
		_, _ = random.Read(body)
		got, err := a.Call(t.Context(), b.Self(), "heads", body)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("Call with %d bytes: %d bytes, %v", size, len(got), err)
		}
	}
	if got, err := a.Call(t.Context(), b.Self(), "events", []byte("{}")); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("Call with an answer of %d bytes: %d bytes, %v", len(answer), len(got), err)
	}
	if got, err := a.Call(t.Context(), b.Self(), "keys", []byte("{}")); err != nil || len(got) != 0 {
		t.Errorf("Call with an empty answer: %q, %v", got, err)
	}
}

func testCallRefused(t *testing.T, c *cluster) {
	refusal := &event.RemoteError{Code: "M_FORBIDDEN", Message: "not \"here\"\nor there: 日本"}
	a, b := c.answering(func(context.Context, event.Server, string, []byte) ([]byte, error) {
		return []byte("not seen"), fmt.Errorf("wrapped: %w", refusal)
	})
	body, err := a.Call(t.Context(), b.Self(), "invite", []byte("{}"))
	var got *event.RemoteError
	if !errors.As(err, &got) || *got != *refusal || body != nil {
		t.Errorf("Call = %q, %v; want %v", body, err, refusal)
	}
	if errors.Is(err, event.ErrUnreachable) {
		t.Error("a refusal counts as unreachable")
	}
}

// Errors that are not meant for the peer are answered without detail.
func testCallInternalError(t *testing.T, c *cluster) {
	a, b := c.answering(func(context.Context, event.Server, string, []byte) ([]byte, error) {
		return nil, errors.New("secret detail")
	})
	body, err := a.Call(t.Context(), b.Self(), "heads", []byte("{}"))
	if err == nil || strings.Contains(err.Error(), "secret") || body != nil {
		t.Errorf("Call = %q, %v", body, err)
	}
	if errors.Is(err, event.ErrUnreachable) {
		t.Error("a failed answer counts as unreachable")
	}
}

func testCallUnreachable(t *testing.T, c *cluster) {
	nodes := c.start(3, false)
	a, b, stranger := nodes[0], nodes[1], nodes[2]
	c.Link(t, 0, 1)
	c.meet(a, b)
	unreachable := func(why string, to event.Server) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), Deadline)
		defer cancel()
		if body, err := a.Call(ctx, to, "heads", []byte("{}")); !errors.Is(err, event.ErrUnreachable) || body != nil {
			t.Errorf("Call to %s = %q, %v; want ErrUnreachable", why, body, err)
		}
	}
	unreachable("a name nobody has", "nobody.example")
	unreachable("no name", "")
	unreachable("a node without a link", stranger.Self())
	c.Stop(t, 1)
	unreachable("a node that has stopped", b.Self())
}

func testCallCancelled(t *testing.T, c *cluster) {
	entered, left := make(chan struct{}), make(chan struct{})
	a, b := c.answering(func(ctx context.Context, _ event.Server, method string, body []byte) ([]byte, error) {
		if method != "missing" {
			return body, nil
		}
		close(entered)
		<-ctx.Done() // the peer gives up when nobody waits any more
		close(left)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := a.Call(ctx, b.Self(), "missing", []byte("{}"))
		done <- err
	}()
	wait(t, "the handler to be called", entered)
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a cancelled call succeeded")
		}
	case <-time.After(Deadline):
		t.Fatal("Call did not return after its context was cancelled")
	}
	wait(t, "the handler's context to end", left)
	if _, err := a.Call(t.Context(), b.Self(), "heads", []byte("{}")); err != nil {
		t.Errorf("Call after a cancelled one: %v", err)
	}
	if _, err := a.Call(ctx, b.Self(), "heads", []byte("{}")); err == nil {
		t.Error("Call with a context that has ended succeeded")
	}
}

// wait waits for a channel to be closed.
func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(Deadline):
		t.Fatalf("waited %v in vain for %s", Deadline, what)
	}
}

// A call that is under way when the peer goes away fails soon.
func testCallBrokenOff(t *testing.T, c *cluster) {
	entered := make(chan struct{})
	a, b := c.answering(func(ctx context.Context, _ event.Server, _ string, _ []byte) ([]byte, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	done := make(chan error, 1)
	go func() {
		_, err := a.Call(t.Context(), b.Self(), "missing", []byte("{}"))
		done <- err
	}()
	wait(t, "the handler to be called", entered)
	c.Stop(t, 1)
	select {
	case err := <-done:
		if err == nil {
			t.Error("the call succeeded")
		}
	case <-time.After(Deadline):
		t.Fatal("Call did not return after the peer had stopped")
	}
}

func testCallConcurrent(t *testing.T, c *cluster) {
	nodes := c.start(3, true)
	var wg sync.WaitGroup
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			for i := range 20 {
				wg.Go(func() {
					body := fmt.Sprintf("%s %s %d", from.Self(), to.Self(), i)
					got, err := from.Call(t.Context(), to.Self(), "heads", []byte(body))
					if err != nil || string(got) != body {
						t.Errorf("Call %s = %q, %v", body, got, err)
					}
				})
			}
		}
	}
	wg.Wait()
}
