package main

import (
	"github.com/spf13/cobra"

	"github.com/tokenim/tokenim/node/event"
)

// initCommand makes a data directory. Doing it again changes nothing.
func initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a data directory: keys, name and configuration file",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			id, err := initData(cfg, givenKeys(cmd.Flags()))
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), struct {
				Name   event.Server `json:"name"`
				PeerID string       `json:"peer_id"`
				Data   string       `json:"data"`
			}{id.Name, id.PeerID(), cfg.Data})
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}
