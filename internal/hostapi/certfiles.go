package hostapi

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// CertFiles are the paths of a host's identity, all PEM. The agent installs the same files for libvirt and QEMU.
type CertFiles struct {
	CA   string // the authority's certificate
	Cert string // the host's certificate
	Key  string // the host's private key (PKCS #8), mode 0600
}

// keyNextSuffix marks a key whose certificate is about to be written. Replacing two files is not atomic: the new key is stored
// under this suffix first, then the certificate is replaced, then the key is renamed; load finishes what a crash left.
const keyNextSuffix = ".next"

func filesIn(dir string) CertFiles {
	return CertFiles{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "host.pem"), Key: filepath.Join(dir, "host-key.pem")}
}

// identity is a host's certificate with the CA that signed it.
type identity struct {
	ca   *x509.Certificate
	cert tls.Certificate // Leaf is set
}

func (id *identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(id.ca)
	return pool
}

func (id *identity) fingerprint() Fingerprint { return sha256.Sum256(id.ca.Raw) }

// serves reports whether the identity is usable now: for this host, signed by the CA, not expired.
func (id *identity) serves(name cloud.HostName, now time.Time) bool {
	got, err := hostNameOf(id.cert.Leaf)
	if err != nil || got != name {
		return false
	}
	_, err = id.cert.Leaf.Verify(x509.VerifyOptions{Roots: id.pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

// covers reports whether the certificate names exactly these addresses.
func (id *identity) covers(addresses []net.IP) bool {
	return slices.Equal(addressTexts(id.cert.Leaf.IPAddresses), addressTexts(addresses))
}

func addressTexts(ips []net.IP) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// renewAt is when a third of the certificate's life is left.
func (id *identity) renewAt() time.Time {
	leaf := id.cert.Leaf
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3)
}

// loadIdentity reads a host's files; nil without error when there is no (complete) identity yet.
func loadIdentity(files CertFiles) (*identity, error) {
	caPEM, err := os.ReadFile(files.CA)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	certPEM, err := os.ReadFile(files.Cert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for _, suffix := range []string{"", keyNextSuffix} {
		keyPEM, err := os.ReadFile(files.Key + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		id, err := parseIdentity(caPEM, certPEM, keyPEM)
		if err != nil {
			continue // the other key may be the right one; with none the host enrols again
		}
		if suffix != "" {
			if err := os.Rename(files.Key+suffix, files.Key); err != nil {
				return nil, err
			}
		}
		return id, nil
	}
	return nil, nil
}

func parseIdentity(caPEM, certPEM, keyPEM []byte) (*identity, error) {
	ca, err := parseCertificate(caPEM)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &identity{ca: ca, cert: cert}, nil
}

// storeIdentity replaces a host's files so that a crash at any moment leaves a pair that load can use, or none.
func storeIdentity(files CertFiles, caPEM, certPEM []byte, key *ecdsa.PrivateKey) error {
	keyPEM, err := keyToPEM(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(files.Key), 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
	}{{files.Key + keyNextSuffix, keyPEM}, {files.CA, caPEM}, {files.Cert, certPEM}} {
		if err := writeFile(f.path, f.data); err != nil {
			return fmt.Errorf("store certificate: %w", err)
		}
	}
	return os.Rename(files.Key+keyNextSuffix, files.Key)
}

// writeFile replaces a file's content as a whole and makes it durable; mode 0600.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // created 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
