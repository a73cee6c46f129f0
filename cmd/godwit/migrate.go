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
)

// move is one invocation of `godwit migrate`.
type move struct {
	access *access
	watch  bool
	dryRun bool
	block  string
	host   string
	w      io.Writer // standard output
	notes  io.Writer // standard error
}

// blockKinds are what --block takes: microversion 2.25's block_migration.
var blockKinds = []string{"auto", "true", "false"}

func newMigrateCommand(a *access) *cobra.Command {
	m := &move{access: a}
	cmd := &cobra.Command{
		Use: "migrate SERVER [HOST]", Short: "Move a running server to another host", Args: cobra.RangeArgs(1, 2),
		Long: "Move a running server to another host while it runs. Without HOST placement chooses.\n\n" +
			"With --watch the command follows the move to its end; interrupting it does not stop the move (`godwit abort` does).\n" +
			"With --dry-run nothing is moved: the command prints which host would be chosen, why not the others, and what the move would probably cost.",
		ValidArgsFunction: a.completeMove,
		PreRunE: func(_ *cobra.Command, args []string) error {
			switch {
			case !slices.Contains(blockKinds, m.block):
				return usageError{fmt.Errorf("--block %s: want auto, true or false", m.block)}
			case m.watch && m.dryRun:
				return usageError{errors.New("--dry-run moves nothing that --watch could follow")}
			}
			if len(args) == 2 {
				m.host = args[1]
			}
			return nil
		},
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			m.w, m.notes = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return m.run(cmd.Context(), c, args[0])
		}),
	}
	cmd.Flags().BoolVarP(&m.watch, "watch", "w", false, "follow the move to its end")
	cmd.Flags().BoolVar(&m.dryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().StringVar(&m.block, "block", "auto", "copy disks: auto, true or false")
	if err := cmd.RegisterFlagCompletionFunc("block", cobra.FixedCompletions(blockKinds, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined a few lines up
	}
	return cmd
}

func (m *move) run(ctx context.Context, c *client.Client, name string) error {
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
	after, err := newestNumber(ctx, c, s.ID)
	if err != nil {
		return err
	}
	if err := c.LiveMigrate(ctx, s.ID, m.host, m.block); err != nil {
		return err
	}
	made, ok, err := nextMigration(ctx, c, s.ID, after)
	if err != nil || !ok {
		return err
	}
	if m.access.out.json() {
		return printJSON(m.w, made)
	}
	_, err = fmt.Fprintf(m.w, "migration %d of %s is %s; `godwit migrations %s` shows how it goes\n", made.Number, s.Name, made.Status, s.Name)
	return err
}

// newestNumber returns the number of the server's newest migration, 0 when there is none.
func newestNumber(ctx context.Context, c *client.Client, server string) (int, error) {
	list, err := c.Migrations(ctx, client.MigrationQuery{Server: server, Limit: 1})
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Number, nil
}

// nextMigration returns the server's first migration after the one with the number.
func nextMigration(ctx context.Context, c *client.Client, server string, after int) (operator.Migration, bool, error) {
	list, err := c.Migrations(ctx, client.MigrationQuery{Server: server})
	if err != nil {
		return operator.Migration{}, false, err
	}
	list = slices.DeleteFunc(list, func(m operator.Migration) bool { return m.Number <= after })
	if len(list) == 0 {
		return operator.Migration{}, false, nil
	}
	return list[len(list)-1], true, nil
}

func newAbortCommand(a *access) *cobra.Command {
	return &cobra.Command{
		Use: "abort SERVER", Short: "Stop the move of a server; it stays where it was", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeServer,
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			ctx := cmd.Context()
			s, err := c.FindServer(ctx, args[0])
			if err != nil {
				return err
			}
			list, err := c.Migrations(ctx, client.MigrationQuery{Server: s.ID, Status: operator.StatusUnfinished, Limit: 1})
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return cloud.Errorf(cloud.KindConflict, "server %s is not moving", s.Name)
			}
			if err := c.AbortMigration(ctx, s.ID, list[0].Number); err != nil {
				return err
			}
			if a.out.json() {
				return printJSON(cmd.OutOrStdout(), list[0])
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "migration %d of %s was told to stop\n", list[0].Number, s.Name)
			return err
		}),
	}
}
