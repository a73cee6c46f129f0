package volumehost

import (
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/blockserve"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/nbd"
)

// Limits that are changed while a guest uses its volume hold for its next request, and for those that wait under the old ones.
func TestLimitsChangedInUseReachTheDataPath(t *testing.T) {
	for _, engine := range []blockserve.Engine{blockserve.Ring, blockserve.Threads} {
		t.Run(string(engine), func(t *testing.T) {
			w := newWorld(t, t.TempDir())
			w.blank("v1", "a", 1)
			a, err := w.OpenAttachment(t.Context(), &hostpb.OpenAttachmentRequest{Call: call("v1", 2), AttachmentId: "a1", Host: "compute-1"})
			if err != nil {
				t.Fatal(err)
			}
			generation := int64(2)
			limit := func(iops, bytesPerSecond int64) {
				t.Helper()
				generation++
				if _, err := w.SetLimits(t.Context(), &hostpb.SetLimitsRequest{
					Call: call("v1", generation), Limits: &hostpb.VolumeLimits{Iops: iops, BytesPerSecond: bytesPerSecond},
				}); err != nil {
					t.Fatal(err)
				}
			}
			guest := w.guest(engine, a.GetExport())
			write := func(n int) {
				if _, err := guest.WriteAt(make([]byte, n), 0); err != nil {
					t.Error(err)
				}
			}
			write(512 << 10)

			limit(0, 1024)
			write(512 << 10) // goes, and is paid for afterwards: for eight minutes
			waiting := make(chan struct{})
			go func() {
				defer close(waiting)
				write(4096)
			}()
			select {
			case <-waiting:
				t.Fatal("1024 bytes per second hold nobody")
			case <-time.After(200 * time.Millisecond):
			}
			limit(0, 0)
			select {
			case <-waiting:
			case <-time.After(waitMax):
				t.Fatal("a request waits on although the limit was lifted")
			}

			const iops, requests, burst = 50, 30, 5 // what may be used at once is a tenth of a second's worth
			limit(iops, 0)
			began := time.Now()
			var group sync.WaitGroup
			for range requests {
				group.Go(func() { write(4096) })
			}
			group.Wait()
			if took, least := time.Since(began), time.Second*(requests-burst-1)/iops; took < least {
				t.Errorf("%d requests at %d per second took %v, not %v", requests, iops, took, least)
			}
		})
	}
}

// guest is a client of the service's data path.
func (w *world) guest(engine blockserve.Engine, export string) *nbd.Client {
	w.t.Helper()
	server, err := blockserve.New(blockserve.Stores(w.stores...), blockserve.Options{Engine: engine, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			w.t.Error(err)
		}
	})
	l, err := net.Listen("unix", filepath.Join(w.t.TempDir(), "s"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := server.Serve(l, nil); err != nil {
		w.t.Fatal(err)
	}
	c, err := nbd.Dial(w.t.Context(), "unix", l.Addr().String(), nbd.ClientOptions{Export: export})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}
