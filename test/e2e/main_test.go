// Package e2e shows godwit doing its work: real hosts made of namespaces, real guests, and the public API, from the outside. One lab of
// three hosts serves all tests of the package, which therefore clean up after themselves; the lab is tethered to this process and leaves nothing behind.
//
// Tests that disturb others, because they kill, fill, freeze or time something, run one after another; those that only use what everybody may use are
// parallel, which go test runs when all others are done.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// cloud is the lab all tests share, godwit the program under test.
var (
	cloud  *labcloud.Fixture
	godwit string
)

// drill asks for the whole matrices of faults and moments; without it a selection runs that has each fault and each moment once.
var drill = os.Getenv("GODWIT_DRILL") != ""

// bringUpMax covers building the binary and the guest image on a bare machine.
const bringUpMax = 10 * time.Minute

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("e2e: needs root and a lab; left out by -short")
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), bringUpMax)
	defer cancel()
	dir, err := os.MkdirTemp("", "godwit-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if godwit, err = labcloud.Build(ctx, dir); err != nil {
		return 0, err
	}
	if err := lab.Sweep(ctx); err != nil {
		return 0, err
	}
	progress := func(line string) { fmt.Fprintln(os.Stderr, "e2e:", line) }
	c, err := labcloud.Up(ctx, labcloud.Options{Name: fmt.Sprintf("e2e-%d", os.Getpid()), Binary: godwit, Storage: 1, BMC: true, Tethered: true, Progress: progress,
		WakeOnLAN: true, Optimize: quickOptimizer, Recovery: quickHealing, Agent: watchfulAgent})
	if err != nil {
		return 0, err
	}
	defer func() {
		if downErr := c.Lab.Down(context.Background()); downErr != nil && err == nil {
			err = downErr
		}
	}()
	if cloud, err = labcloud.Furnish(ctx, c, progress); err != nil {
		return 0, fmt.Errorf("%w%s", err, c.Lab.Logs())
	}
	if err := c.LiftQuota(ctx); err != nil {
		return 0, err
	}
	code = m.Run()
	if code != 0 {
		fmt.Fprintln(os.Stderr, c.Lab.Logs())
	}
	if dir := os.Getenv(logsVariable); dir != "" {
		err = keepLogs(c.Lab, dir)
	}
	return code, err
}

// logsVariable names a directory that gets the lab's whole logs, for whoever looks for a fault.
const logsVariable = "GODWIT_E2E_LOGS"

func keepLogs(l *lab.Lab, dir string) error {
	for _, file := range l.LogFiles() {
		if err := keepLog(file, filepath.Join(dir, filepath.Base(filepath.Dir(file)))); err != nil {
			return err
		}
	}
	for _, node := range l.ComputeNodes() {
		files, err := filepath.Glob(filepath.Join(l.Path(node, "/var/log/libvirt/qemu"), "*.log"))
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := keepLog(file, filepath.Join(dir, node, "qemu")); err != nil {
				return err
			}
		}
	}
	return nil
}

func keepLog(file, dir string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(file)), raw, 0o644)
}
