package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/config"
)

// loadConfig reads the configuration of a command whose flags were added by config.AddFlags with section first.
func loadConfig(cmd *cobra.Command, file, section string) (*config.Loaded, error) {
	return config.Load(config.Sources{File: file, Environ: os.Environ(), Flags: cmd.Flags(), Main: section})
}

// checkedConfig loads and judges everything that can be judged without starting anything.
func checkedConfig(cmd *cobra.Command, file string) (*config.Loaded, error) {
	l, err := loadConfig(cmd, file, "server")
	if err != nil {
		return nil, err
	}
	return l, errors.Join(l.Validate(), l.ValidateFiles())
}

// mistakes takes a joined error apart: one text for each.
func mistakes(err error) []string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, mistakes(e)...)
	}
	return out
}

func newConfigCommand(o *output, file *string) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and show the configuration", GroupID: groupRun}
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Find mistakes in the configuration file and environment", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := *file
			if len(args) == 1 {
				path = args[0]
			}
			l, err := checkedConfig(cmd, path)
			if err != nil && o.json() {
				if err := printJSON(cmd.OutOrStdout(), map[string]any{"ok": false, "errors": mistakes(err)}); err != nil {
					return err
				}
				return &exitStatus{exitCode(err)}
			}
			if err != nil {
				return err
			}
			where := l.File
			if where == "" {
				where = "no file (defaults and environment)"
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), map[string]any{"file": l.File, "ok": true})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok, %d settings given\n", where, len(l.Origins))
			return err
		},
	}
	show := &cobra.Command{
		Use: "show", Short: "Print every setting with its origin; secrets are hidden", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd, *file, "server")
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(cmd.OutOrStdout(), l.Values())
			}
			return l.WriteYAML(cmd.OutOrStdout())
		},
	}
	cmd.AddCommand(check, show)
	return cmd
}
