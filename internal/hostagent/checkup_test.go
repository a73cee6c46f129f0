package hostagent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/hostpki"
	"github.com/godwit-cloud/godwit/test/freeport"
)

// An authority signs certificates of hosts that are all at 127.0.0.1, which the cloud's own authority would not do.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	raw := a.sign(t, a.cert, a.key)
	var err error
	if a.cert, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// host makes a host's certificate, good for so long, and returns the directory where its libvirt finds it.
func (a *authority) host(t *testing.T, life time.Duration) string {
	t.Helper()
	key, dir := newKey(t), t.TempDir()
	cert := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host"}, NotAfter: time.Now().Add(life),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, key)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	id := hostpki.Identity{CA: filepath.Join(t.TempDir(), "ca"), Cert: filepath.Join(t.TempDir(), "cert"), Key: filepath.Join(t.TempDir(), "key")}
	for path, block := range map[string]*pem.Block{id.CA: {Type: "CERTIFICATE", Bytes: a.cert.Raw}, id.Cert: {Type: "CERTIFICATE", Bytes: cert}, id.Key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := hostpki.Install(dir, id); err != nil {
		t.Fatal(err)
	}
	return dir
}

// libvirtd listens like one, with the certificates of a directory, and returns its port.
func libvirtd(t *testing.T, pki string) int {
	t.Helper()
	p, err := openPKI(pki)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{p.cert}, ClientCAs: p.roots, ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte{libvirtAdmits}) // after the handshake; an error: it was refused
			conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestACheckupTriesLibvirtAsLibvirtDoes(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	one, ended := ours.host(t, time.Hour), ours.host(t, -time.Minute)
	for name, c := range map[string]struct {
		pki  string
		port int
		open bool
	}{
		"a host of the cloud":     {one, libvirtd(t, ours.host(t, time.Hour)), true},
		"one of another cloud":    {one, libvirtd(t, others.host(t, time.Hour)), false},
		"its certificate ended":   {one, libvirtd(t, ended), false},
		"ours has":                {ended, libvirtd(t, ours.host(t, time.Hour)), false},
		"nothing listens":         {one, freeport.Find(t), false},
		"this has no certificate": {filepath.Join(t.TempDir(), "none"), 1, false},
	} {
		a := &Agent{o: Options{PKIDir: c.pki, LibvirtPort: c.port}}
		reply, err := a.Checkup(t.Context(), &hostpb.CheckupRequest{Targets: []*hostpb.CheckupTarget{{Host: "two", Address: "127.0.0.1"}}})
		if err != nil {
			t.Fatal(err)
		}
		if open := len(reply.GetResults()) == 0; open != c.open || !open && reply.GetResults()[0].GetWay() != cloud.WayLibvirt {
			t.Errorf("%s: %v", name, reply.GetResults())
		}
		if good := reply.GetCertificateError() == "" && !reply.GetCertificateEnd().AsTime().IsZero(); good != (c.pki == one) {
			t.Errorf("%s: its certificates: %q, until %v", name, reply.GetCertificateError(), reply.GetCertificateEnd())
		}
		if reply.GetClock() == nil {
			t.Errorf("%s: no clock", name)
		}
	}
	if _, err := (&Agent{}).Checkup(t.Context(), &hostpb.CheckupRequest{Targets: make([]*hostpb.CheckupTarget, checkupTargetsMax+1)}); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("too many hosts: %v", err)
	}
}
