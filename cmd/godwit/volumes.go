package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/operator"
)

func newVolumesCommand(o *output, file *string) *cobra.Command {
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
	cmd.AddCommand(newVolumesStatusCommand(&access{out: o, lab: labOpenrc}))
	return cmd
}

func newVolumesStatusCommand(a *access) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "List volume services with the room on their back ends (reads OS_* or clouds.yaml)", Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			services, err := c.VolumeServices(cmd.Context())
			if err != nil {
				return err
			}
			return a.out.print(cmd.OutOrStdout(), services, volumeServiceTable(services))
		}),
	}
	cmd.Flags().StringVar(&a.cloud, "os-cloud", "", "cloud of clouds.yaml to use (OS_CLOUD)")
	return cmd
}

// volumeServiceTable has a row for each back end.
func volumeServiceTable(services []operator.VolumeService) table {
	t := table{header: []string{"SERVICE", "STATE", "ZONE", "ENGINE", "BACK END", "KIND", "SNAPSHOTS", "VOLUMES", "FREE GiB", "PROBLEM"}}
	for _, s := range services {
		state := s.State
		if s.Disabled {
			state += ", disabled"
		}
		if s.Report == nil {
			t.add(string(s.Name), state, s.Zone, "-", "-", "-", "-", strconv.Itoa(s.Volumes), "-", "-")
			continue
		}
		for _, b := range s.Report.Backends {
			snapshots := "copied"
			if b.Reflink {
				snapshots = "shared blocks"
			}
			t.add(string(s.Name), state, s.Zone, s.Report.Engine, b.Name, b.Kind, snapshots, strconv.Itoa(b.Volumes),
				fmt.Sprintf("%d of %d", b.FreeBytes>>30, b.TotalBytes>>30), problemOf(b, s.Troubles))
		}
	}
	return t
}

// troublesShown is how many volumes a back end's row names; JSON has more.
const troublesShown = 3

// problemOf says what is wrong with a back end and with its volumes.
func problemOf(b cloud.VolumeBackend, troubles []operator.VolumeTrouble) string {
	var parts []string
	if b.Error != "" {
		parts = append(parts, b.Error)
	}
	shown := 0
	for _, t := range troubles {
		if t.Backend != b.Name || shown == troublesShown {
			continue
		}
		shown++
		text := t.What.String() + ": volume " + string(t.Volume)
		if t.Name != "" {
			text += " (" + t.Name + ")"
		}
		for _, server := range t.Servers {
			text += ", server " + string(server) + " stands still"
		}
		if !t.Since.IsZero() {
			text += " since " + t.Since.UTC().Format(time.TimeOnly)
		}
		parts = append(parts, text)
	}
	if more := b.Troubled - shown; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more volumes", more))
	}
	return strings.Join(parts, "; ")
}
