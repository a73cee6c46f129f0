package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// move is one invocation of `godwit migrate`.
type move struct {
	out    *output
	watch  bool
	dryRun bool
	block  string
	host   string
	w      io.Writer
}

// blockKinds are what --block takes: microversion 2.25's block_migration.
var blockKinds = []string{"auto", "true", "false"}

func newMigrateCommand(o *output) *cobra.Command {
	m := &move{out: o}
	cmd := &cobra.Command{
		Use: "migrate SERVER [HOST]", Short: "Move a running server to another host", Args: cobra.RangeArgs(1, 2),
		Long: "Move a running server to another host while it runs. Without HOST placement chooses.\n\n" +
			"With --watch the command follows the move to its end; interrupting it does not stop the move.",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return completeHost(cmd)
			}
			return completeServer(cmd, args, part)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(blockKinds, m.block) {
				return usageError{fmt.Errorf("--block %s: want auto, true or false", m.block)}
			}
			if len(args) == 2 {
				m.host = args[1]
			}
			m.w = cmd.OutOrStdout()
			return m.run(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVarP(&m.watch, "watch", "w", false, "follow the move to its end")
	cmd.Flags().BoolVar(&m.dryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().StringVar(&m.block, "block", "auto", "copy disks: auto, true or false")
	if err := cmd.RegisterFlagCompletionFunc("block", cobra.FixedCompletions(blockKinds, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined one line up
	}
	return cmd
}

func (m *move) run(ctx context.Context, name string) error {
	c, err := client.Connect(ctx)
	if err != nil {
		return err
	}
	s, err := c.FindServer(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case m.dryRun:
		return m.plan(ctx, c, s)
	case m.watch:
		return m.follow(ctx, c, s)
	}
	if err := c.LiveMigrate(ctx, s.ID, m.host, m.block); err != nil {
		return err
	}
	if m.out.json() {
		return printJSON(m.w, map[string]string{"server": s.ID, "status": "accepted"})
	}
	_, err = fmt.Fprintf(m.w, "migration of %s accepted; see `godwit migrations %s`\n", s.Name, s.Name)
	return err
}

// plan prints what a move would do.
func (m *move) plan(ctx context.Context, c *client.Client, s client.Server) error {
	p, err := c.Plan(ctx, s.ID, m.host, m.block)
	if err != nil {
		return err
	}
	if m.out.json() {
		return printJSON(m.w, p)
	}
	if p.Possible {
		fmt.Fprintf(m.w, "%s would move from %s to %s (%s migration)\n", p.Server.Name, p.Server.Host, p.Target, p.Kind)
	} else {
		fmt.Fprintf(m.w, "%s would not move: %s\n", p.Server.Name, p.Refusal)
	}
	if e := p.Estimate; e != nil {
		fmt.Fprintf(m.w, "to copy: %s of memory, %s of disk%s%s\n", bytesText(e.MemoryBytes), bytesText(e.DiskBytes), atMost(e.AtMost), expected(e))
	}
	var verdicts []cloud.Verdict
	for _, v := range p.Candidates {
		verdicts = append(verdicts, v.Verdict)
	}
	_, err = fmt.Fprintf(m.w, "\n%s", placement.Explain(verdicts))
	if err == nil && !p.Possible {
		return &exitStatus{exitCodes[cloud.KindNoValidHost]}
	}
	return err
}

func atMost(bound bool) string {
	if bound {
		return " at most"
	}
	return ""
}

func expected(e *operator.Estimate) string {
	if e.Seconds == nil {
		return ""
	}
	text := fmt.Sprintf("; about %.1f s", *e.Seconds)
	if e.DowntimeSeconds != nil {
		text += fmt.Sprintf(", downtime about %.0f ms", *e.DowntimeSeconds*1000)
	}
	return fmt.Sprintf("%s (from %d earlier moves)", text, e.Moves)
}

// follow opens the stream before it asks for the move, so that nothing of it is missed, and reads on to the migration's end.
func (m *move) follow(ctx context.Context, c *client.Client, s client.Server) error {
	stream, err := c.Watch(ctx, s.ID)
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := stream.Each(func(e client.Event) error {
		if e.Ready {
			return client.ErrStop
		}
		return nil
	}); err != nil {
		return err
	}
	past, err := c.Migrations(ctx, s.ID) // whose last figures may still be on their way
	if err != nil {
		return err
	}
	earlier := map[cloud.MigrationID]bool{}
	for _, m := range past {
		earlier[cloud.MigrationID(m.UUID)] = true
	}
	if err := c.LiveMigrate(ctx, s.ID, m.host, m.block); err != nil {
		return err
	}
	show := newMeter(m.w, m.out.json(), s.Name)
	var last operator.Migration
	err = stream.Each(func(e client.Event) error {
		switch {
		case e.Migration != nil && !earlier[e.Migration.ID]:
			last = *e.Migration
			show.migration(last)
			if last.Status.Final() {
				return client.ErrStop
			}
		case e.Progress != nil && e.Progress.Migration == last.ID:
			show.progress(e.Progress.Stats)
		case e.Gone != nil:
			return cloud.Errorf(cloud.KindNotFound, "server %s was deleted", s.Name)
		}
		return nil
	})
	show.end()
	if errors.Is(ctx.Err(), context.Canceled) {
		return cloud.Errorf(cloud.KindCancelled, "no longer watching; the move goes on: see `godwit migrations %s`", s.Name)
	}
	if err != nil {
		return err
	}
	return result(last)
}

// result is nil for a completed migration and otherwise says what became of it.
func result(m operator.Migration) error {
	switch m.Status {
	case cloud.MigrationCompleted:
		return nil
	case cloud.MigrationCancelled:
		return cloud.Errorf(cloud.KindCancelled, "migration %d was cancelled; the server runs on %s", m.Number, m.Source)
	}
	return cloud.Errorf(cloud.KindConflict, "migration %d ended as %s: %s; the server stays on %s", m.Number, m.Status, m.Error, m.Source)
}
