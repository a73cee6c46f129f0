package blockserve

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/nbd"
)

// authority signs certificates.
type authority struct {
	testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{TB: t}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var der []byte
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err = x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	return a
}

// issue makes a certificate for a host.
func (a *authority) issue(host string) tls.Certificate {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	must(a, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// server is the configuration of a server that wants to know its clients.
func (a *authority) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.issue("storage-1")}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
}

// client is the configuration of a host.
func (a *authority) client(host string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.issue(host)}, RootCAs: a.pool(), ServerName: "storage-1"}
}

// directory writes the files that libnbd and QEMU look for.
func (a *authority) directory(host string) string {
	a.Helper()
	dir := a.TempDir()
	write := func(name, kind string, der []byte) {
		must(a, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	c := a.issue(host)
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(a, err)
	write("ca-cert.pem", "CERTIFICATE", a.cert.Raw)
	write("client-cert.pem", "CERTIFICATE", c.Certificate[0])
	write("client-key.pem", "PRIVATE KEY", key)
	return dir
}

func TestOnlyTheAttachmentsHostIsLetIn(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		w.disk.hosts = map[string]cloud.HostName{"a": hostOfTest}
		l := w.listen("tcp", ours.server())
		dial := func(config *tls.Config) error {
			c, err := nbd.Dial(t.Context(), "tcp", l.Addr().String(), nbd.ClientOptions{Export: "a", TLS: config})
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.WriteAt(make([]byte, 4096), 0)
			return err
		}
		if err := dial(ours.client(string(hostOfTest))); err != nil {
			t.Errorf("the host: %v", err)
		}
		if err := dial(ours.client("compute-2")); !errors.Is(err, nbd.NotPermitted) {
			t.Errorf("another host: %v", err)
		}
		if err := dial(nil); !errors.Is(err, nbd.NotPermitted) {
			t.Errorf("in the clear: %v", err)
		}
		nobody := ours.client("x")
		nobody.Certificates = nil
		if err := dial(nobody); err == nil {
			t.Error("a client without a certificate is let in")
		}
		stranger := theirs.client(string(hostOfTest))
		stranger.RootCAs = ours.pool()
		if err := dial(stranger); err == nil {
			t.Error("a certificate of another authority is let in")
		}
	})
}

func TestAServerThatAsksNobodyForACertificateIsRefused(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		config := newAuthority(t).server()
		config.ClientAuth = tls.VerifyClientCertIfGiven
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		if err := w.server.Serve(l, config); err == nil {
			t.Error("it serves")
		}
	})
}

func TestTheSuiteOverTLSOfBothVersions(t *testing.T) {
	a := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			eachEngine(t, setting{}, func(t *testing.T, w *world) {
				config := a.client("compute-1")
				config.MaxVersion = version
				l := w.listen("tcp", a.server())
				c := w.dial(l, nbd.ClientOptions{Export: "a", TLS: config})
				m := &model{TB: t, client: c, want: make([]byte, diskBytes), random: mathrand.New(mathrand.NewPCG(3, 4)), align: 1}
				for i := range 200 {
					if err := m.step(); err != nil {
						t.Fatalf("step %d: %v", i, err)
					}
				}
				var group sync.WaitGroup // many at once, small and large, against the bounds
				for i := range 100 {
					group.Go(func() {
						p := make([]byte, 1+i*i*100)
						if _, err := c.ReadAt(p, 0); err != nil || !bytes.Equal(p, m.want[:len(p)]) {
							t.Errorf("%d bytes: %v, or other data", len(p), err)
						}
					})
				}
				group.Wait()
			})
		})
	}
}

// pieces is a connection that sends what it is given in small pieces.
type pieces struct {
	net.Conn
	random *mathrand.Rand
}

func (p pieces) Write(b []byte) (int, error) {
	for at := 0; at < len(b); {
		n := min(len(b)-at, 1+p.random.IntN(600))
		if _, err := p.Conn.Write(b[at : at+n]); err != nil {
			return at, err
		}
		at += n
	}
	return len(b), nil
}

// The engine puts crypto/tls over memory that runs out in the middle of records, which must lose nothing.
func TestTLSRecordsMayArriveInAnyPieces(t *testing.T) {
	a := newAuthority(t)
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		l := w.listen("tcp", a.server())
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		c, err := nbd.NewClient(t.Context(), pieces{conn, mathrand.New(mathrand.NewPCG(5, 6))}, nbd.ClientOptions{Export: "a", TLS: a.client("compute-1")})
		must(t, err)
		defer c.Close()
		m := &model{TB: t, client: c, want: make([]byte, diskBytes), random: mathrand.New(mathrand.NewPCG(7, 8)), align: 1}
		for i := range 150 {
			if err := m.step(); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
	})
}

func TestAHandshakeThatDoesNotEndIsCutOff(t *testing.T) {
	a := newAuthority(t)
	eachEngine(t, setting{options: Options{HandshakeTimeout: time.Second}}, func(t *testing.T, w *world) { // a busy machine takes its time to begin one
		l := w.listen("tcp", a.server())
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte{0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 5, 0, 0, 0, 0}) // StartTLS
		must(t, err)
		_, err = io.ReadFull(c, make([]byte, 18+20))
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("the connection goes on: %v", err)
		}
	})
}

// A client with TLS that asks for much and takes nothing is bounded as one without.
func TestAClientWithTLSThatNeverReadsCostsBoundedMemory(t *testing.T) {
	a := newAuthority(t)
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		must(t, os.WriteFile(w.path, bytes.Repeat([]byte{1}, diskBytes), 0o600))
		l := w.listen("tcp", a.server())
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte{0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 5, 0, 0, 0, 0})
		must(t, err)
		_, err = io.ReadFull(conn, make([]byte, 18+20))
		must(t, err)
		secured := tls.Client(conn, a.client("compute-1"))
		must(t, secured.Handshake())
		_, err = secured.Write([]byte{'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 1, 'a', 0, 1, 0, 3})
		must(t, err)
		_, err = secured.Read(make([]byte, 1000))
		must(t, err)
		before := resident(t)
		must(t, secured.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
		asked := 0
		for ; asked < 200_000; asked++ {
			if _, err := secured.Write(request(nbd.CmdRead, 0, uint64(asked), 0, 1<<20)); err != nil {
				break
			}
		}
		if grown := resident(t) - before; grown > 128<<20 || asked == 200_000 {
			t.Errorf("%d MiB more after %d requests", grown>>20, asked)
		}
		must(t, conn.Close())
		c := w.dial(l, nbd.ClientOptions{Export: "a", TLS: a.client("compute-1")})
		if _, err := c.ReadAt(make([]byte, 5<<20), 0); err != nil {
			t.Error(err)
		}
	})
}

func TestNonsenseInsteadOfRecordsEndsTheConnectionOnly(t *testing.T) {
	a := newAuthority(t)
	eachEngine(t, setting{options: Options{Loops: 1}}, func(t *testing.T, w *world) {
		l := w.listen("tcp", a.server())
		good := w.dial(l, nbd.ClientOptions{Export: "a", TLS: a.client("compute-1")})
		random := mathrand.New(mathrand.NewPCG(1, 1))
		for range 20 {
			conn, err := net.Dial("tcp", l.Addr().String())
			must(t, err)
			c, err := nbd.NewClient(t.Context(), conn, nbd.ClientOptions{Export: "a", TLS: a.client("compute-1")})
			must(t, err)
			p := make([]byte, 1+random.IntN(40_000))
			for i := range p {
				p[i] = byte(random.Uint32())
			}
			p[0] = []byte{20, 21, 22, 23, 24, p[0]}[random.IntN(6)] // the types of records
			_, _ = conn.Write(p)                                    // the server may hang up in the middle of it
			if random.IntN(2) == 0 {
				_ = conn.(*net.TCPConn).CloseWrite() // the server may have hung up already
				_, _ = io.Copy(io.Discard, conn)     // until the server hangs up
			}
			_ = c.Close()
			if _, err := good.WriteAt(make([]byte, 4096), 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A client that is shaking hands when the service shuts down does not hold it up.
func TestWhoComesLateToAShutdownIsSentAway(t *testing.T) {
	a := newAuthority(t)
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		l := w.listen("tcp", a.server())
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte{0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 5, 0, 0, 0, 0})
		must(t, err)
		_, err = io.ReadFull(conn, make([]byte, 18+20))
		must(t, err)
		down := make(chan error, 1)
		go func() { down <- w.server.Shutdown(t.Context()) }()
		for {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				break // the shutdown has begun
			}
			c.Close()
			waitABit(t)
		}
		secured := tls.Client(conn, a.client("compute-1"))
		if err := secured.Handshake(); err == nil {
			if _, err = secured.Write([]byte{'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 1, 'a', 0, 1, 0, 3}); err == nil {
				_, _ = io.Copy(io.Discard, secured) // until it is sent away
			}
		}
		began := time.Now()
		must(t, <-down)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the shutdown took %v more", took)
		}
	})
}
