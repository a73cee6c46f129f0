package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/sim"
)

// simulation is what `godwit simulate` was asked for.
type simulation struct {
	out *output

	traces    string
	days      []string
	synthetic int
	servers   int
	hosts     int
	policies  []string
	rules     []string
	seed      int64
	workers   int
	csv       string
	plots     string
	brief     bool
	series    bool
}

// policiesOfThePaper are those that its tables list, for --policy paper.
var policiesOfThePaper = []string{"npa", "dvfs", "thr-mmt-1.0", "thr-mmt-0.8", "iqr-mmt-1.5", "mad-mmt-2.5", "lrr-mmt-1.2", "lr-mmt-1.2"}

func newSimulateCommand(o *output) *cobra.Command {
	s := &simulation{out: o}
	cmd := &cobra.Command{
		Use: "simulate", Short: "Live through days of a fleet in virtual time and compare consolidation policies", GroupID: groupRun, Args: cobra.NoArgs,
		Long: `Live through days of a fleet in virtual time and compare consolidation policies.

The fleet is that of Beloglazov and Buyya's paper of 2012: 800 hosts of two types, servers of four types, decisions every 5 minutes.
What servers use comes from traces in PlanetLab's format, a file per server with a CPU percentage per line. --traces names a folder of
them, or a folder with one such folder per day. Without it, days with the same statistics are made up.

Policies: godwit (ours), neat, dvfs, npa, and the paper's by name, OVERLOAD-SELECTION-PARAMETER: overload thr, mad, iqr, lr, lrr, otft,
otftm, mhod; selection mmt, rs, mc, mu, mmtmc. neat/OVERLOAD-SELECTION-PARAMETER plans as Neat does; "paper" stands for the paper's table.

Rules: cloudsim is what CloudSim 5.0 does, to compare with it; it loses servers that are idle for a moment. paper is the same without
that loss: every server lives all day. ram holds hosts to their memory, too. See docs/consolidation.md.`,
		Example: `  godwit simulate
  godwit simulate --traces planetlab --rules cloudsim --policy lr-mmt-1.2,thr-mmt-0.8
  godwit simulate --traces planetlab --days 20110303,20110306 --policy paper,godwit --plots plots --csv results.csv`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.StringVar(&s.traces, "traces", os.Getenv("GODWIT_TRACES"), "folder of traces, or of one folder per day (GODWIT_TRACES)")
	f.StringSliceVar(&s.days, "days", nil, "days to take of the folder (default all)")
	f.IntVar(&s.synthetic, "synthetic", 1, "made-up days, when there are no traces")
	f.IntVar(&s.servers, "servers", 1052, "servers of a made-up day")
	f.IntVar(&s.hosts, "hosts", sim.PaperSpec().Hosts, "hosts, half of them of each type")
	f.StringSliceVar(&s.policies, "policy", []string{"lr-mmt-1.2", "thr-mmt-0.8", "godwit"}, "policies to compare")
	f.StringSliceVar(&s.rules, "rules", []string{"cloudsim", "paper"}, "rules to live by: cloudsim, paper, ram")
	f.Int64Var(&s.seed, "seed", 1, "of made-up days and of policies that draw lots")
	f.IntVar(&s.workers, "workers", runtime.GOMAXPROCS(0), "days lived through at the same time")
	f.StringVar(&s.csv, "csv", "", "write all figures to this file, too")
	f.StringVar(&s.plots, "plots", "", "write plots (SVG) into this folder")
	f.BoolVar(&s.brief, "medians", false, "print only the medians over the days")
	f.BoolVar(&s.series, "series", false, "with -o json, the course of each day, too")
	return cmd
}

func (s *simulation) run(ctx context.Context, w io.Writer) error {
	loads, err := s.loads()
	if err != nil {
		return err
	}
	days, err := s.plan(loads)
	if err != nil {
		return err
	}
	results, err := sim.RunAll(ctx, days, s.workers)
	if err != nil {
		return err
	}
	sim.SortResults(results)
	if err := s.write(results); err != nil {
		return err
	}
	if !s.series {
		for i := range results {
			results[i].Series = nil
		}
	}
	medians := sim.Medians(results)
	shown := results
	if s.brief {
		shown = medians
	} else if len(loads) > 1 {
		shown = append(slices.Clone(results), medians...)
	}
	if s.out.json() {
		return printJSON(w, shown)
	}
	return s.print(w, shown)
}

// plan lists every day to live through: all policies on all days under all rules.
func (s *simulation) plan(loads []*sim.Workload) ([]sim.Day, error) {
	spec := sim.PaperSpec()
	spec.Hosts = s.hosts
	rules, err := s.rulesAsked()
	if err != nil {
		return nil, err
	}
	var days []sim.Day
	for _, r := range rules {
		for _, load := range loads {
			for _, name := range s.policyNames() {
				planner, err := consolidate.Parse(name)
				if err != nil {
					return nil, usageError{err}
				}
				days = append(days, sim.Day{
					Spec: spec, Rules: r, Load: load, Policy: name, Planner: planner, Seed: s.seed, AlwaysOn: name == "npa",
				})
			}
		}
	}
	return days, nil
}

func (s *simulation) policyNames() []string {
	var names []string
	for _, name := range s.policies {
		name = strings.ToLower(name)
		if name == "paper" {
			names = append(names, policiesOfThePaper...)
		} else {
			names = append(names, name)
		}
	}
	return names
}

func (s *simulation) rulesAsked() ([]sim.Rules, error) {
	var asked []sim.Rules
	for _, name := range s.rules {
		i := slices.IndexFunc(sim.AllRules(), func(r sim.Rules) bool { return r.Name == name })
		if i < 0 {
			return nil, usageError{fmt.Errorf("--rules %s: want cloudsim, paper or ram", name)}
		}
		asked = append(asked, sim.AllRules()[i])
	}
	return asked, nil
}

// loads reads the traces, or makes some up.
func (s *simulation) loads() ([]*sim.Workload, error) {
	if s.traces == "" {
		var loads []*sim.Workload
		for i := range s.synthetic {
			loads = append(loads, sim.Synthetic(s.servers, 288, s.seed+int64(i)))
		}
		if len(loads) == 0 {
			return nil, usageError{errors.New("nothing to simulate: give --traces or --synthetic")}
		}
		return loads, nil
	}
	folder := os.DirFS(s.traces)
	names, err := dayFolders(folder)
	if err != nil {
		return nil, fmt.Errorf("--traces %s: %w", s.traces, err)
	}
	if len(names) == 0 {
		load, err := sim.ReadWorkload(folder, filepath.Base(s.traces))
		return []*sim.Workload{load}, err
	}
	if len(s.days) > 0 {
		for _, day := range s.days {
			if !slices.Contains(names, day) {
				return nil, usageError{fmt.Errorf("--days %s: %s has %s", day, s.traces, strings.Join(names, ", "))}
			}
		}
		names = s.days
	}
	loads := make([]*sim.Workload, 0, len(names))
	for _, name := range names {
		sub, err := fs.Sub(folder, name)
		if err != nil {
			return nil, err
		}
		load, err := sim.ReadWorkload(sub, name)
		if err != nil {
			return nil, err
		}
		loads = append(loads, load)
	}
	return loads, nil
}

// dayFolders lists the folders in a folder of traces, by name; none when the traces are in it.
func dayFolders(folder fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// write makes the files that were asked for.
func (s *simulation) write(results []sim.Result) error {
	if s.csv != "" {
		if err := writeFile(s.csv, func(w io.Writer) error { return sim.WriteCSV(w, results) }); err != nil {
			return err
		}
	}
	if s.plots == "" {
		return nil
	}
	if err := os.MkdirAll(s.plots, 0o755); err != nil {
		return err
	}
	for _, p := range sim.Plots(results) {
		if err := writeFile(filepath.Join(s.plots, p.File), p.Plot.WriteSVG); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// print shows the table, with CloudSim's and the paper's own figures where there are any, and says what the columns leave open.
func (s *simulation) print(w io.Writer, results []sim.Result) error {
	t := table{header: []string{
		"RULES", "DAY", "POLICY", "KWH", "BOUND", "X BOUND", "SERVED %", "X SERVED", "MIGRATIONS", "SLATAH %", "PDM %", "SLAV 1e-5", "ESV 1e-3",
		"AITF %", "AOTF %", "CLOUDSIM KWH", "MIGRATIONS", "PAPER KWH", "MIGRATIONS",
	}}
	for _, r := range results {
		t.add(append(rowOf(r), besides(r)...)...)
	}
	if err := s.out.print(w, nil, t); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, notes(results))
	return err
}

func rowOf(r sim.Result) []string {
	f := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	return []string{
		r.Rules, r.Day, r.Policy, f(r.EnergyKWh, 2), f(r.BoundKWh, 2), f(r.TimesBound, 3), f(100*r.Served, 1), f(r.TimesServed, 3),
		strconv.Itoa(r.Migrations), f(100*r.SLATAH, 2), f(100*r.PDM, 3), f(1e5*r.SLAV, 2), f(1e3*r.ESV, 2), f(100*r.AITF, 1), f(100*r.AOTF100, 2),
	}
}

// besides are the figures that others print for the same run.
func besides(r sim.Result) []string {
	cells := make([]string, 4)
	if ref, ok := sim.ReferenceFor(r); ok {
		cells[0], cells[1] = fmt.Sprintf("%.2f (%+.1f %%)", ref.EnergyKWh, 100*(r.EnergyKWh/ref.EnergyKWh-1)), strconv.Itoa(ref.Migrations)
		if ref.Migrations > 0 {
			cells[1] += fmt.Sprintf(" (%+.1f %%)", 100*(float64(r.Migrations)/float64(ref.Migrations)-1))
		}
	}
	if p, ok := sim.PublishedTable[r.Policy]; ok && r.Rules != sim.RAMRules.Name {
		cells[2], cells[3] = fmt.Sprintf("%.2f", p.EnergyKWh), fmt.Sprintf("%.0f", p.Migrations)
	}
	return cells
}

// notes say how to read the table, as far as it has what they are about.
func notes(results []sim.Result) string {
	has := func(rules string) bool {
		return slices.ContainsFunc(results, func(r sim.Result) bool { return r.Rules == rules })
	}
	text := "\nX BOUND is energy over the least that serving all of the traces takes; X SERVED over the share of it that was served.\n" +
		"PAPER is the paper's median of ten days. Its energies lie below the bound of the same traces: they do not reproduce.\n"
	if has(sim.CloudSimRules.Name) {
		text += "Rules cloudsim drop a server for good when it is idle at one update, as CloudSim 5.0 does: compare X SERVED there, not X BOUND.\n"
	}
	if has(sim.RAMRules.Name) {
		text += "Under rules ram the bound holds all memory as well as serving all CPU.\n"
	}
	return text
}
