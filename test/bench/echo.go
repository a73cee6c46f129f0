package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// echoRow is what test/bench/echo prints of one contender under one load.
type echoRow struct {
	Conns, Bytes int
	Kind         string
	Runs         []struct{ PerSecond, CPUMicros, MedianMicros, P99Micros, RSSMB float64 }
}

func (r echoRow) sample(of func(i int) float64) sample {
	out := make(sample, len(r.Runs))
	for i := range r.Runs {
		out[i] = of(i)
	}
	return out
}

// perCore is how many round trips the server makes of one second of processor time.
func (r echoRow) perCore() sample {
	const microsPerSecond = 1e6
	return r.sample(func(i int) float64 { return microsPerSecond / r.Runs[i].CPUMicros })
}

// where names the load.
func (r echoRow) where() string { return fmt.Sprintf("%d connections, %d B", r.Conns, r.Bytes) }

// echoKinds are the contenders by the name that test/bench/echo has for them.
var echoKinds = []struct{ key, name string }{
	{"net", "Go `net`"}, {"conn", "uring, `net.Conn`"}, {"loop", "uring, session"}, {"nio", "Java NIO"}, {"netty", "Netty (NIO)"},
}

const (
	aimEchoNet  = 1.2
	aimEchoJava = 1.0
)

// measureEcho compares echo servers over TCP.
func measureEcho(ctx context.Context, b *bench) (string, error) {
	program, err := b.build(ctx, "./test/bench/echo")
	if err != nil {
		return "", err
	}
	cmd := pinned(ctx, clientCore, program, "-json", "-rounds", strconv.Itoa(b.rounds), "-span", b.span.String(),
		"-server-cpu", strconv.Itoa(serverCore), "-client-cpu", strconv.Itoa(clientCore))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", err
	}
	var rows []echoRow
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		return "", err
	}
	if err := b.plotEcho(rows); err != nil {
		return "", err
	}
	return reportEcho(b, rows), nil
}

// loads puts the rows of one load together, in the order of their measurement.
func echoLoads(rows []echoRow) [][]echoRow {
	return slices.Collect(slices.Chunk(rows, len(echoKinds)))
}

func byKind(rows []echoRow, kind string) echoRow {
	return rows[slices.IndexFunc(rows, func(r echoRow) bool { return r.Kind == kind })]
}

func reportEcho(b *bench, rows []echoRow) string {
	var text strings.Builder
	fmt.Fprintf(&text, `TCP over loopback, servers on core %d, the client (a ring of its own, one message under way per connection) on core %d, turns of %v. The servers
are up from beginning to end and warmed up for seconds before anything counts (Java compiles while it runs). Round trips per second tell who got
the core; round trips per second of the server's own processor time (per core) are what compares. Resident memory is that after the turn. Java: Debian's OpenJDK and
libnetty-java, which comes without Netty's native transport. %s

`, serverCore, clientCore, b.span, "`conn` is uring behind package net's interface, `session` runs on the ring's own thread.")
	var aims []aim
	t := table{head: []string{"conns", "bytes", "server", "round trips/s", "round trips per CPU second", "session/it", "p50, us", "p99, us", "RSS, MB"}}
	for _, load := range echoLoads(rows) {
		us := byKind(load, "loop")
		for _, k := range echoKinds {
			r := byKind(load, k.key)
			ratio := ratios(us.perCore(), r.perCore())
			t.add(strconv.Itoa(r.Conns), strconv.Itoa(r.Bytes), k.name, r.sample(func(i int) float64 { return r.Runs[i].PerSecond }).spread("%.0f"),
				r.perCore().spread("%.0f"), fmt.Sprintf("%.2f", ratio.median()),
				fmt.Sprintf("%.0f", r.sample(func(i int) float64 { return r.Runs[i].MedianMicros }).median()),
				fmt.Sprintf("%.0f", r.sample(func(i int) float64 { return r.Runs[i].P99Micros }).median()),
				fmt.Sprintf("%.1f", r.sample(func(i int) float64 { return r.Runs[i].RSSMB }).median()))
			switch k.key {
			case "net":
				aims = append(aims, aim{"round trips per CPU second", r.where(), k.name, ratio, aimEchoNet, true})
			case "nio", "netty":
				aims = append(aims, aim{"round trips per CPU second", r.where(), k.name, ratio, aimEchoJava, true})
			}
		}
	}
	slices.SortStableFunc(aims, func(a, b aim) int { return strings.Compare(a.than, b.than) })
	text.WriteString(aimsTable(aims))
	fmt.Fprintf(&text, "\n![Echo servers: round trips per CPU second](benchmarks/%s)\n\n%s", echoPlot, t.String())
	return text.String()
}

const echoPlot = "echo.svg"

func (b *bench) plotEcho(rows []echoRow) error {
	chart := barChart{title: "Echo servers, TCP over loopback", unit: "thousand round trips per CPU second (more is better)"}
	for _, load := range echoLoads(rows) {
		chart.groups = append(chart.groups, load[0].where())
	}
	for _, k := range echoKinds {
		s := barSeries{name: strings.ReplaceAll(k.name, "`", "")}
		for _, load := range echoLoads(rows) {
			perCore := byKind(load, k.key).perCore()
			for i := range perCore {
				perCore[i] /= 1e3
			}
			s.values = append(s.values, perCore)
		}
		chart.series = append(chart.series, s)
	}
	return b.draw(echoPlot, chart)
}
