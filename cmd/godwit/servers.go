package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
)

func newServersCommand(a *access) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "servers [SERVER]", Short: "List servers, or show one", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeServer,
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if len(args) == 1 {
				s, err := c.FindServer(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printServer(cmd, s)
			}
			servers, err := c.Servers(cmd.Context(), client.ServerQuery{All: all})
			if err != nil {
				return err
			}
			return a.out.print(cmd.OutOrStdout(), servers, serverTable(servers...))
		}),
	}
	cmd.Flags().BoolVarP(&all, "all-projects", "a", false, "servers of all projects (administrators)")
	return cmd
}

func (a *access) printServer(cmd *cobra.Command, s client.Server) error {
	w := cmd.OutOrStdout()
	if err := a.out.print(w, s, serverTable(s)); err != nil || a.out.json() || s.Fault == nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nfault: %s\n", s.Fault.Message)
	return err
}

func serverTable(servers ...client.Server) table {
	t := table{header: []string{"ID", "NAME", "STATUS", "TASK", "HOST", "VCPUS", "RAM MiB", "ADDRESSES"}}
	for _, s := range servers {
		t.add(s.ID, s.Name, s.Status, s.Task, s.Host, strconv.Itoa(s.Flavor.VCPUs), strconv.Itoa(s.Flavor.RAM), addresses(s))
	}
	return t
}

// addresses are "network=address", sorted.
func addresses(s client.Server) string {
	var out []string
	for network, list := range s.Addresses {
		for _, a := range list {
			out = append(out, network+"="+a.Address)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
