package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/tokenim/tokenim/api/admin"
	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/node/event"
)

// peerCommand manages pinned peers. It works on their files, which a running
// node watches.
func peerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "peer", Short: "Manage pinned peers", Args: onlyCommands, RunE: needCommand}
	cmd.AddCommand(peerAddCommand(), peerRemoveCommand(), peerListCommand())
	return cmd
}

// peerOut is a peer as commands print it.
type peerOut struct {
	Name      event.Server `json:"name"`
	PeerID    string       `json:"peer_id,omitempty"`
	State     string       `json:"state,omitempty"`
	Addresses []string     `json:"addresses,omitempty"`
}

func peerAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add LINK",
		Short: "Pin the node whose `tokenim link` printed LINK",
		Args:  oneArg("link"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			link, err := federation.ParseLink(args[0])
			if err != nil {
				return err
			}
			id, err := loadIdentity(cfg)
			if err != nil {
				return err
			}
			switch {
			case link.PeerID == id.PeerID():
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: this is the node's own link; nothing to do")
			case link.Name == id.Name:
				return fmt.Errorf("the link has this node's own name %s, but another key: one of the two needs another name", id.Name)
			default:
				if err := pinPeer(cfg, link); err != nil {
					return err
				}
			}
			return printJSON(cmd.OutOrStdout(), peerOut{Name: link.Name, PeerID: link.PeerID})
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}

func peerRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Unpin a peer: it is disconnected and stays out, its history stays",
		Args:  oneArg("peer name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			name, err := event.ParseServer(args[0])
			if err != nil {
				return fmt.Errorf("peer name %q: %w", args[0], err)
			}
			if _, err := loadIdentity(cfg); err != nil {
				return err
			}
			removed, err := unpinPeer(cfg, name)
			if err != nil {
				return err
			}
			if !removed {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s was not pinned; nothing to do\n", name)
			}
			return printJSON(cmd.OutOrStdout(), peerOut{Name: name})
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}

func peerListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print the pinned peers, with their state if the node runs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			if _, err := loadIdentity(cfg); err != nil {
				return err
			}
			out := struct {
				Peers []peerOut `json:"peers"`
			}{[]peerOut{}}
			var running []event.Peer
			err = callControl(cmd.Context(), cfg, "/peers", nil, &running)
			switch {
			case err == nil:
				for _, p := range running {
					out.Peers = append(out.Peers, peerOut{p.Name, p.PeerID, p.State, p.Addresses})
				}
			case !errors.Is(err, errNotRunning):
				return err
			default:
				links, err := pinnedLinks(cfg)
				if err != nil {
					return err
				}
				for _, l := range links {
					out.Peers = append(out.Peers, peerOut{l.Name, l.PeerID, "disconnected", l.Addrs})
				}
			}
			return printJSON(cmd.OutOrStdout(), out)
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}

// pinnedPeers gives the administrator's API the network's peers.
type pinnedPeers struct{ network *federation.Network }

var _ admin.Peers = pinnedPeers{}

// AddPeer implements admin.Peers.
func (p pinnedPeers) AddPeer(link string) (event.Peer, error) {
	l, err := p.network.AddPeer(link)
	if err != nil {
		return event.Peer{}, peersError(err)
	}
	return event.Peer{Name: l.Name, PeerID: l.PeerID, Addresses: l.Addrs}, nil
}

// RemovePeer implements admin.Peers.
func (p pinnedPeers) RemovePeer(name event.Server) error {
	return peersError(p.network.RemovePeer(name))
}

// peersError gives the network's errors the names that the API knows.
func peersError(err error) error {
	switch {
	case errors.Is(err, federation.ErrLink), errors.Is(err, federation.ErrPinned):
		return fmt.Errorf("%w: %w", admin.ErrLink, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", admin.ErrUnknownPeer, err)
	}
	return err
}

// Peers implements admin.Peers.
func (p pinnedPeers) Peers() []event.Peer { return p.network.Peers() }
