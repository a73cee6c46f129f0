package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/flows"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/netspec"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// networksPeriod is how often every host is told again what it should know; a host that knows does nothing.
	networksPeriod = 30 * time.Second
	// tellMax bounds one call; a host that takes longer is told again.
	tellMax = 10 * time.Second
)

// networkState is what the loop remembers of hosts and servers between two looks.
type networkState struct {
	feeds   networkFeeds
	synced  map[cloud.HostName]string // what each host was last told, in short
	session map[cloud.HostName]time.Time
	pending map[cloud.ServerID]bool // servers whose hosts must still be told
	full    time.Time
}

type networkFeeds struct {
	ports   *store.Feed[cloud.Port]
	groups  *store.Feed[cloud.SecurityGroup]
	nets    *store.Feed[cloud.Network]
	subnets *store.Feed[cloud.Subnet]
	servers *store.Feed[cloud.Server]
}

// networks tells hosts what changes around their servers.
func (l *leader) networks(ctx context.Context) error {
	st := &networkState{
		feeds: networkFeeds{
			ports: store.WatchRecords(ctx, l.Store, tables.Ports), groups: store.WatchRecords(ctx, l.Store, tables.SecurityGroups),
			nets: store.WatchRecords(ctx, l.Store, tables.Networks), subnets: store.WatchRecords(ctx, l.Store, tables.Subnets),
			servers: store.WatchRecords(ctx, l.Store, tables.Servers),
		},
		synced: map[cloud.HostName]string{}, session: map[cloud.HostName]time.Time{}, pending: map[cloud.ServerID]bool{},
	}
	st.feeds.discard() // what is there already is told to each host as its session begins
	watch := l.Store.Watch(ctx, tables.Ports, tables.SecurityGroups, tables.Networks, tables.Subnets, tables.Servers, tables.HostSessions)
	return l.loop(ctx, "telling hosts of networks", networksPeriod, watch, func(ctx context.Context) error { return l.tellHosts(ctx, st) })
}

func (f *networkFeeds) discard() {
	f.ports.Take()
	f.groups.Take()
	f.nets.Take()
	f.subnets.Take()
	f.servers.Take()
}

// take gathers the servers that need to be told: those whose NICs may have changed, and those whose names or metadata did.
func (f *networkFeeds) take(v store.View, pending map[cloud.ServerID]bool) {
	var c netspec.Changes
	_, ports := f.ports.Take()
	for _, p := range ports {
		c.Ports = append(c.Ports, netspec.PortChange{Old: p.Old, New: p.New})
	}
	_, groups := f.groups.Take()
	for _, g := range groups {
		c.Groups = append(c.Groups, cloud.SecurityGroupID(g.Key))
	}
	_, nets := f.nets.Take()
	for _, n := range nets {
		c.Networks = append(c.Networks, cloud.NetworkID(n.Key))
	}
	_, subnets := f.subnets.Take()
	for _, s := range subnets {
		for _, side := range []*cloud.Subnet{s.Old, s.New} {
			if side != nil {
				c.SubnetChanged(side)
			}
		}
	}
	for _, id := range netspec.Affected(tables.NetworkRecords{Reader: v}, c) {
		pending[id] = true
	}
	_, servers := f.servers.Take()
	for _, s := range servers {
		if s.Old != nil && s.New != nil && (s.Old.Name != s.New.Name || !maps.Equal(s.Old.Metadata, s.New.Metadata)) {
			pending[s.New.ID] = true
		}
	}
}

// tellHosts brings every connected host up to date.
func (l *leader) tellHosts(ctx context.Context, st *networkState) error {
	v := l.Store.View()
	st.feeds.take(v, st.pending)
	if time.Since(st.full) >= networksPeriod {
		st.full = time.Now()
		clear(st.synced)
	}
	var errs []error
	sessions := store.All(v, tables.HostSessions)
	for _, s := range sessions {
		if !st.session[s.Host].Equal(s.Since) { // it may have missed things while it was away
			delete(st.synced, s.Host)
			for _, server := range store.By(v, tables.Servers, tables.ByHost, s.Host) {
				st.pending[server.ID] = true
			}
		}
		if err := l.syncHost(ctx, v, s.Host, sessions, st); err != nil {
			errs = append(errs, err)
			continue
		}
		st.session[s.Host] = s.Since
	}
	for _, id := range slices.Sorted(maps.Keys(st.pending)) {
		if err := l.updateServer(ctx, v, id); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(st.pending, id)
	}
	return errors.Join(errs...)
}

// syncHost tells one host its tunnel peers and the foreign ports bound to it, unless it was told the same before.
func (l *leader) syncHost(ctx context.Context, v store.View, name cloud.HostName, sessions []*cloud.HostSession, st *networkState) error {
	req := &hostpb.SyncNetworksRequest{Revision: v.Revision()}
	for _, s := range sessions {
		report, ok := store.Lookup(v, tables.HostReports, s.Host)
		if ok && s.Host != name && report.TunnelAddress != "" {
			req.Peers = append(req.Peers, &hostpb.TunnelPeer{Host: string(s.Host), Address: report.TunnelAddress})
		}
	}
	for _, p := range store.By(v, tables.Ports, tables.ByHost, name) {
		if _, server := netspec.ServerOf(p); server || p.DeviceOwner == cloud.DeviceOwnerDHCP {
			continue
		}
		nic, err := netspec.ForPort(tables.NetworkRecords{Reader: v}, p)
		if err != nil {
			l.log.Warn("port cannot be built", "port", p.ID, "host", name, "error", err)
			continue
		}
		req.ForeignPorts = append(req.ForeignPorts, flows.NIC(nic))
	}
	told := fmt.Sprint(req.Peers, req.ForeignPorts)
	if st.synced[name] == told {
		return nil
	}
	host, err := l.Hosts.Host(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tellMax)
	defer cancel()
	if _, err := host.SyncNetworks(ctx, req); err != nil {
		return fmt.Errorf("host %s: sync networks: %w", name, err)
	}
	st.synced[name] = told
	return nil
}

// updateServer tells a server's host what its specification is now. A server that has no connected host, or that is about to get a newer
// specification with the next step of a run, needs no telling.
func (l *leader) updateServer(ctx context.Context, v store.View, id cloud.ServerID) error {
	s, ok := store.Lookup(v, tables.Servers, id)
	if !ok || s.Host == "" || s.VMState == cloud.VMBuilding {
		return nil
	}
	host, err := l.Hosts.Host(s.Host)
	if err != nil {
		return nil // told when its session begins
	}
	spec, err := flows.Spec(v, s)
	if err != nil {
		l.log.Warn("server's specification cannot be made", "server", id, "error", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tellMax)
	defer cancel()
	_, err = host.Update(ctx, &hostpb.UpdateRequest{Call: &hostpb.Call{ServerId: string(id), Generation: s.Generation, RunId: "update"}, Spec: spec})
	if cloud.Is(err, cloud.KindStale) || cloud.Is(err, cloud.KindConflict) || cloud.Is(err, cloud.KindNotFound) {
		return nil // the server is on its way to another state or host, which brings its own specification
	}
	return err
}
