package hostapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
)

// plant stores a certificate of the given age in dir, in the files an agent keeps.
func plant(t *testing.T, ca *hostapi.Authority, dir string, age time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "compute-1"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignHost("compute-1", csr, time.Now().Add(-age))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"ca.pem": ca.CertPEM(), "host.pem": cert, "host-key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACertificateInItsLastThirdIsRenewedWhileRunning(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	plant(t, w.Authority, opts.CertDir, 70*24*time.Hour)
	renewed := make(chan hostapi.CertFiles, 1)
	opts.Token = "" // the certificate itself is the credential
	opts.Renewed = func(f hostapi.CertFiles) { renewed <- f }
	w.StartAgent(t, opts, hostapitest.NewFleet("compute-1").Host("compute-1"))
	select {
	case files := <-renewed:
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(pair.Leaf.NotAfter); left < 80*24*time.Hour {
			t.Errorf("the new certificate has %s left", left)
		}
	case <-limit(t).Done():
		t.Fatal("not renewed")
	}
}

func TestAnExpiredCertificateIsReplacedByTheToken(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	plant(t, w.Authority, opts.CertDir, 100*24*time.Hour)
	agent, err := hostapi.Dial(limit(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(agent.Files().Cert, agent.Files().Key)
	if err != nil || time.Until(pair.Leaf.NotAfter) < 0 {
		t.Errorf("still expired: %v", err)
	}
}

func TestAnotherHostsCertificateIsNotUsed(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	plant(t, w.Authority, opts.CertDir, 0)
	opts.Name = "compute-2" // a cloned machine
	agent, err := hostapi.Dial(limit(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(agent.Files().Cert, agent.Files().Key)
	if err != nil || pair.Leaf.Subject.CommonName != "compute-2" {
		t.Errorf("the certificate is for %s: %v", pair.Leaf.Subject.CommonName, err)
	}
}
