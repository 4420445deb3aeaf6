package main

import (
	"fmt"
	"io"
	"net"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// serveCommand runs a node until it is told to end.
func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node; makes its data directory and identity on the first start",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			stderr := cmd.ErrOrStderr()
			return run(cmd.Context(), cfg, givenKeys(cmd.Flags()), newLogger(cfg.Log, stderr), func(a *app) { a.greet(stderr) })
		},
	}
	addConfigFlags(cmd.Flags())
	return cmd
}

// givenKeys returns the keys that a new data directory's configuration file
// gets: those of the flags given, except the directory itself. It is nil with
// --config: the configuration is that file then.
func givenKeys(flags *pflag.FlagSet) map[string]bool {
	if flags.Changed("config") {
		return nil
	}
	given := map[string]bool{}
	for flag, key := range keyFlags {
		if flags.Changed(flag) && key != "data" {
			given[key] = true
		}
	}
	return given
}

// url returns the address for clients.
func (a *app) url() string {
	if a.cfg.HTTP.PublicURL != "" {
		return a.cfg.HTTP.PublicURL
	}
	host, port, err := net.SplitHostPort(a.listener.Addr().String())
	if err != nil {
		return "http://" + a.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// greet tells the operator what runs and what to do next.
func (a *app) greet(w io.Writer) {
	a.log.Info("node is up", "name", a.identity.Name, "url", a.url(), "listen", a.listener.Addr().String(), "p2p", a.network.Addrs())
	link := "unknown: "
	if l, err := a.network.Link(); err != nil {
		link += oneLine(err)
	} else {
		link = l.String()
	}
	fmt.Fprintf(w, "\nTokenIM node %s\n  Clients connect to   %s\n  Link for other nodes %s\n", a.identity.Name, a.url(), link)
	fmt.Fprintf(w, "  Another organization pins this node with `tokenim peer add LINK`; do the same here with its link.\n")
	if a.firstToken != "" {
		fmt.Fprintf(w, "\n  There is no administrator yet. Register with a Matrix client at the address above and this one-time token;\n"+
			"  who uses it becomes the administrator:\n\n    %s\n\n  It is also in %s. Or run `tokenim user create NAME --admin`.\n", a.firstToken, a.cfg.path(tokenFile))
	}
	fmt.Fprintln(w)
}
