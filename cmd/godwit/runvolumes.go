package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/blockserve"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/internal/volumehost"
	"github.com/godwit-cloud/godwit/uring"
)

// volumesStopMax bounds how long requests under way may take when a volume service is told to stop. Guests wait meanwhile, and would rather have
// the next process than a last answer from a disk that does not give one.
const volumesStopMax = 10 * time.Second

// A volumeService is one running volume service, put together from its parts, in the order in which they are made.
type volumeService struct {
	config config.Volumes
	nbd    netip.AddrPort // where hosts reach it
	log    *slog.Logger
	wire   *hostapi.Agent
	loop   *uring.Loop // nil: plain system calls
	stores []*volume.Store
	data   *blockserve.Server
	host   *volumehost.Host
}

// runVolumes runs a volume service until ctx ends. Guests are served as soon as the files are open, whether or not godwit's server can be reached.
func runVolumes(ctx context.Context, all config.Config) (err error) {
	s := &volumeService{config: all.Volumes}
	if s.log, err = newLogger(s.config.LogLevel, s.config.LogFormat); err != nil {
		return err
	}
	slog.SetDefault(s.log)
	limitMemory(int64(s.config.MemoryLimit))
	if err := s.complete(ctx); err != nil {
		return err
	}
	if s.wire, err = s.dial(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.serve(ctx)
}

// complete fills in what the configuration leaves to the machine.
func (s *volumeService) complete(ctx context.Context) error {
	if s.config.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("host name: %w (set volumes.name)", err)
		}
		s.config.Name = name + "-volumes"
	}
	var err error
	if s.nbd, err = s.config.NBD(); err != nil {
		return cloud.E(cloud.KindInvalid, "volumes.nbd_listen", "", err)
	}
	if s.nbd.Addr().IsValid() && !s.nbd.Addr().IsUnspecified() {
		return nil
	}
	// Connecting a datagram socket sends nothing; it only asks the kernel for the way.
	conn, err := new(net.Dialer).DialContext(ctx, "udp", s.config.Server[0])
	if err != nil {
		return cloud.Errorf(cloud.KindInvalid, "no way to %s: %w (set volumes.nbd_listen)", s.config.Server[0], err)
	}
	s.nbd = netip.AddrPortFrom(conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), s.nbd.Port())
	return conn.Close()
}

// dial gets the service its certificate. With one at hand it needs no server.
func (s *volumeService) dial(ctx context.Context) (*hostapi.Agent, error) {
	token, err := os.ReadFile(s.config.JoinTokenFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a service that has a certificate needs no token
		return nil, fmt.Errorf("join token: %w", err)
	}
	var addresses []net.IP
	if !s.nbd.Addr().IsLoopback() { // hosts verify the name; a certificate for everybody's loopback address is none
		addresses = append(addresses, s.nbd.Addr().AsSlice())
	}
	return hostapi.Dial(ctx, hostapi.AgentOptions{
		Servers: s.config.Server, Name: cloud.HostName(s.config.Name), Token: string(token), CertDir: filepath.Join(s.config.DataDir, "certs"),
		Addresses: addresses, Logger: s.log,
	})
}

// open opens the back ends and makes the two sides that use them. It serves nobody yet.
func (s *volumeService) open(ctx context.Context) error {
	if s.config.Engine != string(blockserve.Threads) {
		loop, err := uring.NewLoop(uring.Options{})
		if err != nil && (s.config.Engine == string(blockserve.Ring) || !errors.Is(err, uring.ErrUnavailable)) {
			return err
		}
		s.loop = loop
	}
	for _, b := range s.config.Backends {
		store, err := volume.Open(ctx, volume.Options{
			Dir: b.Path, Name: b.Name, Kind: b.Kind, Direct: directIO[b.DirectIO], Loop: s.loop, Log: s.log.With("backend", b.Name),
		})
		if err != nil {
			return err
		}
		s.stores = append(s.stores, store)
	}
	var err error
	s.data, err = blockserve.New(blockserve.Stores(s.stores...), blockserve.Options{Engine: blockserve.Engine(s.config.Engine), Log: s.log})
	if err != nil {
		return err
	}
	engine, why := s.data.Engine()
	if engine == blockserve.Ring {
		why = ""
	}
	s.host, err = volumehost.New(ctx, volumehost.Options{
		Name: cloud.HostName(s.config.Name), Stores: s.stores, Dir: s.config.DataDir, Fetch: s.wire.FetchImage,
		ImageCacheBytes: int64(s.config.ImageCache), NBD: s.nbd, TLS: s.tls() != nil, Engine: string(engine), EngineWhy: why, Version: version, Log: s.log,
	})
	return err
}

var directIO = map[string]volume.DirectIO{"auto": volume.DirectAuto, "on": volume.DirectOn, "off": volume.DirectOff}

// tls is how compute hosts are served; nil: in the clear.
func (s *volumeService) tls() *tls.Config {
	if s.config.NBDTLS == "off" {
		return nil
	}
	return s.wire.PeerTLS()
}

// serve runs everything until ctx ends or a part fails. Guests come first: what they wait for is the data path.
func (s *volumeService) serve(ctx context.Context) error {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	if s.tls() == nil {
		s.log.Warn("volumes are served without TLS: whoever reaches the address and knows an attachment's name reads and writes the volume", "address", listener.Addr())
	}
	if err := s.data.Serve(listener, s.tls()); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.wire.RunVolumes(ctx, s.host) })
	g.Go(func() error {
		return s.host.Run(ctx, func(f *hostpb.VolumeFacts) { s.wire.Outbox().PutVolumeFacts(f) })
	})
	if s.config.MetricsListen != "" {
		g.Go(func() error { return serveMetrics(ctx, s.config.MetricsListen, s.data, s.host) })
	}
	if s.config.PprofListen != "" {
		g.Go(func() error { return servePprof(ctx, s.config.PprofListen) })
	}
	notify("READY=1")
	s.log.Info("serving", "volumes", s.config.Name, "nbd", s.nbd, "server", s.config.Server, "version", version)
	err = g.Wait()
	notify("STOPPING=1")
	return err
}

// listen opens the NBD port: on the address hosts are told, unless the configuration asks for all of them.
func (s *volumeService) listen() (net.Listener, error) {
	at, err := s.config.NBD()
	if err == nil && !at.Addr().IsValid() {
		at = s.nbd
	}
	var l net.Listener
	if err == nil {
		l, err = net.Listen("tcp", at.String())
	}
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "listen for compute hosts (volumes.nbd_listen)", "", err)
	}
	return l, nil
}

// close ends what was made, last first: calls, then guests' requests, then the files.
func (s *volumeService) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), volumesStopMax)
	defer cancel()
	var errs []error
	if s.host != nil {
		s.host.Close()
	}
	if s.data != nil {
		errs = append(errs, s.data.Shutdown(ctx))
	}
	for _, store := range s.stores {
		errs = append(errs, store.Close(ctx))
	}
	if s.loop != nil {
		errs = append(errs, s.loop.Close())
	}
	return errors.Join(errs...)
}

// serveMetrics serves what the parts count, and the process itself, until ctx ends.
func serveMetrics(ctx context.Context, address string, parts ...prometheus.Collector) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(parts...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: headerMax}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
