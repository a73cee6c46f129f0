package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// load is what a client asks: by fio, or by nbdcopy if rw says so; a copy knows nothing but that.
type load struct {
	rw    string // fio's word (randread, randwrite, read, write), copyOut or copyIn
	block string
	depth int
	jobs  int
}

// loadNames are the words for rw in the report, and in plots.
var loadNames = map[string]struct{ long, short string }{
	"randread": {"random read", "rr"}, "randwrite": {"random write", "rw"}, "read": {"sequential read", "seq read"}, "write": {"sequential write", "seq write"},
	copyOut: {"nbdcopy SERVER null:", "nbdcopy from"}, copyIn: {"nbdcopy --flush FILE SERVER", "nbdcopy to"},
}

func (l load) random() bool { return l.rw == "randread" || l.rw == "randwrite" }
func (l load) copies() bool { return l.rw == copyOut || l.rw == copyIn }

func (l load) String() string {
	name := loadNames[l.rw].long
	if l.copies() {
		return name
	}
	return fmt.Sprintf("%s %s, depth %d, %d job%s", l.block, name, l.depth, l.jobs, map[bool]string{true: "", false: "s"}[l.jobs == 1])
}

// short is the load in a plot.
func (l load) short() string {
	name := loadNames[l.rw].short
	switch {
	case !l.random():
		return name
	case l.jobs == 1:
		return fmt.Sprintf("%s %d", name, l.depth)
	}
	return fmt.Sprintf("%s %dx%d", name, l.depth, l.jobs)
}

// blockBytes is what a request carries. What counts as a request of a copy is a mebibyte.
func (l load) blockBytes() int64 {
	switch l.block {
	case "4k":
		return 4 << 10
	case "256k":
		return 256 << 10
	}
	return mebibyte
}

// fioTarget is what a client works on: an NBD server's socket, or a file by fio's own io_uring engine.
type fioTarget struct {
	socket string
	export string // empty: the default one
	file   string
	direct bool
}

// uri names the server's export.
func (t fioTarget) uri() string { return "nbd+unix:///" + t.export + "?socket=" + t.socket }

// fioResult is what one run of the client saw.
type fioResult struct {
	perSecond float64 // requests
	requests  float64
	p50, p99  float64 // completion latency, us
	clientCPU float64 // share of the client's core
}

// fioLimit says when a run ends: after a time, or after a number of requests.
type fioLimit struct {
	bytesMax int64 // it stays within the first bytes of the target
	span     time.Duration
	requests int
}

func (f fioLimit) options() []string {
	size := "--size=" + strconv.FormatInt(f.bytesMax, 10)
	if f.requests > 0 {
		return []string{size, "--number_ios=" + strconv.Itoa(f.requests)}
	}
	return []string{size, "--time_based", fmt.Sprintf("--runtime=%dms", f.span.Milliseconds())}
}

// runFio runs the client on its core until the limit.
func runFio(ctx context.Context, dir string, t fioTarget, l load, limit fioLimit) (fioResult, error) {
	fio, err := program("fio", "fio")
	if err != nil {
		return fioResult{}, err
	}
	out := filepath.Join(dir, "fio.json")
	command := []string{
		fio, "--name=load", "--rw=" + l.rw, "--bs=" + l.block, "--iodepth=" + strconv.Itoa(l.depth), "--numjobs=" + strconv.Itoa(l.jobs),
		"--randrepeat=0", "--norandommap", "--clocksource=clock_gettime", "--group_reporting", "--output-format=json", "--output=" + out,
	}
	command = append(command, limit.options()...)
	if t.socket != "" {
		command = append(command, "--ioengine=nbd", "--uri="+t.uri())
	} else {
		command = append(command, "--ioengine=io_uring", "--filename="+t.file, "--invalidate=0", "--direct="+map[bool]string{true: "1", false: "0"}[t.direct])
	}
	var said bytes.Buffer
	cmd := pinned(ctx, clientCore, command...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	if err := cmd.Run(); err != nil {
		return fioResult{}, fmt.Errorf("fio, %v: %w: %s", l, err, said.String())
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		return fioResult{}, err
	}
	return parseFio(raw)
}

// parseFio reads fio's report. A few lines of prose may come before it.
func parseFio(raw []byte) (fioResult, error) {
	type direction struct {
		IOPS     float64 `json:"iops"`
		Requests float64 `json:"total_ios"`
		Latency  struct {
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var report struct {
		Jobs []struct {
			Error  int       `json:"error"`
			Read   direction `json:"read"`
			Write  direction `json:"write"`
			User   float64   `json:"usr_cpu"`
			System float64   `json:"sys_cpu"`
		} `json:"jobs"`
	}
	if at := bytes.IndexByte(raw, '{'); at > 0 {
		raw = raw[at:]
	}
	if err := json.Unmarshal(raw, &report); err != nil {
		return fioResult{}, fmt.Errorf("fio's report: %w", err)
	}
	if len(report.Jobs) != 1 || report.Jobs[0].Error != 0 {
		return fioResult{}, fmt.Errorf("fio's report has %d groups and tells of an error", len(report.Jobs))
	}
	j := report.Jobs[0]
	d := j.Read
	if d.Requests == 0 {
		d = j.Write
	}
	if d.Requests == 0 {
		return fioResult{}, fmt.Errorf("fio made no request")
	}
	const nanosPerMicro = 1e3
	return fioResult{
		perSecond: d.IOPS, requests: d.Requests, clientCPU: (j.User + j.System) / 100,
		p50: d.Latency.Percentile["50.000000"] / nanosPerMicro, p99: d.Latency.Percentile["99.000000"] / nanosPerMicro,
	}, nil
}
