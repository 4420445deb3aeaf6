package nettest

import (
	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node"
)

// The interfaces of this package are those of the packages that own them, and
// the simulated network keeps both.
var (
	_ Network            = node.Network(nil)
	_ node.Network       = Network(nil)
	_ node.Network       = (*simnet.Peer)(nil)
	_ Handler            = federation.Handler(nil)
	_ federation.Handler = Handler(nil)
	_ federation.Handler = simnet.Handler(nil)
	_ federation.Handler = (*Recorder)(nil)
)
