// Command init is process 1 of the test guest: a whole operating system's worth of user space in one static program.
//
// It loads the kernel modules of virtual hardware, reads its orders (kernel command line, then config drive or, without one, the metadata
// service), starts what they ask for, gets an address, and answers questions over TCP. What it may be ordered to do is in params.go; what it answers in services.go.
//
// Every goroutine lives as long as the machine: power off is the only end, so nothing waits for them.
package main

import (
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// guest is the machine's state, as reported by the status command.
type guest struct {
	bootID  string
	started time.Time // monotonic, when init began
	disk    string    // the root disk's device, "" if not found
	log     *diskLog  // nil without a root disk
	ticks   atomic.Uint64
	dirtier *dirtier
	loader  loader
	net     *network
	agent   agent

	mu       sync.Mutex // guards what orders change
	hostname string
	params   params
	orders   string          // where the orders came from
	working  map[string]bool // kinds of work that have begun; each begins once
}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: only as process 1 of the test guest")
		os.Exit(1)
	}
	if err := run(); err != nil {
		say("failed: %v", err)
	}
	select {} // the machine runs until it is powered off
}

// say prints one line to the console.
func say(format string, args ...any) {
	fmt.Fprint(os.Stdout, "godwit-guest "+fmt.Sprintf(format, args...)+"\n")
}

// heapMax keeps this program small, so that a guest of 128 MiB has most of them to dirty.
const heapMax = 16 << 20

func run() error {
	debug.SetMemoryLimit(heapMax)
	g := &guest{started: time.Now(), dirtier: newDirtier(), net: newNetwork(), working: map[string]bool{}}
	if err := mountKernel(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := seedRandom(); err != nil {
		return err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	g.bootID = strings.TrimSpace(string(id))
	say("booting boot_id=%s", g.bootID)
	go watchPowerButton(g.powerOff)
	go g.agent.run()
	if g.disk, err = findRootDisk(); err != nil {
		say("no disk log: %v", err)
	} else if g.log, err = openDiskLog(g.disk, g.bootID); err != nil {
		say("no disk log: %v", err)
	}
	hasDrive := g.takeOrders()
	go g.serve()
	ip := g.net.start(g.params.ip, func(m metadata) {
		if !hasDrive {
			g.obey("metadata service", m.Hostname, m.orders())
		}
	})
	say("ready ip=%s boot_id=%s", ip, g.bootID)
	return nil
}

// takeOrders obeys the kernel command line, and the config drive over it. It reports whether there is a config drive: without one, the
// metadata service may give orders later.
func (g *guest) takeOrders() (hasDrive bool) {
	line, _ := os.ReadFile("/proc/cmdline")
	orders := parseWords(strings.Fields(string(line)))
	drive, err := readConfigDrive()
	if err != nil {
		say("config drive: %v", err)
	}
	if drive == nil {
		g.obey("cmdline", "", orders)
		return false
	}
	maps.Copy(orders, drive.orders())
	g.net.seen(*drive)
	g.obey("config drive", drive.Hostname, orders)
	return true
}

// obey sets parameters and begins the work they ask for; work already begun goes on as it is. A bad order is reported and left out.
func (g *guest) obey(from, hostname string, orders map[string]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, errs := g.params.with(orders)
	for _, err := range errs {
		say("order ignored: %v", err)
	}
	g.params, g.orders = p, from
	if hostname != "" {
		g.hostname = hostname
		unix.Sethostname([]byte(hostname))
	}
	if p.log > 0 && g.log != nil {
		g.begin("log", func() { g.log.run(p.log) })
	}
	if p.tick > 0 {
		g.begin("tick", func() { g.tick(p.tick) })
	}
	if p.fill > 0 {
		g.begin("fill", func() { fill(g.disk, p.fill) })
	}
	g.dirtier.setSize(p.dirtySize)
	if p.dirty > 0 {
		g.begin("dirty", func() { g.dirtier.setRate(p.dirty) })
	}
}

// begin starts work of a kind unless that has begun. Call with mu held.
func (g *guest) begin(kind string, work func()) {
	if !g.working[kind] {
		g.working[kind] = true
		go work()
	}
}

// tick prints "tick N <unix ms> <uptime ms>": proof on the console that the guest runs, and when it did not.
func (g *guest) tick(every time.Duration) {
	for now := range time.Tick(every) {
		n := g.ticks.Add(1)
		fmt.Fprintf(os.Stdout, "tick %d %d %d\n", n, now.UnixMilli(), g.uptime().Milliseconds())
	}
}

func (g *guest) uptime() time.Duration { return time.Since(g.started) }

// powerOff ends the guest in order: the log's last record is whole, then the machine is off.
func (g *guest) powerOff(reboot bool) {
	say("power off")
	if g.log != nil {
		g.log.stop()
	}
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	if err := unix.Reboot(how); err != nil {
		say("power off: %v", err)
	}
}
