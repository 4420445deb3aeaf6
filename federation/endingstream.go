package federation

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
)

// endingStream is a stream that says when this side has closed or reset it, for
// those who wait for something else meanwhile.
type endingStream struct {
	network.Stream
	ended chan struct{} // closed by the first Close or Reset
	once  sync.Once
}

func newEndingStream(s network.Stream) *endingStream {
	return &endingStream{Stream: s, ended: make(chan struct{})}
}

func (s *endingStream) end() { s.once.Do(func() { close(s.ended) }) }

// Close implements network.Stream.
func (s *endingStream) Close() error { s.end(); return s.Stream.Close() }

// Reset implements network.Stream.
func (s *endingStream) Reset() error { s.end(); return s.Stream.Reset() }

// ResetWithError implements network.Stream.
func (s *endingStream) ResetWithError(code network.StreamErrorCode) error {
	s.end()
	return s.Stream.ResetWithError(code)
}
