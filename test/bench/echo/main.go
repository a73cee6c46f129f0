// Command echo measures the network half of package uring: echo servers that differ only in how they wait, under one client.
//
//	net    Go's package net, a goroutine for each connection
//	conn   the same code on uring's net.Conn
//	loop   a session on the ring's own thread
//
// Server and client run as processes of their own, pinned to one core each. The contenders take turns (A B C C B A), so that what else
// the machine does hits them alike. The client keeps one message under way per connection, from a ring of its own; it counts round trips,
// and the servers' CPU time is read from /proc: on a machine where the client's core is the limit, CPU time per round trip is the figure
// that compares.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

var kinds = []string{"net", "conn", "loop"}

func main() {
	serveKind := flag.String("serve", "", "run one server: net, conn or loop")
	address := flag.String("client", "", "run one client against this address")
	conns := flag.String("conns", "1,100,500", "numbers of connections")
	sizes := flag.String("sizes", "64,16384", "message sizes in bytes")
	rounds := flag.Int("rounds", 10, "rounds; each contender runs once in a round")
	span := flag.Duration("span", time.Second, "how long each contender runs in a round")
	only := flag.String("kinds", strings.Join(kinds, ","), "contenders")
	serverCPU := flag.Int("server-cpu", 0, "core of the server")
	clientCPU := flag.Int("client-cpu", 1, "core of the client")
	single := flag.Bool("single", false, "loop: ask for each receive by itself")
	flag.Parse()
	var err error
	switch {
	case *serveKind != "":
		err = serve(*serveKind, *single)
	case *address != "":
		err = drive(*address, number(*conns), number(*sizes), *span)
	default:
		b := bench{kinds: strings.Split(*only, ","), rounds: *rounds, span: *span, serverCPU: *serverCPU, clientCPU: *clientCPU, single: *single}
		err = b.table(numbers(*conns), numbers(*sizes))
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
}

// run is one contender's turn.
type run struct {
	perSecond float64
	cpuMicros float64 // of the server, per round trip
	median    time.Duration
	p99       time.Duration
}

func (b bench) table(conns, sizes []int) error {
	fmt.Printf("%d rounds of %v, server on core %d, client on core %d; medians\n\n", b.rounds, b.span, b.serverCPU, b.clientCPU)
	fmt.Println("| conns | bytes | server | round trips/s | server CPU us each | latency median us | p99 us | of net: speed | CPU |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, size := range sizes {
		for _, n := range conns {
			if err := b.row(n, size); err != nil {
				return err
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("\nload at the end: %s", load)
	return nil
}

func (b bench) row(conns, size int) error {
	runs := map[string][]run{}
	for round := range b.rounds {
		order := slices.Clone(b.kinds)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, kind := range order {
			r, err := b.turn(kind, conns, size)
			if err != nil {
				return fmt.Errorf("%s, %d connections of %d bytes: %w", kind, conns, size, err)
			}
			runs[kind] = append(runs[kind], r)
		}
	}
	base := runs[b.kinds[0]]
	speed := func(r run) float64 { return r.perSecond }
	cpu := func(r run) float64 { return r.cpuMicros }
	for _, kind := range b.kinds {
		r := runs[kind]
		fmt.Printf("| %d | %d | %s | %.0f | %.2f | %.0f | %.0f | %.2f | %.2f |\n", conns, size, kind, median(r, speed), median(r, cpu),
			median(r, func(r run) float64 { return micros(r.median) }), median(r, func(r run) float64 { return micros(r.p99) }),
			median(r, speed)/median(base, speed), median(r, cpu)/median(base, cpu))
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func median(runs []run, of func(run) float64) float64 {
	values := make([]float64, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.SortFunc(values, cmp.Compare[float64])
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// turn starts a server, lets a client loose on it, and reads what both say.
func (b bench) turn(kind string, conns, size int) (r run, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	server := exec.Command("taskset", "-c", strconv.Itoa(b.serverCPU), self, "-serve", kind, "-single="+strconv.FormatBool(b.single))
	server.Stderr = os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		return r, err
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := server.Start(); err != nil {
		return r, err
	}
	defer func() {
		err = errors.Join(err, stdin.Close(), server.Wait()) // the server ends when its input does
	}()
	var address string
	if _, err := fmt.Fscanln(stdout, &address); err != nil {
		return r, err
	}
	client := exec.Command("taskset", "-c", strconv.Itoa(b.clientCPU), self, "-client", address, "-conns", strconv.Itoa(conns),
		"-sizes", strconv.Itoa(size), "-span", b.span.String())
	client.Stderr = os.Stderr
	out, err := client.Output()
	if err != nil {
		return r, err
	}
	var trips, cpuMicros, spanMicros, medianMicros, p99Micros float64
	// The client asks the server for its CPU time around the measured span, over the connection itself.
	if _, err := fmt.Sscan(string(out), &trips, &spanMicros, &cpuMicros, &medianMicros, &p99Micros); err != nil {
		return r, fmt.Errorf("client said %q: %w", out, err)
	}
	return run{perSecond: trips / spanMicros * 1e6, cpuMicros: cpuMicros / trips, median: time.Duration(medianMicros * 1e3), p99: time.Duration(p99Micros * 1e3)}, nil
}

// untilInputEnds blocks until whoever started this process closes its input.
func untilInputEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }
