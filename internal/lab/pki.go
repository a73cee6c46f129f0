package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateLife is how long a bare lab's certificates are valid; longer than any test machine stays up.
const certificateLife = 30 * 24 * time.Hour

// authority signs the certificates of a bare lab, which has no godwit server to do it. Its key lives only as long as Up.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(lab string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := certificate("godwit lab "+lab, 1)
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, err
}

func certificate(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"godwit lab"}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certificateLife),
	}
}

// issue makes one certificate for a node, good as server and as client, for all the names libvirt may call it by.
func (a *authority) issue(l *Lab, node string) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	tmpl := certificate(node, int64(l.octet(node))+1)
	tmpl.DNSNames = []string{node, "localhost"}
	tmpl.IPAddresses = []net.IP{l.DataAddr(node).AsSlice(), l.MgmtAddr(node).AsSlice(), net.IPv4(127, 0, 0, 1)}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, priv.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of %s: %w", node, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, fmt.Errorf("key of %s: %w", node, err)
	}
	return pemBlock("CERTIFICATE", der), pemBlock("PRIVATE KEY", keyDER), nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// install writes a node's certificates where libvirt and QEMU look for them.
func (a *authority) install(l *Lab, node string) error {
	cert, key, err := a.issue(l, node)
	if err != nil {
		return err
	}
	group, err := qemuGroup()
	if err != nil {
		return err
	}
	ca := pemBlock("CERTIFICATE", a.cert.Raw)
	files := []struct {
		path  string
		pem   []byte
		group int // that may read it, too
	}{
		{"/etc/pki/CA/cacert.pem", ca, 0},
		{"/etc/pki/qemu/ca-cert.pem", ca, group},
		{"/etc/pki/qemu/server-cert.pem", cert, group},
		{"/etc/pki/qemu/server-key.pem", key, group},
		{"/etc/pki/qemu/client-cert.pem", cert, group},
		{"/etc/pki/qemu/client-key.pem", key, group},
		{"/etc/pki/libvirt/clientcert.pem", cert, 0},
		{"/etc/pki/libvirt/private/clientkey.pem", key, 0},
		{"/etc/pki/libvirt/private/serverkey.pem", key, 0},
		{serverCertificate, cert, 0}, // last: libvirtd starts when it appears
	}
	for _, f := range files {
		path := l.Path(node, f.path)
		if err := os.WriteFile(path, f.pem, 0o640); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		if err := os.Chown(path, 0, f.group); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
	}
	return nil
}
