package guest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/test/freeport"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/guest/disklog"
	"github.com/godwit-cloud/godwit/test/guest/layout"
)

// machine is one emulated machine, run by QEMU directly with user-mode networking on loopback.
type machine struct {
	cmd           *exec.Cmd
	console       chan string // every line; consoleLines of room, the rest is dropped
	monitor       string
	control, echo string // addresses on loopback
	ended         chan error
}

// consoleLines is more than any test reads.
const consoleLines = 1000

// newDisk makes an overlay on the image.
func newDisk(t *testing.T, orders string) string {
	t.Helper()
	image, err := guest.ImageWithOrders(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk, "128M")
	return disk
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func powerOn(t *testing.T, disk string, extra ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	control, echo := freeport.Find(t), freeport.Find(t)
	m := &machine{
		console: make(chan string, consoleLines), ended: make(chan error, 1), monitor: filepath.Join(dir, "monitor"),
		control: fmt.Sprintf("127.0.0.1:%d", control), echo: fmt.Sprintf("127.0.0.1:%d", echo),
	}
	args := []string{
		"-machine", "pc,accel=tcg", "-m", "128", "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
		"-monitor", "unix:" + m.monitor + ",server=on,wait=off",
		"-drive", "file=" + disk + ",if=virtio,format=qcow2,cache=none",
		"-nic", fmt.Sprintf("user,model=virtio,restrict=on,hostfwd=tcp:127.0.0.1:%d-:%d,hostfwd=tcp:127.0.0.1:%d-:%d",
			control, guest.ControlPort, echo, guest.EchoPort),
	}
	m.cmd = exec.CommandContext(t.Context(), "qemu-system-x86_64", append(args, extra...)...)
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() { m.read(out) })
	t.Cleanup(func() {
		m.cmd.Process.Kill()
		reader.Wait()
	})
	return m
}

// read follows the console until the machine is off.
func (m *machine) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		select {
		case m.console <- strings.TrimSpace(lines.Text()):
		default:
		}
	}
	close(m.console)
	m.ended <- m.cmd.Wait()
}

// expect returns the next console line with the given prefix.
func (m *machine) expect(ctx context.Context, t *testing.T, prefix string) string {
	t.Helper()
	for {
		select {
		case line, ok := <-m.console:
			if !ok {
				t.Fatalf("console ended before %q", prefix)
			}
			t.Log(line)
			if strings.HasPrefix(line, prefix) {
				return line
			}
		case <-ctx.Done():
			t.Fatalf("no line %q on the console: %v", prefix, ctx.Err())
		}
	}
}

func (m *machine) connect(ctx context.Context, t *testing.T) *guest.Client {
	t.Helper()
	var d net.Dialer
	c, err := guest.Connect(ctx, d.DialContext, m.control)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// monitorCommand gives QEMU's monitor one command.
func (m *machine) monitorCommand(t *testing.T, line string) {
	t.Helper()
	conn, err := net.Dial("unix", m.monitor)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 2 { // the greeting, and the echo of the command
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(conn, line)
		line = ""
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestGuestTicksEchoesAndEndsAtThePowerButton(t *testing.T) {
	ctx := testContext(t)
	m := powerOn(t, newDisk(t, "godwit.tick=100ms"))
	ready := m.expect(ctx, t, "godwit-guest ready ")
	m.expect(ctx, t, "tick ")
	if !strings.Contains(ready, "ip=10.0.2.15") {
		t.Errorf("no address by DHCP: %s", ready)
	}
	conn, err := net.Dial("tcp4", m.echo)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const word = "godwit"
	got := make([]byte, len(word))
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != word {
		t.Errorf("echo answered %q, %v", got, err)
	}
	m.monitorCommand(t, "system_powerdown")
	m.expect(ctx, t, "godwit-guest power off")
	if err := <-m.ended; err != nil {
		t.Errorf("machine did not switch itself off: %v", err)
	}
}

func TestDiskLogIsWholeAfterTheMachineIsKilledAndStartedAgain(t *testing.T) {
	ctx := testContext(t)
	disk := newDisk(t, "godwit.log=1ms")
	m := powerOn(t, disk)
	m.expect(ctx, t, "godwit-guest ready ")
	c := m.connect(ctx, t)
	acknowledged, err := c.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m.cmd.Process.Kill()
	<-m.ended

	outside := verifyFromOutside(t, disk)
	if !outside.OK || outside.Last < acknowledged {
		t.Errorf("record %d was acknowledged; the disk, read from outside: %+v", acknowledged, outside)
	}
	m = powerOn(t, disk)
	m.expect(ctx, t, "godwit-guest ready ")
	c = m.connect(ctx, t)
	rep, err := c.Verify(ctx)
	if err != nil || !rep.OK || rep.Last <= outside.Last {
		t.Errorf("after the second start: %+v, %v; want whole and longer than %d", rep, err, outside.Last)
	}
}

// verifyFromOutside reads the log partition of a disk that no guest uses.
func verifyFromOutside(t *testing.T, disk string) disklog.Report {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk.raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rep, err := disklog.Verify(io.NewSectionReader(f, layout.LogOffset, layout.LogBytes), layout.LogBytes)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestConfigDriveOverridesTheKernelCommandLine(t *testing.T) {
	for _, kind := range []string{"vfat", "iso9660"} {
		t.Run(kind, func(t *testing.T) {
			ctx := testContext(t)
			drive := configDrive(t, kind, map[string]string{
				"meta_data.json": `{"uuid": "4711", "name": "probe", "hostname": "probe.example", "meta": {"godwit.dirty": "8MiB", "other": "x"}}`,
				"user_data":      "#!/bin/sh\ngodwit.tick=50ms\n",
			})
			m := powerOn(t, newDisk(t, "godwit.tick=1h"), "-drive", "file="+drive+",if=virtio,format=raw,readonly=on")
			m.expect(ctx, t, "godwit-guest ready ")
			m.expect(ctx, t, "tick ")
			c := m.connect(ctx, t)
			s, err := c.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if s.Hostname != "probe.example" || s.UUID != "4711" || s.Name != "probe" || s.DirtyRate != 8<<20 || s.Orders != "config drive" {
				t.Errorf("status with a config drive: %+v", s)
			}
		})
	}
}

// configDrive writes files below openstack/latest of a disk labelled config-2.
func configDrive(t *testing.T, kind string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	latest := filepath.Join(dir, "root", "openstack", "latest")
	if err := os.MkdirAll(latest, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(latest, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	drive := filepath.Join(dir, "config.img")
	if kind == "iso9660" {
		run(t, "genisoimage", "-quiet", "-V", "config-2", "-r", "-J", "-o", drive, filepath.Join(dir, "root"))
		return drive
	}
	const kib = 4096
	run(t, "/usr/sbin/mkfs.fat", "-C", "-n", "CONFIG-2", drive, fmt.Sprint(kib))
	run(t, "mcopy", "-s", "-i", drive, filepath.Join(dir, "root", "openstack"), "::openstack")
	return drive
}

func TestDirtierKeepsItsRateWithinTheMemoryThereIs(t *testing.T) {
	ctx := testContext(t)
	m := powerOn(t, newDisk(t, "godwit.dirty_size=1GiB")) // far more than it has
	m.expect(ctx, t, "godwit-guest ready ")
	c := m.connect(ctx, t)
	const rate = 64 << 20
	if err := c.Dirty(ctx, rate); err != nil {
		t.Fatal(err)
	}
	first, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB free", first.FreeBytes>>20)
	for {
		now, err := c.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		dirtied, elapsed := now.DirtiedBytes-first.DirtiedBytes, now.UptimeMS-first.UptimeMS
		if most := float64(rate) * float64(elapsed+100) / 1000; float64(dirtied) > most {
			t.Fatalf("%d bytes dirtied in %d ms, more than asked for", dirtied, elapsed)
		}
		if dirtied >= 128<<20 { // once round all of the machine's memory
			t.Logf("%d bytes in %d ms", dirtied, elapsed)
			return
		}
	}
}

// cpuTime is what the emulator has used so far.
func (m *machine) cpuTime(t *testing.T) time.Duration {
	t.Helper()
	const user, system, tick = 11, 12, 10 * time.Millisecond // fields of /proc/PID/stat after the name
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	sum := time.Duration(0)
	for _, word := range []string{words[user], words[system]} {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

// uses has a guest live for so long by its own clock, and returns what that cost the machine for each second.
func (m *machine) uses(ctx context.Context, t *testing.T, c *guest.Client, span time.Duration) float64 {
	t.Helper()
	before, first := m.cpuTime(t), int64(-1)
	for {
		now, err := c.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if first < 0 {
			first = now.UptimeMS
		}
		if lived := time.Duration(now.UptimeMS-first) * time.Millisecond; lived >= span {
			return (m.cpuTime(t) - before).Seconds() / lived.Seconds()
		}
		select { // a question every now and then, which costs next to nothing
		case <-time.After(span / 10):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
}

func TestLoadKeepsTheCPUBusyAndZeroStopsIt(t *testing.T) {
	ctx := testContext(t)
	m := powerOn(t, newDisk(t, ""))
	m.expect(ctx, t, "godwit-guest ready ")
	c := m.connect(ctx, t)
	if err := c.Load(ctx, 1001); err == nil {
		t.Error("a load above the whole CPU was taken")
	}
	load := func(thousandths int) float64 {
		if err := c.Load(ctx, thousandths); err != nil {
			t.Fatal(err)
		}
		return m.uses(ctx, t, c, 2*time.Second)
	}
	idle, half, whole, after := load(0), load(500), load(1000), load(0)
	t.Logf("CPUs used: idle %.2f, half %.2f, whole %.2f, idle again %.2f", idle, half, whole, after)
	// A busy machine gives the guest less than it asks for, but more than when it asks for nothing.
	if half < 1.5*idle || whole < 1.5*idle || whole < 1.5*after {
		t.Errorf("CPUs used: idle %.2f, half %.2f, whole %.2f, idle again %.2f", idle, half, whole, after)
	}
}
