package volumehost

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/blockserve"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/nbd"
)

// small mounts a file system of 8 MiB.
func small(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs to mount a small file system: run as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A volume that finds no room is named at once in the facts, the log and the metrics, and no more when the refused request has succeeded, or when nobody
// is left who stands still.
func TestTheVolumeThatFindsNoRoomIsNamed(t *testing.T) {
	for _, engine := range []blockserve.Engine{blockserve.Ring, blockserve.Threads} {
		t.Run(string(engine), func(t *testing.T) {
			var log syncedBuffer
			w := newWorldLogging(t, small(t), slog.New(slog.NewTextHandler(&log, nil)))
			ctx, cancel := context.WithCancel(t.Context())
			told := make(chan *hostpb.VolumeFacts, 64)
			var owned sync.WaitGroup
			owned.Go(func() { _ = w.Run(ctx, func(f *hostpb.VolumeFacts) { told <- f }) })
			defer owned.Wait()
			defer cancel()
			awaitTroubles := func(n int) []*hostpb.VolumeTrouble {
				t.Helper()
				for limit := time.After(factsEvery / 2); ; { // sooner than facts come by themselves
					select {
					case f := <-told:
						if all := f.GetBackends()[0].GetTroubles(); len(all) == n {
							return all
						}
					case <-limit:
						t.Fatalf("nothing was told of %d troubles", n)
					}
				}
			}
			w.blank("v2", "a", 1)
			if _, err := w.CreateVolume(t.Context(), &hostpb.CreateVolumeRequest{Call: call("v1", 1), Backend: "a", Bytes: 32 * mib}); err != nil {
				t.Fatal(err)
			}
			open := func(volume string) (export string) {
				a, err := w.OpenAttachment(t.Context(), &hostpb.OpenAttachmentRequest{Call: call(volume, 2), AttachmentId: "of-" + volume, Host: "compute-1"})
				if err != nil {
					t.Fatal(err)
				}
				return a.GetExport()
			}
			guest, other := w.guest(engine, open("v1")), w.guest(engine, open("v2"))
			fill := func() (refused int64) {
				t.Helper()
				p := bytes.Repeat([]byte{7}, 1<<20)
				for off := int64(0); off < 16<<20; off += 1 << 20 {
					if _, err := guest.Write(p, off, 0); errors.Is(err, nbd.NoSpace) {
						return off
					} else if err != nil {
						t.Fatal(err)
					}
				}
				t.Fatal("16 MiB found room on 8")
				return 0
			}
			refused := fill()
			one := awaitTroubles(1)[0]
			if one.GetVolumeId() != "v1" || one.GetWhat() != string(cloud.TroubleFull) || one.GetSince() == 0 {
				t.Errorf("told %v", one)
			}
			if text := log.String(); !strings.Contains(text, "found no room") || !strings.Contains(text, "volume=v1") || !strings.Contains(text, "backend=a") || strings.Count(text, "found no room") != 1 {
				t.Errorf("logged:\n%s", text)
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(w.Host)
			if got := troubled(t, registry); got != "backend=a volume=v1 what=full" {
				t.Errorf("the metrics name %q", got)
			}
			if _, err := guest.Write(make([]byte, 4096), 0, 0); err != nil { // what has its blocks goes on
				t.Fatal(err)
			}
			if _, err := other.Write(make([]byte, 4096), 0, 0); err == nil {
				t.Log("another volume found a block yet")
			}
			if err := guest.Trim(0, 1<<20, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := guest.ReadAt(make([]byte, 4096), refused); err != nil { // which needs no room, and proves none
				t.Fatal(err)
			}
			if text := log.String(); strings.Contains(text, "go on") {
				t.Errorf("a read is taken for the end of the trouble:\n%s", text)
			}
			if _, err := guest.Write(bytes.Repeat([]byte{7}, 4096), refused, 0); err != nil {
				t.Fatal(err)
			}
			_ = other.Close() // whatever it met, it stands still no more
			awaitTroubles(0)
			if text := log.String(); !strings.Contains(text, "go on") {
				t.Errorf("logged:\n%s", text)
			}
			fill()
			awaitTroubles(1)
			_ = guest.Close() // and who is gone does not stand still
			awaitTroubles(0)
			if n := w.stores[0].RoomRefusals(); n < 2 {
				t.Errorf("%d refusals were counted", n)
			}
		})
	}
}

// troubled is which volumes the metrics name.
func troubled(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if f.GetName() != "godwit_volumes_troubled" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				out = append(out, l.GetName()+"="+l.GetValue())
			}
		}
	}
	return strings.Join(out, " ")
}

// syncedBuffer is a log that several goroutines write.
type syncedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
