package main

import (
	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/config"
)

func newVolumesCommand(file *string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "volumes", Short: "Run a volume service: volumes kept here, served to compute hosts over NBD", Args: cobra.NoArgs, GroupID: groupRun,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd, *file, "volumes")
			if err != nil {
				return err
			}
			if err := l.ValidateVolumes(); err != nil {
				return err
			}
			return runVolumes(cmd.Context(), l.Config)
		},
	}
	config.AddFlags(cmd.Flags(), "volumes")
	return cmd
}
