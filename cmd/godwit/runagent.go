package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostagent"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostpki"
	"github.com/godwit-cloud/godwit/internal/kvm"
	"github.com/godwit-cloud/godwit/internal/vnet"
)

// runAgent runs a compute host's agent until ctx ends.
func runAgent(ctx context.Context, all config.Config) error {
	c := all.Agent
	log, err := newLogger(c.LogLevel, c.LogFormat)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	limitMemory(int64(c.MemoryLimit))
	if c, err = completeAgent(ctx, c); err != nil {
		return err
	}
	wire, err := dialServer(ctx, c, log)
	if err != nil {
		return err
	}
	host, closeAll, err := assembleHost(ctx, c, wire, log)
	defer closeAll()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return host.Run(ctx) })
	g.Go(func() error { return wire.Run(ctx, host) })
	if c.PprofListen != "" {
		g.Go(func() error { return servePprof(ctx, c.PprofListen) })
	}
	notify("READY=1")
	log.Info("serving", "host", c.Name, "server", c.Server, "version", version)
	err = g.Wait()
	notify("STOPPING=1")
	return err
}

// completeAgent fills in what the configuration leaves to the machine.
func completeAgent(ctx context.Context, c config.Agent) (config.Agent, error) {
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("host name: %w (set agent.name)", err)
		}
		c.Name = name
	}
	if c.MigrationAddress == "" {
		// Connecting a datagram socket sends nothing; it only asks the kernel for the way.
		conn, err := new(net.Dialer).DialContext(ctx, "udp", c.Server[0])
		if err != nil {
			return c, cloud.Errorf(cloud.KindInvalid, "no way to %s: %w (set agent.migration_address)", c.Server[0], err)
		}
		c.MigrationAddress = conn.LocalAddr().(*net.UDPAddr).IP.String()
		if err := conn.Close(); err != nil {
			return c, err
		}
	}
	if c.TunnelAddress == "" {
		c.TunnelAddress = c.MigrationAddress
	}
	return c, nil
}

// dialServer gets the host its certificate and installs it for libvirt and QEMU.
func dialServer(ctx context.Context, c config.Agent, log *slog.Logger) (*hostapi.Agent, error) {
	token, err := os.ReadFile(c.JoinTokenFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a host that has a certificate needs no token
		return nil, fmt.Errorf("join token: %w", err)
	}
	install := func(files hostapi.CertFiles) error {
		changed, err := hostpki.Install(c.PKIDir, hostpki.Identity{CA: files.CA, Cert: files.Cert, Key: files.Key})
		if changed {
			log.Info("installed certificates for libvirt and QEMU", "dir", c.PKIDir)
		}
		return err
	}
	wire, err := hostapi.Dial(ctx, hostapi.AgentOptions{
		Servers: c.Server, Name: cloud.HostName(c.Name), Token: string(token), CertDir: filepath.Join(c.DataDir, "certs"),
		Addresses: []net.IP{net.ParseIP(c.MigrationAddress), net.ParseIP(c.TunnelAddress)}, Logger: log,
		Renewed: func(files hostapi.CertFiles) {
			if err := install(files); err != nil {
				log.Error("renewed certificates are not installed", "error", err)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if err := install(wire.Files()); err != nil {
		return nil, err
	}
	return wire, nil
}

// libvirtMax bounds the wait for libvirtd when the agent starts: it may start only now that it has certificates.
const libvirtMax = 2 * time.Minute

// assembleHost joins libvirt, disks and networks to an agent. closeAll must be called in any case.
func assembleHost(ctx context.Context, c config.Agent, wire *hostapi.Agent, log *slog.Logger) (host *hostagent.Agent, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for i := range closers {
			closers[len(closers)-1-i]()
		}
	}
	if c.DiskMount != "" {
		if err := disk.RequireMount(c.DataDir, c.DiskMount); err != nil {
			return nil, closeAll, err
		}
	}
	disks, err := disk.Open(ctx, disk.Options{Dir: c.DataDir, Fetch: wire.FetchImage, Logger: log})
	if err != nil {
		return nil, closeAll, err
	}
	peers, closePeers, err := servePeers(c, wire, disks, log)
	if err != nil {
		return nil, closeAll, err
	}
	closers = append(closers, closePeers)
	tunnel, err := netip.ParseAddr(c.TunnelAddress)
	if err != nil {
		return nil, closeAll, cloud.Errorf(cloud.KindInvalid, "agent.tunnel_address: %w", err)
	}
	networks, err := vnet.New(ctx, vnet.Options{TunnelAddress: tunnel, Logger: log})
	if err != nil {
		return nil, closeAll, err
	}
	closers = append(closers, networks.Close)
	patience, cancel := context.WithTimeout(ctx, libvirtMax)
	defer cancel()
	libvirt, err := kvm.Connect(patience, c.LibvirtSocket, log)
	if err != nil {
		return nil, closeAll, err
	}
	closers = append(closers, libvirt.Close)
	var near hostagent.FetchNear
	if peers != nil {
		near = wire.FetchNear
	}
	host, err = hostagent.New(ctx, hostagent.Options{
		Name: cloud.HostName(c.Name), DataDir: c.DataDir, DiskMount: c.DiskMount, DiskShared: c.DiskShared, KVM: libvirt, Disk: disks, Networks: networks, Outbox: wire.Outbox(), Meter: libvirt,
		Emulator: c.Emulator, CPUs: c.CPUs, CPUModel: c.CPUModel, MigrationAddress: c.MigrationAddress, TunnelAddress: c.TunnelAddress, Version: version,
		Peers: peers, FetchNear: near, PKIDir: c.PKIDir, Contact: wire.Contact(), Logger: log,
		Failures: hostagent.Failures{SilenceMax: c.GuestSilenceMax, IOErrorAfter: c.GuestDiskErrorAfter},
	})
	return host, closeAll, err
}
