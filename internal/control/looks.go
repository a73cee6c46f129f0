package control

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// lookMax bounds one look, the witness's part and the way to it: a look that takes longer would come too late for the verdict.
	lookMax = 1500 * time.Millisecond
	// looksMax bounds looks under way. A judge asks three witnesses for each silent host; more silent hosts than this are the brake's business.
	looksMax = 64
	// looksKept is how many results are kept of one host: those of several rounds by all its witnesses.
	looksKept = 24
	// signsMax bounds the volume services that are asked about one host at a time. One that heard it lately is enough.
	signsMax = 8
	// libvirtPort is where a host's libvirtd listens for migrations; a refusal is as good as an answer.
	libvirtPort = 16514
)

// looks asks witnesses and volume services about silent hosts, each in a goroutine, and keeps what they found.
type looks struct {
	*leader
	work sync.WaitGroup

	mu      sync.Mutex
	under   map[liveness.Ask]bool // under way; guarded by mu
	probes  map[cloud.HostName][]liveness.Probe
	storage map[cloud.HostName]time.Time // last sign of life, by this instance's clock
	leases  map[cloud.HostName]time.Time // when its lease on shared storage was last seen to change
}

func newLooks(l *leader) *looks {
	return &looks{leader: l, under: map[liveness.Ask]bool{}, probes: map[cloud.HostName][]liveness.Probe{}, storage: map[cloud.HostName]time.Time{},
		leases: map[cloud.HostName]time.Time{}}
}

// known adds what was found of the host.
func (k *looks) known(h *liveness.Heard) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h.Probes = append([]liveness.Probe(nil), k.probes[h.Host]...)
	h.Lease = k.leases[h.Host]
	h.Storage, h.HasStorage = k.storage[h.Host], !k.storage[h.Host].IsZero()
}

// lease returns when the host's lease file was last seen to change; zero: none was seen.
func (k *looks) lease(host cloud.HostName) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.leases[host]
}

// hint has the hosts whose streams broke looked at early: what is found is there when their silence is long enough to matter.
func (k *looks) hint(ctx context.Context, v store.View) {
	hosts := store.All(v, tables.Hosts)
	for _, h := range hosts {
		if p := k.Pulses.Pulse(h.Name); p.Up || p.Last.IsZero() || time.Since(p.Last) > k.Liveness.SilenceMax {
			continue
		}
		for _, w := range hosts {
			if w.Name != h.Name && k.Pulses.Pulse(w.Name).Up {
				k.ask(ctx, v, liveness.Ask{Witness: w.Name, Host: h.Name})
				break // one: it is a hint only
			}
		}
	}
}

// ask has one witness look at one host, unless it is looking.
func (k *looks) ask(ctx context.Context, v store.View, a liveness.Ask) {
	k.begin(a, func() { k.probe(ctx, v, a) })
	k.begin(liveness.Ask{Host: a.Host}, func() { k.signs(ctx, v, a.Host) })
}

func (k *looks) begin(a liveness.Ask, look func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.under[a] || len(k.under) >= looksMax {
		return
	}
	k.under[a] = true
	k.work.Go(func() {
		look()
		k.mu.Lock()
		delete(k.under, a)
		k.mu.Unlock()
	})
}

// probe is one witness's look. A witness that does not answer has not looked.
func (k *looks) probe(ctx context.Context, v store.View, a liveness.Ask) {
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	witness, err := k.Hosts.Host(a.Witness)
	if err != nil {
		return
	}
	report, ok := store.Lookup(v, tables.HostReports, a.Host)
	if !ok {
		return
	}
	reply, err := witness.Probe(ctx, &hostpb.ProbeRequest{Host: string(a.Host), Targets: targets(report), Storage: report.SharedDiskID != ""})
	if err != nil {
		k.log.Debug("a witness could not look", "witness", a.Witness, "host", a.Host, "error", err)
		return
	}
	k.found(a, reply, time.Now())
}

// targets are where a host is looked for: each of its addresses once, by echo, and its libvirtd, where there may be a firewall against echoes.
func targets(r *cloud.HostReport) []*hostpb.ProbeTarget {
	var out []*hostpb.ProbeTarget
	seen := map[netip.Addr]bool{}
	add := func(network, address string, port int64) {
		ip, err := netip.ParseAddr(address)
		if err != nil || port == 0 && seen[ip] {
			return
		}
		seen[ip] = true
		out = append(out, &hostpb.ProbeTarget{Network: network, Address: address, Port: port})
	}
	add("management", r.ManagementAddress, 0)
	add("migration", r.MigrationAddress, 0)
	add("tunnel", r.TunnelAddress, 0)
	add("migration", r.MigrationAddress, libvirtPort)
	return out
}

// found keeps a look's results.
func (k *looks) found(a liveness.Ask, reply *hostpb.ProbeReply, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range reply.GetResults() {
		k.probes[a.Host] = append(k.probes[a.Host], liveness.Probe{Witness: a.Witness, Network: r.GetNetwork(), Reached: r.GetReached(), At: now})
	}
	if n := len(k.probes[a.Host]); n > looksKept {
		k.probes[a.Host] = append([]liveness.Probe(nil), k.probes[a.Host][n-looksKept:]...)
	}
	if reply.GetStorageSeen() && reply.GetStorageAge() != nil {
		at := now.Add(-reply.GetStorageAge().AsDuration())
		if at.After(k.leases[a.Host]) {
			k.leases[a.Host] = at
		}
	}
}

func (k *looks) signLocked(host cloud.HostName, at time.Time) {
	if at.After(k.storage[host]) {
		k.storage[host] = at
	}
}

// signs asks volume services when they last heard the host's addresses.
func (k *looks) signs(ctx context.Context, v store.View, host cloud.HostName) {
	report, ok := store.Lookup(v, tables.HostReports, host)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	asked := map[cloud.HostName]bool{}
	for _, a := range store.By(v, tables.Attachments, tables.ByHost, host) {
		volume, ok := store.Lookup(v, tables.Volumes, a.Volume)
		if !ok || asked[volume.Service] || len(asked) >= signsMax {
			continue
		}
		asked[volume.Service] = true
		service, err := k.Volumes.Volumes(volume.Service)
		if err != nil {
			continue
		}
		if reply, err := service.Peers(ctx, &hostpb.PeersRequest{}); err == nil {
			k.heard(report, reply, time.Now())
		}
	}
}

// heard notes what a volume service heard of the host's addresses.
func (k *looks) heard(r *cloud.HostReport, reply *hostpb.PeersReply, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range reply.GetPeers() {
		if a := p.GetAddress(); a == r.MigrationAddress || a == r.ManagementAddress || a == r.TunnelAddress {
			k.signLocked(r.Host, now.Add(-max(0, p.GetSilent().AsDuration())))
		}
	}
}
