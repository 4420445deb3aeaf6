package federation

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/tokenim/tokenim/node/event"
)

const (
	linkPrefix   = "tokenim://peer?"
	maxLink      = 4 << 10 // bytes of a link
	maxAddresses = 16      // addresses of a link and of a record
	maxAddress   = 256     // bytes of one address
)

// Link is how a peer is pinned: "tokenim://peer?n=NAME&p=PEERID&a=ADDR...".
type Link struct {
	Name   event.Server
	PeerID string   // base58 as libp2p prints it
	Addrs  []string // 1 to 16 multiaddresses, without /p2p
}

// ParseLink reads a link: at most 4 KiB, the parameters n, p and one to sixteen
// a in this order, nothing else. A self-certifying name must be the one of the
// peer id. Percent-encoding is accepted; String prints the one form that has
// none where none is needed. Errors wrap ErrLink.
func ParseLink(s string) (Link, error) {
	l, err := parseLink(s)
	if err != nil {
		return Link{}, fmt.Errorf("%w: %w", ErrLink, err)
	}
	return l, nil
}

func parseLink(s string) (Link, error) {
	if len(s) > maxLink {
		return Link{}, fmt.Errorf("%d bytes, more than %d", len(s), maxLink)
	}
	query, ok := strings.CutPrefix(s, linkPrefix)
	if !ok {
		return Link{}, errors.New("it does not begin with " + linkPrefix)
	}
	var l Link
	for i, pair := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value) // "+" is a plus
		if err != nil {
			return Link{}, err
		}
		switch {
		case i == 0 && key == "n":
			l.Name = event.Server(value)
		case i == 1 && key == "p":
			l.PeerID = value
		case i >= 2 && key == "a":
			l.Addrs = append(l.Addrs, value)
		default:
			return Link{}, fmt.Errorf("parameter %.20q is not in its place; the order is n, p, then every a", key)
		}
	}
	_, _, err := l.check()
	return l, err
}

// check validates the parts, removes a trailing /p2p of the own peer id from
// the addresses, and returns the decoded forms.
func (l *Link) check() (peer.ID, []ma.Multiaddr, error) {
	if _, err := event.ParseServer(string(l.Name)); err != nil {
		return "", nil, err
	}
	id, err := parsePeerID(l.PeerID)
	if err != nil {
		return "", nil, err
	}
	if isSelfName(string(l.Name)) && selfName(id) != l.Name {
		return "", nil, fmt.Errorf("the name %s is not the one of the peer id %s", l.Name, l.PeerID)
	}
	if len(l.Addrs) == 0 || len(l.Addrs) > maxAddresses {
		return "", nil, fmt.Errorf("%d addresses, not 1 to %d", len(l.Addrs), maxAddresses)
	}
	addrs := make([]ma.Multiaddr, len(l.Addrs))
	texts := make([]string, len(l.Addrs))
	for i, a := range l.Addrs {
		if addrs[i], err = parseAddr(strings.TrimSuffix(a, "/p2p/"+l.PeerID)); err != nil {
			return "", nil, err
		}
		texts[i] = addrs[i].String()
	}
	l.Addrs = texts
	return id, addrs, nil
}

// String returns the link in its one form.
func (l Link) String() string {
	var b strings.Builder
	b.WriteString(linkPrefix + "n=" + escape(string(l.Name)) + "&p=" + escape(l.PeerID))
	for _, a := range l.Addrs {
		b.WriteString("&a=" + escape(strings.TrimSuffix(a, "/p2p/"+l.PeerID)))
	}
	return b.String()
}

// escape percent-encodes all but what stands in a query as it is (RFC 3986, 3.4)
// and occurs in addresses.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~/:", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// parsePeerID accepts the one text form of the peer id of an Ed25519 key.
func parsePeerID(s string) (peer.ID, error) {
	if len(s) > 64 {
		return "", fmt.Errorf("peer id of %d bytes", len(s))
	}
	id, err := peer.Decode(s)
	if err != nil {
		return "", fmt.Errorf("peer id %.64q: %w", s, err)
	}
	if id.String() != s {
		return "", fmt.Errorf("peer id %q is not in its usual form %s", s, id)
	}
	key, err := id.ExtractPublicKey()
	if err != nil || key.Type() != keyEd25519 {
		return "", fmt.Errorf("peer id %q is not the one of an Ed25519 key", s)
	}
	return id, nil
}
