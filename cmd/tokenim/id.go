package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tokenim/tokenim/federation"
	"github.com/tokenim/tokenim/node/event"
)

// idCommand prints who the node is, whether it runs or not.
func idCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "id",
		Short: "Print the node's name, peer id and addresses",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			link, err := ownLink(cmd.Context(), cfg)
			if link.Name == "" {
				return err
			}
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: no addresses:", oneLine(err))
			}
			return printJSON(cmd.OutOrStdout(), struct {
				Name      event.Server `json:"name"`
				PeerID    string       `json:"peer_id"`
				Addresses []string     `json:"addresses"`
			}{link.Name, link.PeerID, withPeerID(link.Addrs, link.PeerID)})
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}

// ownLink returns the link of the node of the data directory: from the node if
// it runs, otherwise from its identity and configuration. If only the addresses
// cannot be known, the link is returned without them beside the error. The
// store is never opened.
func ownLink(ctx context.Context, cfg Config) (federation.Link, error) {
	id, err := loadIdentity(cfg)
	if err != nil {
		return federation.Link{}, err
	}
	var info nodeInfo
	err = callControl(ctx, cfg, "/node", nil, &info)
	if err == nil {
		return federation.ParseLink(info.Link)
	}
	link := federation.Link{Name: id.Name, PeerID: id.PeerID()}
	if !errors.Is(err, errNotRunning) {
		return link, err
	}
	listen, err := p2pAddrs(cfg.P2P.Listen)
	if err != nil {
		return link, err
	}
	announce, err := p2pAddrs(cfg.P2P.Announce)
	if err != nil {
		return link, err
	}
	link.Addrs, err = federation.Addresses(cfg.Data, listen, announce)
	return link, err
}

// printJSON writes one JSON object on one line.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
