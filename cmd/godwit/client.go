package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/lab"
)

// verbs are the operator's commands: each asks the API and prints the answer.
func verbs(o *output) []*cobra.Command {
	a := &access{out: o, lab: labOpenrc}
	all := []*cobra.Command{
		newServersCommand(a), newHostsCommand(a), newMigrationsCommand(a), newMigrateCommand(a), newAbortCommand(a), newWhyCommand(a), newRecoverCommand(a),
		newOptimizeCommand(a), newAccountingCommand(a), newStorageCommand(a), newDoctorCommand(a),
	}
	for _, c := range all {
		c.GroupID = groupOperate
		c.Flags().StringVar(&a.cloud, "os-cloud", "", "cloud of clouds.yaml to use (OS_CLOUD)")
	}
	return all
}

// access is how verbs reach the API.
type access struct {
	out   *output
	cloud string // --os-cloud
	// lab returns the credentials of a lab on this machine, if there is one and the caller may read them.
	lab func() (openrc string, ok bool)
}

// connect logs in with --os-cloud, the environment, or, when these say nothing, as the administrator of this machine's lab, which notice is told.
func (a *access) connect(ctx context.Context, notice io.Writer) (*client.Client, error) {
	c, err := client.Connect(ctx, client.Credentials{Cloud: a.cloud})
	if !errors.Is(err, client.ErrNoCredentials) {
		return c, err
	}
	openrc, ok := a.lab()
	if !ok {
		return nil, err
	}
	environ, err := client.Openrc(openrc)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(notice, "godwit: no credentials given: using those of the lab on this machine (source %s)\n", openrc); err != nil {
		return nil, err
	}
	return client.Connect(ctx, client.Credentials{Environ: environ})
}

// labNameVariable names the lab that commands mean; it is the setting lab.name.
const labNameVariable = "GODWIT_LAB_NAME"

// labOpenrc finds the openrc of the lab that commands mean when they name none. Only root may read it.
func labOpenrc() (string, bool) {
	if os.Geteuid() != 0 {
		return "", false
	}
	l, err := lab.Load(cmp.Or(os.Getenv(labNameVariable), lab.DefaultName))
	if err != nil {
		return "", false
	}
	path := l.Path(lab.Controller, openrcInLab)
	_, err = os.Stat(path)
	return path, err == nil
}

// run makes a RunE that logs in first.
func (a *access) run(f func(cmd *cobra.Command, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context(), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return f(cmd, c, args)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
