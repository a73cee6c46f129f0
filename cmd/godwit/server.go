package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/config"
)

func newServerCommand(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "server", Short: "Run the control plane", Args: cobra.NoArgs, GroupID: groupRun,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd, *file, "server")
			if err != nil {
				return err
			}
			if err := l.Validate(); err != nil {
				return err
			}
			return runServer(cmd.Context(), l.Config)
		},
	}
	config.AddFlags(cmd.Flags(), "server", "migration", "placement")
	return cmd
}
