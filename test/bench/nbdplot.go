package main

// nbdPlot is one figure for each mode.
type nbdPlot struct {
	name, title, unit string
	shows             func(load) bool // the loads that are its groups
	of                func(nbdCell, load) sample
	serversOnly       bool // the bare file has no such figure
}

var nbdPlots = []nbdPlot{
	{"cpu", "Server CPU per request, 4 KiB random", "us per request (less is better)", load.random,
		func(c nbdCell, _ load) sample { return c.cpu() }, true},
	{"speed", "Requests per second, 4 KiB random", "thousand requests/s (more is better)", load.random,
		func(c nbdCell, _ load) sample { return c.sample(func(r nbdRun) float64 { return r.perSecond / 1e3 }) }, false},
	{"latency", "Median latency, 4 KiB random, one request at a time", "us (less is better)", func(l load) bool { return l.random() && l.depth == 1 },
		func(c nbdCell, _ load) sample { return c.p50() }, false},
	{"sequential", "Sequential: fio with 256 KiB, and nbdcopy", "MiB/s (more is better)", func(l load) bool { return !l.random() },
		func(c nbdCell, l load) sample { return c.bytesPerSecond(l) }, false},
}

func (p nbdPlot) file(mode cacheMode) string {
	return "nbd-" + map[cacheMode]string{cached: "cached", direct: "direct"}[mode] + "-" + p.name + ".svg"
}

// chart draws one mode's rows. It has no groups if none of them belongs to it.
func (p nbdPlot) chart(rows []nbdRow, mode cacheMode) barChart {
	chart := barChart{title: p.title + ", " + string(mode), unit: p.unit}
	var shown []nbdRow
	for _, r := range rows {
		if r.mode == mode && p.shows(r.load) {
			shown = append(shown, r)
			chart.groups = append(chart.groups, r.load.short())
		}
	}
	for _, c := range append(append([]contender{}, contenders...), bareFile) {
		if !c.drawn[mode] || c.key == bareFile.key && p.serversOnly {
			continue
		}
		series, there := barSeries{name: c.String()}, false
		for _, r := range shown {
			cell, _ := r.of(c.key)
			if c.key == bareFile.key {
				cell = r.file
			}
			there = there || cell.runs != nil
			series.values = append(series.values, p.of(cell, r.load))
		}
		if there {
			chart.series = append(chart.series, series)
		}
	}
	return chart
}

// plotNBD draws everything.
func (b *bench) plotNBD(rows []nbdRow) error {
	for _, mode := range []cacheMode{cached, direct} {
		for _, p := range nbdPlots {
			if err := b.draw(p.file(mode), p.chart(rows, mode)); err != nil {
				return err
			}
		}
	}
	return nil
}
