package hostapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// enrollMax bounds one attempt to obtain a certificate.
const enrollMax = 15 * time.Second

// errImpostor is final: an agent must not say its secret to whoever answers.
var errImpostor = cloud.Errorf(cloud.KindForbidden, "the server's certificate authority is not the one in the join token")

// ensureIdentity loads the host's certificate or obtains one, trying again while the server cannot be reached and until ctx ends.
func (a *Agent) ensureIdentity(ctx context.Context) error {
	held, err := loadIdentity(a.files)
	if err != nil {
		return fmt.Errorf("load host certificate: %w", err)
	}
	token, hasToken, err := a.token()
	if err != nil {
		return err
	}
	if held != nil && (!held.serves(a.opts.Name, time.Now()) || hasToken && held.fingerprint() != token.Fingerprint) {
		held = nil // another host's, expired, or of a server that is no more
	}
	if held != nil {
		a.identity.Store(held)
		if held.covers(a.opts.Addresses) {
			return nil
		}
	}
	if held == nil && !hasToken {
		return cloud.Errorf(cloud.KindInvalid, "host %s has no usable certificate in %s and no join token to obtain one", a.opts.Name, a.opts.CertDir)
	}
	wait := newBackoff()
	var refusals []error // of this round
	for next := 0; ; next++ {
		server := a.opts.Servers[next%len(a.opts.Servers)]
		err := a.enroll(ctx, server, held)
		if err == nil || !cloud.KindOf(err).Retryable() || ctx.Err() != nil {
			return err
		}
		refusals = append(refusals, err)
		if len(refusals) < len(a.opts.Servers) {
			continue
		}
		a.log.Warn("cannot enrol yet", "error", errors.Join(refusals...))
		refusals = nil
		if !pause(ctx, wait.next()) {
			return err
		}
	}
}

// token returns the join token of the options, if there is one.
func (a *Agent) token() (JoinToken, bool, error) {
	if a.opts.Token == "" {
		return JoinToken{}, false, nil
	}
	t, err := ParseJoinToken(a.opts.Token)
	return t, err == nil, err
}

// enroll obtains a certificate for a fresh key and stores both: by the certificate held, or by the join token when held is nil.
func (a *Agent) enroll(ctx context.Context, server string, held *identity) error {
	ctx, cancel := context.WithTimeout(ctx, enrollMax)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make host key: %w", err)
	}
	csr, err := newHostRequest(a.opts.Name, a.opts.Addresses, key)
	if err != nil {
		return err
	}
	reply, err := a.askCertificate(ctx, server, held, &hostpb.EnrollRequest{HostName: string(a.opts.Name), Csr: csr})
	if err != nil {
		return err
	}
	keyPEM, err := keyToPEM(key)
	if err != nil {
		return err
	}
	fresh, err := parseIdentity(reply.GetCa(), reply.GetCertificate(), keyPEM)
	if err != nil {
		return fmt.Errorf("host certificate from server: %w", err)
	}
	if err := a.checkFresh(fresh, held); err != nil {
		return err
	}
	if err := storeIdentity(a.files, reply.GetCa(), reply.GetCertificate(), key); err != nil {
		return err
	}
	a.identity.Store(fresh)
	a.log.Info("host certificate obtained", "host", a.opts.Name, "until", fresh.cert.Leaf.NotAfter)
	return nil
}

func (a *Agent) checkFresh(fresh, held *identity) error {
	want := Fingerprint{}
	if held != nil {
		want = held.fingerprint()
	} else if t, ok, _ := a.token(); ok {
		want = t.Fingerprint
	}
	if fresh.fingerprint() != want {
		return errImpostor
	}
	if !fresh.serves(a.opts.Name, time.Now()) {
		return cloud.Errorf(cloud.KindInvalid, "the certificate the server issued is not usable for host %s; compare both clocks", a.opts.Name)
	}
	return nil
}

func (a *Agent) askCertificate(ctx context.Context, server string, held *identity, req *hostpb.EnrollRequest) (*hostpb.EnrollReply, error) {
	var config *tls.Config
	if held != nil {
		config = a.tlsConfig(alpnControl)
	} else {
		token, _, err := a.token()
		if err != nil {
			return nil, err
		}
		req.Token = token.secretText()
		config = firstContact(token.Fingerprint)
	}
	// The handshake is done here, not by gRPC, so that an impostor is told from an unreachable server.
	conn, err := a.connect(ctx, server, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	cc, err := reverse(ctx, conn)
	if err != nil {
		return nil, cloud.E(cloud.KindUnavailable, "enrol", "server "+server, err)
	}
	defer cc.Close()
	return hostpb.NewControlClient(cc).Enroll(ctx, req)
}

// connect dials a server and does the TLS handshake. A server that cannot be reached is KindUnavailable.
func (a *Agent) connect(ctx context.Context, server string, config *tls.Config) (*link, error) {
	limit := handshakeMax
	if len(a.opts.Servers) > 1 {
		limit = reachMax
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := a.opts.Dial(ctx, "tcp", server)
	if err != nil {
		return nil, cloud.E(cloud.KindUnavailable, "connect", "server "+server, err)
	}
	tune(conn)
	tlsConn := tls.Client(conn, config)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		if errors.Is(err, errImpostor) {
			return nil, err
		}
		return nil, cloud.E(cloud.KindUnavailable, "connect", "server "+server, err)
	}
	return newLink(tlsConn), nil
}

// firstContact is TLS for an agent that knows the CA only by its fingerprint: the server's chain must lead to that CA.
func firstContact(want Fingerprint) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpnControl},
		ServerName: ServerName,
		// Replaced by VerifyConnection, which verifies the chain to the CA of the fingerprint and the name.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, ca := range state.PeerCertificates {
				if sha256.Sum256(ca.Raw) != want {
					continue
				}
				roots := x509.NewCertPool()
				roots.AddCert(ca)
				_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: ServerName})
				return err
			}
			return errImpostor
		},
	}
}

// tlsConfig is TLS for an agent that has a certificate. Certificate and CA are read anew for each handshake.
func (a *Agent) tlsConfig(protocol string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{protocol},
		ServerName: ServerName,
		RootCAs:    a.identity.Load().pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &a.identity.Load().cert, nil
		},
	}
}
