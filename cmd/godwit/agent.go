package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/config"
)

func newAgentCommand(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "agent", Short: "Run the agent of a compute host (root)", Args: cobra.NoArgs, GroupID: groupRun,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd, *file, "agent")
			if err != nil {
				return err
			}
			if err := l.ValidateAgent(); err != nil {
				return err
			}
			return runAgent(cmd.Context(), l.Config)
		},
	}
	config.AddFlags(cmd.Flags(), "agent")
	return cmd
}
