package nettest_test

import (
	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/federation/simnet"
	"github.com/tokenim/tokenim/node"
)

// The interfaces of this package are those of the packages that own them, and
// the simulated network keeps both.
var (
	_ nettest.Network    = node.Network(nil)
	_ node.Network       = nettest.Network(nil)
	_ node.Network       = (*simnet.Peer)(nil)
	_ nettest.Handler    = federation.Handler(nil)
	_ federation.Handler = nettest.Handler(nil)
	_ federation.Handler = simnet.Handler(nil)
	_ federation.Handler = (*nettest.Recorder)(nil)
)
