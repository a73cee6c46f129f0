package sim

import (
	"encoding/csv"
	"io"
	"slices"
	"strconv"
)

// csvHeader names the columns that WriteCSV writes; the figures are those of Result.
var csvHeader = []string{
	"day", "rules", "policy", "seed", "hosts", "servers", "dropped", "served", "energy_kwh", "bound_kwh", "times_bound", "times_served",
	"migrations", "sleeps", "slatah", "pdm", "slav", "esv", "aitf", "aotf_80", "aotf_100",
}

// WriteCSV writes one line per result under a header.
func WriteCSV(w io.Writer, results []Result) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvHeader); err != nil {
		return err
	}
	for _, r := range results {
		row := []string{r.Day, r.Rules, r.Policy, strconv.FormatInt(r.Seed, 10), strconv.Itoa(r.Hosts), strconv.Itoa(r.Servers), strconv.Itoa(r.Dropped)}
		row = append(row, number(r.Served), number(r.EnergyKWh), number(r.BoundKWh), number(r.TimesBound), number(r.TimesServed))
		row = append(row, strconv.Itoa(r.Migrations), strconv.Itoa(r.Sleeps))
		row = append(row, number(r.SLATAH), number(r.PDM), number(r.SLAV), number(r.ESV), number(r.AITF), number(r.AOTF80), number(r.AOTF100))
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 8, 64) }

// Medians joins the days of each policy under each rules to one result: the median of every figure. The order is that of first
// appearance.
func Medians(results []Result) []Result {
	type key struct{ rules, policy string }
	groups := map[key][]Result{}
	var order []key
	for _, r := range results {
		k := key{r.Rules, r.Policy}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], r)
	}
	out := make([]Result, 0, len(order))
	for _, k := range order {
		out = append(out, median(groups[k]))
	}
	return out
}

func median(group []Result) Result {
	of := func(get func(*Result) float64) float64 {
		values := make([]float64, len(group))
		for i := range group {
			values[i] = get(&group[i])
		}
		slices.Sort(values)
		n := len(values)
		return (values[(n-1)/2] + values[n/2]) / 2
	}
	m := Result{Day: "median of " + strconv.Itoa(len(group)), Rules: group[0].Rules, Policy: group[0].Policy, Seed: group[0].Seed, Hosts: group[0].Hosts}
	m.Servers = int(of(func(r *Result) float64 { return float64(r.Servers) }))
	m.Dropped = int(of(func(r *Result) float64 { return float64(r.Dropped) }))
	m.Served = of(func(r *Result) float64 { return r.Served })
	m.EnergyKWh = of(func(r *Result) float64 { return r.EnergyKWh })
	m.BoundKWh = of(func(r *Result) float64 { return r.BoundKWh })
	m.TimesBound = of(func(r *Result) float64 { return r.TimesBound })
	m.TimesServed = of(func(r *Result) float64 { return r.TimesServed })
	m.Migrations = int(of(func(r *Result) float64 { return float64(r.Migrations) }))
	m.Sleeps = int(of(func(r *Result) float64 { return float64(r.Sleeps) }))
	m.SLATAH = of(func(r *Result) float64 { return r.SLATAH })
	m.PDM = of(func(r *Result) float64 { return r.PDM })
	m.SLAV = of(func(r *Result) float64 { return r.SLAV })
	m.ESV = of(func(r *Result) float64 { return r.ESV })
	m.AITF = of(func(r *Result) float64 { return r.AITF })
	m.AOTF80 = of(func(r *Result) float64 { return r.AOTF80 })
	m.AOTF100 = of(func(r *Result) float64 { return r.AOTF100 })
	return m
}
