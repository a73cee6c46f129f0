package nbd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

// The tests in this file let the stock tools talk to our server, on both of its transports, and our client to the stock servers.

const diskBytes = 64 << 20

// need finds a program of a Debian package.
func need(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s", program, pkg)
	}
	return path
}

// run runs a program and returns its output; a failure ends the test.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// file is a Device on a file.
func file(t testing.TB) (*os.File, nbd.Device) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(diskBytes); err != nil {
		t.Fatal(err)
	}
	info := nbd.Info{Description: "a test's disk", Status: true, BlockPreferred: 4096,
		Flags: nbd.FlagFlush | nbd.FlagFUA | nbd.FlagTrim | nbd.FlagWriteZeroes | nbd.FlagFastZero | nbd.FlagMultiConn | nbd.FlagCache}
	return f, nbd.NewBlocking(sparse{f}, info, func() uint64 { return diskBytes }, 8)
}

// sparse is a Storage on a file.
type sparse struct{ *os.File }

func (s sparse) Flush() error { return s.Sync() }
func (s sparse) Trim(off, n int64) error {
	return unix.Fallocate(int(s.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}
func (s sparse) WriteZeroes(off, n int64, noHole, _ bool) error {
	if !noHole {
		return s.Trim(off, n)
	}
	return unix.Fallocate(int(s.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}
func (s sparse) Cache(int64, int64) error { return nil }
func (s sparse) Status(off, n int64, limit int) (out []nbd.Extent, err error) {
	for at, end := off, off+n; at < end && len(out) < limit; {
		data, err := unix.Seek(int(s.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			data = diskBytes
		} else if err != nil {
			return nil, err
		}
		if data > at {
			out = append(out, nbd.Extent{Length: uint64(data - at), Flags: nbd.StatusHole | nbd.StatusZero})
			at = data
			continue
		}
		hole, err := unix.Seek(int(s.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		out = append(out, nbd.Extent{Length: uint64(hole - at)})
		at = hole
	}
	return out, nil
}

type one struct {
	name   string
	device nbd.Device
}

func (o one) Find(name string, _ nbd.Peer) (nbd.Device, error) {
	if name != o.name {
		return nil, fmt.Errorf("no export is called %q", name)
	}
	return o.device, nil
}
func (o one) List(nbd.Peer) []nbd.Listing {
	return []nbd.Listing{{Name: o.name, Description: o.device.Info().Description}}
}

func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// uri is how the tools name an export.
func uri(l net.Listener, export string) string {
	if l.Addr().Network() == "unix" {
		return "nbd+unix:///" + export + "?socket=" + url.QueryEscape(l.Addr().String())
	}
	return "nbd://" + l.Addr().String() + "/" + export
}

// overNet serves a device by nbd.Server.
func overNet(t testing.TB, network string, o one) string {
	t.Helper()
	l := listen(t, network)
	s := &nbd.Server{Exports: o, Log: slog.New(slog.DiscardHandler)}
	go s.Serve(l) // ends with the listener
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return uri(l, o.name)
}

// overRing serves a device by nbd.Session on package uring's loop: reads and writes go through the ring, the rest through threads.
func overRing(t testing.TB, network string, o one, f *os.File) string {
	t.Helper()
	stack, err := uring.NewStack(uring.StackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stack.Close(); err != nil {
			t.Error(err)
		}
	})
	l := listen(t, network)
	o.device = &ringFile{Device: o.device, loop: stack.Loop(), file: f}
	if _, err := stack.Serve(l, sessions{o}, uring.ServerOptions{}); err != nil {
		t.Fatal(err)
	}
	return uri(l, o.name)
}

type sessions struct{ exports nbd.Exports }

func (s sessions) Accept(l *uring.Link) uring.Session {
	return nbd.NewSession(l, nbd.SessionOptions{Exports: s.exports, Peer: nbd.Peer{Addr: l.RemoteAddr()}})
}

// ringFile does reads and writes by the ring.
type ringFile struct {
	nbd.Device
	loop *uring.Loop
	file *os.File
}

// Start implements nbd.Device. On the loop's thread.
func (d *ringFile) Start(r *nbd.Request) {
	op := &ringRequest{device: d, request: r}
	switch r.Command {
	case nbd.CmdRead:
		d.loop.Begin(op).PrepRead(int(d.file.Fd()), r.Data, int64(r.Offset))
	case nbd.CmdWrite:
		d.loop.Reserve(2)
		e := d.loop.Begin(op)
		e.PrepWrite(int(d.file.Fd()), r.Data, int64(r.Offset))
		if r.Flags&nbd.CmdFlagFUA != 0 {
			op.more = true
			e.Flags |= uring.IOLink
			d.loop.Begin(op).PrepFsync(int(d.file.Fd()), true)
		}
	case nbd.CmdFlush:
		d.loop.Begin(op).PrepFsync(int(d.file.Fd()), true)
	case nbd.CmdTrim, nbd.CmdWriteZeroes:
		mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
		if r.Flags&nbd.CmdFlagNoHole != 0 {
			mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
		}
		d.loop.Begin(op).PrepFallocate(int(d.file.Fd()), mode, int64(r.Offset), int64(r.Length))
	case nbd.CmdBlockStatus:
		go func() {
			extents, err := sparse{d.file}.Status(int64(r.Offset), int64(r.Length), r.ExtentsMax)
			_ = d.loop.Post(func() {
				r.Extents = append(r.Extents, extents...)
				r.Done(err)
			})
		}()
	default:
		r.Done(nil)
	}
}

type ringRequest struct {
	device  *ringFile
	request *nbd.Request
	more    bool
	err     error
}

func (o *ringRequest) Complete(res int32, _ uring.CQEFlags) {
	if res < 0 && o.err == nil {
		o.err = unix.Errno(-res)
	} else if (o.request.Command == nbd.CmdRead || o.more) && int(res) < len(o.request.Data) && o.err == nil {
		o.err = io.ErrUnexpectedEOF
	}
	if o.more {
		o.more = false
		return
	}
	o.request.Done(o.err)
}

// eachTransport runs a test against both of our servers, over unix sockets and TCP.
func eachTransport(t *testing.T, f func(t *testing.T, uri string, disk *os.File)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run("net-"+network, func(t *testing.T) {
			disk, d := file(t)
			f(t, overNet(t, network, one{"disk", d}), disk)
		})
		t.Run("ring-"+network, func(t *testing.T) {
			disk, d := file(t)
			f(t, overRing(t, network, one{"disk", d}, disk), disk)
		})
	}
}

func TestNbdinfoUnderstandsUs(t *testing.T) {
	nbdinfo := need(t, "nbdinfo", "libnbd-bin")
	eachTransport(t, func(t *testing.T, uri string, disk *os.File) {
		if _, err := disk.WriteAt(make([]byte, 1<<20), 8<<20); err != nil {
			t.Fatal(err)
		}
		var info struct {
			Exports []map[string]any `json:"exports"`
		}
		out := run(t, nbdinfo, "--json", uri)
		if err := json.Unmarshal([]byte(out), &info); err != nil {
			t.Fatal(err)
		}
		e := info.Exports[0]
		for key, want := range map[string]any{"export-size": float64(diskBytes), "description": "a test's disk", "can_trim": true, "can_fua": true, "can_multi_conn": true,
			"can_fast_zero": true, "can_zero": true, "can_flush": true, "can_df": true, "can_cache": true, "is_read_only": false, "block_size_preferred": float64(4096)} {
			if e[key] != want {
				t.Errorf("%s is %v, want %v", key, e[key], want)
			}
		}
		var extents []struct {
			Offset, Length int64
			Type           int
		}
		if err := json.Unmarshal([]byte(run(t, nbdinfo, "--json", "--map", uri)), &extents); err != nil {
			t.Fatal(err)
		}
		if len(extents) != 3 || extents[0].Type != 3 || extents[1].Type != 0 || extents[1].Offset != 8<<20 || extents[2].Type != 3 {
			t.Errorf("map is %v", extents)
		}
		if out := run(t, nbdinfo, "--list", "--json", uri); !strings.Contains(out, `"disk"`) {
			t.Errorf("list is %s", out)
		}
	})
}

// pattern makes a file with data and holes.
func pattern(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pattern")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(diskBytes); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 3<<20)
	for off := int64(0); off+int64(len(p)) < diskBytes; off += 11 << 20 {
		if _, err := rand.Read(p); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

func same(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

func TestNbdcopyThereAndBack(t *testing.T) {
	nbdcopy := need(t, "nbdcopy", "libnbd-bin")
	eachTransport(t, func(t *testing.T, uri string, disk *os.File) {
		from, back := pattern(t), filepath.Join(t.TempDir(), "back")
		run(t, nbdcopy, "--flush", from, uri)
		same(t, from, disk.Name())
		run(t, nbdcopy, uri, back)
		same(t, from, back)
		var st unix.Stat_t
		if err := unix.Stat(disk.Name(), &st); err != nil || st.Blocks*512 > diskBytes/2 {
			t.Errorf("the copy takes %d bytes on disk, holes were lost", st.Blocks*512)
		}
	})
}

func TestQemuToolsReadWriteAndCompare(t *testing.T) {
	qemuImg, qemuIO := need(t, "qemu-img", "qemu-utils"), need(t, "qemu-io", "qemu-utils")
	eachTransport(t, func(t *testing.T, uri string, disk *os.File) {
		from, back := pattern(t), filepath.Join(t.TempDir(), "back")
		run(t, qemuImg, "convert", "-n", "-W", "-m16", "-O", "raw", from, uri)
		run(t, qemuImg, "compare", "-f", "raw", "-F", "raw", from, uri)
		run(t, qemuImg, "convert", "-W", "-m16", "-O", "raw", uri, back)
		same(t, from, back)
		for _, command := range []string{"write -P 7 1M 64k", "read -P 7 1M 64k", "write -f -P 8 2M 4k", "read -P 8 2M 4k", "write -z 1M 64k", "read -P 0 1M 64k",
			"write -z -u 2M 4k", "read -P 0 2M 4k", "discard 3M 1M", "flush", "aio_write -P 9 5M 1M", "aio_flush", "read -P 9 5M 1M"} {
			if out := run(t, qemuIO, "-f", "raw", "-c", command, uri); strings.Contains(out, "failed") {
				t.Errorf("%s: %s", command, out)
			}
		}
	})
}

func TestFioVerifiesRandomWrites(t *testing.T) {
	fio := need(t, "fio", "fio")
	eachTransport(t, func(t *testing.T, uri string, _ *os.File) {
		run(t, fio, "--name=verify", "--ioengine=nbd", "--uri="+uri, "--rw=randrw", "--bs=4k", "--iodepth=32", "--size=4M", "--io_size=8M", "--verify=crc32c",
			"--verify_state_save=0", "--output="+os.DevNull)
	})
}

func TestNbdshAsksForOddThings(t *testing.T) {
	// Not by the script nbdsh, which takes the first python3 of the path: libnbd's module is for Debian's.
	python := need(t, "/usr/bin/python3", "python3-libnbd")
	eachTransport(t, func(t *testing.T, uri string, _ *os.File) {
		run(t, python, "-m", "nbd", "-c", `
import errno
h.set_strict_mode(0)
h.set_request_block_size(False)
h.add_meta_context("base:allocation")
h.connect_uri("`+uri+`")
def fails(want, f):
    try:
        f()
    except nbd.Error as e:
        assert e.errnum == want, (e.errnum, want)
    else:
        assert False, "did not fail"
size = h.get_size()
fails(errno.EINVAL, lambda: h.pread(512, size))
fails(errno.ENOSPC, lambda: h.pwrite(b"x" * 512, size))
fails(errno.ENOSPC, lambda: h.pwrite(b"x" * 512, size - 1))
fails(errno.EINVAL, lambda: h.pread(33 * 1024 * 1024, 0))
fails(errno.EINVAL, lambda: h.pwrite(bytes(33 * 1024 * 1024), 0))
fails(errno.EINVAL, lambda: h.trim(0, 0, 1 << 9))
fails(errno.EINVAL, lambda: h.block_status(0, 0, lambda *a: 0))
h.pwrite(b"hello", 1000, nbd.CMD_FLAG_FUA)
assert h.pread(5, 1000, nbd.CMD_FLAG_DF) == b"hello"
h.cache(4096, 0)
h.shutdown()
`)
	})
}

// pki writes an authority and a certificate as the tools want them, in a directory, and returns the server's configuration.
func pki(t testing.TB) (dir string, server *tls.Config) {
	t.Helper()
	dir = t.TempDir()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey, ownKey := key(), key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	own := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	ownDER, err := x509.CreateCertificate(rand.Reader, own, ca, &ownKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(ownKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca-cert.pem", "CERTIFICATE", caDER)
	for _, name := range []string{"client", "server"} {
		write(name+"-cert.pem", "CERTIFICATE", ownDER)
		write(name+"-key.pem", "PRIVATE KEY", keyDER)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}))
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{ownDER}, PrivateKey: ownKey}}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: pool, RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	return dir, server
}

func TestStockClientsOverMutualTLS(t *testing.T) {
	nbdcopy, qemuImg := need(t, "nbdcopy", "libnbd-bin"), need(t, "qemu-img", "qemu-utils")
	dir, config := pki(t)
	disk, d := file(t)
	l := listen(t, "tcp")
	s := &nbd.Server{Exports: one{"disk", d}, TLS: config, TLSMode: nbd.TLSRequired, Log: slog.New(slog.DiscardHandler)}
	go s.Serve(l) // ends with the listener
	defer s.Close()
	from := pattern(t)
	run(t, nbdcopy, from, "nbds://"+l.Addr().String()+"/disk?tls-certificates="+dir)
	same(t, from, disk.Name())
	_, port, _ := net.SplitHostPort(l.Addr().String())
	run(t, qemuImg, "compare", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir="+dir, "--image-opts",
		"driver=raw,file.driver=file,file.filename="+from, "driver=nbd,host=localhost,port="+port+",export=disk,tls-creds=tls0")
	if out, err := exec.CommandContext(t.Context(), nbdcopy, from, uri(l, "disk")).CombinedOutput(); err == nil || !strings.Contains(string(out), "TLS") {
		t.Errorf("in the clear: %v, %s", err, out)
	}
}

// A connection that begins on the ring's loop leaves it for TLS.
func TestTLSTakesTheConnectionFromTheRing(t *testing.T) {
	nbdcopy := need(t, "nbdcopy", "libnbd-bin")
	dir, config := pki(t)
	disk, d := file(t)
	stack, err := uring.NewStack(uring.StackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	threads := &nbd.Server{Exports: one{"disk", d}, TLS: config, TLSMode: nbd.TLSRequired, Log: slog.New(slog.DiscardHandler)}
	served := make(chan error, 10)
	secure := func(l *uring.Link) func(*nbd.Negotiation) {
		return func(n *nbd.Negotiation) {
			l.Detach(func(fd int, unread []byte) {
				go func() {
					f := os.NewFile(uintptr(fd), "connection")
					c, err := net.FileConn(f)
					f.Close()
					if err == nil {
						err = threads.ServeConn(context.Background(), nbd.WithPrefix(c, unread), n)
					}
					served <- err
				}()
			})
		}
	}
	l := listen(t, "tcp")
	if _, err := stack.Serve(l, acceptor(func(link *uring.Link) uring.Session {
		return nbd.NewSession(link, nbd.SessionOptions{Exports: one{"disk", d}, TLSMode: nbd.TLSRequired, Peer: nbd.Peer{Addr: link.RemoteAddr()}, Secure: secure(link)})
	}), uring.ServerOptions{}); err != nil {
		t.Fatal(err)
	}
	from := pattern(t)
	run(t, nbdcopy, "--connections=1", from, "nbds://"+l.Addr().String()+"/disk?tls-certificates="+dir)
	same(t, from, disk.Name())
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := stack.Close(); err != nil {
		t.Error(err)
	}
	if err := threads.Close(); err != nil {
		t.Error(err)
	}
}

type acceptor func(*uring.Link) uring.Session

func (a acceptor) Accept(l *uring.Link) uring.Session { return a(l) }

// exercise uses every call of our client.
func exercise(t *testing.T, c *nbd.Client) {
	t.Helper()
	want := bytes.Repeat([]byte("godwit"), 500_000)
	if _, err := c.Write(want, 12_345, nbd.CmdFlagFUA); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := c.ReadAt(got, 12_345); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read differs: %v", err)
	}
	if err := c.WriteZeroes(1<<20, 1<<20, 0); err != nil {
		t.Error(err)
	}
	if err := c.Trim(4<<20, 1<<20, 0); err != nil {
		t.Error(err)
	}
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	zeros := make([]byte, 1<<20)
	if _, err := c.ReadAt(zeros, 1<<20); err != nil || !bytes.Equal(zeros, make([]byte, 1<<20)) {
		t.Errorf("zeroed range: %v", err)
	}
	if c.HasStatus() {
		extents, err := c.BlockStatus(0, diskBytes, 0)
		if err != nil || len(extents) < 2 {
			t.Errorf("extents %v, %v", extents, err)
		}
	}
	if _, err := c.ReadAt(zeros, c.Size()); err == nil {
		t.Error("a read beyond the end succeeded")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// served starts a stock server and dials it when its socket is there.
func served(t *testing.T, socket string, o nbd.ClientOptions, program string, args ...string) *nbd.Client {
	t.Helper()
	cmd := exec.Command(program, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := nbd.Dial(ctx, "unix", socket, o)
		if err == nil {
			return c
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v\n%s", program, err, errs.String())
		case err := <-ended:
			ended <- err
			t.Fatalf("%s: %v\n%s", program, err, errs.String())
		}
	}
}

func TestOurClientWithStockServers(t *testing.T) {
	nbdkit, qemuNBD := need(t, "nbdkit", "nbdkit"), need(t, "qemu-nbd", "qemu-utils")
	for _, simple := range []bool{false, true} {
		t.Run(fmt.Sprintf("simple-%v", simple), func(t *testing.T) {
			disk, _ := file(t)
			socket := filepath.Join(t.TempDir(), "nbdkit")
			exercise(t, served(t, socket, nbd.ClientOptions{Simple: simple}, nbdkit, "-f", "-U", socket, "file", disk.Name()))
			socket = filepath.Join(t.TempDir(), "qemu")
			exercise(t, served(t, socket, nbd.ClientOptions{Export: "disk", Simple: simple}, qemuNBD, "-t", "-f", "raw", "-k", socket, "-x", "disk", "--discard=unmap", disk.Name()))
		})
	}
}
