package hostapi

import (
	"crypto/tls"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// PeerTLS is how the host serves other hosts of its cloud: it shows its own certificate and demands theirs, see PeerHost. The certificate is read
// anew for each handshake, so a renewal needs no restart.
func (a *Agent) PeerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  a.identity.Load().pool(), // the authority stays when certificates are renewed
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &a.identity.Load().cert, nil
		},
		// A resumed connection would skip the check of an expired client certificate.
		SessionTicketsDisabled: true,
	}
}

// PeerHost returns the host at the other end of a connection that was accepted with PeerTLS. KindUnauthenticated: it has shown no certificate
// of a host.
func PeerHost(state tls.ConnectionState) (cloud.HostName, error) { return hostOfState(state) }

// DialTLS is how the host meets another host of its cloud: that host's name is verified, and this host's own certificate shown.
func (a *Agent) DialTLS(host cloud.HostName) *tls.Config {
	config := a.tlsConfig("")
	config.NextProtos, config.ServerName = nil, string(host)
	return config
}
