package main

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/test/bench/proc"
	"github.com/godwit-cloud/godwit/uring"
)

// warmUp is the part of the span that is not counted.
const warmUp = 5 // one fifth

// peer is one of the client's connections: a message is sent, and received whole, over and over.
type peer struct {
	fd      int
	out, in []byte
	begun   time.Time
}

// drive runs one client and prints: round trips, the span and the server's CPU time in it, median and 99th percentile of the latency, all
// in microseconds.
func drive(target string, conns, size int, span time.Duration) error {
	address, pidText, _ := strings.Cut(target, "/")
	pid, err := strconv.Atoi(pidText)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	entries := uint32(64)
	for int(entries) < 2*conns {
		entries *= 2
	}
	const flags = uring.SetupSingleIssuer | uring.SetupDeferTaskrun
	ring, err := uring.New(uring.Options{Entries: entries, Flags: flags, Optional: flags})
	if err != nil {
		return err
	}
	defer ring.Close()
	ring.RegisterFD()
	peers, err := connect(address, conns, size)
	if err != nil {
		return err
	}
	d := &driver{ring: ring, peers: peers}
	if err := d.run(span / warmUp); err != nil {
		return err
	}
	d.latencies = d.latencies[:0]
	before, err := proc.CPUTime(pid)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := d.run(span); err != nil {
		return err
	}
	took := time.Since(begun)
	after, err := proc.CPUTime(pid)
	if err != nil {
		return err
	}
	slices.Sort(d.latencies)
	n := len(d.latencies)
	if n == 0 {
		return fmt.Errorf("no round trip in %v", span)
	}
	fmt.Println(n, took.Microseconds(), (after - before).Microseconds(), micros(d.latencies[n/2]), micros(d.latencies[n*99/100]))
	return nil
}

func connect(address string, conns, size int) ([]*peer, error) {
	var peers []*peer
	for range conns {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		file, err := c.(*net.TCPConn).File()
		if err != nil {
			return nil, err
		}
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		file.Close()
		c.Close()
		p := &peer{fd: fd, out: make([]byte, size), in: make([]byte, size)}
		for i := range p.out {
			p.out[i] = byte(i)
		}
		peers = append(peers, p)
	}
	return peers, nil
}

type driver struct {
	ring      *uring.Ring
	peers     []*peer
	latencies []time.Duration
}

// run keeps one message under way on every connection for the span, then lets the last ones come home.
func (d *driver) run(span time.Duration) error {
	end := time.Now().Add(span)
	open := len(d.peers)
	for i, p := range d.peers {
		d.begin(i, p)
	}
	for open > 0 {
		if err := d.ring.SubmitAndWait(1); err != nil {
			return err
		}
		now := time.Now()
		var failed error
		d.ring.Completions(func(c uring.CQE) {
			p := d.peers[c.UserData>>1]
			if int(c.Res) != len(p.in) {
				failed = fmt.Errorf("a message of %d bytes ended with %d", len(p.in), c.Res)
				return
			}
			if c.UserData&1 == 0 {
				return // sent; the answer is awaited by the linked receive
			}
			if p.in[len(p.in)-1] != byte(len(p.in)-1) {
				failed = fmt.Errorf("the answer differs from the message")
			}
			d.latencies = append(d.latencies, now.Sub(p.begun))
			if now.Before(end) {
				p.begun = now
				d.send(int(c.UserData>>1), p)
			} else {
				open--
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

func (d *driver) begin(i int, p *peer) {
	p.begun = time.Now()
	d.send(i, p)
}

// send asks for a send and, linked to it, the receive of the answer.
func (d *driver) send(i int, p *peer) {
	s := d.ring.Next()
	s.PrepSend(p.fd, p.out, unix.MSG_WAITALL|unix.MSG_NOSIGNAL)
	s.Flags |= uring.IOLink
	s.UserData = uint64(i) << 1
	r := d.ring.Next()
	r.PrepRecv(p.fd, p.in, unix.MSG_WAITALL)
	r.UserData = uint64(i)<<1 | 1
}
