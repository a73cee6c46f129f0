package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/operator"
)

func newHostsCommand(a *access) *cobra.Command {
	cmd := &cobra.Command{
		Use: "hosts [HOST]", Short: "List hosts with what is free on them, or show one", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeHost,
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if len(args) == 1 {
				h, err := c.Host(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printHost(cmd.OutOrStdout(), h)
			}
			hosts, err := c.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.out.print(cmd.OutOrStdout(), hosts, hostTable(hosts...)); err != nil {
				return err
			}
			return a.warnOfSpareRoom(cmd, c)
		}),
	}
	cmd.AddCommand(newBMCCommand(a))
	cmd.AddCommand(powerCommands(a)...)
	return cmd
}

func hostTable(hosts ...operator.Host) table {
	t := table{header: []string{"HOST", "STATE", "ZONE", "VIRT", "SERVERS", "MOVES IN/OUT", "VCPUS FREE", "RAM FREE MiB", "DISK FREE GiB", "LIBVIRT", "QEMU"}}
	for _, h := range hosts {
		state := h.State
		if v := h.Verdict; v != nil && v.Verdict != "alive" {
			state += ", " + verdictText(v)
		}
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
	return t
}

func of(part, whole int) string { return fmt.Sprintf("%d of %d", part, whole) }

// printHost shows a host with its claims and the moves that touch it.
func (a *access) printHost(w io.Writer, h operator.HostDetail) error {
	if err := a.out.print(w, h, hostTable(h.Host)); err != nil || a.out.json() {
		return err
	}
	if p := h.Power; p != nil {
		fmt.Fprintf(w, "\npower: %s\n", powerText(*p))
	}
	if h.DisabledReason != "" {
		fmt.Fprintf(w, "\ndisabled: %s\n", h.DisabledReason)
	}
	if len(h.Claims) > 0 {
		t := table{header: []string{"CLAIMED BY", "VCPUS", "RAM MiB", "DISK GiB", "MOVE"}}
		for _, id := range slices.Sorted(maps.Keys(h.Claims)) {
			c := h.Claims[id]
			t.add(string(c.Server), strconv.Itoa(c.Resources.VCPUs), strconv.Itoa(c.Resources.RAMMiB), strconv.Itoa(c.Resources.DiskGiB), string(c.Migration))
		}
		fmt.Fprintln(w)
		if err := a.out.print(w, nil, t); err != nil {
			return err
		}
	}
	if len(h.Migrations) > 0 {
		fmt.Fprintln(w)
		return a.out.print(w, nil, migrationTable(h.Migrations))
	}
	return nil
}
