package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/control"
	"github.com/godwit-cloud/godwit/internal/flows"
	"github.com/godwit-cloud/godwit/internal/healing"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/compute"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/openstack/image"
	"github.com/godwit-cloud/godwit/internal/openstack/instanceha"
	"github.com/godwit-cloud/godwit/internal/openstack/network"
	watcher "github.com/godwit-cloud/godwit/internal/openstack/optimize"
	"github.com/godwit-cloud/godwit/internal/openstack/volume"
	"github.com/godwit-cloud/godwit/internal/operator"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// openMax bounds the opening of the store: an embedded one takes a third of a second, an external cluster may be electing.
const openMax = time.Minute

// A server is one running control plane, put together from its parts.
type server struct {
	config     config.Config
	log        *slog.Logger
	store      *store.Store
	files      *image.Files
	sessions   *control.Sessions
	agents     *hostapi.Server
	identity   *identity.Service
	operator   *operator.Service
	image      *image.Service
	api        *openstack.API
	control    *control.Control
	optimising control.Optimising
	metrics    *prometheus.Registry
}

// runServer runs the control plane until ctx ends.
func runServer(ctx context.Context, c config.Config) error {
	log, err := newLogger(c.Server.LogLevel, c.Server.LogFormat)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	limitMemory(int64(c.Server.MemoryLimit))
	s := &server{config: c, log: log}
	if s.store, err = openStore(ctx, c.Server, log); err != nil {
		return err
	}
	defer func() {
		if err := s.store.Close(); err != nil {
			log.Warn("closing the store", "error", err)
		}
	}()
	if err := s.assemble(ctx); err != nil {
		return err
	}
	return s.serve(ctx)
}

func openStore(ctx context.Context, c config.Server, log *slog.Logger) (*store.Store, error) {
	o := store.Options{
		DataDir: c.DataDir, Endpoints: c.EtcdEndpoints, Username: c.EtcdUser, Password: c.EtcdPassword, Tables: tables.All(),
		Logger: quieter(log),
	}
	if len(c.EtcdEndpoints) > 0 && (c.EtcdCA != "" || c.EtcdCert != "") {
		tls, err := store.ClientTLS(c.EtcdCert, c.EtcdKey, c.EtcdCA)
		if err != nil {
			return nil, err
		}
		o.TLS = tls
	}
	ctx, cancel := context.WithTimeout(ctx, openMax)
	defer cancel()
	return store.Open(ctx, o)
}

// assemble makes the parts and joins them. It starts nothing.
func (s *server) assemble(ctx context.Context) error {
	c := s.config.Server
	name, err := instanceName(c.Name)
	if err != nil {
		return err
	}
	trust, err := loadTrust(ctx, s.store, c)
	if err != nil {
		return err
	}
	made, err := identity.Bootstrap(ctx, s.store, identity.BootstrapOptions{PublicURL: publicURL(c), Region: c.Region, Dir: c.Bootstrap()})
	if err != nil {
		return err
	}
	if made.Created {
		s.log.Info("made the administrator", "openrc", made.Openrc, "clouds", made.Clouds)
	}
	if err := compute.Bootstrap(ctx, s.store, time.Now()); err != nil {
		return err
	}
	if err := volume.Bootstrap(ctx, s.store, time.Now().UTC()); err != nil {
		return err
	}
	if s.files, err = image.OpenFiles(c.Images()); err != nil {
		return err
	}
	s.image = image.New(s.store, s.files, image.Options{Logger: s.log})
	s.sessions = control.NewSessions(s.store, name, s.log)
	if s.optimising, err = optimisingOf(s.config); err != nil {
		return err
	}
	s.sessions.SetBook(s.optimising.Book)
	if err := s.sessions.Begin(ctx); err != nil {
		return err
	}
	if err := s.makeAgents(trust); err != nil {
		return err
	}
	s.makeControl(name)
	s.makeAPI(name)
	return nil
}

func (s *server) makeAgents(t trust) (err error) {
	s.agents, err = hostapi.NewServer(hostapi.ServerOptions{
		Authority: t.authority, Admit: hostapi.AdmitToken(t.token), Images: s.files, Sessions: s.sessions, Volumes: s.sessions, Version: version, SelfFenceAfter: s.config.Recovery.SelfFenceAfter,
		Logger: s.log, TelemetryEvery: s.config.Optimize.Telemetry, ImagePeers: s.imagePeers, ImageBandwidth: int64(s.config.Server.ImageBandwidth),
	})
	return err
}

// imagePeers returns hosts that have the image, for one that asks for it.
func (s *server) imagePeers(id cloud.ImageID, to cloud.HostName) []*hostpb.DiskSource {
	view := s.store.View()
	i, ok := store.Lookup(view, tables.Images, id)
	if !ok {
		return nil
	}
	return flows.ImagePeers(view, i.Hash, to, "")
}

func (s *server) makeControl(name string) {
	o := settingsOf(s.config)
	s.metrics = prometheus.NewRegistry()
	o.Images, o.Pulses, o.Metrics = s.image, s.sessions, control.NewMetrics(s.metrics)
	o.Store, o.Hosts, o.Volumes, o.Name, o.Logger, o.While = s.store, s.agents.Pool(), s.agents.Pool(), name, s.log, s.serveAgents
	o.Optimising = s.optimising
	o.Optimising.Metrics = control.NewOptimiserMetrics(s.metrics)
	s.control = control.New(o)
}

// settingsOf is what the configuration says of control.
func settingsOf(c config.Config) control.Options {
	m := c.Migration
	return control.Options{
		Policy: policyOf(c.Placement),
		Moves: flows.Moves{
			DowntimeMax: m.DowntimeMax, BandwidthBytes: int64(m.Bandwidth), AutoConverge: m.AutoConverge, PostCopy: m.PostCopy,
			ParallelConnections: m.ParallelConnections,
		},
		Budget:        control.Budget{Outbound: m.OutboundMax, Inbound: m.InboundMax, Cluster: m.ClusterMax},
		TimeoutPerGiB: m.TimeoutPerGiB, ForceOnTimeout: m.TimeoutAction == "force_complete",
		StopGrace: c.Server.StopGrace, GravesMax: c.Server.GravesMax,
		Liveness: livenessOf(c.Recovery), Recovery: recoveryOf(c.Recovery), Healing: healingOf(c.Recovery), SpareHosts: c.Recovery.SpareHosts,
	}
}

// livenessOf is the judge's default with the operator's figures.
func livenessOf(c config.Recovery) liveness.Policy {
	p := liveness.Default()
	p.SilenceMax, p.DeadAfter, p.Witnesses, p.BrakeShare = c.SilenceMax, c.DeadAfter, c.Witnesses, c.BrakeShare
	return p
}

// recoveryOf is recovery's default with the operator's figures.
func recoveryOf(c config.Recovery) recovery.Policy {
	p := recovery.Default()
	p.Automatic, p.ConcurrencyMax, p.SelfFenceAfter = c.Automatic, c.ConcurrencyMax, c.SelfFenceAfter
	return p
}

// healingOf is healing's default with the operator's figures.
func healingOf(c config.Recovery) healing.Policy {
	p := healing.Default()
	p.Automatic, p.Rule.InPlaceMax, p.Window, p.BackoffFirst = c.HealGuests, c.HealRestartsMax, c.HealWindow, c.HealBackoff
	return p
}

func (s *server) makeAPI(name string) {
	c := s.config.Server
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.identity = identity.New(s.store, identity.Options{Region: c.Region, TokenLifetime: c.TokenLifetime, Logger: s.log})
	s.api = openstack.New(openstack.Options{PublicURL: c.PublicURL, Auth: s.identity, Logger: s.log, Metrics: s.metrics, Healthy: s.store.Ping})
	s.operator = operator.New(operator.Options{Store: s.store, Policy: policyOf(s.config.Placement), Version: version, Logger: s.log})
	s.api.Mount(s.identity, s.image, s.operator,
		compute.New(compute.Options{Store: s.store, Console: consoles{s.agents.Pool(), name, s.control.Leader}, Policy: policyOf(s.config.Placement), ResizeToSameHost: s.config.Placement.SameHost, Logger: s.log,
			Spare: settingsOf(s.config).SparePolicy(), SpareRefuse: s.config.Recovery.SpareRefuse}),
		network.New(network.Options{Store: s.store}),
		volume.New(volume.Options{Store: s.store, Logger: s.log}),
		watcher.New(s.store),
		instanceha.New(instanceha.Options{Store: s.store}),
	)
}

// policyOf is placement's default with the operator's figures.
func policyOf(c config.Placement) placement.Policy {
	p := placement.DefaultPolicy()
	p.CPURatio, p.RAMRatio, p.DiskRatio = c.CPURatio, c.RAMRatio, c.DiskRatio
	p.ReservedRAMMiB, p.ReservedDiskGiB = c.ReservedRAMMiB, c.ReservedDiskGiB
	return p
}

// serve runs everything until ctx ends or a part fails, then stops what is left: first the API, so that nothing new comes in.
func (s *server) serve(ctx context.Context) error {
	agents, err := listenAgents(s.config.Server) // a port that cannot be had should end the start, not a leadership
	if err != nil {
		return err
	}
	api, err := listenAPI(s.config.Server)
	if err := errors.Join(err, agents.Close()); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.control.Run(ctx) })
	g.Go(func() error { return s.identity.Maintain(ctx) })
	g.Go(func() error { return s.image.Maintain(ctx) })
	g.Go(func() error { return s.operator.Run(ctx) })
	g.Go(func() error { return serveHTTP(ctx, api, s.api, s.config.Server) })
	if s.config.Server.PprofListen != "" {
		g.Go(func() error { return servePprof(ctx, s.config.Server.PprofListen) })
	}
	notify("READY=1")
	s.log.Info("serving", "api", api.Addr(), "version", version)
	err = g.Wait()
	notify("STOPPING=1")
	return err
}

// serveAgents accepts agents while this instance leads.
func (s *server) serveAgents(ctx context.Context) error {
	l, err := listenAgents(s.config.Server)
	if err != nil {
		return err
	}
	s.log.Info("serving agents", "address", l.Addr())
	return s.agents.Serve(ctx, l)
}

func listenAgents(c config.Server) (net.Listener, error) {
	l, err := net.Listen("tcp", c.AgentListen)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "listen for agents (server.agent_listen)", "", err)
	}
	return l, nil
}

// headerMax bounds how long a client may take to send its request's header.
const headerMax = 10 * time.Second

// serveHTTP serves the API until ctx ends, then lets requests in progress finish for a while.
func serveHTTP(ctx context.Context, l net.Listener, handler http.Handler, c config.Server) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerMax, IdleTimeout: 2 * time.Minute, BaseContext: func(net.Listener) context.Context {
		return context.WithoutCancel(ctx)
	}}
	stopped := make(chan error, 1)
	go func() { // waited for below
		<-ctx.Done()
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownTimeout)
		defer cancel()
		err := server.Shutdown(patience)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		stopped <- err
	}()
	var err error
	if c.APICert != "" {
		err = server.ServeTLS(l, c.APICert, c.APIKey)
	} else {
		err = server.Serve(l)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("api listener: %w", err)
	}
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop api: %w", err)
	}
	return nil
}

// publicURL is where clients reach the API.
func publicURL(c config.Server) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	scheme := "http"
	if c.APICert != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(c.APIListen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func instanceName(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	return os.Hostname()
}

// trust is what the server and its hosts believe in.
type trust struct {
	authority *hostapi.Authority
	token     hostapi.JoinToken
}

// The names of the store's secrets.
const (
	secretAuthority = "authority"  // the certificate followed by the key, PEM
	secretJoinToken = "join-token" // the token's text
)

// loadTrust returns the cloud's certificate authority and join token, made on the first start. The authority lives in the store, so that all servers
// of one cloud share it; a file authority.pem in the data directory, if there, is where the first start takes it from. The join token is a file,
// because people carry it to hosts; the store has it too, from which further servers write theirs.
func loadTrust(ctx context.Context, s *store.Store, c config.Server) (trust, error) {
	pem, err := authorityPEM(ctx, s, filepath.Join(c.DataDir, "authority.pem"))
	if err != nil {
		return trust{}, fmt.Errorf("host authority: %w", err)
	}
	authority, err := hostapi.ParseAuthority(pem, keyPart(pem))
	if err != nil {
		return trust{}, err
	}
	token, err := joinToken(ctx, s, c.JoinTokenFile, authority)
	return trust{authority, token}, err
}

func authorityPEM(ctx context.Context, s *store.Store, provided string) ([]byte, error) {
	if held, ok := store.Lookup(s, tables.Secrets, secretAuthority); ok {
		return held.Data, nil
	}
	fresh, err := os.ReadFile(provided)
	if errors.Is(err, fs.ErrNotExist) {
		fresh, err = newAuthorityPEM()
	}
	if err != nil {
		return nil, err
	}
	var data []byte
	_, err = s.UpdateVisible(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.Secrets, secretAuthority)
		if err != nil {
			return err
		}
		if held != nil { // another server was first
			data = held.Data
			return nil
		}
		data = fresh
		return store.Put(tx, tables.Secrets, secretAuthority, tables.Secret{Name: secretAuthority, Data: fresh})
	})
	return data, err
}

func newAuthorityPEM() ([]byte, error) {
	a, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	return append(a.CertPEM(), key...), err
}

// joinToken reads the token's file, which is then the cloud's, or writes it: the cloud's, or a new one.
func joinToken(ctx context.Context, s *store.Store, path string, a *hostapi.Authority) (hostapi.JoinToken, error) {
	raw, err := os.ReadFile(path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return hostapi.JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	token := hostapi.NewJoinToken(a.Fingerprint())
	if !missing {
		if token, err = hostapi.ParseJoinToken(string(raw)); err != nil {
			return token, err
		}
		if token.Fingerprint != a.Fingerprint() {
			return token, cloud.Errorf(cloud.KindInvalid, "join token %s belongs to another authority: remove the file to have the right one written", path)
		}
	}
	if token, err = shareToken(ctx, s, token, !missing); err != nil || !missing {
		return token, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return token, fmt.Errorf("join token: %w", err)
	}
	return token, os.WriteFile(path, []byte(token.String()+"\n"), 0o600)
}

// shareToken makes the token the cloud's, unless the cloud has another one and replace is not set, and returns the cloud's.
func shareToken(ctx context.Context, s *store.Store, token hostapi.JoinToken, replace bool) (hostapi.JoinToken, error) {
	text := token.String()
	_, err := s.UpdateVisible(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.Secrets, secretJoinToken)
		switch {
		case err != nil:
			return err
		case held != nil && (!replace || string(held.Data) == token.String()):
			text = string(held.Data)
			return nil
		}
		text = token.String()
		return store.Put(tx, tables.Secrets, secretJoinToken, tables.Secret{Name: secretJoinToken, Data: []byte(text)})
	})
	if err != nil {
		return token, err
	}
	return hostapi.ParseJoinToken(text)
}
