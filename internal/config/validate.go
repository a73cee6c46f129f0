package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Validate checks every section for values that can never work. Each message names the setting and says what to do.
func (c *Config) Validate() error {
	v := &validator{}
	c.Server.validate(v)
	c.Agent.validate(v)
	c.Volumes.validate(v)
	c.Migration.validate(v)
	c.Placement.validate(v)
	c.Optimize.validate(v)
	c.Recovery.validate(v)
	v.must(c.Lab.Hosts >= 1 && c.Lab.Hosts <= labHostsMax, "lab.hosts", "must be 1 to %d, is %d", labHostsMax, c.Lab.Hosts)
	v.must(c.Lab.Storage >= 0 && c.Lab.Storage <= labStorageMax, "lab.storage", "must be 0 to %d, is %d", labStorageMax, c.Lab.Storage)
	v.must(c.Lab.APIPort >= 0 && c.Lab.APIPort < 1<<16, "lab.api_port", "must be a port number or 0, is %d", c.Lab.APIPort)
	return v.result()
}

// labHostsMax: the lab numbers its hosts in one octet of each network, and a libvirtd takes some 50 MB.
const labHostsMax = 50

// labStorageMax: they are numbered in the same octet.
const labStorageMax = 8

// ValidateAgent checks in addition what only an agent that is about to start must have.
func (c *Config) ValidateAgent() error {
	v := &validator{}
	v.must(len(c.Agent.Server) > 0, "agent.server", "must be set to the HOST:PORT of the server's agent listener")
	return errors.Join(c.Validate(), v.result())
}

// ValidateVolumes checks in addition what only a volume service that is about to start must have.
func (c *Config) ValidateVolumes() error {
	v := &validator{}
	v.must(len(c.Volumes.Server) > 0, "volumes.server", "must be set to the HOST:PORT of the server's agent listener")
	return errors.Join(c.Validate(), v.result())
}

// ValidateFiles checks in addition that the certificates and keys that the server is told to use can be read on this machine.
func (c *Config) ValidateFiles() error {
	v := &validator{}
	for _, file := range c.Server.certificateFiles() {
		if file.path == "" {
			continue
		}
		f, err := os.Open(file.path)
		if err == nil {
			err = f.Close()
		}
		v.must(err == nil, file.setting, "cannot be read: %v", err)
	}
	return v.result()
}

type settingFile struct{ setting, path string }

// certificateFiles are the files that somebody else makes for the server; an empty path is a setting that was not given.
func (s *Server) certificateFiles() []settingFile {
	return []settingFile{
		{"server.api_cert", s.APICert}, {"server.api_key", s.APIKey},
		{"server.etcd_ca", s.EtcdCA}, {"server.etcd_cert", s.EtcdCert}, {"server.etcd_key", s.EtcdKey},
	}
}

type validator struct{ errs []error }

func (v *validator) must(ok bool, setting, format string, args ...any) {
	if !ok {
		v.errs = append(v.errs, fmt.Errorf("%s "+format, append([]any{setting}, args...)...))
	}
}

func (v *validator) result() error {
	if len(v.errs) == 0 {
		return nil
	}
	return cloud.E(cloud.KindInvalid, "configuration", "", errors.Join(v.errs...))
}

func (v *validator) listen(setting, value string, optional bool) {
	if value == "" && optional {
		return
	}
	_, port, err := net.SplitHostPort(value)
	v.must(err == nil && port != "", setting, "must be an address such as 127.0.0.1:8774, is %q", value)
}

func (v *validator) path(setting, value string) {
	v.must(filepath.IsAbs(value), setting, "must be an absolute path, is %q", value)
}

func (v *validator) oneOf(setting, value string, allowed ...string) {
	v.must(slices.Contains(allowed, value), setting, "must be one of %s, is %q", strings.Join(allowed, ", "), value)
}

func (v *validator) address(setting, value string) {
	_, err := netip.ParseAddr(value)
	v.must(value == "" || err == nil, setting, "must be an IP address, is %q", value)
}

func (v *validator) ratio(setting string, value float64) {
	v.must(value > 0 && !math.IsInf(value, 0), setting, "must be a number greater than 0, is %v", value)
}

func (v *validator) pair(first, a, second, b string) {
	v.must((a == "") == (b == ""), first, "and %s must be set together", second)
}

func (s *Server) validate(v *validator) {
	v.listen("server.api_listen", s.APIListen, false)
	v.listen("server.agent_listen", s.AgentListen, false)
	v.listen("server.pprof_listen", s.PprofListen, true)
	v.path("server.data_dir", s.DataDir)
	v.path("server.join_token_file", s.JoinTokenFile)
	if s.ImageDir != "" {
		v.path("server.image_dir", s.ImageDir)
	}
	if s.BootstrapDir != "" {
		v.path("server.bootstrap_dir", s.BootstrapDir)
	}
	if s.PublicURL != "" {
		u, err := url.Parse(s.PublicURL)
		v.must(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "server.public_url",
			"must be a URL such as https://cloud.example.org, is %q", s.PublicURL)
	}
	for _, f := range s.certificateFiles() {
		if f.path != "" {
			v.path(f.setting, f.path)
		}
	}
	v.pair("server.api_cert", s.APICert, "server.api_key", s.APIKey)
	v.pair("server.etcd_cert", s.EtcdCert, "server.etcd_key", s.EtcdKey)
	for _, e := range s.EtcdEndpoints {
		u, err := url.Parse(e)
		v.must(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "server.etcd_endpoints",
			"must be URLs such as https://10.0.0.1:2379, one is %q", e)
	}
	v.must(s.TokenLifetime > 0, "server.token_lifetime", "must be greater than 0")
	v.must(s.GravesMax >= 0, "server.graves_max", "must not be negative")
	v.must(s.Region != "", "server.region", "must not be empty")
	v.oneOf("server.log_level", s.LogLevel, "debug", "info", "warn", "error")
	v.oneOf("server.log_format", s.LogFormat, "text", "json")
}

// guestPatienceMin is what a guest's agent may take for one answer, and a volume service to open its volumes.
const guestPatienceMin = 5 * time.Second

func (a *Agent) validate(v *validator) {
	for _, server := range a.Server {
		v.listen("agent.server", server, false)
	}
	v.listen("agent.pprof_listen", a.PprofListen, true)
	v.path("agent.data_dir", a.DataDir)
	v.path("agent.join_token_file", a.JoinTokenFile)
	v.path("agent.libvirt_socket", a.LibvirtSocket)
	v.path("agent.pki_dir", a.PKIDir)
	v.address("agent.migration_address", a.MigrationAddress)
	v.address("agent.tunnel_address", a.TunnelAddress)
	v.oneOf("agent.emulator", a.Emulator, "auto", "kvm", "tcg")
	v.oneOf("agent.log_level", a.LogLevel, "debug", "info", "warn", "error")
	v.oneOf("agent.log_format", a.LogFormat, "text", "json")
	v.must(a.CPUs >= 0, "agent.cpus", "must not be negative")
	v.must(a.PeerPort >= 0 && a.PeerPort < 1<<16, "agent.peer_port", "must be a port number or 0, is %d", a.PeerPort)
	v.must(a.GuestSilenceMax >= guestPatienceMin, "agent.guest_silence_max", "must be at least %v, is %v", guestPatienceMin, a.GuestSilenceMax)
	v.must(a.GuestDiskErrorAfter >= guestPatienceMin, "agent.guest_disk_error_after", "must be at least %v, is %v", guestPatienceMin, a.GuestDiskErrorAfter)
	v.must(!strings.ContainsAny(a.Name, "/ \t"), "agent.name", "must not contain slashes or spaces, is %q", a.Name)
}

func (s *Volumes) validate(v *validator) {
	for _, server := range s.Server {
		v.listen("volumes.server", server, false)
	}
	v.listen("volumes.metrics_listen", s.MetricsListen, true)
	v.listen("volumes.pprof_listen", s.PprofListen, true)
	v.path("volumes.data_dir", s.DataDir)
	v.path("volumes.join_token_file", s.JoinTokenFile)
	s.Backends.validate(v, "volumes.backends")
	_, err := s.NBD()
	v.must(err == nil, "volumes.nbd_listen", "must be an IP address or IP:PORT, is %q", s.NBDListen)
	v.oneOf("volumes.nbd_tls", s.NBDTLS, "require", "off")
	v.oneOf("volumes.engine", s.Engine, "auto", "io_uring", "threads")
	v.oneOf("volumes.log_level", s.LogLevel, "debug", "info", "warn", "error")
	v.oneOf("volumes.log_format", s.LogFormat, "text", "json")
	v.must(!strings.ContainsAny(s.Name, "/ \t"), "volumes.name", "must not contain slashes or spaces, is %q", s.Name)
}

// NBD returns nbd_listen taken apart. The address is the zero Addr when it is left to the service.
func (s *Volumes) NBD() (netip.AddrPort, error) {
	if s.NBDListen == "" {
		return netip.AddrPortFrom(netip.Addr{}, nbdPort), nil
	}
	if a, err := netip.ParseAddr(s.NBDListen); err == nil {
		return netip.AddrPortFrom(a, nbdPort), nil
	}
	return netip.ParseAddrPort(s.NBDListen)
}

// nbdPort is the one that IANA gave NBD.
const nbdPort = 10809

// parallelConnectionsMax is libvirt's own bound on multifd channels.
const parallelConnectionsMax = 255

func (m *Migration) validate(v *validator) {
	v.must(m.DowntimeMax > 0, "migration.downtime_max", "must be greater than 0")
	v.must(m.ParallelConnections >= 1 && m.ParallelConnections <= parallelConnectionsMax, "migration.parallel_connections",
		"must be 1 to %d, is %d", parallelConnectionsMax, m.ParallelConnections)
	v.must(!m.PostCopy || m.ParallelConnections == 1, "migration.post_copy",
		"cannot be combined with migration.parallel_connections %d: QEMU fetches memory after the switch over one connection; set it to 1", m.ParallelConnections)
	v.must(m.TimeoutPerGiB >= 0, "migration.timeout_per_gib", "must not be negative")
	v.oneOf("migration.timeout_action", m.TimeoutAction, "abort", "force_complete")
	v.must(m.OutboundMax >= 1, "migration.outbound_max", "must be at least 1")
	v.must(m.InboundMax >= 1, "migration.inbound_max", "must be at least 1")
	v.must(m.ClusterMax >= 0, "migration.cluster_max", "must not be negative")
}

func (p *Placement) validate(v *validator) {
	v.ratio("placement.cpu_ratio", p.CPURatio)
	v.ratio("placement.ram_ratio", p.RAMRatio)
	v.ratio("placement.disk_ratio", p.DiskRatio)
	v.must(p.ReservedRAMMiB >= 0, "placement.reserved_ram_mib", "must not be negative")
	v.must(p.ReservedDiskGiB >= 0, "placement.reserved_disk_gib", "must not be negative")
}

// spareHostsMax: a fleet that plans for the loss of more hosts at once has other worries (spare.HostsMax).
const spareHostsMax = 16

// selfFenceMin: an agent notices that it is cut off within two heartbeats, and asks around before it believes it.
const selfFenceMin = 10 * time.Second

func (r *Recovery) validate(v *validator) {
	v.must(r.SilenceMax >= time.Second, "recovery.silence_max", "must be at least 1s, the time between two heartbeats, is %v", r.SilenceMax)
	v.must(r.DeadAfter >= r.SilenceMax, "recovery.dead_after", "must not be shorter than silence_max (%v), is %v", r.SilenceMax, r.DeadAfter)
	v.must(r.Witnesses >= 1, "recovery.witnesses", "must be at least 1, is %d", r.Witnesses)
	v.must(r.BrakeShare > 0 && r.BrakeShare <= 1, "recovery.brake_share", "must be more than 0 and at most 1, is %v", r.BrakeShare)
	v.must(r.ConcurrencyMax >= 1, "recovery.concurrency_max", "must be at least 1, is %d", r.ConcurrencyMax)
	v.must(r.SpareHosts >= 0 && r.SpareHosts <= spareHostsMax, "recovery.spare_hosts", "must be from 0 to %d, is %d", spareHostsMax, r.SpareHosts)
	v.must(r.HealRestartsMax >= 0, "recovery.heal_restarts_max", "must not be negative, is %d", r.HealRestartsMax)
	v.must(r.HealWindow > 0, "recovery.heal_window", "must be greater than 0, is %v", r.HealWindow)
	v.must(r.HealBackoff >= 0, "recovery.heal_backoff", "must not be negative, is %v", r.HealBackoff)
	v.must(r.SelfFenceAfter == 0 || r.SelfFenceAfter >= selfFenceMin, "recovery.self_fence_after", "must be 0 or at least %v, is %v", selfFenceMin, r.SelfFenceAfter)
}
