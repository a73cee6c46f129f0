package blockserve

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// breakDisk has the machine's disk fail from now on: every request of the loop device ends with an error.
func (m *machine) breakDisk() {
	m.Helper()
	run(m, "xfs_io", "-x", "-c", "shutdown", m.outer)
}

// journal is what a service logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) lines(about string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		if strings.Contains(line, about) {
			n++
		}
	}
	return n
}

// A disk that fails under the file system: requests complete with the device's error, through the kernel and not by a hook of ours. From the first
// sync that failed nothing is acknowledged, on any connection.
func TestADiskThatFailsIsToldToTheClientAndAcknowledgesNothingMore(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts file systems; not part of -short")
	}
	for _, kind := range []string{"xfs", "ext4"} {
		for _, e := range engines {
			for _, direct := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s direct=%v", kind, e, direct), func(t *testing.T) { failing(t, kind, e, direct) })
			}
		}
	}
}

func failing(t *testing.T, kind string, e Engine, direct bool) {
	m := newMachine(t, kind)
	log := &journal{}
	k, c, want := onMachine(t, m, e, direct, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	other := k.dial(k.listen("unix", nil), nbd.ClientOptions{Export: ExportName(k.id, "aaaaaaaa-0000-0000-0000-000000000001")})
	for _, a := range acks {
		must(t, a.ask(c, want))
	}
	forget(t, k)
	m.breakDisk()
	block := make([]byte, 4096)
	if _, err := c.ReadAt(block, flushedAt); !errors.Is(err, nbd.IOError) {
		t.Errorf("a read: %v", err)
	}
	if got := k.troubles(); got != "io-error" {
		t.Errorf("after a read that failed the volume's troubles are %q", got)
	}
	if _, err := c.WriteAt(block, flushedAt); err != nil && !errors.Is(err, nbd.IOError) || err == nil && direct {
		t.Errorf("a write: %v", err)
	}
	if _, err := c.Write(block, flushedAt, nbd.CmdFlagFUA); !errors.Is(err, nbd.IOError) {
		t.Errorf("a write with FUA: %v", err)
	}
	if err := c.Flush(); !errors.Is(err, nbd.IOError) {
		t.Errorf("the first flush: %v", err)
	}
	for who, c := range map[string]*nbd.Client{"the same connection": c, "another": other} {
		for range 2 {
			if err := c.Flush(); !errors.Is(err, nbd.IOError) {
				t.Errorf("%s flushes: %v", who, err)
			}
		}
		if err := c.WriteZeroes(flushedAt, 4096, nbd.CmdFlagFUA); !errors.Is(err, nbd.IOError) {
			t.Errorf("%s makes zeros: %v", who, err)
		}
		if _, err := c.WriteAt(block, 0); !errors.Is(err, nbd.IOError) {
			t.Errorf("%s writes: %v", who, err)
		}
	}
	if got := k.troubles(); !strings.Contains(got, "sync-failed") {
		t.Errorf("after a sync that failed the volume's troubles are %q", got)
	}
	if log.lines(string(k.id)) == 0 {
		t.Errorf("the log does not say which volume it was:\n%s", &log.text)
	}
}

// troubles are what the volume's store tells of it.
func (k *kept) troubles() string {
	var out []string
	for _, t := range k.store.Facts().Troubles {
		if t.Volume == k.id {
			out = append(out, string(t.What))
		}
	}
	return strings.Join(out, " ")
}

// forget drops a volume's pages from the cache.
func forget(t testing.TB, k *kept) {
	t.Helper()
	lease, err := k.server.volumes.Admit(ExportName(k.id, "aaaaaaaa-0000-0000-0000-000000000001"), volume.Visit{Host: hostOfTest})
	must(t, err)
	defer lease.Close()
	must(t, unix.Fadvise(lease.File().FD(), 0, 0, unix.FADV_DONTNEED))
}
