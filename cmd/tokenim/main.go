// Command tokenim runs and manages a TokenIM node: one file per command, and
// app.go, which puts the packages below together.
//
// Results go to standard output, one line or one JSON object; everything else
// goes to standard error. The exit status is 0, 1 for a failure, which one line
// explains, or 2 for wrong usage.
//
// Goroutines of a running node, all owned and awaited by app.Run: the network,
// the node, the HTTP server, the control socket's server, and one that begins
// the shutdown. `demo` adds one app per organization and the conversation.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the node cleanly, a second one at once.
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit status.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "tokenim:", oneLine(err))
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// oneLine returns the text of an error without line breaks.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

// rootCommand returns the whole command line.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "tokenim",
		Short:             "Group messaging for organizations, federated over libp2p",
		Long:              "TokenIM runs one node of an organization. Its users log in with any Matrix client;\nits groups are shared with the nodes of other organizations.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              onlyCommands,
		RunE:              needCommand,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see `%s --help`", err, cmd.CommandPath())}
	})
	root.SetHelpCommand(helpCommand())
	root.AddCommand(serveCommand(), demoCommand(), initCommand(), idCommand(), linkCommand(), peerCommand(),
		userCommand(), configCommand(), checkCommand(), versionCommand())
	return root
}

// helpCommand explains a command. Unlike cobra's own it does not succeed for
// commands that do not exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageError{fmt.Errorf("unknown command %q: see `%s --help`", strings.Join(args, " "), cmd.Root().Name())}
			}
			return found.Help()
		},
	}
}

// onlyCommands refuses the arguments of a command that has only commands below it.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unknown command %q: see `%s --help`", args[0], cmd.CommandPath())}
	}
	return nil
}

// needCommand is what such a command does without arguments.
func needCommand(cmd *cobra.Command, args []string) error {
	return usageError{fmt.Errorf("no command given: see `%s --help`", cmd.CommandPath())}
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q: see `%s --help`", args[0], cmd.CommandPath())}
	}
	return nil
}

// oneArg wants exactly one argument, called what in the message.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usageError{fmt.Errorf("no %s given: see `%s --help`", what, cmd.CommandPath())}
		case len(args) > 1:
			return usageError{fmt.Errorf("unexpected argument %q: see `%s --help`", args[1], cmd.CommandPath())}
		}
		return nil
	}
}
