package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

func newRecoverCommand(a *access) *cobra.Command {
	cmd := &cobra.Command{
		Use: "recover", Short: "What was done about dead hosts, and an operator's word on it",
		Long: "The servers of a host that is dead start elsewhere by themselves, when something proves that their old copies can do no harm.\n" +
			"When too many hosts fall silent at once the brake is on and a person is asked; `allow` answers for one host.",
	}
	cmd.AddCommand(a.recoverStatus(), a.recoverAllow(), a.recoverHold())
	return cmd
}

func (a *access) recoverStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status [HOST]", Short: "List recoveries, or show one host's with each server's outcome", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeHost,
		Example: "  godwit recover status\n  godwit recover status compute-2",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if len(args) == 1 {
				life, err := c.HostLife(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printLife(cmd.OutOrStdout(), life)
			}
			all, err := c.Recoveries(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.out.print(cmd.OutOrStdout(), all, recoveryTable(all)); err != nil {
				return err
			}
			return a.warnOfSpareRoom(cmd, c)
		}),
	}
}

// warnOfSpareRoom says that the fleet could not lose its largest hosts, when that is so. JSON has it at spare-room instead.
func (a *access) warnOfSpareRoom(cmd *cobra.Command, c *client.Client) error {
	if a.out.json() {
		return nil
	}
	room, err := c.SpareRoom(cmd.Context())
	if err != nil || !room.Short() {
		return err
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "\nshort of spare room since %s: %s\n", room.Since.Local().Format(time.DateTime), room.Describe())
	for _, s := range room.Named {
		fmt.Fprintf(w, "  - %s on %s: %s\n", s.Server, s.Host, s.Reason)
	}
	return nil
}

func recoveryTable(all []cloud.Recovery) table {
	t := table{header: []string{"BEGAN", "HOST", "STATUS", "RECOVERED", "FAILED", "LEFT", "WAITING", "TOOK", "REASON"}}
	for _, r := range all {
		n := map[cloud.RecoveryOutcome]int{}
		for _, s := range r.Servers {
			n[s.Outcome]++
		}
		took := ""
		if !r.Ended.IsZero() {
			took = r.Ended.Sub(r.Began).Round(100 * time.Millisecond).String()
		}
		t.add(r.Began.Local().Format(time.DateTime), string(r.Host), string(r.Status), strconv.Itoa(n[cloud.RecoveryRecovered]), strconv.Itoa(n[cloud.RecoveryFailed]),
			strconv.Itoa(n[cloud.RecoveryLeft]), strconv.Itoa(n[cloud.RecoveryWaiting]+n[cloud.RecoveryMoving]), took, r.Reason)
	}
	return t
}

func (a *access) recoverAllow() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "allow HOST", Short: "Let a silent host's recovery go on although the brake is on", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Long: "Without --yes it only says what is believed of the host and changes nothing. With it, the host is recovered as soon as the evidence is complete,\n" +
			"however many others are silent. It is no fence: a server still waits for a proof that its old copy can do no harm. To say that a host is off,\n" +
			"force it down (openstack compute service set --down HOST nova-compute).",
		Example: "  godwit recover allow compute-2\n  godwit recover allow compute-2 --yes",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if yes {
				if err := c.AllowRecovery(cmd.Context(), args[0], true); err != nil {
					return err
				}
			}
			life, err := c.HostLife(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := a.printLife(cmd.OutOrStdout(), life); err != nil || yes || a.out.json() {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "\nnothing was changed; --yes lets its recovery go on")
			return err
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func (a *access) recoverHold() *cobra.Command {
	return &cobra.Command{
		Use: "hold HOST", Short: "Take an allowance back; what was begun goes on", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeHost,
		Example: "  godwit recover hold compute-2",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			return c.AllowRecovery(cmd.Context(), args[0], false)
		}),
	}
}

// verdictText says a verdict in a few words.
func verdictText(v *cloud.HostVerdict) string {
	switch {
	case v.Isolated:
		return v.Verdict + " (it lives, its agent is not heard)"
	case v.Brake != "":
		return v.Verdict + " (the brake is on)"
	case v.Forced:
		return v.Verdict + " (an operator's word)"
	}
	return v.Verdict
}

// printLife shows what is believed of a host and what was done about it.
func (a *access) printLife(w io.Writer, l operator.HostLife) error {
	if a.out.json() {
		return printJSON(w, l)
	}
	if l.Verdict == nil {
		_, err := fmt.Fprintf(w, "%s is alive: it was never silent for long\n", l.Host)
		return err
	}
	fmt.Fprintf(w, "%s is %s since %s\n", l.Host, verdictText(l.Verdict), l.Verdict.Since.Local().Format(time.DateTime))
	for _, e := range l.Verdict.Evidence {
		fmt.Fprintf(w, "  - %s\n", e)
	}
	if l.Verdict.Brake != "" {
		fmt.Fprintf(w, "  brake: %s\n", l.Verdict.Brake)
	}
	if l.Permit != nil {
		fmt.Fprintf(w, "  allowed past the brake at %s\n", l.Permit.At.Local().Format(time.DateTime))
	}
	for _, r := range l.Recoveries[:min(len(l.Recoveries), recoveriesShown)] {
		if err := a.printRecovery(w, r); err != nil {
			return err
		}
	}
	return nil
}

// recoveriesShown is how many of a host's recoveries are printed.
const recoveriesShown = 3

func (a *access) printRecovery(w io.Writer, r *cloud.Recovery) error {
	fmt.Fprintf(w, "\nrecovery of %s, %s\n", r.Began.Local().Format(time.DateTime), r.Describe())
	if r.Fence != "" {
		fmt.Fprintf(w, "  fence: %s\n", r.Fence)
	}
	if len(r.Evidence) > 0 {
		fmt.Fprintf(w, "  it was called dead because: %s\n", strings.Join(r.Evidence, "; "))
	}
	if len(r.Servers) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{header: []string{"SERVER", "PRIORITY", "OUTCOME", "ON", "AFTER", "REASON"}}
	for _, s := range r.Servers {
		after := ""
		if !s.Ended.IsZero() && !r.Silent.IsZero() {
			after = s.Ended.Sub(r.Silent).Round(100 * time.Millisecond).String()
		}
		t.add(string(s.Server), strconv.Itoa(s.Priority), string(s.Outcome), string(s.Target), after, s.Reason)
	}
	return a.out.print(w, nil, t)
}
