package compute

import (
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/aggregates"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/attachinterfaces"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/availabilityzones"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/hypervisors"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/instanceactions"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/limits"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servergroups"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/tags"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// client is gophercloud as one of the callers, at a microversion (empty: none).
func (w *site) client(as, microversion string) *gophercloud.ServiceClient {
	return &gophercloud.ServiceClient{
		ProviderClient: &gophercloud.ProviderClient{TokenID: as},
		Endpoint:       w.url + "/compute/v2.1/", ResourceBase: w.url + "/compute/v2.1/", Type: "compute", Microversion: microversion,
	}
}

// must fails the test on an error and otherwise returns v.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// all reads every page of a list.
func all[T any](t *testing.T, p pagination.Pager, extract func(pagination.Page) ([]T, error)) []T {
	t.Helper()
	return must[[]T](t)(extract(must[pagination.Page](t)(p.AllPages(t.Context()))))
}

func TestGophercloudRunsAServersLife(t *testing.T) {
	w := newSite(t)
	ctx := t.Context()
	for _, microversion := range []string{"", "2.26", "2.60", "2.79", "2.95"} {
		c, name := w.client("ann", microversion), "vm"+microversion
		key := must[*keypairs.KeyPair](t)(keypairs.Create(ctx, w.client("ann", ""), keypairs.CreateOpts{Name: "key-" + strings.ReplaceAll(microversion, ".", "-")}).Extract())
		if key.PrivateKey == "" || key.Fingerprint == "" {
			t.Errorf("keypair %+v", key)
		}
		group := must[*servergroups.ServerGroup](t)(servergroups.Create(ctx, w.client("ann", "2.64"), servergroups.CreateOpts{Name: "g", Policy: "anti-affinity"}).Extract())
		opts := servers.CreateOpts{Name: name, ImageRef: imageID, FlavorRef: "1", Networks: []servers.Network{{UUID: networkID}}, Metadata: map[string]string{"a": "b"}, UserData: []byte("#!/bin/sh")}
		made := must[*servers.Server](t)(servers.Create(ctx, c, keypairs.CreateOptsExt{CreateOptsBuilder: opts, KeyName: key.Name}, servers.SchedulerHintOpts{Group: group.ID}).Extract())
		id := cloud.ServerID(made.ID)
		w.settle(id, func(s *cloud.Server) {
			s.VMState, s.Power, s.Host, s.Launched = cloud.VMActive, cloud.PowerRunning, "compute-1", noon
		})
		got := must[*servers.Server](t)(servers.Get(ctx, c, made.ID).Extract())
		if got.Status != "ACTIVE" || got.Name != name || got.KeyName != key.Name || got.Metadata["a"] != "b" || got.HostID == "" || got.Created.IsZero() || len(got.Addresses) != 1 {
			t.Errorf("at %q: %+v", microversion, got)
		}
		renamed := must[*servers.Server](t)(servers.Update(ctx, c, made.ID, servers.UpdateOpts{Name: "new"}).Extract())
		if renamed.Name != "new" {
			t.Errorf("at %q: renamed %+v", microversion, renamed)
		}
		if err := servers.Stop(ctx, c, made.ID).ExtractErr(); err != nil {
			t.Errorf("at %q: stop: %v", microversion, err)
		}
		w.settle(id, func(s *cloud.Server) { s.VMState = cloud.VMStopped })
		if err := servers.Start(ctx, c, made.ID).ExtractErr(); err != nil {
			t.Errorf("at %q: start: %v", microversion, err)
		}
		w.settle(id, func(s *cloud.Server) { s.VMState = cloud.VMActive })
		if err := servers.Reboot(ctx, c, made.ID, servers.RebootOpts{Type: servers.HardReboot}).ExtractErr(); err != nil {
			t.Errorf("at %q: reboot: %v", microversion, err)
		}
		if err := servers.Reboot(ctx, c, "none", servers.RebootOpts{Type: servers.HardReboot}).ExtractErr(); !gophercloud.ResponseCodeIs(err, 404) {
			t.Errorf("at %q: reboot of nothing: %v", microversion, err)
		}
		w.settle(id)
		if addresses := all(t, servers.ListAddresses(c, made.ID), func(p pagination.Page) ([]servers.Address, error) {
			found, err := servers.ExtractAddresses(p)
			return found["blue"], err
		}); len(addresses) != 1 || addresses[0].Version != 4 {
			t.Errorf("at %q: addresses %+v", microversion, addresses)
		}
		if nics := all(t, attachinterfaces.List(c, made.ID), attachinterfaces.ExtractInterfaces); len(nics) != 1 || nics[0].NetID != networkID {
			t.Errorf("at %q: interfaces %+v", microversion, nics)
		}
		if found := all(t, servers.List(c, servers.ListOpts{Name: "new", Limit: 1}), servers.ExtractServers); len(found) != 1 {
			t.Errorf("at %q: list %d", microversion, len(found))
		}
		if done := all(t, instanceactions.List(c, made.ID, nil), instanceactions.ExtractInstanceActions); len(done) != 4 {
			t.Errorf("at %q: actions %+v", microversion, done)
		}
		if err := servers.Delete(ctx, c, made.ID).ExtractErr(); err != nil {
			t.Errorf("at %q: delete: %v", microversion, err)
		}
		w.settle(id, func(s *cloud.Server) { s.Name = "old" })
	}
}

func TestGophercloudAdministersTheFleet(t *testing.T) {
	w := newSite(t)
	ctx, c := t.Context(), w.client("admin", "2.79")
	s := w.addServer(1, "compute-1")
	block, host, no := true, "compute-2", false
	for _, microversion := range []string{"", "2.25", "2.30", "2.79"} {
		opts := servers.LiveMigrateOpts{Host: &host, BlockMigration: &block}
		if microversion == "" {
			opts.DiskOverCommit = &no
		}
		if err := servers.LiveMigrate(ctx, w.client("admin", microversion), string(s.ID), opts).ExtractErr(); err != nil {
			t.Errorf("live migration at %q: %v", microversion, err)
		}
		w.settle(s.ID)
	}
	hypers := all(t, hypervisors.List(c, hypervisors.ListOpts{WithServers: &block}), hypervisors.ExtractHypervisors)
	if len(hypers) != 3 || hypers[0].VCPUs != 4 || hypers[0].MemoryMB != 8192 || hypers[0].Service.Host != "compute-1" || hypers[0].CPUInfo.Model != "qemu64" {
		t.Errorf("hypervisors %+v", hypers)
	}
	one := must[*hypervisors.Hypervisor](t)(hypervisors.Get(ctx, c, hypers[1].ID).Extract())
	if one.HypervisorHostname != "compute-2" || one.State != "up" {
		t.Errorf("hypervisor %+v", one)
	}
	if stats := must[*hypervisors.Statistics](t)(hypervisors.GetStatistics(ctx, c).Extract()); stats.Count != 3 || stats.VCPUs != 12 {
		t.Errorf("statistics %+v", stats)
	}
	if up := must[*hypervisors.Uptime](t)(hypervisors.GetUptime(ctx, c, hypers[1].ID).Extract()); up.Uptime == "" {
		t.Errorf("uptime %+v", up)
	}
	found := all(t, services.List(c, services.ListOpts{Host: "compute-3"}), services.ExtractServices)
	if len(found) != 1 || found[0].Binary != "nova-compute" || found[0].UpdatedAt.IsZero() {
		t.Fatalf("services %+v", found)
	}
	off := must[*services.Service](t)(services.Update(ctx, c, found[0].ID, services.UpdateOpts{Status: services.ServiceDisabled, DisabledReason: "dust"}).Extract())
	if off.Status != "disabled" || off.DisabledReason != "dust" {
		t.Errorf("service %+v", off)
	}
	a := must[*aggregates.Aggregate](t)(aggregates.Create(ctx, c, aggregates.CreateOpts{Name: "rack", AvailabilityZone: "east"}).Extract())
	a = must[*aggregates.Aggregate](t)(aggregates.AddHost(ctx, c, a.ID, aggregates.AddHostOpts{Host: "compute-2"}).Extract())
	if len(a.Hosts) != 1 || a.AvailabilityZone != "east" || a.CreatedAt.IsZero() {
		t.Errorf("aggregate %+v", a)
	}
	a = must[*aggregates.Aggregate](t)(aggregates.SetMetadata(ctx, c, a.ID, aggregates.SetMetadataOpts{Metadata: map[string]any{"ssd": "true"}}).Extract())
	if a.Metadata["ssd"] != "true" {
		t.Errorf("aggregate %+v", a)
	}
	if zones := all(t, availabilityzones.ListDetail(c), availabilityzones.ExtractAvailabilityZones); len(zones) != 2 || !zones[0].ZoneState.Available {
		t.Errorf("zones %+v", zones)
	}
	f := must[*flavors.Flavor](t)(flavors.Create(ctx, c, flavors.CreateOpts{Name: "odd", RAM: 256, VCPUs: 1, Disk: new(int), IsPublic: &no, Description: "d"}).Extract())
	if f.Description != "d" || f.IsPublic {
		t.Errorf("flavor %+v", f)
	}
	if specs := must[map[string]string](t)(flavors.CreateExtraSpecs(ctx, c, f.ID, flavors.ExtraSpecsOpts{"a": "b"}).Extract()); specs["a"] != "b" {
		t.Errorf("specs %v", specs)
	}
	if access := must[[]flavors.FlavorAccess](t)(flavors.AddAccess(ctx, c, f.ID, flavors.AddAccessOpts{Tenant: annProject}).Extract()); len(access) != 1 {
		t.Errorf("access %+v", access)
	}
	if listed := all(t, flavors.ListDetail(w.client("ann", ""), nil), flavors.ExtractFlavors); len(listed) != 6 {
		t.Errorf("%d flavors", len(listed))
	}
	if err := flavors.Delete(ctx, c, f.ID).ExtractErr(); err != nil {
		t.Error(err)
	}
	cores := 44
	if q := must[*quotasets.QuotaSet](t)(quotasets.Update(ctx, c, annProject, quotasets.UpdateOpts{Cores: &cores}).Extract()); q.Cores != 44 {
		t.Errorf("quota %+v", q)
	}
	if d := must[quotasets.QuotaDetailSet](t)(quotasets.GetDetail(ctx, c, annProject).Extract()); d.Cores.Limit != 44 {
		t.Errorf("quota %+v", d)
	}
	if l := must[*limits.Limits](t)(limits.Get(ctx, w.client("ann", ""), nil).Extract()); l.Absolute.MaxTotalCores != 44 {
		t.Errorf("limits %+v", l)
	}
	if err := tags.Add(ctx, c, string(s.ID), "blue").ExtractErr(); err != nil {
		t.Error(err)
	}
	if there, err := tags.Check(ctx, c, string(s.ID), "blue").Extract(); err != nil || !there {
		t.Errorf("tag: %v %v", there, err)
	}
}
