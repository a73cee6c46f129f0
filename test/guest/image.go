package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/test/guest/layout"
)

const (
	mbrCode = "/usr/lib/syslinux/mbr/mbr.bin"

	// kernelArgs make a quiet, quick boot under emulation: no probing of what a virtual machine has not, no mitigations.
	kernelArgs = "console=ttyS0 quiet loglevel=3 panic=5 random.trust_cpu=on mitigations=off no_timer_check nomodeset " +
		"i8042.noaux ipv6.disable=1"

	// formatVersion changes when this file makes another image of the same inputs.
	formatVersion = "4"
)

// sourceDate is the time stamp of every file in the image.
var sourceDate = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Image returns the path of the test guest's qcow2 image in the cache, building it if needed. The file must not be changed: use it as a
// backing file or copy it.
func Image(ctx context.Context) (string, error) { return ImageWithOrders(ctx, "") }

// ImageWithOrders is Image with words added to the kernel command line, such as "godwit.tick=100ms". It is for guests that get no config
// drive.
func ImageWithOrders(ctx context.Context, orders string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("guest image: %w", err)
	}
	unlock, err := lockDir(cache)
	if err != nil {
		return "", fmt.Errorf("guest image: %w", err)
	}
	defer unlock()
	path, err := build(ctx, cache, orders)
	if err != nil {
		return "", fmt.Errorf("guest image: %w", err)
	}
	return path, nil
}

// cacheDir is where images are kept, below XDG_CACHE_HOME or ~/.cache.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "godwit", "guest")
	return dir, os.MkdirAll(dir, 0o755)
}

// lockDir lets one process build at a time.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func build(ctx context.Context, cache, orders string) (string, error) {
	k, err := findKernel("/", filepath.Join(filepath.Dir(cache), "kernel"))
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	initrd, err := makeInitrd(ctx, k, work)
	if err != nil {
		return "", err
	}
	vmlinuz, err := os.ReadFile(k.image)
	if err != nil {
		return "", err
	}
	args := strings.TrimSpace(kernelArgs + " " + orders)
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(formatVersion), []byte(args), initrd, vmlinuz} {
		fmt.Fprintf(sum, "%d:", len(part))
		sum.Write(part)
	}
	path := filepath.Join(cache, "godwit-guest-"+hex.EncodeToString(sum.Sum(nil))[:16]+".qcow2")
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil { // the time of last use, see prune
		return path, nil
	}
	prune(cache, now.Add(-unusedMax))
	return path, assemble(ctx, work, path, map[string][]byte{
		"vmlinuz":      vmlinuz,
		"initrd.gz":    initrd,
		"syslinux.cfg": []byte("DEFAULT godwit\nPROMPT 0\nTIMEOUT 0\nLABEL godwit\n LINUX vmlinuz\n INITRD initrd.gz\n APPEND " + args + "\n"),
	})
}

// unusedMax is how long an image is kept that nobody asks for: longer than any guest runs on one.
const unusedMax = 7 * 24 * time.Hour

// prune removes images last used before the given time; each change of init's source makes a new one.
func prune(cache string, before time.Time) {
	images, _ := filepath.Glob(filepath.Join(cache, "godwit-guest-*.qcow2"))
	for _, image := range images {
		if info, err := os.Stat(image); err == nil && info.ModTime().Before(before) {
			os.Remove(image)
		}
	}
}

// makeInitrd compiles init and packs it with the kernel modules.
func makeInitrd(ctx context.Context, k kernel, work string) ([]byte, error) {
	program := filepath.Join(work, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", program, "./init")
	_, self, _, _ := runtime.Caller(0)
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build init: %w: %s", err, out)
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var a cpioArchive
	for _, dir := range []string{"dev", "proc", "sys", "modules"} {
		a.add(dir, modeDir, nil)
	}
	a.device("dev/console", 5, 1) // the kernel opens it for init before /dev is mounted
	a.add("init", modeExec, init)
	files, err := k.moduleFiles()
	if err != nil {
		return nil, err
	}
	var order strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(k.modules, f))
		if err != nil {
			return nil, err
		}
		a.add("modules/"+filepath.Base(f), modeFile, data)
		order.WriteString(filepath.Base(f) + "\n")
	}
	a.add("modules/order", modeFile, []byte(order.String()))
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed) // inflating costs the guest the same; the level is valid
	if _, err := w.Write(a.bytes()); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil { // before the bytes are taken
		return nil, err
	}
	return z.Bytes(), nil
}

// assemble writes the disk: partition table, boot partition with files, boot loader; then converts it to qcow2 at path.
func assemble(ctx context.Context, work, path string, files map[string][]byte) error {
	disk := filepath.Join(work, "disk.raw")
	if err := writePartitionTable(disk); err != nil {
		return err
	}
	run := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", sourceDate.Unix()))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
		}
		return nil
	}
	const kib = 1024
	sector := fmt.Sprint(layout.BootOffset / layout.SectorBytes)
	err := run("/usr/sbin/mkfs.fat", "-F", "16", "-n", "GODWIT", "-i", "67647774", "--invariant", "--offset="+sector,
		"-h", sector, disk, fmt.Sprint(layout.BootBytes/kib))
	if err != nil {
		return err
	}
	for _, name := range []string{"vmlinuz", "initrd.gz", "syslinux.cfg"} {
		file := filepath.Join(work, name)
		if err := os.WriteFile(file, files[name], 0o644); err != nil {
			return err
		}
		if err := os.Chtimes(file, sourceDate, sourceDate); err != nil {
			return err
		}
		if err := run("mcopy", "-m", "-i", fmt.Sprintf("%s@@%d", disk, layout.BootOffset), file, "::"+name); err != nil {
			return err
		}
	}
	if err := run("syslinux", "--offset", fmt.Sprint(layout.BootOffset), "--install", disk); err != nil {
		return err
	}
	out := filepath.Join(work, "disk.qcow2")
	if err := run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, out); err != nil {
		return err
	}
	return os.Rename(out, path)
}

// writePartitionTable makes the sparse raw disk with boot code, signature and two partitions.
func writePartitionTable(path string) error {
	code, err := os.ReadFile(mbrCode)
	if err != nil {
		return fmt.Errorf("boot code: %w (package syslinux-common)", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(layout.ImageBytes); err != nil {
		return err
	}
	var mbr [layout.SectorBytes]byte
	copy(mbr[:layout.SignatureAt], code)
	binary.LittleEndian.PutUint32(mbr[layout.SignatureAt:], layout.Signature)
	const (
		active, fat16LBA, raw = 0x80, 0x0e, 0xda
		tableAt, entryBytes   = 446, 16
	)
	partition := func(i int, flag, kind byte, offset, size int64) {
		e := mbr[tableAt+i*entryBytes:]
		e[0], e[4] = flag, kind
		copy(e[1:4], "\xfe\xff\xff") // cylinder, head and sector: "too large, see below"
		copy(e[5:8], "\xfe\xff\xff")
		binary.LittleEndian.PutUint32(e[8:], uint32(offset/layout.SectorBytes))
		binary.LittleEndian.PutUint32(e[12:], uint32(size/layout.SectorBytes))
	}
	partition(0, active, fat16LBA, layout.BootOffset, layout.BootBytes)
	partition(1, 0, raw, layout.LogOffset, layout.LogBytes)
	mbr[510], mbr[511] = 0x55, 0xaa
	_, err = f.WriteAt(mbr[:], 0)
	return err
}

// Copy writes the image to path, for a guest that is to have a disk of its own.
func Copy(ctx context.Context, path string) error {
	image, err := Image(ctx)
	if err != nil {
		return err
	}
	src, err := os.Open(image)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
