package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
)

func newWhyCommand(a *access) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "why SERVER|HOST", Short: "Say why a server is where it is and what befell it, or what is believed of a host and why", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeServer,
		Long: "Say why a server is where it is: the last decision of placement with its verdict on each host, or all that are kept.\n\n" +
			"Then how its guest failed and what was done about it, step by step, and how it was recovered from hosts that died.\n" +
			"A deleted server is known by its id for a while.\n\n" +
			"Of a host: whether it is believed alive, suspect or dead, the evidence for it, and what became of its servers.",
		Example: "  godwit why web\n  godwit why compute-2",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			id, err := findServerID(cmd.Context(), c, args[0])
			if cloud.Is(err, cloud.KindNotFound) {
				if life, hostErr := c.HostLife(cmd.Context(), args[0]); hostErr == nil {
					return a.printLife(cmd.OutOrStdout(), life)
				}
			}
			if err != nil {
				return err
			}
			decisions, err := c.Decisions(cmd.Context(), id)
			if err != nil {
				return err
			}
			life, err := c.ServerLife(cmd.Context(), id)
			if err != nil {
				return err
			}
			if !all {
				decisions = decisions[:min(len(decisions), 1)]
				life.Failures, life.Recoveries = life.Failures[:min(len(life.Failures), failuresShown)], life.Recoveries[:min(len(life.Recoveries), recoveriesShown)]
			}
			if a.out.json() {
				return printJSON(cmd.OutOrStdout(), map[string]any{"decisions": decisions, "life": life})
			}
			if err := printDecisions(cmd.OutOrStdout(), args[0], decisions); err != nil {
				return err
			}
			return printServerLife(cmd.OutOrStdout(), life)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all decisions, failures and recoveries that are kept, newest first")
	return cmd
}

// findServerID returns the id of the server with this id or name. An id need not exist any more: what is known of the server may.
func findServerID(ctx context.Context, c *client.Client, idOrName string) (string, error) {
	s, err := c.FindServer(ctx, idOrName)
	if cloud.Is(err, cloud.KindNotFound) && uuid.Validate(idOrName) == nil {
		return idOrName, nil
	}
	return s.ID, err
}

func printDecisions(w io.Writer, server string, decisions []cloud.Decision) error {
	if len(decisions) == 0 {
		_, err := fmt.Fprintf(w, "nothing was decided about server %s yet\n", server)
		return err
	}
	for i, d := range decisions {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if _, err := fmt.Fprintf(w, "%s  %s: %s\n\n%s", d.At.Local().Format(time.DateTime), d.Purpose, choice(d), placement.Explain(d.Verdicts)); err != nil {
			return err
		}
	}
	return nil
}

func choice(d cloud.Decision) string {
	if d.Chosen == "" {
		return "no host would do"
	}
	return string(d.Chosen) + " was chosen"
}
