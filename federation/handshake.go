package federation

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	msmux "github.com/multiformats/go-multistream"
)

// protoRecord carries the exchange of server records that opens every connection:
//
//	caller: instance (8 bytes), length (varint), record
//	callee: instance, length, record
//	caller: one byte 1: accepted
const protoRecord protocol.ID = "/tokenim/record/1"

// recordTimeout bounds the exchange; a connection without one is closed.
const recordTimeout = 10 * time.Second

// notifiee follows the connections of the host.
func (n *Network) notifiee() network.Notifiee {
	return &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			r := n.peers.get(c.RemotePeer())
			if r == nil {
				n.start(func() { _ = c.Close() })
				return
			}
			n.peers.open(r, c)
			n.start(func() { n.greet(r, c) })
		},
		DisconnectedF: func(_ network.Network, c network.Conn) {
			if r := n.peers.get(c.RemotePeer()); r != nil {
				n.peers.closed(r, c)
			}
		},
	}
}

// greet sees to it that the records are exchanged on a new connection; the side
// that dialed calls.
func (n *Network) greet(r *remote, c network.Conn) {
	var err error
	if c.Stat().Direction == network.DirOutbound {
		err = n.callRecord(r, c)
	} else if !n.peers.wait(n.ctx, r, recordTimeout, func(r *remote) bool {
		s := r.conns[c]
		return s == nil || s.complete
	}) {
		err = fmt.Errorf("no server record within %s", recordTimeout)
	}
	if err == nil {
		return
	}
	if n.ctx.Err() == nil && !c.IsClosed() {
		n.log.Warn("connection to a peer is closed: no exchange of server records", "peer", r.name, "err", err)
	}
	_ = c.Close()
}

// callRecord shows this node's record on a connection and takes the peer's.
func (n *Network) callRecord(r *remote, c network.Conn) error {
	ctx, cancel := context.WithTimeout(n.ctx, recordTimeout)
	defer cancel()
	s, err := c.NewStream(network.WithNoDial(ctx, "record"))
	if err != nil {
		return err
	}
	defer func() { _ = s.Reset() }() // without effect after Close on both sides
	_ = s.SetDeadline(time.Now().Add(recordTimeout))
	if err := s.SetProtocol(protoRecord); err != nil {
		return err
	}
	if err := msmux.SelectProtoOrFail(protoRecord, s); err != nil {
		return err
	}
	if err := n.writeHello(s); err != nil {
		return err
	}
	if err := n.readHello(bufio.NewReader(s), r, c); err != nil {
		return err
	}
	if _, err := s.Write([]byte{1}); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	n.peers.complete(r, c)
	// The callee closes when it has read the byte.
	_, _ = io.ReadFull(s, make([]byte, 1))
	return nil
}

// serveRecord is the callee's side.
func (n *Network) serveRecord(s network.Stream) {
	c := s.Conn()
	r := n.peers.get(c.RemotePeer())
	if r == nil {
		_ = s.Reset()
		return
	}
	_ = s.SetDeadline(time.Now().Add(recordTimeout))
	br := bufio.NewReader(s)
	err := n.readHello(br, r, c)
	if err == nil {
		err = n.writeHello(s)
	}
	if err == nil {
		var ack byte
		if ack, err = br.ReadByte(); err == nil && ack != 1 {
			err = fmt.Errorf("acknowledgement %d", ack)
		}
	}
	if err != nil {
		_ = s.Reset()
		if n.ctx.Err() == nil {
			n.log.Warn("connection to a peer is closed: exchange of server records failed", "peer", r.name, "err", err)
		}
		_ = c.Close()
		return
	}
	n.peers.complete(r, c)
	_ = s.Close()
}

func (n *Network) writeHello(w io.Writer) error {
	raw := n.keys.own().raw
	b := binary.BigEndian.AppendUint64(nil, n.instance)
	b = binary.AppendUvarint(b, uint64(len(raw)))
	_, err := w.Write(append(b, raw...))
	return err
}

// readHello takes the peer's record: its signatures, the peer id of the
// connection, the pinned name.
func (n *Network) readHello(br *bufio.Reader, r *remote, c network.Conn) error {
	var head [8]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	instance := binary.BigEndian.Uint64(head[:])
	size, err := binary.ReadUvarint(br)
	if err != nil {
		return err
	}
	if instance == 0 || size > maxRecordRaw {
		return fmt.Errorf("%w: %d bytes of instance %d", errRecord, size, instance)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(br, raw); err != nil {
		return err
	}
	rec, err := parseRecord(raw)
	if err != nil {
		return err
	}
	if rec.peer != c.RemotePeer() {
		return fmt.Errorf("%w: it is the record of peer %s, the connection is one with %s", errRecord, rec.PeerID, c.RemotePeer())
	}
	if rec.ServerName != r.name {
		n.log.Error("alarm: a pinned peer calls itself by another name", "peer", r.name, "other_name", rec.ServerName)
		return fmt.Errorf("%w: the peer is pinned as %s and calls itself %s", errRecord, r.name, rec.ServerName)
	}
	if err := n.keys.accept(rec); err != nil {
		return err
	}
	for _, dead := range n.peers.admit(r, c, instance) {
		n.start(func() { _ = dead.Close() })
	}
	return nil
}

// renewRecord makes a new record with the addresses of the moment.
func (n *Network) renewRecord() error {
	now := time.Now()
	seq, err := n.id.nextSeq(now)
	if err != nil {
		return fmt.Errorf("sequence number of the server record: %w", err)
	}
	addrs, err := n.dialableAddrs()
	if err != nil {
		n.log.Warn("the server record carries no addresses", "err", err)
		addrs = nil
	}
	texts := make([]string, 0, len(addrs))
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		texts = append(texts, a.String())
	}
	rec, err := newRecord(n.id, seq, texts, now)
	if err != nil {
		return err
	}
	n.keys.setOwn(rec)
	return nil
}

// renewLoop renews the own record halfway through its life and shows it to the
// connected peers. The hour is the grain: timers stop while a machine sleeps.
func (n *Network) renewLoop() {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		if time.Until(time.UnixMilli(n.keys.own().ValidUntil)) < recordLife/2 {
			n.renewAndShow()
		}
	}
}

func (n *Network) renewAndShow() {
	if err := n.renewRecord(); err != nil {
		n.log.Error("the server record cannot be renewed", "err", err)
		return
	}
	for _, r := range n.peers.all() {
		for _, c := range n.host.Network().ConnsToPeer(r.id) {
			n.start(func() {
				if err := n.callRecord(r, c); err != nil && n.ctx.Err() == nil {
					n.log.Warn("a peer did not take the renewed server record", "peer", r.name, "err", err)
				}
			})
		}
	}
}

// dialableAddrs returns what peers are told: announce, or the addresses this
// node listens on.
func (n *Network) dialableAddrs() ([]ma.Multiaddr, error) {
	if len(n.announce) > 0 {
		return n.announce, nil
	}
	addrs := n.host.Network().ListenAddresses()
	sortAddrs(addrs)
	return dialable(addrs)
}
