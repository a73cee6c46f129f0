package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/test/bench/proc"
)

// The image that is copied: every other stretch is a hole.
const (
	imageBytes      = 6 << 30
	imageStretchMiB = 64
	aimCopy         = 0.9
)

// copier makes a copy of an image file in a directory of its own. The copy is durable when it ends.
type copier struct {
	name, pkg string
	command   func(program, image, dir string) []string
	peer      bool
}

func copiers() []copier {
	godwit := func(engine string) func(string, string, string) []string {
		return func(program, image, dir string) []string {
			return []string{program, "-engine", engine, "-image", image, "-dir", dir}
		}
	}
	qemu := func(options ...string) func(string, string, string) []string {
		return func(_, image, dir string) []string {
			command := append([]string{"qemu-img", "convert", "-W", "-m", "16", "-f", "raw", "-O", "raw"}, options...)
			return append(command, image, filepath.Join(dir, "copy"))
		}
	}
	return []copier{
		{name: "godwit, io_uring", command: godwit("io_uring")},
		{name: "godwit, threads", command: godwit("threads")},
		{"nbdcopy --flush", "libnbd-bin", func(_, image, dir string) []string {
			return []string{"nbdcopy", "--flush", image, filepath.Join(dir, "copy")}
		}, true},
		{"qemu-img convert -W -m16, -t writeback", "qemu-utils", qemu("-t", "writeback"), true},
		{"qemu-img convert -W -m16, -t none -T none", "qemu-utils", qemu("-t", "none", "-T", "none"), true},
	}
}

// measureCopy compares copies of an image from file to file, on a file system that cannot share blocks.
func measureCopy(ctx context.Context, b *bench) (_ string, err error) {
	program, err := b.build(ctx, "./test/bench/imagecopy")
	if err != nil {
		return "", err
	}
	disk, err := newScratch(ctx, false, 0)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, disk.remove(context.WithoutCancel(ctx))) }()
	image := filepath.Join(disk.dir, "image")
	if err := fillRandom(image, imageBytes, func(mib int64) bool { return mib/imageStretchMiB%2 == 0 }); err != nil {
		return "", err
	}
	c := contest{
		name: "copy", title: fmt.Sprintf("Copy of an image of %d GiB, half holes", imageBytes>>30),
		figures: []figure{
			{name: "until durable", unit: "s", verb: "%.2f", aim: aimCopy, drawn: true}, {name: "CPU", unit: "s", verb: "%.2f", drawn: true},
			{name: "most resident memory", unit: "MB", verb: "%.0f"}, {name: "allocated", unit: "GiB", verb: "%.2f"},
		},
		settle: func(ctx context.Context) error { return settle(ctx, disk.dir, image) },
	}
	for _, who := range copiers() {
		c.contenders = append(c.contenders, contestant{name: who.name, peer: who.peer, turn: func(ctx context.Context) ([]float64, error) {
			return copyOnce(ctx, who, program, image, filepath.Join(disk.dir, "to"))
		}})
	}
	// A round that does not count, in which the file system finds the space.
	if err := c.measure(ctx, 1); err != nil {
		return "", err
	}
	if err := c.measure(ctx, b.rounds); err != nil {
		return "", err
	}
	text, err := c.report(b)
	return fmt.Sprintf(copyText, imageBytes>>30, imageStretchMiB, disk.what) + text, err
}

// copyText says what is measured, and what is not.
const copyText = `An image file of %d GiB, every other %d MiB a hole, the rest random and in the page cache, is copied to a new file on the same file system (%s,
which cannot share blocks) and made durable. Nobody is pinned: each contender uses as many threads as it likes, and how well it does that is part of the answer.

godwit's copy is what makes a volume of an image, of a snapshot or of a volume where blocks cannot be shared. Where they can (XFS, btrfs), that is a clone
and takes milliseconds, and nothing of this section applies. Nor is in it what happens to an image once before: it is fetched, proved by its checksum, and,
if it is qcow2, converted to a raw file by ` + "`qemu-img`" + `.

`

// settle makes turns alike: what the copy before left to do (its removal, discards) is done, the image is in the page cache, and there is free
// memory for the copy that has been used a moment ago. A virtual machine gives memory that is free for seconds back to its host and pays
// dearly for taking it again, which would charge a copy through the page cache for the copy before it that did without.
func settle(ctx context.Context, dir, image string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return err
	}
	if err := warm(image); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// In a process of its own: what a process has had at most is counted for the programs it starts, too.
	_, err = run(ctx, self, "-prime", strconv.Itoa(imageBytes/2+imageBytes/8))
	return err
}

// prime uses that much memory once.
func prime(bytes int) error {
	memory, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("use %d bytes of memory: %w", bytes, err)
	}
	return unix.Munmap(memory)
}

// copyOnce makes one copy and returns the contest's figures of it.
func copyOnce(ctx context.Context, c copier, program, image, dir string) (_ []float64, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	command := c.command(program, image, dir)
	if _, err := exec.LookPath(command[0]); err != nil {
		return nil, fmt.Errorf("%s is missing: apt-get install %s", command[0], c.pkg)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	peak := watchPeak(cmd.Process.Pid)
	err = cmd.Wait()
	took := time.Since(begun)
	most := peak()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	allocated, err := allocatedIn(dir)
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return []float64{took.Seconds(), cpu.Seconds(), most, allocated / (1 << 30)}, err
}

// peakPoll is how often a copy's memory is looked at; it is gone when the copy ends.
const peakPoll = 20 * time.Millisecond

// watchPeak follows the most memory that a process has had until the returned function is called, at once when it has ended, and returns it in MB.
func watchPeak(pid int) func() float64 {
	most, stop, done := 0.0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(peakPoll)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if v, err := proc.PeakRSS(pid); err == nil {
					most = max(most, v)
				}
			}
		}
	}()
	return func() float64 {
		close(stop)
		<-done
		return most
	}
}

// allocatedIn is the space in bytes that the files below dir take up.
func allocatedIn(dir string) (total float64, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		const statBlock = 512
		total += float64(info.Sys().(*syscall.Stat_t).Blocks) * statBlock
		return nil
	})
	return total, err
}
