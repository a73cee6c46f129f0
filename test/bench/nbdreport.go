package main

import (
	"fmt"
	"slices"
	"strings"
)

// An aim compares a ratio with a bound.
type aim struct {
	what  string
	where string // mode and load
	than  string // who is compared with
	got   sample // ratios, pair by pair
	bound float64
	least bool // the bound is the least that is good enough; otherwise the most
}

func (a aim) met() bool {
	if a.least {
		return a.got.median() >= a.bound
	}
	return a.got.median() <= a.bound
}

func aimsTable(aims []aim) string {
	t := table{head: []string{"aim", "where", "than", "ratio, pair by pair", "aim", ""}}
	for _, a := range aims {
		bound := "at most"
		if a.least {
			bound = "at least"
		}
		t.add(a.what, a.where, a.than, a.got.spread("%.2f"), fmt.Sprintf("%s %.2f", bound, a.bound), map[bool]string{true: "met", false: "**missed**"}[a.met()])
	}
	return t.String()
}

// The aims of NBD serving.
const (
	aimCPU     = 0.8
	aimSpeed   = 1.1
	aimLatency = 1.0
	aimBare    = 0.85
	aimEngine  = 1.4
	deepQueue  = 64
)

// nbdAims are the aims that the rows speak of, with one job and with two.
func nbdAims(rows []nbdRow) []aim {
	var out []aim
	for _, r := range rows {
		us, there := r.of("godwit")
		if !there || !r.load.aimed() {
			continue
		}
		where := fmt.Sprintf("%s, %v", r.mode, r.load)
		if r.load.depth == 1 {
			if peer := r.bestPeer(nbdCell.p50, false); peer.runs != nil {
				out = append(out, aim{"median latency", where, peer.who.String(), ratios(us.p50(), peer.p50()), aimLatency, false})
			}
		}
		if r.load.depth != deepQueue {
			continue
		}
		if peer := r.bestPeer(nbdCell.cpu, false); peer.runs != nil {
			out = append(out, aim{"server CPU per request", where, peer.who.String(), ratios(us.cpu(), peer.cpu()), aimCPU, false})
		}
		if peer := r.bestPeer(nbdCell.speed, true); peer.runs != nil {
			out = append(out, aim{"requests/s", where, peer.who.String(), ratios(us.speed(), peer.speed()), aimSpeed, true})
		}
		if r.mode != direct {
			continue
		}
		out = append(out, aim{"requests/s", where, "fio io_uring on the bare file", ratios(us.speed(), r.file.speed()), aimBare, true})
		if threads, there := r.of("godwit-threads"); there {
			out = append(out, aim{"gain of io_uring, requests/s", where, threads.who.String(), ratios(us.speed(), threads.speed()), aimEngine, true})
		}
	}
	slices.SortStableFunc(out, func(a, b aim) int { return strings.Compare(a.what, b.what) })
	return out
}

// reportNBD writes the section.
func reportNBD(places string, b *bench, rows []nbdRow) string {
	var text strings.Builder
	fmt.Fprintf(&text, `One file of %d MiB of random bytes (%s); servers on core %d, the client over a unix socket (fio's nbd engine; nbdcopy for the last two tables of each
mode) on core %d; each of fio's turns lasts %v. %d rounds of the loads that an aim speaks of, %d of the others.
All servers of a table are up at the same time and serve the same file, godwit's as a volume with an attachment and its epoch. Direct I/O is
measured without a loop device, whose kernel thread would take the cores from both sides. CPU is that of the server's whole process (user,
system, io_uring's workers) by its CPU clock, less what a client costs that only connects; what the kernel does on nobody's account (interrupts, write-back) is in no
figure. Resident memory is that after the turn. Settings other than the default are those that won trials. The ceilings are no competitors: nbdkit's null plugin is
a server that touches no file, so it shows what client and socket can do; fio's io_uring engine on the bare file shows what the disk can do from the client's core.
%s
`, nbdFileBytes/mebibyte, places, serverCore, clientCore, b.span, b.roundsOf(load{rw: "randread", depth: deepQueue}), b.roundsOf(load{rw: copyOut}), noIOThread)
	text.WriteString(aimsTable(nbdAims(rows)))
	for _, mode := range []cacheMode{cached, direct} {
		for _, p := range nbdPlots {
			if p.chart(rows, mode).groups != nil {
				fmt.Fprintf(&text, "\n![%s, %s](%s)\n", p.title, mode, "benchmarks/"+p.file(mode))
			}
		}
	}
	commands := table{head: []string{"server", "command, page cache", "command, O_DIRECT"}}
	for _, c := range contenders {
		commands.add(c.String(), code(commandOf(c, cached)), code(commandOf(c, direct)))
	}
	fmt.Fprintf(&text, "\n%s", commands.String())
	for _, r := range rows {
		fmt.Fprintf(&text, "\n### %s, %v\n\n%s", r.mode, r.load, r.table())
	}
	return text.String()
}

func code(s string) string {
	if s == "" {
		return "cannot"
	}
	return "`" + s + "`"
}

// table shows a row's contenders; ratios are godwit's (io_uring) to each.
func (r nbdRow) table() string {
	us, there := r.of("godwit")
	ratio := func(of func(nbdCell) sample, c nbdCell) string {
		if !there || c.who.key == us.who.key {
			return ""
		}
		return fmt.Sprintf("%.2f", ratios(of(us), of(c)).median())
	}
	if r.load.copies() {
		t := table{head: []string{"server", "MiB/s", "godwit/it", "server CPU, us/MiB", "godwit/it", "RSS, MB"}}
		for _, c := range r.cells {
			t.add(c.who.String(), c.speed().spread("%.0f"), ratio(nbdCell.speed, c), c.cpu().spread("%.0f"), ratio(nbdCell.cpu, c), fmt.Sprintf("%.1f", c.rss().median()))
		}
		return t.String()
	}
	t := table{head: []string{"server", "requests/s", "godwit/it", "server CPU, us/request", "godwit/it", "p50, us", "godwit/it", "p99, us", "RSS, MB"}}
	for _, c := range r.cells {
		t.add(c.who.String(), c.speed().spread("%.0f"), ratio(nbdCell.speed, c), c.cpu().spread("%.2f"), ratio(nbdCell.cpu, c),
			fmt.Sprintf("%.0f", c.p50().median()), ratio(nbdCell.p50, c), fmt.Sprintf("%.0f", c.p99().median()), fmt.Sprintf("%.1f", c.rss().median()))
	}
	if f := r.file; f.runs != nil {
		t.add(f.who.String(), f.speed().spread("%.0f"), ratio(nbdCell.speed, f), "", "", fmt.Sprintf("%.0f", f.p50().median()), ratio(nbdCell.p50, f),
			fmt.Sprintf("%.0f", f.p99().median()), "")
	}
	return t.String()
}
