// Command init is process 1 of the test guest: a whole operating system's worth of user space in one static program.
//
// It loads the kernel modules of virtual hardware, reads its orders (kernel command line, then config drive), starts what they ask for, gets
// an address, and answers questions over TCP. What it may be ordered to do is in params.go; what it answers in services.go.
//
// Every goroutine lives as long as the machine: power off is the only end, so nothing waits for them.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// guest is the machine's state, as reported by the status command. The parts guard themselves.
type guest struct {
	bootID   string
	hostname string
	started  time.Time // monotonic, when init began
	params   params
	ticks    atomic.Uint64
	dirtier  *dirtier
	log      *diskLog // nil without a log partition
	net      *network
	orders   string // where the orders came from
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
	g := &guest{started: time.Now(), dirtier: newDirtier(), net: newNetwork()}
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
	g.takeOrders()
	g.startWork()
	go g.serve()
	ip := g.net.start(g.params.ip)
	say("ready ip=%s boot_id=%s", ip, g.bootID)
	return nil
}

// takeOrders reads parameters from where they may be: the config drive overrides the kernel command line.
func (g *guest) takeOrders() {
	line, _ := os.ReadFile("/proc/cmdline")
	orders := parseWords(strings.Fields(string(line)))
	g.orders = "cmdline"
	drive, err := readConfigDrive()
	switch {
	case err != nil:
		say("config drive: %v", err)
	case drive != nil:
		g.orders = "config drive"
		g.hostname = drive.Hostname
		g.net.seen(*drive)
		for k, v := range drive.orders() {
			orders[k] = v
		}
	}
	g.apply(orders)
}

// apply sets parameters; a bad one is reported and left out.
func (g *guest) apply(orders map[string]string) {
	p, errs := g.params.with(orders)
	for _, err := range errs {
		say("order ignored: %v", err)
	}
	g.params = p
	if g.hostname != "" {
		unix.Sethostname([]byte(g.hostname))
	}
}

// startWork begins whatever the parameters ask for. Called once.
func (g *guest) startWork() {
	disk, err := findRootDisk()
	if err != nil {
		say("no disk log: %v", err)
	} else if g.log, err = openDiskLog(disk, g.bootID); err != nil {
		say("no disk log: %v", err)
	}
	if g.log != nil && g.params.log > 0 {
		go g.log.run(g.params.log)
	}
	if g.params.tick > 0 {
		go g.tick(g.params.tick)
	}
	if g.params.fill > 0 {
		go fill(disk, g.params.fill)
	}
	g.dirtier.setSize(g.params.dirtySize)
	g.dirtier.setRate(g.params.dirty)
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
