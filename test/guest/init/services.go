package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/test/guest/wire"
)

// panicAfter leaves the answer time to leave the guest.
const panicAfter = 200 * time.Millisecond

// lineBytesMax bounds a control command.
const lineBytesMax = 1024

// status answers the control command of that name.
func (g *guest) status() wire.Status {
	g.mu.Lock()
	hostname, orders := g.hostname, g.orders
	g.mu.Unlock()
	s := wire.Status{
		BootID: g.bootID, Hostname: hostname, UptimeMS: g.uptime().Milliseconds(), UnixMS: time.Now().UnixMilli(),
		Ticks: g.ticks.Load(), DirtyRate: g.dirtier.rate.Load(), DirtiedBytes: g.dirtier.total.Load(), FreeBytes: memoryAvailable(),
		Orders: orders, AgentPings: g.agent.pings.Load(), NetworkStatus: g.net.status(),
	}
	if g.log != nil {
		s.LogLast, s.LogErrors = g.log.log.Last(), g.log.errs.Load()
	}
	return s
}

// serve answers echo and control connections on every address, for the life of the machine.
func (g *guest) serve() {
	go listen(wire.EchoPort, func(c net.Conn) { io.Copy(c, c) })
	listen(wire.ControlPort, g.control)
}

func listen(port int, serve func(net.Conn)) {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		say("port %d: %v", port, err)
		return
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			say("port %d: %v", port, err)
			return
		}
		go func() {
			defer conn.Close()
			serve(conn)
		}()
	}
}

// control answers commands, one per line, each with one line of JSON:
//
//	status       what the guest knows of itself
//	verify       the whole disk log, read again and checked (a disklog.Report)
//	sync         a log record appended now and on the disk: {"last": N}
//	stall        the longest time between two records since this was last asked: {"stall_ms": N}
//	dirty RATE   dirty RATE bytes of memory per second from now on (50MiB; 0 stops)
//	load SHARE   keep the CPU busy for SHARE thousandths of the time from now on (0 stops)
//	poweroff     end in order
//	panic        end as a defect of the kernel does
//	watchdog     start the watchdog device and never feed it: it expires after about two seconds
//	silence      the guest agent answers no more
func (g *guest) control(conn net.Conn) {
	in := bufio.NewScanner(conn)
	in.Buffer(make([]byte, lineBytesMax), lineBytesMax)
	out := json.NewEncoder(conn)
	for in.Scan() {
		answer, err := g.command(in.Text())
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := out.Encode(answer); err != nil {
			return
		}
	}
}

func (g *guest) command(line string) (any, error) {
	name, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch name {
	case "status":
		return g.status(), nil
	case "verify":
		if g.log == nil {
			return nil, fmt.Errorf("no disk log")
		}
		rep, err := g.log.log.Verify()
		return rep, err
	case "sync":
		if g.log == nil {
			return nil, fmt.Errorf("no disk log")
		}
		last, err := g.log.log.Append(time.Now())
		return map[string]uint64{"last": last}, err
	case "stall":
		if g.log == nil {
			return nil, fmt.Errorf("no disk log")
		}
		return map[string]int64{"stall_ms": time.Duration(g.log.stall.Swap(0)).Milliseconds()}, nil
	case "dirty":
		rate, err := parseSize(arg)
		if err == nil {
			g.dirtier.setRate(rate)
		}
		return map[string]int64{"dirty_rate": rate}, err
	case "load":
		share, err := parseShare(arg)
		if err == nil {
			g.loader.setShare(share)
		}
		return map[string]uint64{"load": share}, err
	case "panic":
		time.AfterFunc(panicAfter, func() {
			if err := panicKernel(); err != nil {
				say("panic: %v", err)
			}
		})
		return map[string]bool{"ok": true}, nil
	case "watchdog":
		err := armWatchdog()
		return map[string]bool{"ok": err == nil}, err
	case "silence":
		g.agent.silent.Store(true)
		return map[string]bool{"ok": true}, nil
	case "poweroff":
		go g.powerOff(false)
		return map[string]bool{"ok": true}, nil
	}
	return nil, fmt.Errorf("unknown command %q", name)
}
