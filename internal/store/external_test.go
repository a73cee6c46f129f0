package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/test/freeport"
)

// cluster is an etcd on loopback that demands client certificates, as an operator would run it.
type cluster struct {
	endpoint          string // host:port
	ca, cert, keyFile string // PEM files: the authority, and one certificate good for both sides
	config            *embed.Config
	etcd              *embed.Etcd
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{endpoint: freeport.Address(t), ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem")}
	writeCertificates(t, c)
	address := []url.URL{{Scheme: "https", Host: c.endpoint}}
	c.config = embeddedConfig(dir, quiet())
	c.config.ListenClientUrls, c.config.AdvertiseClientUrls = address, address
	c.config.ClientTLSInfo = transport.TLSInfo{CertFile: c.cert, KeyFile: c.keyFile, TrustedCAFile: c.ca, ClientCertAuth: true}
	c.start(t)
	t.Cleanup(func() { c.etcd.Close() })
	return c
}

func (c *cluster) start(t *testing.T) {
	t.Helper()
	var err error
	if c.etcd, err = embed.StartEtcd(c.config); err != nil {
		t.Fatal(err)
	}
	receive(t, c.etcd.Server.ReadyNotify())
}

// connect opens a store on the cluster by way of the given address.
func (c *cluster) connect(t *testing.T, address string) *Store {
	t.Helper()
	tls, err := ClientTLS(c.cert, c.keyFile, c.ca)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(testContext(t), Options{Endpoints: []string{"https://" + address}, TLS: tls, Logger: quiet(),
		Tables: []AnyTable{guests, plain}, LeadershipTTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func writeCertificates(t *testing.T, c *cluster) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	must(err)
	cert, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, key)
	must(err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	for file, block := range map[string]*pem.Block{c.ca: {Type: "CERTIFICATE", Bytes: ca}, c.cert: {Type: "CERTIFICATE", Bytes: cert},
		c.keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		must(os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
}

// link is a TCP proxy in front of the cluster that can be cut.
type link struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards what follows
	cut   bool
	conns map[net.Conn]bool
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	l := &link{target: target, conns: map[net.Conn]bool{}}
	var err error
	if l.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l.wg.Go(l.accept)
	t.Cleanup(func() {
		l.listener.Close()
		l.setCut(true)
		l.wg.Wait()
	})
	return l
}

func (l *link) accept() {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", l.target)
		if err != nil || !l.keep(in, out) {
			in.Close()
			continue
		}
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			l.wg.Go(func() {
				io.Copy(pair[0], pair[1]) // ends with either connection
				pair[0].Close()
				pair[1].Close()
			})
		}
	}
}

func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		if l.cut {
			c.Close()
			continue
		}
		l.conns[c] = true
	}
	return !l.cut
}

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			c.Close()
			delete(l.conns, c)
		}
	}
}

func TestExternalClusterOverMutualTLSServesTwoStores(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	one, two := c.connect(t, c.endpoint), c.connect(t, c.endpoint)
	ctx := testContext(t)
	update(t, one, func(tx *Tx) error { return Put(tx, guests, "a", guest{ID: "a", Name: "web", Host: "h"}) })
	if err := two.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if g, ok := One(two, guests, "name", "web"); !ok || g.ID != "a" {
		t.Errorf("the other store shows %+v", g)
	}
	if _, err := two.Update(ctx, func(tx *Tx) error { return Put(tx, guests, "b", guest{Name: "web"}) }); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("the other store's claim of the same name: %v", err)
	}
	leader, err := one.Campaign(ctx, "control", "one")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok, err := two.Leader(ctx, "control"); id != "one" || !ok || err != nil {
		t.Errorf("leader as the other sees it: %q %v", id, err)
	}
	if err := leader.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if h := two.Health(); h.Embedded || h.Loads != 1 || h.Revision == 0 {
		t.Errorf("health: %+v", h)
	}
}

func TestClusterRefusesAClientWithoutACertificate(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	tls, err := ClientTLS("", "", c.ca)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	s, err := Open(ctx, Options{Endpoints: []string{"https://" + c.endpoint}, TLS: tls, Logger: quiet()})
	if err == nil {
		s.Close()
		t.Fatal("connected")
	}
	if !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestSyncNeedsNoEventOfOurs(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := c.connect(t, c.endpoint)
	ctx := testContext(t)
	resp, err := s.client.Put(ctx, "/somebody/else", "x") // another user of the cluster
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(ctx); err != nil || s.Revision() < resp.Header.Revision {
		t.Errorf("%v; at revision %d, want %d", err, s.Revision(), resp.Header.Revision)
	}
}

func TestReplicaCatchesUpAfterALostConnection(t *testing.T) {
	t.Parallel()
	for _, compacted := range []bool{false, true} {
		t.Run(fmt.Sprintf("history compacted %v", compacted), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t)
			l := newLink(t, c.endpoint)
			far, near := c.connect(t, l.listener.Addr().String()), c.connect(t, c.endpoint)
			ctx := testContext(t)
			for i := range 5 {
				update(t, near, func(tx *Tx) error { return Put(tx, guests, fmt.Sprint(i), guest{ID: fmt.Sprint(i), Host: "h1"}) })
			}
			if err := far.Sync(ctx); err != nil {
				t.Fatal(err)
			}
			unchanged, _ := Lookup(far, guests, "0")
			feed := WatchRecords(ctx, far, guests)
			receive(t, feed.Ready())
			feed.Take()

			l.setCut(true)
			update(t, near, func(tx *Tx) error { return Delete(tx, guests, "1") })
			update(t, near, func(tx *Tx) error { return Put(tx, guests, "2", guest{ID: "2", Host: "h2"}) })
			rev := update(t, near, func(tx *Tx) error { return Put(tx, guests, "9", guest{ID: "9", Host: "h2"}) })
			if compacted {
				if _, err := near.client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
			}
			l.setCut(false)
			if err := far.WaitRevision(ctx, rev); err != nil {
				t.Fatal(err)
			}
			if err := checkReplica(ctx, far); err != nil {
				t.Error(err)
			}
			if still, _ := Lookup(far, guests, "0"); still != unchanged {
				t.Error("an unchanged record was decoded again")
			}
			_, changes := feed.Take()
			var keys string
			for _, c := range changes {
				keys += c.Key
			}
			if keys != "129" {
				t.Errorf("the feed shows changes of %q", keys)
			}
			if loads := far.Health().Loads; compacted && loads != 2 || !compacted && loads != 1 {
				t.Errorf("everything was read %d times", loads)
			}
		})
	}
}

func TestStoreSurvivesARestartOfTheCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := c.connect(t, c.endpoint)
	ctx := testContext(t)
	update(t, s, func(tx *Tx) error { return Put(tx, plain, "a", guest{ID: "a"}) })
	c.etcd.Close()
	if _, ok := Lookup(s, plain, "a"); !ok {
		t.Error("reads stopped with the cluster")
	}
	c.start(t)
	for { // a write may fail while the client still finds out; its outcome is known to be none, as nothing listened
		_, err := s.UpdateVisible(ctx, func(tx *Tx) error { return Put(tx, plain, "b", guest{ID: "b"}) })
		if err == nil {
			break
		}
		if !cloud.Is(err, cloud.KindUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	if Count(s, plain) != 2 {
		t.Errorf("%d records", Count(s, plain))
	}
}
