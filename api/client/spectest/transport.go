package spectest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Transport returns a transport that validates every answer of the
// Client-Server API and fails the test for each that the specification does not
// allow. base nil is http.DefaultTransport.
func (s *Spec) Transport(t testing.TB, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{spec: s, t: t, base: base}
}

// transport is an http.RoundTripper that looks on.
type transport struct {
	spec *Spec
	t    testing.TB
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (x *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := x.base.RoundTrip(req)
	if err != nil || !ours(req.URL.Path) || req.Method == http.MethodOptions || req.Method == http.MethodHead {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if x.t.Context().Err() != nil {
		return resp, nil // the test has ended
	}
	kind := resp.Header.Get("Content-Type")
	if kind != "application/json" && resp.StatusCode != http.StatusFound && !media(req.URL.Path) {
		x.t.Errorf("%s %s: %d: Content-Type is %q", req.Method, req.URL.Path, resp.StatusCode, kind)
		return resp, nil
	}
	if kind != "application/json" {
		return resp, nil
	}
	if err := x.spec.Check(req.Method, req.URL.EscapedPath(), resp.StatusCode, body); err != nil {
		x.t.Errorf("answer against the specification: %v", err)
	}
	return resp, nil
}

// ours reports whether a path belongs to the Client-Server API.
func ours(path string) bool {
	return strings.HasPrefix(path, "/_matrix/client/") || strings.HasPrefix(path, "/_matrix/media/") ||
		strings.HasPrefix(path, "/.well-known/matrix/")
}

// media reports whether a path can answer with a file.
func media(path string) bool {
	return strings.HasPrefix(path, "/_matrix/media/") || strings.HasPrefix(path, "/_matrix/client/v1/media/")
}
