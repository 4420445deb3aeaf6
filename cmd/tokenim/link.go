package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// linkCommand prints the link under which other nodes pin this one.
func linkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link",
		Short: "Print the link with which other nodes pin this one",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			link, err := ownLink(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), link.String())
			return err
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}
