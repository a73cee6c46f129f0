package blockserve

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

const diskBytes = 64 << 20

// engines are what the suite runs on. A test that holds for one holds for all.
var engines = []Engine{Ring, Threads}

// world is a server with one disk.
type world struct {
	testing.TB
	engine Engine
	path   string
	disk   *disk
	server *Server
}

// setting changes how a world is made.
type setting struct {
	options Options
	direct  bool
	dir     string
}

// eachEngine runs a test on every engine.
func eachEngine(t *testing.T, set setting, f func(t *testing.T, w *world)) {
	for _, e := range engines {
		t.Run(string(e), func(t *testing.T) { f(t, newWorld(t, e, set)) })
	}
}

// newWorld makes a disk of zeros and a server for it.
func newWorld(t testing.TB, e Engine, set setting) *world {
	t.Helper()
	if set.dir == "" {
		set.dir = t.TempDir()
	}
	w := &world{TB: t, engine: e, path: filepath.Join(set.dir, "disk")}
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(diskBytes); err != nil {
		t.Fatal(err)
	}
	f.Close()
	plain, err := openPlain(w.path, FileOptions{Direct: set.direct})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	w.disk = &disk{file: plain}
	w.disk.size.Store(diskBytes)
	w.serve(set.options)
	return w
}

// serve starts a server for the disk.
func (w *world) serve(o Options) {
	w.Helper()
	o.Engine = w.engine
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := New(w.disk, o)
	if err != nil {
		w.Fatal(err)
	}
	w.server = s
	w.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.Error(err)
		}
		if n := w.disk.leases.Load(); n != 0 {
			w.Errorf("%d leases were not closed", n)
		}
		if n := w.disk.mutations.Load(); n != 0 {
			w.Errorf("%d mutations were begun and not ended", n)
		}
	})
}

// listen has the server listen on a network.
func (w *world) listen(network string, config *tls.Config) net.Listener {
	w.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(w.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.server.Serve(l, config); err != nil {
		w.Fatal(err)
	}
	return l
}

// dial connects a client that is closed with the test.
func (w *world) dial(l net.Listener, o nbd.ClientOptions) *nbd.Client {
	w.Helper()
	c, err := nbd.Dial(w.Context(), l.Addr().Network(), l.Addr().String(), o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return c
}

// client connects over a unix socket of its own.
func (w *world) client() *nbd.Client {
	w.Helper()
	return w.dial(w.listen("unix", nil), nbd.ClientOptions{Export: "a"})
}

// uri is how the tools name an export.
func uri(l net.Listener, export string) string {
	if l.Addr().Network() == "unix" {
		return "nbd+unix:///" + export + "?socket=" + url.QueryEscape(l.Addr().String())
	}
	return "nbd://" + l.Addr().String() + "/" + export
}

// program finds a client program; scripts/install-deps.sh installs them all.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: run scripts/install-deps.sh", name)
	}
	return path
}

// run runs a program and returns what it said.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// must fails the test with an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exports of a disk are "a", "b" ... of attachments that the test opens; see disk.
var _ Volumes = (*disk)(nil)

var (
	_ Lease = (*volume.Lease)(nil)
	_ Lease = (*ticket)(nil)
	_ Lease = plainLease{}
)

// hostOfTest is whom the tests' certificates name.
const hostOfTest = cloud.HostName("compute-1")
