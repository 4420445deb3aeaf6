package simnet

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenim/tokenim/federation/nettest"
	"github.com/tokenim/tokenim/node/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key is the event key of a name.
func key(s event.Server) event.SigningKey {
	seed := sha256.Sum256([]byte(s))
	return event.SigningKey{Server: s, ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed[:])}
}

// cluster runs the conformance suite on a Net.
type cluster struct {
	net  *Net
	stop map[int]func()
}

func name(i int) event.Server { return event.Server(fmt.Sprintf("node%d", i)) }

func (c *cluster) Start(t testing.TB, i int, h nettest.Handler) (nettest.Network, event.SigningKey) {
	for j := 0; c.stop[i] == nil && j < 10; j++ {
		if i != j {
			c.net.Unlink(name(i), name(j))
		}
	}
	p := c.net.Add(name(i), key(name(i)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx, h); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	c.stop[i] = func() { cancel(); <-done }
	return p, key(name(i))
}

func (c *cluster) Stop(_ testing.TB, i int) { c.stop[i]() }

func (c *cluster) Link(_ testing.TB, i, j int)   { c.net.Link(name(i), name(j)) }
func (c *cluster) Unlink(_ testing.TB, i, j int) { c.net.Unlink(name(i), name(j)) }

func (c *cluster) Forge(t testing.TB, victim, by int) []byte {
	k := key(name(by))
	raw, err := json.Marshal(record{
		Name: name(victim), Seq: 1 << 40, ValidUntil: event.MaxInteger,
		VerifyKeys: map[event.KeyID]recordKey{k.ID: {Key: k.Private.Public().(ed25519.PublicKey)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.Server = name(victim)
	forged, err := event.SignJSON(raw, k)
	if err != nil {
		t.Fatal(err)
	}
	return forged
}

func open(f Faults) func(t *testing.T) nettest.Cluster {
	return func(t *testing.T) nettest.Cluster {
		c := &cluster{net: New(1), stop: map[int]func(){}}
		c.net.SetFaults(f)
		t.Cleanup(func() {
			for _, stop := range c.stop {
				stop()
			}
		})
		return c
	}
}

func TestConformance(t *testing.T) { nettest.Test(t, open(Faults{})) }

// What the contract promises holds on a bad network too.
func TestConformanceWithFaults(t *testing.T) {
	nettest.Test(t, open(Faults{Loss: 0.2, Repeat: 0.2, MaxDelay: 3 * time.Millisecond, NoticeLoss: true}))
}
