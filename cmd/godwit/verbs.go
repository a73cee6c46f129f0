package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// verbs are the operator's commands: each asks the API once and prints the answer.
func verbs(o *output) []*cobra.Command {
	all := []*cobra.Command{newServersCommand(o), newHostsCommand(o), newMigrationsCommand(o), newMigrateCommand(o), newWhyCommand(o)}
	for _, c := range all {
		c.GroupID = groupOperate
	}
	return all
}

func newServersCommand(o *output) *cobra.Command {
	var own bool
	cmd := &cobra.Command{
		Use: "servers", Short: "List servers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client.Connect(cmd.Context())
			if err != nil {
				return err
			}
			servers, err := c.Servers(cmd.Context(), !own)
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "NAME", "STATUS", "TASK", "HOST", "VCPUS", "RAM MiB", "ADDRESSES"}}
			for _, s := range servers {
				t.add(s.ID, s.Name, s.Status, s.Task, s.Host, strconv.Itoa(s.Flavor.VCPUs), strconv.Itoa(s.Flavor.RAM), addresses(s))
			}
			return o.print(cmd.OutOrStdout(), servers, t)
		},
	}
	cmd.Flags().BoolVar(&own, "own", false, "only those of the credentials' project")
	return cmd
}

func addresses(s client.Server) string {
	var out []string
	for network, list := range s.Addresses {
		for _, a := range list {
			out = append(out, network+"="+a.Address)
		}
	}
	return strings.Join(out, ", ")
}

func newHostsCommand(o *output) *cobra.Command {
	return &cobra.Command{
		Use: "hosts", Short: "List hosts with what is free on them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client.Connect(cmd.Context())
			if err != nil {
				return err
			}
			hosts, err := c.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"HOST", "STATE", "ZONE", "VIRT", "SERVERS", "MOVES IN/OUT", "VCPUS FREE", "RAM FREE MiB", "DISK FREE GiB", "LIBVIRT", "QEMU"}}
			for _, h := range hosts {
				state := h.State
				if h.Disabled {
					state += ", disabled"
				}
				virt, libvirt, qemu := "", "", ""
				if h.Report != nil {
					virt, libvirt, qemu = h.Report.Virtualization, h.Report.LibvirtVersion, h.Report.QEMUVersion
				}
				free, capacity := h.Room.Free, h.Room.Capacity
				t.add(string(h.Name), state, h.AvailabilityZone, virt, strconv.Itoa(h.Servers), fmt.Sprintf("%d/%d", h.MovesIn, h.MovesOut),
					of(free.VCPUs, capacity.VCPUs), of(free.RAMMiB, capacity.RAMMiB), of(free.DiskGiB, capacity.DiskGiB), libvirt, qemu)
			}
			return o.print(cmd.OutOrStdout(), hosts, t)
		},
	}
}

func of(part, whole int) string { return fmt.Sprintf("%d of %d", part, whole) }

func newMigrationsCommand(o *output) *cobra.Command {
	return &cobra.Command{
		Use: "migrations [SERVER]", Short: "List migrations, of all servers or one", Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client.Connect(cmd.Context())
			if err != nil {
				return err
			}
			server := ""
			if len(args) == 1 {
				found, err := c.FindServer(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				server = found.ID
			}
			list, err := c.Migrations(cmd.Context(), server)
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "UUID", "SERVER", "TYPE", "FROM", "TO", "STATUS", "CREATED"}}
			for _, m := range list {
				t.add(strconv.Itoa(m.ID), m.UUID, m.Server, m.Type, m.Source, m.Target, m.Status, m.Created)
			}
			return o.print(cmd.OutOrStdout(), list, t)
		},
	}
}

func newWhyCommand(o *output) *cobra.Command {
	return &cobra.Command{
		Use: "why SERVER", Short: "Say why a server is where it is, host by host", Args: cobra.ExactArgs(1), ValidArgsFunction: completeServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client.Connect(cmd.Context())
			if err != nil {
				return err
			}
			s, err := c.FindServer(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			decisions, err := c.Decisions(cmd.Context(), s.ID)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if o.json() {
				return printJSON(w, decisions)
			}
			fmt.Fprintf(w, "server %s (%s) is %s on host %s\n", s.Name, s.ID, s.Status, orDash(s.Host))
			for _, d := range decisions {
				fmt.Fprintf(w, "\n%s, %s: %s\n%s", d.At.Local().Format(time.DateTime), d.Purpose, choice(d), placement.Explain(d.Verdicts))
			}
			return nil
		},
	}
}

func choice(d cloud.Decision) string {
	if d.Chosen == "" {
		return "no host fitted"
	}
	return "chose " + string(d.Chosen)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// completeMax bounds what a press of the tab key may wait for.
const completeMax = 2 * time.Second

// completeServer offers server names for the first argument.
func completeServer(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completed(cmd, func(ctx context.Context, c *client.Client) (out []string, err error) {
		servers, err := c.Servers(ctx, true)
		for _, s := range servers {
			out = append(out, s.Name+"\t"+s.Status+" on "+orDash(s.Host))
		}
		return out, err
	})
}

// completeHost offers host names.
func completeHost(cmd *cobra.Command) ([]string, cobra.ShellCompDirective) {
	return completed(cmd, func(ctx context.Context, c *client.Client) (out []string, err error) {
		hosts, err := c.Hosts(ctx)
		for _, h := range hosts {
			out = append(out, string(h.Name)+"\t"+h.State)
		}
		return out, err
	})
}

func completed(cmd *cobra.Command, list func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeMax)
	defer cancel()
	c, err := client.Connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, err := list(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
