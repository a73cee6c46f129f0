package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/sim"
)

// check reads the disk logs and completes the moves by those that were too quick to be seen.
func (r *dayRecord) check(ctx context.Context, s *stage, guests dayFollowers) error {
	var err error
	if r.whole, err = guests.verify(ctx, s); err != nil {
		return err
	}
	for _, g := range guests {
		r.missed += g.missed
	}
	var out struct {
		Migrations []cloud.Migration `json:"migrations"`
	}
	if err := s.Operator(ctx, http.MethodGet, "migrations?limit=1000", nil, &out); err != nil {
		return err
	}
	for _, m := range out.Migrations {
		if r.moves[m.ID] == nil && m.Created.After(r.began) && m.Created.Before(r.ended) {
			r.moves[m.ID] = &dayMove{Migration: m}
		}
	}
	return nil
}

// inOrder are the moves by their beginning.
func (r *dayRecord) inOrder() []*dayMove {
	out := make([]*dayMove, 0, len(r.moves))
	for _, m := range r.moves {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *dayMove) int { return a.Created.Compare(b.Created) })
	return out
}

// closest returns the shortest time from the end of a server's move to the beginning of its next one, and how many are shorter than the window.
func closest(moves []*dayMove, window time.Duration) (least time.Duration, violations int) {
	last := map[cloud.ServerID]time.Time{}
	least = math.MaxInt64
	for _, m := range moves {
		if before, ok := last[m.Server]; ok {
			gap := m.Created.Sub(before)
			least = min(least, gap)
			if gap < window {
				violations++
			}
		}
		last[m.Server] = m.Finished
	}
	return least, violations
}

// dayTotals are the figures of a day.
type dayTotals struct {
	span                  time.Duration // real
	watts, allAwake, most float64       // mean: drawn, had all hosts been awake, by the fluid bound
	awake                 float64       // mean hosts
	awakeMin, awakeMax    int
	short, told           float64 // shares of the awake hosts' time
	cpu                   float64 // mean CPUs used on hosts
}

func (r *dayRecord) totals() dayTotals {
	t := dayTotals{span: r.ended.Sub(r.began), awakeMin: dayHosts}
	seconds := t.span.Seconds()
	delta := func(of func(cloud.Account) float64) float64 { return of(r.after.total) - of(r.before.total) }
	t.watts = delta(func(a cloud.Account) float64 { return a.WattSeconds }) / seconds
	t.cpu = delta(func(a cloud.Account) float64 { return a.CPUSeconds }) / seconds
	seen := delta(func(a cloud.Account) float64 { return a.Seen.Seconds() })
	t.short = delta(func(a cloud.Account) float64 { return a.Overload.Seconds() }) / max(seen, 1)
	model := consolidate.ProLiantG5
	t.allAwake = dayHosts * model.At(t.cpu/dayHosts/dayHostCPUs)
	t.most = t.cpu / dayHostCPUs * model.Max()
	awake, told := 0, 0
	for _, l := range r.looks {
		awake += l.awake
		told += l.short
		t.awakeMin, t.awakeMax = min(t.awakeMin, l.awake), max(t.awakeMax, l.awake)
	}
	if n := len(r.looks); n > 0 {
		t.awake, t.told = float64(awake)/float64(n), float64(told)/float64(max(1, awake))
	}
	return t
}

func (r *dayRecord) report() string {
	t, moves := r.totals(), r.inOrder()
	hours := t.span.Hours() * r.options.speed
	var out strings.Builder
	fmt.Fprintf(&out, `Three hosts of %d CPU each and %d guests of %d MiB on local disks follow %.1f hours of a day (%s), %g times as fast: a sample every %.1f s. Automation is
full, the goal is to consolidate; step, window, horizon and awake_min are the defaults divided by %g, and no host need be kept for the failure of another. What the
traces say is multiplied by %.2f, so that two real cores carry everything; an emulated guest uses about 0.05 CPU beside. Nothing holds a host to its CPUs but the optimiser.
compute-1 and compute-2 are woken by IPMI, %s by magic packets. A move or a power cycle takes as long as it takes, so in the day's time %g times as long.

`, dayHostCPUs, dayGuests, dayRAMMiB, hours, r.traces.name, r.options.speed, r.options.scaled(daySample).Seconds(), r.options.speed, r.traces.scale, dayByLAN, r.options.speed)
	r.figures(&out, t, moves, hours)
	out.WriteString("\nPer host:\n\n")
	out.WriteString(r.hostTable().String())
	out.WriteString("\n")
	out.WriteString(r.moveList(moves))
	return out.String()
}

func (r *dayRecord) figures(out *strings.Builder, t dayTotals, moves []*dayMove, hours float64) {
	var blackouts, downtimes, took sample
	failed, unseen := 0, 0
	for _, m := range moves {
		if m.Status != cloud.MigrationCompleted {
			failed++
			continue
		}
		took = append(took, m.Finished.Sub(m.Created).Seconds())
		if m.Totals != nil {
			downtimes = append(downtimes, millis(m.Totals.Downtime))
		}
		if m.seen {
			blackouts = append(blackouts, millis(m.blackout))
		} else {
			unseen++
		}
	}
	least, violations := closest(moves, r.options.window())
	apart := "no server moved twice"
	if least != math.MaxInt64 {
		apart = fmt.Sprintf("%.1f s", least.Seconds())
	}
	table := table{head: []string{"", ""}}
	table.add("hosts awake, mean of 3", fmt.Sprintf("%.2f (%d to %d)", t.awake, t.awakeMin, t.awakeMax))
	table.add("hosts put to sleep; woken by", fmt.Sprintf("%d; BMC %d, magic packet %d", r.sleeps, r.wakes["bmc"], r.wakes["lan"]))
	table.add("mean CPUs used on hosts; busy on the whole machine", fmt.Sprintf("%.2f; %.2f of %d", t.cpu, r.busy.Seconds()/t.span.Seconds(), runtime.NumCPU()))
	table.add("energy of that part of the day, modelled (ProLiant G5)", fmt.Sprintf("%.2f kWh; all hosts awake: %.2f (ratio %.2f); fluid bound: %.2f", t.watts*hours/1000, t.allAwake*hours/1000, t.watts/t.allAwake, t.most*hours/1000))
	table.add("overload time of awake hosts, as accounted", fmt.Sprintf("%.1f %%", 100*t.short))
	table.add("the same by what guests were told to use", fmt.Sprintf("%.1f %%", 100*t.told))
	table.add("live migrations", fmt.Sprintf("%d, %d of them failed or were cancelled", len(moves), failed))
	table.add("a move takes, s", took.spread("%.1f"))
	table.add("network blackout of each, ms", fmt.Sprintf("%s; %d not seen from before", blackouts.spread("%.0f"), unseen))
	table.add("QEMU's downtime of each, ms", downtimes.spread("%.0f"))
	table.add(fmt.Sprintf("shortest time between two moves of a server (window %.0f s)", r.options.window().Seconds()), fmt.Sprintf("%s; %d within the window", apart, violations))
	table.add("disk logs whole, guests never restarted", fmt.Sprintf("%d of %d", r.whole, dayGuests))
	table.add("loads not told in time", fmt.Sprintf("%d of %d", r.missed, dayGuests*int(r.options.length/daySample)))
	out.WriteString(table.String())
}

func (r *dayRecord) hostTable() *table {
	t := &table{head: []string{"host", "asleep", "energy, kWh", "short of CPU", "moves away"}}
	for _, name := range []string{"compute-1", "compute-2", "compute-3"} {
		a, b := r.after.hosts[name], r.before.hosts[name]
		span := r.ended.Sub(r.began)
		t.add(name, fmt.Sprintf("%.0f %%", 100*(a.Asleep-b.Asleep).Seconds()/span.Seconds()), fmt.Sprintf("%.2f", (a.WattSeconds-b.WattSeconds)*r.options.speed/3.6e6),
			fmt.Sprintf("%.1f %%", 100*(a.Overload-b.Overload).Seconds()/max(1, (a.Seen-b.Seen).Seconds())), fmt.Sprint(a.Migrations-b.Migrations))
	}
	return t
}

// moveList is one line a move: many, but short.
func (r *dayRecord) moveList(moves []*dayMove) string {
	var out strings.Builder
	out.WriteString("<details><summary>Every move</summary>\n\n")
	t := table{head: []string{"hour", "server", "from", "to", "ended", "took, s", "blackout, ms", "downtime, ms"}}
	for _, m := range moves {
		blackout, downtime := "not seen", ""
		if m.seen {
			blackout = fmt.Sprintf("%.0f", millis(m.blackout))
		}
		if m.Totals != nil {
			downtime = fmt.Sprintf("%.0f", millis(m.Totals.Downtime))
		}
		t.add(fmt.Sprintf("%.2f", r.hour(m.Created)), string(m.Server)[:8], string(m.Source), string(m.Target), string(m.Status),
			fmt.Sprintf("%.1f", m.Finished.Sub(m.Created).Seconds()), blackout, downtime)
	}
	out.WriteString(t.String())
	out.WriteString("\n</details>\n")
	return out.String()
}

// drawDay draws hosts awake and load over the day beside the document; without a document nothing is drawn.
func (b *bench) drawDay(r *dayRecord) error {
	if b.out == "" {
		return nil
	}
	dir := filepath.Join(filepath.Dir(b.out), "benchmarks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	awake, asked, moves := sim.Line{Name: "hosts awake"}, sim.Line{Name: "CPUs guests are told to use"}, sim.Line{Name: "moves so far / 10"}
	order := r.inOrder()
	for _, l := range r.looks {
		x := r.hour(l.at)
		done := 0
		for done < len(order) && order[done].Created.Before(l.at) {
			done++
		}
		awake.X, awake.Y = append(awake.X, x), append(awake.Y, float64(l.awake))
		asked.X, asked.Y = append(asked.X, x), append(asked.Y, l.asked)
		moves.X, moves.Y = append(moves.X, x), append(moves.Y, float64(done)/10)
	}
	f, err := os.Create(filepath.Join(dir, dayPlot))
	if err != nil {
		return err
	}
	err = sim.Plot{Title: "A day in the lab: three hosts, twelve guests", XLabel: "hour of the day", YLabel: "", Lines: []sim.Line{awake, asked, moves}, Mark: math.NaN()}.WriteSVG(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// dayPlot is the figure's file.
const dayPlot = "day.svg"
