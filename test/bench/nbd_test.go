package main

import (
	"strings"
	"testing"
)

// measured is a row in which everyone had two turns, godwit's twice as fast as anyone's.
func measured(mode cacheMode, l load) nbdRow {
	row := nbdRow{mode: mode, load: l, file: nbdCell{who: bareFile}}
	run := func(per float64) []nbdRun {
		r := nbdRun{fioResult: fioResult{perSecond: per, requests: per, p50: 1e6 / per, p99: 2e6 / per}, cpuMicros: 1e5 / per, rss: 7}
		return []nbdRun{r, r}
	}
	for _, c := range contenders {
		if c.command(serving{mode: mode}) == nil {
			continue
		}
		per := 1000.0
		if c.key == "godwit" {
			per = 2000
		}
		row.cells = append(row.cells, nbdCell{c, run(per)})
	}
	if !l.copies() {
		row.file.runs = run(4000)
	}
	return row
}

func allMeasured() []nbdRow {
	var rows []nbdRow
	for _, mode := range []cacheMode{cached, direct} {
		for _, l := range nbdLoads() {
			rows = append(rows, measured(mode, l))
		}
	}
	return rows
}

func TestAimsAreJudgedForOneJobAndForTwo(t *testing.T) {
	seen := map[string]int{}
	for _, a := range nbdAims(allMeasured()) {
		for _, jobs := range []string{"1 job", "2 jobs"} {
			if strings.HasSuffix(a.where, jobs) {
				seen[a.what+", "+jobs]++
			}
		}
		if wantMet := a.than != bareFile.peer && a.than != "fio io_uring on the bare file"; a.met() != wantMet {
			t.Errorf("%s, %s, than %s: met %v, want %v", a.what, a.where, a.than, a.met(), wantMet)
		}
	}
	for what, want := range map[string]int{"median latency": 4, "server CPU per request": 4, "requests/s": 6, "gain of io_uring, requests/s": 2} {
		for _, jobs := range []string{"1 job", "2 jobs"} {
			if got := seen[what+", "+jobs]; got != want {
				t.Errorf("%s, %s: %d aims, want %d", what, jobs, got, want)
			}
		}
	}
}

func TestEveryPlotShowsBothOfOursEachPeerAndTheCeilings(t *testing.T) {
	rows := allMeasured()
	for _, mode := range []cacheMode{cached, direct} {
		for _, p := range nbdPlots {
			c := p.chart(rows, mode)
			var names []string
			for _, s := range c.series {
				names = append(names, s.name)
				if len(s.values) != len(c.groups) {
					t.Errorf("%s, %s: %s has %d values for %d groups", p.name, mode, s.name, len(s.values), len(c.groups))
				}
			}
			all := strings.Join(names, "; ")
			want := []string{"godwit, io_uring", "godwit, threads", "qemu-nbd, aio=io_uring", "qemu-storage-daemon, aio=io_uring", "ceiling: nbdkit null"}
			if mode == cached {
				want = append(want, "nbdkit file, -t 1")
			} else {
				want = append(want, "qemu-nbd, aio=native")
			}
			if !p.serversOnly {
				want = append(want, bareFile.peer)
			}
			for _, w := range want {
				if !strings.Contains(all, w) {
					t.Errorf("%s, %s: no %s among %s", p.name, mode, w, all)
				}
			}
			if len(c.groups) == 0 || len(c.series) > len(palette) {
				t.Errorf("%s, %s: %d groups, %d series in %d colours", p.name, mode, len(c.groups), len(c.series), len(palette))
			}
		}
	}
}

func TestTheReportHasATableForEachLoadInTheUnitsOfItsClient(t *testing.T) {
	got := reportNBD("somewhere", &bench{rounds: 4}, allMeasured())
	for _, want := range []string{
		"### page cache, 4k random read, depth 16, 2 jobs", "### O_DIRECT, nbdcopy SERVER null:", "### O_DIRECT, nbdcopy --flush FILE SERVER", "| server | MiB/s |",
		"nbd-cached-latency.svg", "nbd-direct-sequential.svg", "4 rounds of the loads that an aim speaks of, 2 of the others", "qemu_in_main_thread() && nbd_server",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
}
