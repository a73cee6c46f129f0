package peerdisk_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/godwit-cloud/godwit/internal/peerdisk"
)

// BenchmarkCopy copies a file of which every other stretch is a hole, durably: from another host over mutual TLS, and by the tools that copy on one host
// without any network.
func BenchmarkCopy(b *testing.B) {
	const stretch, stretches = 16 << 20, 16
	dir := b.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, stretch)
	_, _ = rand.Read(data) // never fails
	for at := range stretches / 2 {
		if _, err := f.WriteAt(data, int64(2*at)*stretch); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(stretch * stretches); err != nil {
		b.Fatal(err)
	}
	w := newLimitedWorld(b, 0)
	w.images["x"] = from
	source := w.as("other", peerdisk.ImageExport("x"))
	run := func(argv ...string) func() error {
		return func() error {
			if err := exec.Command(argv[0], argv[1:]...).Run(); err != nil {
				return err
			}
			return exec.Command("sync", to).Run()
		}
	}
	for _, c := range []struct {
		name string
		copy func() error
	}{
		{"pull", func() error { _, err := peerdisk.NewPuller(0).Pull(b.Context(), source, to, 0); return err }},
		{"cp", run("cp", "--reflink=never", "--sparse=always", from, to)},
		{"qemu-img", run("qemu-img", "convert", "-f", "raw", "-O", "raw", from, to)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(stretch * stretches / 2)
			for range b.N {
				_ = os.Remove(to) // it may not be there
				if err := c.copy(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
