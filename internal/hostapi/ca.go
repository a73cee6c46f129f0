package hostapi

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// ServerName is the name in the server's certificate by which agents recognise it, whatever address they dialled.
	ServerName = "godwit-server"

	authorityName = "godwit host authority"

	authorityLifetime = 20 * 365 * 24 * time.Hour
	// leafLifetime bounds the use of a stolen certificate; renewal begins when a third of it is left.
	leafLifetime = 90 * 24 * time.Hour
	// clockSlack forgives hosts whose clock runs behind the server's.
	clockSlack = time.Hour

	hostNameMax  = 64 // the longest common name X.509 allows
	addressesMax = 16 // a host has a handful of networks; more is a mistake or an attack

	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

var hostNamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// Fingerprint is the SHA-256 of a certificate's DER form.
type Fingerprint [sha256.Size]byte

// String returns 64 lower-case hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Authority is the built-in CA. It is immutable and safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a CA with a fresh P-256 key, valid from now.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: authorityName},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(authorityLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority certificate: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// ParseAuthority loads what CertPEM and KeyPEM gave. Errors are KindInvalid.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "load authority", "certificate", err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, cloud.E(cloud.KindInvalid, "load authority", "key", errors.New("no PEM block"))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "load authority", "key", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, cloud.E(cloud.KindInvalid, "load authority", "key", errors.New("does not belong to the CA certificate"))
	}
	return &Authority{cert: cert, key: key}, nil
}

// CertPEM returns the CA certificate.
func (a *Authority) CertPEM() []byte { return certToPEM(a.cert.Raw) }

// KeyPEM returns the CA's private key (PKCS #8). Whoever has it can be any host or the server.
func (a *Authority) KeyPEM() ([]byte, error) { return keyToPEM(a.key) }

// Fingerprint returns what join tokens carry.
func (a *Authority) Fingerprint() Fingerprint { return sha256.Sum256(a.cert.Raw) }

func (a *Authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// IssueServer makes a key and a certificate for godwit's server, valid from now. The chain ends with the CA's
// certificate so that an agent which knows only its fingerprint can verify it.
func (a *Authority) IssueServer(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make server key: %w", err)
	}
	tmpl := leafTemplate(now, ServerName)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// SignHost signs a host's certificate request (DER) and returns the certificate as PEM. The request must be for exactly the
// host named, must carry no other DNS name, and only unicast addresses; errors are KindInvalid. Whether this peer may
// be that host is the caller's decision, made before.
func (a *Authority) SignHost(name cloud.HostName, csrDER []byte, now time.Time) ([]byte, error) {
	csr, err := parseHostRequest(name, csrDER)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "sign certificate", "host "+string(name), err)
	}
	tmpl := leafTemplate(now, string(name))
	tmpl.IPAddresses = csr.IPAddresses
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of host %s: %w", name, err)
	}
	return certToPEM(der), nil
}

// CheckHostName returns a KindInvalid error unless name is a lower-case host name of at most 64 bytes that is not reserved.
func CheckHostName(name cloud.HostName) error {
	if len(name) > hostNameMax || name == ServerName || !hostNamePattern.MatchString(string(name)) {
		return cloud.Errorf(cloud.KindInvalid, "host name %q is not usable: at most %d lower-case letters, digits, dots and dashes", truncate(string(name)), hostNameMax)
	}
	return nil
}

// truncate bounds what a peer can put into our errors and logs.
func truncate(s string) string {
	if len(s) > 2*hostNameMax {
		return s[:2*hostNameMax] + "..."
	}
	return s
}

func parseHostRequest(name cloud.HostName, csrDER []byte) (*x509.CertificateRequest, error) {
	if err := CheckHostName(name); err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("certificate request: the key must be ECDSA P-256")
	}
	for _, dns := range append([]string{csr.Subject.CommonName}, csr.DNSNames...) {
		if dns != string(name) {
			return nil, fmt.Errorf("certificate request: it is for %q, not for this host", truncate(dns))
		}
	}
	if len(csr.IPAddresses) > addressesMax {
		return nil, fmt.Errorf("certificate request: %d addresses, at most %d are allowed", len(csr.IPAddresses), addressesMax)
	}
	for _, ip := range csr.IPAddresses {
		if ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() || ip.Equal(net.IPv4bcast) {
			return nil, fmt.Errorf("certificate request: %s is not a host's address", ip)
		}
	}
	return csr, nil
}

// leafTemplate includes key encipherment, which elliptic keys have no use for, because QEMU and libvirt insist on it.
func leafTemplate(now time.Time, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(leafLifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
}

// hostNameOf returns the host a verified client certificate belongs to.
func hostNameOf(cert *x509.Certificate) (cloud.HostName, error) {
	name := cloud.HostName(cert.Subject.CommonName)
	if err := CheckHostName(name); err != nil {
		return "", cloud.E(cloud.KindUnauthenticated, "", "client certificate", err)
	}
	if err := cert.VerifyHostname(string(name)); err != nil {
		return "", cloud.E(cloud.KindUnauthenticated, "", "client certificate", err)
	}
	return name, nil
}

func newHostRequest(name cloud.HostName, addresses []net.IP, key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: string(name)},
		DNSNames:    []string{string(name)},
		IPAddresses: addresses,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return der, nil
}

func newSerial() *big.Int {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails since Go 1.24
	raw[0] &= 0x7f           // positive, at most 20 octets
	raw[0] |= 0x40           // never zero, always the same length
	return new(big.Int).SetBytes(raw[:])
}

func certToPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
}

func keyToPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// parseCertificate reads the first certificate of a PEM text.
func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(bytes.TrimSpace(data))
	if block == nil || block.Type != certificateBlock {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}
