package kvm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// probeSector is a boot sector that enters 64-bit mode, takes 200 page faults and leaves by QEMU's debug exit; see probe.asm.
//
//go:embed probe.bin
var probeSector []byte

const (
	// probeExit is how QEMU ends when the guest wrote 0x10 to the debug exit: (value << 1) | 1.
	probeExit = 0x21
	// The guest does the same work under both accelerators. A host whose KVM is real is the faster one; a nested host may run it correctly and
	// forty times slower, and then no kernel ever gets through its boot stub. So KVM must end within probeSlowerMax times TCG's time; the
	// floor keeps a hiccup of a busy host from counting.
	probeSlowerMax = 5
	probeFloor     = 1500 * time.Millisecond
	// probeTCGMax bounds the comparison itself. TCG takes 0.1 s on an idle machine.
	probeTCGMax = 60 * time.Second
)

// DefaultEmulator is where distributions put QEMU.
const DefaultEmulator = "/usr/bin/qemu-system-x86_64"

// Probe proves which emulation works on this host by running a tiny guest under each with the given QEMU program. The reason says in
// words why it is not KVM. It fails only when not even TCG works. The guest's disk is written to dir, which is emptied before and removed
// after; a probe that was killed leaves it for the next one.
func Probe(ctx context.Context, emulator, dir string) (e Emulation, reason string, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", "", fmt.Errorf("probe: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("probe: %w", err)
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "probe.img")
	if err := os.WriteFile(image, probeSector, 0o600); err != nil {
		return "", "", fmt.Errorf("probe: %w", err)
	}
	tcg, err := probeRun(ctx, emulator, "tcg", image, probeTCGMax)
	if err != nil {
		return "", "", cloud.E(cloud.KindUnsupported, "probe", emulator, err)
	}
	bound := max(probeFloor, probeSlowerMax*tcg)
	if _, err := probeRun(ctx, emulator, "kvm", image, bound); err != nil {
		return TCG, fmt.Sprintf("no working KVM: %v (TCG took %v)", err, tcg.Round(time.Millisecond)), nil
	}
	return KVM, "", nil
}

// probeRun runs the probe guest once and returns how long it took.
func probeRun(ctx context.Context, emulator, accel, image string, bound time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	var output strings.Builder
	cmd := exec.CommandContext(ctx, emulator, "-machine", "pc", "-accel", accel, "-cpu", CPUDefault, "-m", "16", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
		"-drive", "file="+strings.ReplaceAll(image, ",", ",,")+",format=raw,if=ide,snapshot=off")
	cmd.Stdout, cmd.Stderr = &output, &output
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return took, fmt.Errorf("%s: guest did not finish within %v", accel, bound.Round(time.Millisecond))
	case errors.As(err, &exit) && exit.ExitCode() == probeExit:
		return took, nil
	case err == nil:
		return took, fmt.Errorf("%s: guest powered off instead of passing", accel)
	}
	return took, fmt.Errorf("%s: %w: %s", accel, err, lastLine(output.String()))
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
