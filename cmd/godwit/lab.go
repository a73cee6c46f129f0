package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/lab"
)

// labs is what the lab commands share.
type labs struct {
	out  *output
	file *string
}

func newLabCommand(o *output, file *string) *cobra.Command {
	l := &labs{out: o, file: file}
	cmd := &cobra.Command{
		Use: "lab", Short: "Real hosts on this machine: namespaces with libvirtd and agent (root)", GroupID: groupRun,
	}
	config.AddFlags(cmd.PersistentFlags(), "lab")
	cmd.AddCommand(l.up(), l.down(), l.status(), l.exec(), l.power("poweroff", "Cut a node's power"), l.power("poweron", "Power a node on"), labInit(), labBMCs(), labChassis(), labCards())
	return cmd
}

// labInit is what nodes run as their first process; people have no use for it.
func labInit() *cobra.Command {
	return &cobra.Command{
		Use: "init SPEC", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return lab.RunInit(args[0]) },
	}
}

// labBMCs is what a lab's BMCs run in, labChassis what they run; people have no use for either.
func labBMCs() *cobra.Command {
	return &cobra.Command{
		Use: "bmcs LAB", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return lab.RunBMCs(cmd.Context(), args[0]) },
	}
}

func labChassis() *cobra.Command {
	return &cobra.Command{
		Use: "chassis LAB NODE ARG...", Hidden: true, Args: cobra.MinimumNArgs(3), DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return lab.RunChassis(cmd.Context(), args[0], args[1], args[2:], cmd.OutOrStdout())
		},
	}
}

func (l *labs) config(cmd *cobra.Command) (config.Lab, error) {
	c, err := loadConfig(cmd, *l.file, "lab")
	if err != nil {
		return config.Lab{}, err
	}
	return c.Lab, c.Validate()
}

// load finds the running lab.
func (l *labs) load(cmd *cobra.Command) (*lab.Lab, error) {
	c, err := l.config(cmd)
	if err != nil {
		return nil, err
	}
	found, err := lab.Load(c.Name)
	if errors.Is(err, lab.ErrNoLab) {
		return nil, cloud.Errorf(cloud.KindNotFound, "%w: bring one up with `godwit lab up`", err)
	}
	return found, err
}

func (l *labs) up() *cobra.Command {
	var bare bool
	cmd := &cobra.Command{
		Use: "up", Short: "Bring a lab up: a server, compute hosts and storage", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := l.config(cmd)
			if err != nil {
				return err
			}
			if bare {
				c.Storage, c.Gluster, c.Shared = 0, false, false
			}
			began := time.Now()
			progress := func(line string) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%5.1fs  %s\n", time.Since(began).Seconds(), line)
			}
			up, err := lab.Up(cmd.Context(), lab.Options{
				Name: c.Name, Hosts: c.Hosts, Storage: c.Storage, Gluster: c.Gluster, Shared: c.Shared, BMC: c.BMC, WakeOnLAN: true, APIPort: c.APIPort, BareHosts: bare, Progress: progress,
			})
			if errors.Is(err, lab.ErrExists) {
				return cloud.Errorf(cloud.KindConflict, "%w: take it down with `godwit lab down` first", err)
			}
			if err != nil {
				return err
			}
			if c.BMC && !bare {
				if err := introduceBMCs(cmd.Context(), up); err != nil {
					return fmt.Errorf("the lab is up, and its BMCs are not known to the server: %w", err)
				}
				progress("BMCs known to the server: a dead host is turned off before its servers start elsewhere")
			}
			return l.show(cmd.Context(), cmd.OutOrStdout(), up)
		},
	}
	cmd.Flags().BoolVar(&bare, "bare", false, "only hosts with libvirtd, no server and no agents")
	return cmd
}

func (l *labs) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Take the lab down and leave nothing behind", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := l.config(cmd)
			if err != nil {
				return err
			}
			if err := lab.Down(cmd.Context(), c.Name); err != nil || !l.out.json() {
				return err
			}
			return printJSON(cmd.OutOrStdout(), map[string]any{"name": c.Name, "down": true})
		},
	}
}

func (l *labs) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the lab's nodes and daemons", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := l.load(cmd)
			if err != nil {
				return err
			}
			return l.show(cmd.Context(), cmd.OutOrStdout(), found)
		},
	}
}

func (l *labs) show(ctx context.Context, w io.Writer, found *lab.Lab) error {
	st, err := found.Status(ctx)
	if err != nil {
		return err
	}
	t := table{header: []string{"NODE", "POWER", "PID", "MGMT", "DATA", "DAEMONS"}}
	for _, n := range st.Nodes {
		power, pid := "off", ""
		if n.On {
			power, pid = "on", strconv.Itoa(n.PID)
		}
		var units []string
		for _, u := range n.Units {
			units = append(units, u.Name+" "+string(u.State))
		}
		if n.Problem != "" {
			units = append(units, n.Problem)
		}
		t.add(n.Name, power, pid, n.Mgmt, n.Data, strings.Join(units, ", "))
	}
	if err := l.out.print(w, st, t); err != nil || l.out.json() || st.API == "" {
		return err
	}
	_, err = fmt.Fprintf(w, "\nAPI %s\nsource %s\n", st.API, found.Path(lab.Controller, openrcInLab))
	return err
}

// openrcInLab is where the lab's server, which keeps the default bootstrap directory, leaves its credentials.
const openrcInLab = "/var/lib/godwit/openrc"

func (l *labs) exec() *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE -- COMMAND [ARG...]", Short: "Run a command inside a node", Args: cobra.MinimumNArgs(2),
		ValidArgsFunction: l.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := l.load(cmd)
			if err != nil {
				return err
			}
			return passed(found.Exec(cmd.Context(), args[0], args[1:], lab.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
		},
	}
}

// passed makes the status of a command that ran for the user our own, as a shell does; the command has said what there was to say.
func passed(err error) error {
	var child *exec.ExitError
	if !errors.As(err, &child) {
		return err
	}
	const signalled = 128 // what shells add to the number of the signal
	if ws, ok := child.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return &exitStatus{signalled + int(ws.Signal())}
	}
	return &exitStatus{child.ExitCode()}
}

func (l *labs) power(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NODE", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: l.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := l.load(cmd)
			if err != nil {
				return err
			}
			on := verb == "poweron"
			if on {
				err = found.PowerOn(cmd.Context(), args[0])
			} else {
				err = found.PowerOff(cmd.Context(), args[0])
			}
			if err != nil || !l.out.json() {
				return err
			}
			return printJSON(cmd.OutOrStdout(), map[string]any{"name": args[0], "on": on})
		},
	}
}

func (l *labs) completeNodes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	found, err := l.load(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found.Nodes(), cobra.ShellCompDirectiveNoFileComp
}

// labCards is what the network cards of a lab's nodes run in; people have no use for it.
func labCards() *cobra.Command {
	return &cobra.Command{
		Use: "cards LAB", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return lab.RunCards(cmd.Context(), args[0]) },
	}
}
