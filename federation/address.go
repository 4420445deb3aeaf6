package federation

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/libp2p/go-libp2p/core/crypto/pb"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// DefaultPort is where a node listens for its peers unless configured
// otherwise: TCP and UDP (QUIC), all addresses, IPv4 and IPv6. If it is taken
// on the first start the next free one is used and then kept.
const DefaultPort = 8465

const keyEd25519 = pb.KeyType_Ed25519

// portsTried bounds the search for a free port.
const portsTried = 200

// parseAddr accepts an address that this node can dial or listen on: an IP
// address or a DNS name, then TCP or QUIC, nothing behind it.
func parseAddr(s string) (ma.Multiaddr, error) {
	if len(s) > maxAddress {
		return nil, fmt.Errorf("address of %d bytes, more than %d", len(s), maxAddress)
	}
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", s, err)
	}
	protos := a.Protocols()
	names := make([]string, len(protos))
	for i, p := range protos {
		names[i] = p.Name
	}
	host, rest, _ := strings.Cut(strings.Join(names, "/"), "/")
	switch host {
	case "ip4", "ip6", "dns", "dns4", "dns6":
	default:
		return nil, fmt.Errorf("address %q does not begin with /ip4, /ip6 or /dns", s)
	}
	if rest != "tcp" && rest != "udp/quic-v1" {
		return nil, fmt.Errorf("address %q is neither /tcp/PORT nor /udp/PORT/quic-v1", s)
	}
	return a, nil
}

// port returns the TCP or UDP port of an address.
func port(a ma.Multiaddr) string {
	for _, code := range []int{ma.P_TCP, ma.P_UDP} {
		if v, err := a.ValueForProtocol(code); err == nil {
			return v
		}
	}
	return ""
}

// transport names the transport of an address as event.Peer has it.
func transport(a ma.Multiaddr) string {
	if _, err := a.ValueForProtocol(ma.P_TCP); err == nil {
		return "tcp"
	}
	return "quic"
}

// sortAddrs puts TCP before QUIC, and the rest in a fixed order.
func sortAddrs(addrs []ma.Multiaddr) {
	slices.SortFunc(addrs, func(a, b ma.Multiaddr) int {
		return cmp.Or(cmp.Compare(transport(b), transport(a)), cmp.Compare(a.String(), b.String()))
	})
}

// listenAddrs decodes configured addresses, or makes the default ones.
func listenAddrs(dir string, listen []string) ([]ma.Multiaddr, error) {
	if len(listen) == 0 {
		p, err := choosePort(dir)
		if err != nil {
			return nil, err
		}
		// TCP first: it is the faster one for bulk; QUIC gets through more kinds of NAT.
		listen = []string{fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", p), fmt.Sprintf("/ip4/0.0.0.0/udp/%d/quic-v1", p)}
		if hasIPv6() {
			listen = append(listen, fmt.Sprintf("/ip6/::/tcp/%d", p), fmt.Sprintf("/ip6/::/udp/%d/quic-v1", p))
		}
	}
	return parseAddrs("p2p.listen", listen, "")
}

// parseAddrs decodes a list of addresses; a trailing /p2p of id is cut off.
func parseAddrs(what string, list []string, id string) ([]ma.Multiaddr, error) {
	if len(list) > maxAddresses {
		return nil, fmt.Errorf("%s has %d addresses, more than %d", what, len(list), maxAddresses)
	}
	out := make([]ma.Multiaddr, len(list))
	for i, s := range list {
		a, err := parseAddr(strings.TrimSuffix(s, "/p2p/"+id))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		out[i] = a
	}
	return out, nil
}

// choosePort returns the port kept in dir, or chooses and keeps one.
func choosePort(dir string) (int, error) {
	path := filepath.Join(dir, filePort)
	n, err := readNumber(path)
	switch {
	case err == nil && n > 0 && n < 1<<16:
		return int(n), nil
	case err == nil || errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%w: %s is no port number; remove it", ErrIdentity, path)
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	p, err := nextFree(DefaultPort)
	if err != nil {
		return 0, err
	}
	err = writeNew(path, []byte(strconv.Itoa(p)+"\n"))
	if errors.Is(err, fs.ErrExist) { // another process chose at the same time
		return choosePort(dir)
	}
	return p, err
}

func nextFree(from int) (int, error) {
	for p := from; p < from+portsTried && p < 1<<16; p++ {
		if portFree(p) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no free port from %d on; set p2p.listen", from)
}

// claimPort sees to it that the kept port is free to listen on: if it is taken,
// the next free one is kept from now on. Peers learn of the change: this node dials them, too, and its
// record has the new addresses.
func claimPort(dir string, log *slog.Logger) error {
	p, err := choosePort(dir)
	if err != nil || portFree(p) {
		return err
	}
	next, err := nextFree(DefaultPort)
	if err != nil {
		return err
	}
	log.Warn("the port for peers is taken, another one is used from now on; links handed out before name the old one", "old", p, "new", next)
	return writeReplace(filepath.Join(dir, filePort), []byte(strconv.Itoa(next)+"\n"))
}

// portFree reports whether a port can be bound for TCP and UDP on all addresses.
func portFree(p int) bool {
	addr := ":" + strconv.Itoa(p)
	t, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer t.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	_ = u.Close()
	return true
}

// hasIPv6 reports whether the machine can bind IPv6 sockets.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// Addresses returns the addresses under which a node with this configuration
// can be dialed, each with /p2p/PEERID, without starting it: announce, or
// listen with unspecified addresses replaced by those of the interfaces. An
// error says what to set where that is impossible (port 0 and no announce).
// The identity in dir must exist. Without listen the port is chosen and kept in
// dir if it was not before.
func Addresses(dir string, listen, announce []string) ([]string, error) {
	id, err := LoadIdentity(dir)
	if err != nil {
		return nil, err
	}
	addrs, err := parseAddrs("p2p.announce", announce, id.PeerID())
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		if addrs, err = listenAddrs(dir, listen); err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if port(a) == "0" {
				return nil, fmt.Errorf("the port of %s is chosen at every start: set a port in p2p.listen, or p2p.announce", a)
			}
		}
		if addrs, err = dialable(addrs); err != nil {
			return nil, err
		}
	}
	return withPeer(addrs, id.PeerID()), nil
}

// dialable replaces unspecified addresses by those of the interfaces. Loopback
// addresses that come from that are kept only if there is nothing else.
func dialable(addrs []ma.Multiaddr) ([]ma.Multiaddr, error) {
	interfaces, err := manet.InterfaceMultiaddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of the interfaces: %w; set p2p.announce", err)
	}
	var out, loopback []ma.Multiaddr
	for _, a := range addrs {
		if !manet.IsIPUnspecified(a) {
			out = append(out, a)
			continue
		}
		resolved, err := manet.ResolveUnspecifiedAddress(a, interfaces)
		if err != nil {
			continue // no interface of this family
		}
		for _, r := range resolved {
			switch {
			case manet.IsIPLoopback(r):
				loopback = append(loopback, r)
			case !manet.IsIP6LinkLocal(r):
				out = append(out, r)
			}
		}
	}
	if len(out) == 0 {
		out = loopback
	}
	if len(out) == 0 {
		return nil, errors.New("no interface has an address: set p2p.announce")
	}
	return out[:min(len(out), maxAddresses)], nil
}

func withPeer(addrs []ma.Multiaddr, id string) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String() + "/p2p/" + id
	}
	return out
}
