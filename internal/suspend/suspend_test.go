package suspend

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/test/guest"
)

func TestAMachineThatCannotSleepInMemoryIsLeftAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	if err := Memory(file); !cloud.Is(err, cloud.KindUnsupported) {
		t.Errorf("without the file: %v", err)
	}
	const known = "freeze disk\n"
	if err := os.WriteFile(file, []byte(known), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Memory(file); !cloud.Is(err, cloud.KindUnsupported) || !strings.Contains(err.Error(), "freeze") {
		t.Errorf("with other sleeps only: %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != known {
		t.Errorf("the file says %q, %v", got, err)
	}
}

// machineMax bounds the life of the virtual machine, emulated on a busy machine.
const machineMax = 5 * time.Minute

// TestARealKernelSleepsAndIsWoken: the machine's own firmware says that it sleeps, wakes it, and the call returns.
func TestARealKernelSleepsAndIsWoken(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a virtual machine")
	}
	ctx, cancel := context.WithTimeout(t.Context(), machineMax)
	defer cancel()
	m := boot(ctx, t)
	m.await(t, "SUSPEND")
	for m.say(t, "system_wakeup") { // refused until it sleeps altogether
	}
	m.await(t, "WAKEUP")
	out := strings.Builder{}
	for m.console.Scan() {
		out.WriteString(m.console.Text() + "\n")
	}
	if !strings.Contains(out.String(), "machine: sleeps") || !strings.Contains(out.String(), "machine: woken") {
		t.Errorf("the machine said\n%s", out.String())
	}
}

// machine is a running virtual machine and its monitor (QMP).
type machine struct {
	console *bufio.Scanner
	monitor *json.Decoder
	orders  *json.Encoder
	events  map[string]bool
}

func boot(ctx context.Context, t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "init")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./machine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	init, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := guest.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	initrd, socket := filepath.Join(dir, "initrd"), filepath.Join(dir, "qmp")
	if err := os.WriteFile(initrd, guest.Initrd(init), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-global", "PIIX4_PM.disable_s3=0", "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off",
		"-chardev", "socket,id=qmp,path="+socket, "-mon", "chardev=qmp,mode=control", "-serial", "stdio")
	console, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // it has powered off, or ctx has ended it
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	t.Cleanup(func() { stop() })
	m := &machine{console: bufio.NewScanner(console), monitor: json.NewDecoder(conn), orders: json.NewEncoder(conn), events: map[string]bool{}}
	m.next(t) // its greeting
	if m.say(t, "qmp_capabilities") {
		t.Fatal("no talking to the monitor")
	}
	return m
}

// message is what the monitor says: the answer to an order, or an event.
type message struct {
	Event         string
	Return, Error json.RawMessage
}

func (m *machine) next(t *testing.T) message {
	t.Helper()
	var got message
	if err := m.monitor.Decode(&got); err != nil {
		t.Fatalf("monitor, after %v: %v", m.events, err)
	}
	if got.Event != "" {
		m.events[got.Event] = true
	}
	return got
}

// await waits for an event.
func (m *machine) await(t *testing.T, event string) {
	t.Helper()
	for !m.events[event] {
		m.next(t)
	}
}

// say gives an order and reports whether it was refused.
func (m *machine) say(t *testing.T, order string) (refused bool) {
	t.Helper()
	if err := m.orders.Encode(map[string]string{"execute": order}); err != nil {
		t.Fatal(err)
	}
	for {
		if got := m.next(t); got.Event == "" {
			return got.Error != nil
		}
	}
}
