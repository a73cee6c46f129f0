// Package labtest gives Go tests real KVM hosts.
//
//	func TestSomething(t *testing.T) {
//		l := labtest.Bare(t, 2)                           // two hosts with libvirtd and TLS certificates, gone when the test ends
//		conn, err := net.Dial("unix", l.LibvirtSocket("compute-1"))  // reachable from the test itself
//		out, err := l.Output(ctx, "compute-2", "virsh", "list", "--all")
//	}
//
// Each test gets a lab of its own, so tests may run in parallel as far as the machine's memory and cores allow. The labs are tethered: if the
// test process dies, so do its hosts, and the next test that asks for a lab removes what they leave.
package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
)

// cleanupTimeout bounds the removal of a test's lab.
const cleanupTimeout = 2 * time.Minute

// made numbers this process's labs.
var made atomic.Int64

// Bare makes a lab of compute hosts with libvirtd alone. It is removed when the test ends.
func Bare(t testing.TB, hosts int) *lab.Lab {
	t.Helper()
	return Up(t, lab.Options{Hosts: hosts, BareHosts: true})
}

// Up makes a lab as o says, tethered and with a name of its own unless o gives one. Without a Binary a bare lab uses labinit and any
// other the godwit program, built from this tree. The lab is removed when the test ends.
func Up(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("labtest: a lab needs root")
	}
	ctx := t.Context()
	if err := lab.Sweep(ctx); err != nil {
		t.Fatalf("labtest: remains of an earlier test: %v", err)
	}
	if o.Binary == "" {
		pkg := "./cmd/godwit"
		if o.BareHosts {
			pkg = "./internal/lab/labinit"
		}
		o.Binary = Build(t, pkg)
	}
	if o.Name == "" {
		o.Name = fmt.Sprintf("t%d-%d", os.Getpid(), made.Add(1))
	}
	if o.Progress == nil {
		o.Progress = func(line string) { t.Log(line) }
	}
	o.Tethered = true
	l, err := lab.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Down(ctx); err != nil {
			t.Errorf("labtest: %v", err)
		}
	})
	return l
}

// Build compiles a command of this module into a directory that lasts as long as the test, and returns the program's path. Go's build
// cache makes repetition cheap.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, pkg)
	cmd.Dir = moduleRoot()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("labtest: build %s: %v\n%s", pkg, err, msg)
	}
	return out
}

// moduleRoot is the directory this source was compiled from.
func moduleRoot() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}
