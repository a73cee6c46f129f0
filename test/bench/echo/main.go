// Command echo measures the network half of package uring: echo servers that differ only in how they wait, under one client.
//
//	net    Go's package net, a goroutine for each connection
//	conn   the same code on uring's net.Conn
//	loop   a session on the ring's own thread
//	nio    java.nio, one selector
//	netty  Netty, one event loop
//
// Servers and client run as processes of their own, servers pinned to one core, the client to another. All servers are up from beginning
// to end and are warmed up before anything counts, so that what a virtual machine compiles while it runs is compiled; those that
// are not asked use no processor time. The contenders take turns (A B C C B A), so that what else the machine does hits them alike. The
// client keeps one message under way per connection, from a ring of its own; it counts round trips and reads the server's CPU
// clock: on a machine where the client's core is the limit, CPU time per round trip is the figure that compares.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

var kinds = []string{"net", "conn", "loop", "nio", "netty"}

func main() {
	serveKind := flag.String("serve", "", "run one server: net, conn or loop")
	address := flag.String("client", "", "run one client against this address")
	conns := flag.String("conns", "1,100,500", "numbers of connections")
	sizes := flag.String("sizes", "64,16384", "message sizes in bytes")
	rounds := flag.Int("rounds", 10, "rounds; each contender runs once in a round")
	span := flag.Duration("span", time.Second, "how long each contender runs in a round")
	warm := flag.Duration("warm", 4*time.Second, "how long each server is warmed up")
	only := flag.String("kinds", strings.Join(kinds, ","), "contenders")
	serverCPU := flag.Int("server-cpu", 0, "core of the servers")
	clientCPU := flag.Int("client-cpu", 1, "core of the client")
	single := flag.Bool("single", false, "loop: ask for each receive by itself")
	asJSON := flag.Bool("json", false, "print every run, for programs")
	flag.Parse()
	var err error
	switch {
	case *serveKind != "":
		err = serve(*serveKind, *single)
	case *address != "":
		err = drive(*address, number(*conns), number(*sizes), *span)
	default:
		b := bench{kinds: strings.Split(*only, ","), rounds: *rounds, span: *span, serverCPU: *serverCPU, clientCPU: *clientCPU, single: *single}
		err = b.measure(numbers(*conns), numbers(*sizes), *warm, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func number(s string) int { return numbers(s)[0] }

func numbers(s string) (out []int) {
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "echo: %q is not a list of positive numbers\n", s)
			os.Exit(2)
		}
		out = append(out, n)
	}
	return out
}

type bench struct {
	kinds                []string
	rounds               int
	span                 time.Duration
	serverCPU, clientCPU int
	single               bool
	servers              map[string]*server
}

// A Run is one contender's turn.
type Run struct {
	PerSecond    float64
	CPUMicros    float64 // of the server, per round trip
	MedianMicros float64
	P99Micros    float64
	RSSMB        float64 // of the server, after the turn
}

// A Row is everything measured of one contender under one load.
type Row struct {
	Conns, Bytes int
	Kind         string
	Runs         []Run
}

// measure has all servers up, runs all loads, and prints.
func (b *bench) measure(conns, sizes []int, warm time.Duration, asJSON bool) (err error) {
	defer func() { err = errors.Join(err, b.stopServers()) }()
	if err := b.startServers(); err != nil {
		return err
	}
	for _, kind := range b.kinds {
		const warmConns, warmBytes = 50, 1024
		if _, err := b.turn(kind, warmConns, warmBytes, warm); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	var rows []Row
	for _, size := range sizes {
		for _, n := range conns {
			of, err := b.load(n, size)
			if err != nil {
				return err
			}
			rows = append(rows, of...)
		}
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	b.print(rows)
	return nil
}

func (b *bench) load(conns, size int) ([]Row, error) {
	rows := make([]Row, len(b.kinds))
	for i, kind := range b.kinds {
		rows[i] = Row{Conns: conns, Bytes: size, Kind: kind}
	}
	for round := range b.rounds {
		order := make([]int, len(rows))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			r, err := b.turn(rows[i].Kind, conns, size, b.span)
			if err != nil {
				return nil, fmt.Errorf("%s, %d connections of %d bytes: %w", rows[i].Kind, conns, size, err)
			}
			rows[i].Runs = append(rows[i].Runs, r)
		}
	}
	return rows, nil
}

func (b *bench) print(rows []Row) {
	fmt.Printf("%d rounds of %v, servers on core %d, client on core %d; medians\n\n", b.rounds, b.span, b.serverCPU, b.clientCPU)
	fmt.Println("| conns | bytes | server | round trips/s | server CPU us each | latency median us | p99 us | RSS MB | of the first: speed | CPU |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	speed := func(r Run) float64 { return r.PerSecond }
	cpu := func(r Run) float64 { return r.CPUMicros }
	for i, r := range rows {
		base := rows[i-i%len(b.kinds)]
		fmt.Printf("| %d | %d | %s | %.0f | %.2f | %.0f | %.0f | %.1f | %.2f | %.2f |\n", r.Conns, r.Bytes, r.Kind, median(r.Runs, speed), median(r.Runs, cpu),
			median(r.Runs, func(r Run) float64 { return r.MedianMicros }), median(r.Runs, func(r Run) float64 { return r.P99Micros }),
			median(r.Runs, func(r Run) float64 { return r.RSSMB }),
			median(r.Runs, speed)/median(base.Runs, speed), median(r.Runs, cpu)/median(base.Runs, cpu))
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("\nload at the end: %s", load)
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func median(runs []Run, of func(Run) float64) float64 {
	values := make([]float64, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.SortFunc(values, cmp.Compare[float64])
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// untilInputEnds blocks until whoever started this process closes its input.
func untilInputEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }
