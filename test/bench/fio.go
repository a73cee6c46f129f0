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

// load is a pattern of requests.
type load struct {
	rw    string // fio's word: randread, randwrite, read, write
	block string
	depth int
	jobs  int
}

func (l load) String() string {
	name := map[string]string{"randread": "random read", "randwrite": "random write", "read": "sequential read", "write": "sequential write"}[l.rw]
	return fmt.Sprintf("%s %s, depth %d, %d job%s", l.block, name, l.depth, l.jobs, map[bool]string{true: "", false: "s"}[l.jobs == 1])
}

// short is the load in a plot.
func (l load) short() string {
	name := map[string]string{"randread": "rr", "randwrite": "rw", "read": "seq r", "write": "seq w"}[l.rw]
	if l.jobs == 1 {
		return fmt.Sprintf("%s %d", name, l.depth)
	}
	return fmt.Sprintf("%s %dx%d", name, l.depth, l.jobs)
}

// fioTarget is what a client works on: an NBD server's socket, or a file by fio's own io_uring engine.
type fioTarget struct {
	socket string
	export string // empty: the default one
	file   string
	direct bool
}

// fioResult is what one run of the client saw.
type fioResult struct {
	perSecond float64 // requests
	requests  float64
	p50, p99  float64 // completion latency, us
	clientCPU float64 // share of the client's core
}

// runFio runs the client on its core for the span, on the first bytes of the target.
func runFio(ctx context.Context, dir string, t fioTarget, l load, bytesMax int64, span time.Duration) (fioResult, error) {
	fio, err := program("fio", "fio")
	if err != nil {
		return fioResult{}, err
	}
	out := filepath.Join(dir, "fio.json")
	command := []string{
		fio, "--name=load", "--rw=" + l.rw, "--bs=" + l.block, "--iodepth=" + strconv.Itoa(l.depth), "--numjobs=" + strconv.Itoa(l.jobs),
		"--size=" + strconv.FormatInt(bytesMax, 10), "--time_based", fmt.Sprintf("--runtime=%dms", span.Milliseconds()),
		"--randrepeat=0", "--norandommap", "--clocksource=clock_gettime", "--group_reporting", "--output-format=json", "--output=" + out,
	}
	if t.socket != "" {
		command = append(command, "--ioengine=nbd", "--uri=nbd+unix:///"+t.export+"?socket="+t.socket)
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
