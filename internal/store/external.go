package store

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// dialTimeout bounds one connection attempt; Open's context bounds them all.
	dialTimeout = 5 * time.Second
	// keepaliveTime and keepaliveTimeout bound how long a dead connection to a member stays in use before the client takes another.
	// etcd refuses clients that ask more often than every 5 s.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 3 * time.Second
)

func dial(o Options) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            o.Endpoints,
		TLS:                  o.TLS,
		Username:             o.Username,
		Password:             o.Password,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepaliveTime,
		DialKeepAliveTimeout: keepaliveTimeout,
		Logger:               zapTo(o.Logger),
	})
	if err != nil {
		return nil, cloud.E(cloud.KindUnavailable, "connect to etcd", fmt.Sprint(o.Endpoints), err)
	}
	return c, nil
}

// ClientTLS makes the TLS configuration for an external cluster from PEM files. The cluster's certificates must chain to caFile (empty: the
// system's authorities). certFile and keyFile are this client's certificate, both empty for none; they are read again for every handshake, so
// renewed files are used without a restart.
func ClientTLS(certFile, keyFile, caFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, cloud.E(cloud.KindInvalid, "read etcd CA", "", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, cloud.Errorf(cloud.KindInvalid, "etcd CA file %s holds no certificate", caFile)
		}
	}
	if certFile == "" && keyFile == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, cloud.E(cloud.KindInvalid, "load etcd client certificate", certFile, err)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return c, nil
}
