package peerdisk_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/peerdisk"
)

// authority signs the certificates of a test's hosts.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) host(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

// world is one host that serves, and how others reach it.
type world struct {
	*authority
	server  *peerdisk.Server
	address string
	images  map[string]string
}

func newWorld(t *testing.T) *world { return newLimitedWorld(t, 0) }

// newLimitedWorld bounds what is sent of images per second.
func newLimitedWorld(t testing.TB, bytesPerSecond int64) *world {
	t.Helper()
	w := &world{authority: newAuthority(t), images: map[string]string{}}
	w.server = peerdisk.NewServer(peerdisk.Options{
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{w.host("source")}, ClientCAs: w.pool(), ClientAuth: tls.RequireAndVerifyClientCert},
		PeerHost: func(s tls.ConnectionState) (cloud.HostName, error) {
			return cloud.HostName(s.PeerCertificates[0].Subject.CommonName), nil
		},
		Base: func(hash string) (string, bool) { path, ok := w.images[hash]; return path, ok }, ImageBandwidth: bytesPerSecond,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		if err := w.server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) as(host, export string) peerdisk.Source {
	return peerdisk.Source{Address: w.address, Export: export,
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "source", RootCAs: w.pool(), Certificates: []tls.Certificate{w.host(host)}}}
}

// sparse makes a file of 8 MiB and 100 bytes with data at its begin, in its middle and at its end.
func sparse(t *testing.T) (path string, content []byte) {
	t.Helper()
	content = make([]byte, 8<<20+100)
	for _, at := range []int{0, 3 << 20, len(content) - 5000} {
		_, _ = rand.Read(content[at : at+5000])
	}
	path = filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 3 << 20, len(content) - 5000} {
		if _, err := f.WriteAt(content[at:at+5000], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	return path, content
}

func TestADiskArrivesWholeAndWithItsHoles(t *testing.T) {
	w := newWorld(t)
	path, content := sparse(t)
	if n, err := w.server.Offer("disk", path, "target"); err != nil || n != int64(len(content)) {
		t.Fatalf("offer: %d, %v", n, err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	written, err := peerdisk.NewPuller(0).Pull(t.Context(), w.as("target", "disk"), to, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the copy differs (%d bytes, %v)", len(got), err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(to, &st); err != nil {
		t.Fatal(err)
	}
	if written > 64<<10 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes were written and %d allocated for 15,000 of data", written, st.Blocks*512)
	}
}

func TestADiskIsReadByTheHostItIsOfferedToAndNoOther(t *testing.T) {
	w := newWorld(t)
	path, _ := sparse(t)
	if _, err := w.server.Offer("disk", path, "target"); err != nil {
		t.Fatal(err)
	}
	pull := func(from peerdisk.Source, bytesMax int64) error {
		_, err := peerdisk.NewPuller(0).Pull(t.Context(), from, filepath.Join(t.TempDir(), "copy"), bytesMax)
		return err
	}
	stranger := w.as("target", "disk")
	stranger.TLS.Certificates = nil
	elsewhere := w.as("target", "disk")
	elsewhere.TLS.ServerName = "another"
	for name, from := range map[string]peerdisk.Source{
		"another host": w.as("other", "disk"), "a wrong name": w.as("target", "disc"), "a stranger": stranger, "a wrong server": elsewhere,
	} {
		if err := pull(from, 0); !cloud.Is(err, cloud.KindUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := pull(w.as("target", "disk"), 1<<20); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("longer than allowed: %v", err)
	}
	if err := pull(w.as("target", "disk"), 0); err != nil {
		t.Errorf("the right host: %v", err)
	}
	w.server.Withdraw("disk")
	w.server.Withdraw("disk")
	if err := pull(w.as("target", "disk"), 0); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("after the end of the offer: %v", err)
	}
}

func TestABaseImageIsReadByEveryHost(t *testing.T) {
	w := newWorld(t)
	path, content := sparse(t)
	w.images["cafe"] = path
	to := filepath.Join(t.TempDir(), "copy")
	if _, err := peerdisk.NewPuller(1<<30).Pull(t.Context(), w.as("anybody", peerdisk.ImageExport("cafe")), to, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the copy differs (%d bytes, %v)", len(got), err)
	}
	if _, err := peerdisk.NewPuller(0).Pull(t.Context(), w.as("anybody", peerdisk.ImageExport("beef")), to, 0); err == nil {
		t.Error("an image that is not there was served")
	}
}

func TestAPullEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	path, _ := sparse(t)
	if _, err := w.server.Offer("disk", path, "target"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := peerdisk.NewPuller(1).Pull(ctx, w.as("target", "disk"), filepath.Join(t.TempDir(), "copy"), 0); err == nil {
		t.Error("a cancelled copy succeeded")
	}
}
