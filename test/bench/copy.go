package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

// copyRun is one copy.
type copyRun struct{ seconds, cpuSeconds, maxRSS, copied float64 }

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
	all := copiers()
	runs := make([][]copyRun, len(all))
	var turns []func() error
	for i, c := range all {
		turns = append(turns, func() error {
			if err := settle(ctx, disk.dir, image); err != nil {
				return err
			}
			r, err := copyOnce(ctx, c, program, image, filepath.Join(disk.dir, "to"))
			runs[i] = append(runs[i], r)
			return err
		})
	}
	// A round that does not count, in which the file system finds the space.
	if err := interleave(1, turns); err != nil {
		return "", err
	}
	for i := range runs {
		runs[i] = nil
	}
	if err := interleave(b.rounds, turns); err != nil {
		return "", err
	}
	return b.reportCopy(disk, all, runs)
}

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

func copyOnce(ctx context.Context, c copier, program, image, dir string) (r copyRun, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	command := c.command(program, image, dir)
	if _, err := exec.LookPath(command[0]); err != nil {
		return r, fmt.Errorf("%s is missing: apt-get install %s", command[0], c.pkg)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return r, fmt.Errorf("%s: %w: %s", c.name, err, out)
	}
	took := time.Since(begun)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	allocated, err := allocatedIn(dir)
	log.Printf("  %s: %.2f s", c.name, took.Seconds())
	return copyRun{
		seconds: took.Seconds(), cpuSeconds: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(),
		maxRSS: float64(usage.Maxrss) * 1024 / 1e6, copied: allocated / (1 << 30),
	}, err
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

func (b *bench) reportCopy(disk *scratch, all []copier, runs [][]copyRun) (string, error) {
	column := func(i int, of func(copyRun) float64) sample {
		out := make(sample, len(runs[i]))
		for j, r := range runs[i] {
			out[j] = of(r)
		}
		return out
	}
	wall := func(r copyRun) float64 { return r.seconds }
	best := -1
	for i, c := range all {
		if c.peer && (best < 0 || column(i, wall).median() < column(best, wall).median()) {
			best = i
		}
	}
	t := table{head: []string{"", "seconds until durable", "godwit/it", "CPU, s", "most resident memory, MB", "GiB allocated"}}
	chart := barChart{title: "Copy of an image of 6 GiB, half holes", unit: "seconds (less is better)", groups: []string{"wall clock", "CPU"}}
	for i, c := range all {
		cpu := column(i, func(r copyRun) float64 { return r.cpuSeconds })
		t.add(c.name, column(i, wall).spread("%.2f"), fmt.Sprintf("%.2f", ratios(column(0, wall), column(i, wall)).median()), cpu.spread("%.2f"),
			column(i, func(r copyRun) float64 { return r.maxRSS }).spread("%.0f"),
			fmt.Sprintf("%.2f", column(i, func(r copyRun) float64 { return r.copied }).median()))
		chart.series = append(chart.series, barSeries{c.name, []sample{column(i, wall), cpu}})
	}
	if err := b.draw("copy.svg", chart); err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, `An image file of %d GiB, every other %d MiB a hole, the rest random and in the page cache, is copied to a new file on the same file system (%s,
which cannot share blocks; where it can, as on XFS, godwit clones in milliseconds) and made durable. godwit's copy is what creates a volume from an image.
Nobody is pinned.

`, imageBytes>>30, imageStretchMiB, disk.what)
	text.WriteString(aimsTable([]aim{{"time of an image copy", "6 GiB, half holes", all[best].name, ratios(column(0, wall), column(best, wall)), aimCopy, false}}))
	fmt.Fprintf(&text, "\n![Image copy](benchmarks/copy.svg)\n\n%s", t.String())
	return text.String(), nil
}
