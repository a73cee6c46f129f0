package hostagent

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/peerdisk"
)

// A swarm is hosts with disks and ports of their own, and a real server that has one image and knows who else has it.
type swarm struct {
	*testing.T
	data  []byte
	base  disk.Base
	wire  *hostapitest.Wire
	fleet *hostapitest.Fleet
	sent  atomic.Int64 // bytes that the image service has sent

	mu      sync.Mutex
	holders []*hostpb.DiskSource // guarded by mu
}

// Open implements hostapi.Images.
func (w *swarm) Open(_ context.Context, _ cloud.ImageID, offset int64) (io.ReadCloser, error) {
	return io.NopCloser(&counting{bytes.NewReader(w.data[offset:]), &w.sent}), nil
}

type counting struct {
	from io.Reader
	n    *atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (w *swarm) peers(_ cloud.ImageID, to cloud.HostName) []*hostpb.DiskSource {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*hostpb.DiskSource
	for _, at := range rand.Perm(len(w.holders)) {
		if w.holders[at].GetHost() != string(to) {
			out = append(out, w.holders[at])
		}
	}
	return out
}

func newSwarm(t *testing.T, size int, hosts ...cloud.HostName) *swarm {
	t.Helper()
	w := &swarm{T: t, data: make([]byte, size), fleet: hostapitest.NewFleet(hosts...)}
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(w.data) // never fails
	sum := sha512.Sum512(w.data)
	w.base = disk.Base{Image: "img", Format: disk.FormatRaw, Bytes: int64(size), SHA512: hex.EncodeToString(sum[:])}
	w.wire = hostapitest.StartWire(t, hostapitest.WireOptions{Images: w, ImagePeers: w.peers})
	return w
}

// serve has a host serve what base returns.
func (w *swarm) serve(wire *hostapi.Agent, host cloud.HostName, base func(string) (string, bool)) *hostpb.DiskSource {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	server := peerdisk.NewServer(peerdisk.Options{TLS: wire.PeerTLS(), PeerHost: hostapi.PeerHost, Base: base, Log: slog.New(slog.DiscardHandler)})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	w.Cleanup(func() { _ = server.Close(); serving.Wait() })
	return &hostpb.DiskSource{Host: string(host), Address: "127.0.0.1", Port: int64(l.Addr().(*net.TCPAddr).Port), Export: peerdisk.ImageExport(w.base.SHA512), TlsHostname: string(host)}
}

// join returns what has a host get the image, and serve it from then on.
func (w *swarm) join(host cloud.HostName) func(context.Context) error {
	w.Helper()
	wire, _ := w.wire.StartFake(w.T, w.fleet.Host(host))
	store, err := disk.Open(w.Context(), disk.Options{Dir: w.TempDir(), Fetch: wire.FetchImage, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { store.Close() })
	source := w.serve(wire, host, store.BasePath)
	agent := &Agent{o: Options{Name: host, Disk: store, FetchNear: wire.FetchNear, Peers: &Peers{Puller: peerdisk.NewPuller(0), TLS: wire.DialTLS}}}
	return func(ctx context.Context) error {
		base := w.base
		base.Near = agent.near(base)
		path, _, err := store.EnsureBase(ctx, base)
		if err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
		w.mu.Lock()
		w.holders = append(w.holders, source)
		w.mu.Unlock()
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, w.data) {
			err = fmt.Errorf("%s has something else than the image", host)
		}
		return err
	}
}

// TestManyHostsGetAnImageFromEachOther: hosts that need an image at the same moment cost the image service a few streams, whatever their number; one that lies is
// found out by each of them and never believed.
func TestManyHostsGetAnImageFromEachOther(t *testing.T) {
	const count, size = 16, 4 << 20
	hosts := []cloud.HostName{"liar"}
	for i := range count {
		hosts = append(hosts, cloud.HostName(fmt.Sprintf("compute-%d", i+1)))
	}
	w := newSwarm(t, size, hosts...)
	lie := filepath.Join(t.TempDir(), "lie")
	if err := os.WriteFile(lie, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	wire, _ := w.wire.StartFake(t, w.fleet.Host("liar"))
	w.holders = append(w.holders, w.serve(wire, "liar", func(string) (string, bool) { asked.Add(1); return lie, true }))

	var all errgroup.Group
	for _, host := range hosts[1:] {
		get := w.join(host)
		all.Go(func() error { return get(t.Context()) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if sent := w.sent.Load(); sent > count/4*size {
		t.Errorf("the image service sent %d images for %d hosts", sent/size, count)
	}
	if asked.Load() == 0 {
		t.Error("nobody asked the host that lies")
	}
	t.Logf("%d hosts: %.1f images from the service, the liar was asked %d times", count, float64(w.sent.Load())/size, asked.Load())
}
