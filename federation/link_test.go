package federation

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/tokenim/tokenim/node/event"
)

const (
	testPeer = "12D3KooWQtGwcyqnhMBMTgwkcmBSFHTvu7sTtyiSs4qbvPwfdkoD"
	testAddr = "/ip4/127.0.0.1/tcp/4000"
)

func TestLink(t *testing.T) {
	id, err := parsePeerID(testPeer)
	if err != nil {
		t.Fatal(err)
	}
	self := string(selfName(id))
	good := linkPrefix + "n=hq&p=" + testPeer + "&a=" + testAddr
	for _, tt := range []struct {
		in   string
		want Link
	}{
		{good, Link{"hq", testPeer, []string{testAddr}}},
		{good + "&a=/dns/hq.example/udp/1/quic-v1", Link{"hq", testPeer, []string{testAddr, "/dns/hq.example/udp/1/quic-v1"}}},
		{linkPrefix + "n=" + self + "&p=" + testPeer + "&a=/ip6/::1/tcp/1", Link{event.Server(self), testPeer, []string{"/ip6/::1/tcp/1"}}},
		{linkPrefix + "n=hq&p=" + testPeer + "&a=%2Fip4%2F127.0.0.1%2Ftcp%2F4000", Link{"hq", testPeer, []string{testAddr}}},
		{good + "/p2p/" + testPeer, Link{"hq", testPeer, []string{testAddr}}},
	} {
		got, err := ParseLink(tt.in)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("ParseLink(%s) = %+v, %v", tt.in, got, err)
		}
		if again, err := ParseLink(got.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("again: %+v, %v", again, err)
		}
	}
	if got := (Link{"hq", testPeer, []string{testAddr}}).String(); got != good {
		t.Errorf("String = %s", got)
	}
	other := "12D3KooWBnFa24cEe3YsbeMaDek7X9UWm91ZWWZyiqBx7j1nnHyx"
	for _, bad := range []string{
		"", "tokenim://peer", "tokenim://join?n=hq", "https://peer?n=hq&p=" + testPeer + "&a=" + testAddr,
		linkPrefix + "n=hq&p=" + testPeer,                    // no address
		linkPrefix + "p=" + testPeer + "&n=hq&a=" + testAddr, // order
		good + "&n=hq", good + "&x=1", good + "&", good + "&a=", // more than there is
		linkPrefix + "n=HQ&p=" + testPeer + "&a=" + testAddr,      // no name
		linkPrefix + "n=hq:1&p=" + testPeer + "&a=" + testAddr,    // a port
		linkPrefix + "n=hq&p=" + self + "&a=" + testAddr,          // another encoding of the peer id
		linkPrefix + "n=hq&p=" + testPeer[:20] + "&a=" + testAddr, // cut off
		linkPrefix + "n=" + self + "&p=" + other + "&a=" + testAddr,
		linkPrefix + "n=hq&p=" + testPeer + "&a=/ip4/127.0.0.1/udp/1",
		linkPrefix + "n=hq&p=" + testPeer + "&a=/ip4/127.0.0.1/tcp/1/p2p/" + other,
		linkPrefix + "n=hq&p=" + testPeer + "&a=/ip4/1.2.3/tcp/1",
		linkPrefix + "n=hq&p=" + testPeer + "&a=%zz",
		linkPrefix + "n=hq&p=" + testPeer + strings.Repeat("&a="+testAddr, 17),
		linkPrefix + "n=hq&p=" + testPeer + "&a=/dns/" + strings.Repeat("x", 300) + "/tcp/1",
		linkPrefix + "n=" + strings.Repeat("x", 5000),
		good + "\n" + good,
	} {
		if l, err := ParseLink(bad); !errors.Is(err, ErrLink) {
			t.Errorf("ParseLink(%.80q) = %+v, %v", bad, l, err)
		}
	}
}

func FuzzLink(f *testing.F) {
	f.Add(linkPrefix + "n=hq&p=" + testPeer + "&a=" + testAddr)
	f.Add(linkPrefix + "n=hq&p=" + testPeer + "&a=%2Fip6%2F::1%2Fudp%2F1%2Fquic-v1")
	f.Add("tokenim://join?n=hq")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLink(s)
		if err != nil {
			if !errors.Is(err, ErrLink) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := ParseLink(l.String())
		if err != nil || !reflect.DeepEqual(l, again) || again.String() != l.String() {
			t.Errorf("%q: %+v, %+v, %v", s, l, again, err)
		}
	})
}
