package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
)

// optimization is what `godwit optimize` was asked for.
type optimization struct {
	access   *access
	goal     string
	strategy string
	apply    bool
	wait     time.Duration
	w        io.Writer
}

func newOptimizeCommand(a *access) *cobra.Command {
	o := &optimization{access: a}
	cmd := &cobra.Command{
		Use: "optimize", Short: "Plan how servers and hosts should be arranged; with --apply, do it", Args: cobra.NoArgs,
		Long: `Plan how servers and hosts should be arranged: which servers would move and what that gains and costs, which would not and why, and
which hosts would sleep or wake. Nothing is changed unless --apply is given.

What consolidation aims at and how much it keeps free is configured in section optimize of the server's configuration.`,
		Example: "  godwit optimize\n  godwit optimize --goal balance -o json\n  godwit optimize --apply\n  godwit optimize plans",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			o.w = cmd.OutOrStdout()
			return o.run(cmd.Context(), c)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&o.goal, "goal", "", "consolidate or balance (default consolidate)")
	f.StringVar(&o.strategy, "strategy", "", "policy that consolidates, as in godwit simulate (default the cloud's)")
	f.BoolVar(&o.apply, "apply", false, "carry the plan out and wait for its end")
	f.DurationVar(&o.wait, "wait", 30*time.Minute, "with --apply, how long to wait")
	complete(cmd, "goal", "consolidate", "balance")
	complete(cmd, "strategy", "godwit", "neat", "lr-mmt-1.2", "thr-mmt-0.8", "mad-mmt-2.5", "iqr-mmt-1.5", "lrr-mmt-1.2")
	cmd.AddCommand(o.plans(), o.start(), o.cancel())
	return cmd
}

// complete offers values for a flag that exists.
func complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was defined by the caller
	}
}

// planMax bounds the wait for the leader's plan: it is made within a second, or nobody leads.
const planMax = 30 * time.Second

func (o *optimization) run(ctx context.Context, c *client.Client) error {
	audit, err := c.AskPlan(ctx, o.goal, o.strategy)
	if err != nil {
		return err
	}
	err = poll(ctx, planMax, func() (bool, error) {
		audit, err = c.Audit(ctx, audit.ID)
		return audit.Status.Final(), err
	})
	if err != nil {
		return fmt.Errorf("no plan was made: %w", err)
	}
	if audit.Status == cloud.StatusFailed {
		return cloud.Errorf(cloud.KindInvalid, "no plan was made: %s", audit.Message)
	}
	plan, err := c.ActionPlan(ctx, audit.Plan)
	if err != nil {
		return err
	}
	if o.apply && len(plan.Actions) > 0 {
		if plan, err = o.carryOut(ctx, c, plan.ID); err != nil {
			return err
		}
	}
	if err := o.access.printPlan(o.w, plan); err != nil {
		return err
	}
	if o.apply && plan.Status == cloud.StatusFailed {
		return &exitStatus{1}
	}
	return nil
}

func (o *optimization) carryOut(ctx context.Context, c *client.Client, id cloud.PlanID) (plan cloud.ActionPlan, err error) {
	if plan, err = c.StartPlan(ctx, id, false); err != nil {
		return plan, err
	}
	err = poll(ctx, o.wait, func() (bool, error) {
		plan, err = c.ActionPlan(ctx, id)
		return plan.Status.Final(), err
	})
	return plan, err
}

// pollEvery is how often a command looks for what it waits for.
const pollEvery = 250 * time.Millisecond

// poll asks until done says so.
func poll(ctx context.Context, patience time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return cloud.Errorf(cloud.KindUnavailable, "not done after %s", patience)
		}
	}
}

func (o *optimization) plans() *cobra.Command {
	return &cobra.Command{
		Use: "plans [PLAN]", Short: "List plans, or show one", Args: cobra.MaximumNArgs(1),
		Example: "  godwit optimize plans\n  godwit optimize plans 5a0f7c1e-...",
		RunE: o.access.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if len(args) == 1 {
				p, err := c.ActionPlan(cmd.Context(), cloud.PlanID(args[0]))
				if err != nil {
					return err
				}
				return o.access.printPlan(cmd.OutOrStdout(), p)
			}
			plans, err := c.Plans(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"PLAN", "CREATED", "GOAL", "STRATEGY", "STATUS", "ACTIONS", "WATTS", "AWAKE", "MESSAGE"}}
			for _, p := range plans {
				t.add(string(p.ID), p.Created.Local().Format(time.DateTime), string(p.Goal), p.Strategy, string(p.Status), strconv.Itoa(len(p.Actions)),
					fmt.Sprintf("%.0f -> %.0f", p.Effect.WattsBefore, p.Effect.WattsAfter), fmt.Sprintf("%d -> %d", p.Effect.AwakeBefore, p.Effect.AwakeAfter), p.Message)
			}
			return o.access.out.print(cmd.OutOrStdout(), plans, t)
		}),
	}
}

func (o *optimization) start() *cobra.Command {
	return &cobra.Command{
		Use: "start PLAN", Short: "Carry out a plan that was recommended", Args: cobra.ExactArgs(1), Example: "  godwit optimize start 5a0f7c1e-...",
		RunE: o.access.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			p, err := o.carryOut(cmd.Context(), c, cloud.PlanID(args[0]))
			if err != nil {
				return err
			}
			return o.access.printPlan(cmd.OutOrStdout(), p)
		}),
	}
}

func (o *optimization) cancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel PLAN", Short: "End a plan: what has not begun is left, moves under way are called off", Args: cobra.ExactArgs(1), Example: "  godwit optimize cancel 5a0f7c1e-...",
		RunE: o.access.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			p, err := c.StartPlan(cmd.Context(), cloud.PlanID(args[0]), true)
			if err != nil {
				return err
			}
			return o.access.printPlan(cmd.OutOrStdout(), p)
		}),
	}
}

// printPlan shows a plan: what it does, what it does not, and what comes of it.
func (a *access) printPlan(w io.Writer, p cloud.ActionPlan) error {
	if a.out.json() {
		return printJSON(w, p)
	}
	e := p.Effect
	fmt.Fprintf(w, "plan %s (%s by %s): %s", p.ID, p.Goal, p.Strategy, p.Status)
	if p.Message != "" {
		fmt.Fprintf(w, ", %s", p.Message)
	}
	fmt.Fprintf(w, "\nhosts awake %d -> %d, power %.0f -> %.0f W, CPUs short %.2f -> %.2f, spread of load %.2f -> %.2f\nservers' scores %.1f -> %.1f, the least %.1f -> %.1f\n",
		e.AwakeBefore, e.AwakeAfter, e.WattsBefore, e.WattsAfter, e.ShortBefore, e.ShortAfter, e.SpreadBefore, e.SpreadAfter, e.ScoreBefore, e.ScoreAfter, e.ScoreLeastBefore, e.ScoreLeastAfter)
	if len(p.Actions) > 0 {
		t := table{header: []string{"ACTION", "SERVER", "FROM", "TO", "GAIN", "TAKES", "DOWN", "COPIES", "DIRTIES/s", "SCORE", "STATUS", "WHY"}}
		for _, x := range p.Actions {
			t.add(actionRow(x)...)
		}
		fmt.Fprintln(w)
		if err := a.out.print(w, nil, t); err != nil {
			return err
		}
	}
	if len(p.Refused) > 0 {
		t := table{header: []string{"NOT DONE", "HOST", "TO", "WHY"}}
		for _, r := range p.Refused {
			t.add(orDash(r.ServerName), string(r.Host), orDash(string(r.Target)), r.Reason)
		}
		fmt.Fprintln(w)
		return a.out.print(w, nil, t)
	}
	return nil
}

func actionRow(x cloud.PlanAction) []string {
	gain, takes, down, copies, dirties, score := "-", "-", "-", "-", "-", "-"
	if c := x.Cost; c != nil {
		gain, takes, down, copies = fmt.Sprintf("%.2f", x.Gain), c.Takes.Round(100*time.Millisecond).String(), c.Downtime.Round(time.Millisecond).String(), bytesText(c.Bytes)
		score = fmt.Sprintf("%.0f -> %.0f", x.ScoreBefore, x.ScoreAfter)
		dirties = "unknown"
		if c.DirtyBytesPerSecond >= 0 {
			dirties = bytesText(c.DirtyBytesPerSecond)
		}
	}
	why := x.Reason
	if x.Error != "" {
		why = x.Error
	}
	return []string{string(x.Kind), orDash(x.ServerName), string(x.Host), orDash(string(x.Target)), gain, takes, down, copies, dirties, score, string(x.Status), why}
}

func newAccountingCommand(a *access) *cobra.Command {
	var by, since, until string
	cmd := &cobra.Command{
		Use: "accounting", Short: "Energy, CPU time, overload, migrations and downtime of hosts, servers or projects", Args: cobra.NoArgs,
		Example: "  godwit accounting\n  godwit accounting --by project --since 2026-01-01 --until 2026-01-31 -o json",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			accounts, err := c.Accounts(cmd.Context(), cloud.AccountKind(by), since, until)
			if err != nil {
				return err
			}
			t := table{header: []string{"SUBJECT", "NAME", "KWH", "POWER BY", "CPU HOURS", "SEEN", "OVERLOADED", "ASLEEP", "MIGRATIONS", "DOWNTIME"}}
			for _, x := range accounts {
				t.add(x.Subject, orDash(x.Name), fmt.Sprintf("%.4f", x.KWh()), orDash(string(x.PowerBy)), fmt.Sprintf("%.2f", x.CPUSeconds/3600), x.Seen.Round(time.Second).String(),
					x.Overload.Round(time.Second).String(), x.Asleep.Round(time.Second).String(), strconv.Itoa(x.Migrations), x.Downtime.Round(time.Millisecond).String())
			}
			return a.out.print(cmd.OutOrStdout(), accounts, t)
		}),
	}
	cmd.Flags().StringVar(&by, "by", "host", "host, server or project")
	cmd.Flags().StringVar(&since, "since", "", "first day, UTC, such as 2026-01-31 (default today)")
	cmd.Flags().StringVar(&until, "until", "", "last day (default today)")
	complete(cmd, "by", "host", "server", "project")
	return cmd
}
