package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// migrationsDefault is how many migrations are listed unless --limit says otherwise: two screens.
const migrationsDefault = 50

func newMigrationsCommand(a *access) *cobra.Command {
	var q client.MigrationQuery
	cmd := &cobra.Command{
		Use: "migrations [SERVER]", Short: "List migrations, newest first, of all servers or one", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeServer,
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if q.Limit < 1 {
				return usageError{fmt.Errorf("--limit %d: want 1 or more", q.Limit)}
			}
			if len(args) == 1 {
				id, err := findServerID(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				q.Server = id
			}
			list, err := c.Migrations(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.out.print(cmd.OutOrStdout(), list, migrationTable(list))
		}),
	}
	cmd.Flags().StringVar(&q.Status, "status", "", "only those with this status, or \""+operator.StatusUnfinished+"\"")
	cmd.Flags().IntVar(&q.Limit, "limit", migrationsDefault, "at most so many")
	statuses := []string{operator.StatusUnfinished}
	for _, s := range cloud.MigrationStatuses() {
		statuses = append(statuses, string(s))
	}
	if err := cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(statuses, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined a few lines up
	}
	return cmd
}

func migrationTable(list []operator.Migration) table {
	t := table{header: []string{"ID", "SERVER", "KIND", "FROM", "TO", "STATUS", "ASKED AT", "TOOK", "DOWNTIME", "COPIED", "ERROR"}}
	for _, m := range list {
		server, took, downtime, copied := m.ServerName, "", "", ""
		if server == "" {
			server = string(m.Server)
		}
		if !m.Finished.IsZero() {
			took = seconds(m.Finished.Sub(m.Created))
		}
		stats := m.Totals
		if stats == nil && m.Progress != nil {
			stats = &m.Progress.Stats
		}
		if stats != nil {
			copied = bytesText(stats.MemoryProcessed + stats.DiskProcessed)
		}
		if m.Totals != nil && m.Status == cloud.MigrationCompleted {
			downtime = millis(m.Totals.Downtime)
		}
		t.add(strconv.Itoa(m.Number), server, string(m.Kind), string(m.Source), string(m.Target), string(m.Status),
			m.Created.Local().Format(time.DateTime), took, downtime, copied, clip(m.Error))
	}
	return t
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// clipMax is how much of an error a table shows; JSON has all of it.
const clipMax = 60

func clip(text string) string {
	if r := []rune(text); len(r) > clipMax {
		return string(r[:clipMax-3]) + "..."
	}
	return text
}
