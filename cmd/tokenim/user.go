package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tokenim/tokenim/node/account"
	"github.com/tokenim/tokenim/node/event"
	"github.com/tokenim/tokenim/store"
)

// userCommand manages accounts.
func userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Manage accounts", Args: onlyCommands, RunE: needCommand}
	cmd.AddCommand(userCreateCommand())
	return cmd
}

// userCreateCommand makes an account, beside a running node or without one.
func userCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an account and print its id, and its password unless you give one",
		Args:  oneArg("user name"),
	}
	admin := cmd.Flags().Bool("admin", false, "make an administrator")
	fromStdin := cmd.Flags().Bool("password-stdin", false, "read the password from the first line of standard input")
	addConfigFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := loadConfig(cmd.Flags())
		if err != nil {
			return err
		}
		req := userRequest{Name: args[0], Admin: *admin}
		if *fromStdin {
			if req.Password, err = readPassword(cmd.InOrStdin()); err != nil {
				return err
			}
		} else {
			req.Password = rand.Text()
		}
		id, err := makeUser(cmd.Context(), cfg, req, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		out := struct {
			UserID   event.UserID `json:"user_id"`
			Password string       `json:"password,omitempty"`
		}{UserID: id}
		if !*fromStdin {
			out.Password = req.Password
		}
		return printJSON(cmd.OutOrStdout(), out)
	}
	return cmd
}

// readPassword returns the first line.
func readPassword(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("password from standard input: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("password from standard input: the first line is empty")
	}
	return line, nil
}

// makeUser makes an account through the running node, or in the store if none runs.
func makeUser(ctx context.Context, cfg Config, req userRequest, stderr io.Writer) (event.UserID, error) {
	id, err := loadIdentity(cfg)
	if err != nil {
		return "", err
	}
	var answer userAnswer
	err = callControl(ctx, cfg, "/users", req, &answer)
	if !errors.Is(err, errNotRunning) {
		return answer.UserID, err
	}
	log := newLogger(LogConfig{Level: "warn", Format: cfg.Log.Format}, stderr)
	st, err := openStore(cfg, id.Name, log)
	if errors.Is(err, store.ErrLocked) {
		return "", fmt.Errorf("%w (it does not answer on its control socket: if it is starting or ending, try again)", err)
	}
	if err != nil {
		return "", err
	}
	user, err := createUser(ctx, newAccounts(cfg, id, st, log), req)
	if err == nil {
		err = keepTokenFile(cfg, "")
	}
	return user, errors.Join(err, st.Close())
}

// createUser makes an account.
func createUser(ctx context.Context, accounts *account.Accounts, req userRequest) (event.UserID, error) {
	role := "user"
	if req.Admin {
		role = "administrator"
	}
	id, err := accounts.Create(ctx, account.NewUser{Localpart: req.Name, Password: req.Password, Role: role})
	if err != nil {
		return "", fmt.Errorf("user %s: %w", req.Name, err)
	}
	return id, nil
}
