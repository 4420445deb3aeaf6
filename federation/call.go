package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/gostream"

	"github.com/tokenim/tokenim/node/event"
)

// protoRPC carries calls: HTTP/1.1 over streams, POST /METHOD.
const protoRPC protocol.ID = "/tokenim/rpc/1"

// maxRefusal bounds the body of an answer that is no success.
const maxRefusal = 64 << 10

// newTransport makes HTTP connections of streams. The host name of a URL is the
// self-certifying name of the peer, whatever its server name is.
func newTransport(h host.Host) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			label, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			c, err := cid.Decode(label)
			if err != nil {
				return nil, err
			}
			id, err := peer.FromCid(c)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "call"), dialTimeout)
			defer cancel()
			return gostream.Dial(ctx, h, id, protoRPC)
		},
		MaxIdleConnsPerHost:    16,
		MaxConnsPerHost:        peerCalls,
		IdleConnTimeout:        time.Minute,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
}

// Call implements node.Network.
func (n *Network) Call(ctx context.Context, to event.Server, method string, body []byte) ([]byte, error) {
	m, ok := limitsOf(method)
	if !ok {
		return nil, fmt.Errorf("%q is no name of a method", method)
	}
	if int64(len(body)) > m.request {
		return nil, fmt.Errorf("%s: request of %d bytes, more than %d", method, len(body), m.request)
	}
	r := n.peers.named(to)
	if r == nil {
		return nil, fmt.Errorf("%w: %s is not pinned", event.ErrUnreachable, to)
	}
	if err := n.reach(ctx, r); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	answer, err := n.post(limited, r, method, body, m.response)
	var refused *event.RemoteError
	switch {
	case err == nil:
		return answer, nil
	case errors.As(err, &refused), errors.Is(err, errAnswer):
		return nil, err
	case ctx.Err() != nil: // the caller's own wish
		return nil, fmt.Errorf("%s to %s: %w", method, to, ctx.Err())
	}
	return nil, fmt.Errorf("%w: %s to %s: %w", event.ErrUnreachable, method, to, err)
}

// errAnswer says that a peer answered against the protocol.
var errAnswer = errors.New("bad answer")

// reach waits until the peer is connected, and has it dialed at once.
func (n *Network) reach(ctx context.Context, r *remote) error {
	if n.peers.isConnected(r) {
		return nil
	}
	r.hurry()
	if n.peers.wait(ctx, r, dialTimeout, func(r *remote) bool { return r.connected }) {
		return nil
	}
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: no connection to %s", event.ErrUnreachable, r.name)
}

func (n *Network) post(ctx context.Context, r *remote, method string, body []byte, limit int64) ([]byte, error) {
	url := "http://" + string(selfName(r.id)) + "/" + method
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["User-Agent"] = nil
	// Calls can be repeated, so the transport may do it when a kept connection
	// turns out to be dead. The empty value is not sent.
	req.Header["Idempotency-Key"] = nil
	resp, err := n.transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %s announces %d bytes, more than %d", errAnswer, r.name, resp.ContentLength, limit)
	}
	if resp.ContentLength >= 0 {
		answer := make([]byte, resp.ContentLength)
		_, err = io.ReadFull(resp.Body, answer)
		return answer, err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(answer)) > limit {
		err = fmt.Errorf("%w: %s sends more than %d bytes", errAnswer, r.name, limit)
	}
	return answer, err
}

// refusal turns an answer that is no success into an error.
func refusal(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return errors.New("the peer is starting or ending")
	}
	var e struct {
		Code    string `json:"errcode"`
		Message string `json:"error"`
	}
	if json.Unmarshal(b, &e) != nil || !isErrorCode(e.Code) {
		return &event.RemoteError{Code: "M_UNKNOWN", Message: resp.Status}
	}
	return &event.RemoteError{Code: e.Code, Message: e.Message[:min(len(e.Message), 1024)]}
}

// isErrorCode reports whether s has the form of a Matrix error code, a
// namespaced one included.
func isErrorCode(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
