// Command godwit is the whole of godwit in one binary: the server, the agent of a compute host, the lab, and the operator's verbs.
//
// It holds wiring only. Each subcommand has its own file; what it does lives in a package.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker (see the Makefile).
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	began := false // whether a command got as far as running: an error before that is one of the command line
	root := newRoot(&began)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return
	}
	if !began {
		err = usageError{err}
	}
	var quiet *exitStatus
	if !errors.As(err, &quiet) {
		fmt.Fprintln(os.Stderr, "godwit:", err)
	}
	os.Exit(exitCode(err)) //nolint:gocritic // stop has nothing left to do when the process ends
}

func newRoot(began *bool) *cobra.Command {
	o := &output{}
	var configFile string
	root := &cobra.Command{
		Use:           "godwit",
		Short:         "Live migration that never stops, behind OpenStack's API",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.PersistentFlags().StringVarP(&o.format, "output", "o", "table", "table or json")
	root.PersistentFlags().StringVar(&configFile, "config", "", "configuration file (default /etc/godwit/godwit.yaml, GODWIT_CONFIG)")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if err := o.check(); err != nil {
			return err
		}
		*began = true
		return nil
	}
	if err := root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined two lines up
	}
	root.AddGroup(
		&cobra.Group{ID: groupOperate, Title: "Operate a cloud (reads OS_* or clouds.yaml):"},
		&cobra.Group{ID: groupRun, Title: "Run a cloud:"},
	)
	root.AddCommand(
		newServerCommand(&configFile), newAgentCommand(&configFile), newVolumesCommand(o, &configFile), newLabCommand(o, &configFile), newConfigCommand(o, &configFile),
		newSimulateCommand(o),
		newVersionCommand(o),
	)
	root.AddCommand(verbs(o)...)
	return root
}

// The groups of `godwit help`.
const (
	groupOperate = "operate"
	groupRun     = "run"
)
