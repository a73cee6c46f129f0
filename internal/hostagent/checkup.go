package hostagent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	// checkupTargetsMax bounds one call.
	checkupTargetsMax = 64
	// checkupAtOnce bounds the hosts that are tried at a time.
	checkupAtOnce = 8
	// checkupTLSMax bounds one handshake; a busy host's takes some tenths of a second.
	checkupTLSMax = 5 * time.Second
	// libvirtTLSPort is where libvirtd is asked for migrations.
	libvirtTLSPort = 16514
	// migrationPort is the first of those that QEMU listens at; libvirt's default range begins there. A refusal shows that nothing is in the way.
	migrationPort = 49152
)

// Checkup implements hostpb.HostServer.
func (a *Agent) Checkup(ctx context.Context, req *hostpb.CheckupRequest) (*hostpb.CheckupReply, error) {
	if n := len(req.GetTargets()); n > checkupTargetsMax {
		return nil, cloud.Errorf(cloud.KindInvalid, "checkup: %d hosts, at most %d are possible", n, checkupTargetsMax)
	}
	reply := &hostpb.CheckupReply{}
	pki, err := openPKI(cmp.Or(a.o.PKIDir, pkiDirDefault))
	if err != nil {
		reply.CertificateError = err.Error()
	} else {
		reply.CertificateEnd = timestamppb.New(pki.end)
		if problem := pki.check(time.Now()); problem != nil {
			reply.CertificateError = problem.Error()
		}
	}
	found := make([][]*hostpb.CheckupResult, len(req.GetTargets()))
	turns := make(chan struct{}, checkupAtOnce)
	var work sync.WaitGroup
	for i, t := range req.GetTargets() {
		turns <- struct{}{}
		work.Go(func() {
			found[i] = a.tryWays(ctx, t, pki)
			<-turns
		})
	}
	work.Wait()
	for _, of := range found {
		reply.Results = append(reply.Results, of...)
	}
	reply.Clock = timestamppb.Now() // last: the asker knows when the answer came
	return reply, nil
}

// tryWays tries all ways to another host and returns those that are closed.
func (a *Agent) tryWays(ctx context.Context, t *hostpb.CheckupTarget, pki *hostCertificates) []*hostpb.CheckupResult {
	ip, err := netip.ParseAddr(t.GetAddress())
	if err != nil {
		return []*hostpb.CheckupResult{{Host: t.GetHost(), Way: cloud.WayMigration, Error: err.Error()}}
	}
	port := cmp.Or(a.o.LibvirtPort, libvirtTLSPort)
	ways := map[string]func() error{
		cloud.WayLibvirt: func() error {
			if pki == nil {
				return errors.New("this host has no certificates for libvirt")
			}
			return handshake(ctx, ip, port, pki.client(ip.String()))
		},
		cloud.WayMigration: func() error {
			_, err := Reaches(ctx, ip, migrationPort)
			return err
		},
	}
	if t.GetPeerPort() > 0 && a.o.Peers != nil {
		ways[cloud.WayPeer] = func() error {
			_, err := Reaches(ctx, ip, int(t.GetPeerPort()))
			return err
		}
	}
	var out []*hostpb.CheckupResult
	for _, way := range []string{cloud.WayLibvirt, cloud.WayMigration, cloud.WayPeer} {
		if try := ways[way]; try != nil {
			if err := try(); err != nil {
				out = append(out, &hostpb.CheckupResult{Host: t.GetHost(), Way: way, Error: err.Error()})
			}
		}
	}
	return out
}

// handshake opens a TLS connection to libvirtd and closes it, both sides' certificates verified: libvirtd says with one byte that it admits this host.
func handshake(ctx context.Context, ip netip.Addr, port int, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, checkupTLSMax)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), strconv.Itoa(port)))
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	var verdict [1]byte
	if _, err := io.ReadFull(conn, verdict[:]); err != nil {
		return fmt.Errorf("it does not admit this host: %w", err)
	}
	if verdict[0] != libvirtAdmits {
		return errors.New("it does not admit this host")
	}
	return nil
}

// libvirtAdmits is what libvirtd sends when it has verified the client's certificate.
const libvirtAdmits = 1

// pkiDirDefault is where libvirt and QEMU look by default.
const pkiDirDefault = "/etc/pki"

// hostCertificates are what libvirt and QEMU read on this host.
type hostCertificates struct {
	roots *x509.CertPool
	cert  tls.Certificate // with which it meets others
	all   map[string]*x509.Certificate
	end   time.Time // of the first that ends
}

// openPKI reads the certificates below a directory, laid out as package hostpki does.
func openPKI(dir string) (*hostCertificates, error) {
	p := &hostCertificates{roots: x509.NewCertPool(), all: map[string]*x509.Certificate{}}
	for _, name := range []string{"CA/cacert.pem", "libvirt/servercert.pem", "libvirt/clientcert.pem", "qemu/server-cert.pem", "qemu/client-cert.pem"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(raw)
		if block == nil {
			return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, name))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		p.all[name] = cert
		if p.end.IsZero() || cert.NotAfter.Before(p.end) {
			p.end = cert.NotAfter
		}
	}
	p.roots.AddCert(p.all["CA/cacert.pem"])
	var err error
	p.cert, err = tls.LoadX509KeyPair(filepath.Join(dir, "libvirt/clientcert.pem"), filepath.Join(dir, "libvirt/private/clientkey.pem"))
	return p, err
}

// check verifies every certificate for what it is used for.
func (p *hostCertificates) check(now time.Time) error {
	for name, usage := range map[string]x509.ExtKeyUsage{
		"libvirt/servercert.pem": x509.ExtKeyUsageServerAuth, "libvirt/clientcert.pem": x509.ExtKeyUsageClientAuth,
		"qemu/server-cert.pem": x509.ExtKeyUsageServerAuth, "qemu/client-cert.pem": x509.ExtKeyUsageClientAuth,
	} {
		if _, err := p.all[name].Verify(x509.VerifyOptions{Roots: p.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// client is how this host's libvirtd meets another's, which is named by its address.
func (p *hostCertificates) client(name string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.roots, Certificates: []tls.Certificate{p.cert}, ServerName: name}
}
