package hostapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newCA(t testing.TB) *Authority {
	t.Helper()
	ca, err := NewAuthority(testNow)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAuthoritySurvivesStorage(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(ca.CertPEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	if again.Fingerprint() != ca.Fingerprint() || !again.key.Equal(ca.key) {
		t.Error("another authority came back")
	}
}

func TestAuthorityRefusesAForeignKey(t *testing.T) {
	foreign, err := newCA(t).KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{
		"another authority's key": {newCA(t).CertPEM(), foreign},
		"no key":                  {newCA(t).CertPEM(), nil},
		"no certificate":          {nil, foreign},
		"a key for a certificate": {foreign, foreign},
	} {
		if _, err := ParseAuthority(pair[0], pair[1]); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestHostCertificateIsFitForGodwitLibvirtAndQEMU(t *testing.T) {
	ca := newCA(t)
	ip := net.ParseIP("198.51.100.7")
	csr, err := newHostRequest("compute-1", []net.IP{ip}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	out, err := ca.SignHost("compute-1", csr, testNow)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCertificate(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.pool(), CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("usage %v: %v", usage, err)
		}
	}
	if cert.VerifyHostname("compute-1") != nil || cert.VerifyHostname("198.51.100.7") != nil {
		t.Error("the certificate does not name its host and address")
	}
	if cert.KeyUsage&x509.KeyUsageKeyEncipherment == 0 {
		t.Error("QEMU refuses certificates without key encipherment")
	}
	if name, err := hostNameOf(cert); err != nil || name != "compute-1" {
		t.Errorf("identity: %q %v", name, err)
	}
}

func TestSignHostRefusesWhatTheHostMayNotHave(t *testing.T) {
	ca := newCA(t)
	request := func(tmpl x509.CertificateRequest) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, err := newHostRequest("h", nil, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	good := request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "h"}})
	tampered := append([]byte(nil), good...)
	tampered[len(tampered)-1] ^= 1
	for _, c := range []struct {
		claim string
		name  cloud.HostName
		csr   []byte
	}{
		{"another host's name", "h", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "other"}})},
		{"a further DNS name", "h", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "h"}, DNSNames: []string{"h", "other"}})},
		{"the server's name", ServerName, request(x509.CertificateRequest{Subject: pkix.Name{CommonName: ServerName}})},
		{"loopback", "h", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "h"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})},
		{"multicast", "h", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "h"}, IPAddresses: []net.IP{net.IPv4(224, 0, 0, 1)}})},
		{"too many addresses", "h", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "h"}, IPAddresses: make17()})},
		{"an RSA key", "h", rsaCSR},
		{"a broken signature", "h", tampered},
		{"no request", "h", nil},
		{"an empty name", "", good},
		{"an upper-case name", "H", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "H"}})},
		{"a path for a name", "../h", request(x509.CertificateRequest{Subject: pkix.Name{CommonName: "../h"}})},
		{"a long name", cloud.HostName(strings.Repeat("h", 65)), good},
	} {
		if _, err := ca.SignHost(c.name, c.csr, testNow); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: got %v", c.claim, err)
		}
	}
	if _, err := ca.SignHost("h", good, testNow); err != nil {
		t.Errorf("the honest request: %v", err)
	}
}

func make17() []net.IP {
	var out []net.IP
	for i := range 17 {
		out = append(out, net.IPv4(192, 0, 2, byte(i+1)))
	}
	return out
}

func TestServerCertificateIsReplacedBeforeItExpires(t *testing.T) {
	c := serverCert{authority: newCA(t)}
	first, err := c.get(testNow)
	if err != nil {
		t.Fatal(err)
	}
	if same, _ := c.get(testNow.Add(leafLifetime / 2)); same != first {
		t.Error("replaced in the middle of its life")
	}
	if next, _ := c.get(testNow.Add(leafLifetime * 3 / 4)); next == first {
		t.Error("not replaced in the last third of its life")
	}
}

func TestJoinTokenSurvivesItsText(t *testing.T) {
	token := NewJoinToken(newCA(t).Fingerprint())
	again, err := ParseJoinToken("  " + token.String() + "\n")
	if err != nil || again != token {
		t.Errorf("got %v, %v", again, err)
	}
	if !again.Admits(token.secretText()) || again.Admits("") || again.Admits(token.secretText()+"x") {
		t.Error("a token admits its own secret and no other")
	}
}

func TestJoinTokenErrorsDoNotRepeatTheSecret(t *testing.T) {
	token := NewJoinToken(newCA(t).Fingerprint())
	for _, text := range []string{
		"", "godwit-join:", "godwit-join:abc", strings.TrimPrefix(token.String(), "godwit-"), token.String()[:len(token.String())-1],
		token.String() + "00", strings.ToUpper(token.String()), "godwit-join:" + token.secretText()[1:] + ":" + token.Fingerprint.String(),
	} {
		_, err := ParseJoinToken(text)
		if !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%q: got %v", text, err)
		} else if strings.Contains(err.Error(), token.secretText()[1:]) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(NewJoinToken(Fingerprint{1, 2, 3}).String())
	f.Add("godwit-join::")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseJoinToken(text)
		if err == nil && token.String() != strings.TrimSpace(text) {
			t.Errorf("%q was read as %q", text, token)
		}
	})
}
