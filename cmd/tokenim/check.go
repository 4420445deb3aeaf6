package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// checkResult is what `check` prints.
type checkResult struct {
	OK     bool         `json:"ok"`
	Name   event.Server `json:"name"`
	Users  int          `json:"users"`
	Rooms  int          `json:"rooms"`
	Events int64        `json:"events"`
	Bytes  int64        `json:"bytes"`
	Error  string       `json:"error,omitempty"`
}

// checkCommand verifies the invariants of a store that no node has open.
func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify the data directory of a node that does not run",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			id, err := loadIdentity(cfg)
			if err != nil {
				return err
			}
			var info nodeInfo
			if err := callControl(cmd.Context(), cfg, "/node", nil, &info); err == nil {
				return fmt.Errorf("the node in %s runs with pid %d: stop it first", cfg.Data, info.PID)
			}
			result := checkResult{Name: id.Name}
			if !exists(cfg.path(storeDir)) { // never started: nothing can be wrong
				result.OK = true
				return printJSON(cmd.OutOrStdout(), result)
			}
			st, err := openStore(cfg, id.Name, newLogger(LogConfig{Level: "warn", Format: cfg.Log.Format}, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, st.Close()) }()
			var counts store.Counts
			err = st.View(func(tx *store.Tx) (err error) {
				counts, err = tx.Counts()
				return err
			})
			if err == nil {
				err = st.Check(cmd.Context())
			}
			result.OK = err == nil
			result.Users, result.Rooms = counts.Users, counts.Rooms
			result.Events, result.Bytes = counts.LocalEvents+counts.RemoteEvents, st.Size()
			if err != nil {
				result.Error = oneLine(err)
				err = fmt.Errorf("the data in %s is damaged: %w: restore a backup", cfg.Data, err)
			}
			return errors.Join(printJSON(cmd.OutOrStdout(), result), err)
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}
