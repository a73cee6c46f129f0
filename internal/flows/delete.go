package flows

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Delete removes a server, whatever state it is in. Runs that came before it have ended: control cancelled them.
func (f *Flows) Delete() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("what is deleted does not come back; only forward")
	return define(cloud.IntentDelete, f.deleteFinished,
		// A new generation first: whatever an earlier run still has under way at a host is refused from now on.
		workflow.Step("sever", f.sever, nil, forward),
		// The hosts before the records: a record without a domain can be deleted again, a domain without a record would have to be found.
		workflow.Step("discard", f.discardEverywhere, nil, forward, workflow.TimeLimit(discardMax), workflow.RetryMax(deleteAttemptsMax)),
		// After the hosts: a volume must not be cut off from a guest that still runs. One whose service is away is closed by its own deletion, or cut off by
		// whoever attaches it next.
		workflow.Step("close-volumes", f.closeDeleted, nil, forward, workflow.TimeLimit(volumeCallMax), workflow.RetryMax(deleteAttemptsMax)),
		// Everything that counts goes in one transaction, so that no quota, claim or address outlives the server.
		workflow.Step("bury", f.bury, nil, forward),
	)
}

const (
	// deleteAttemptsMax bounds the attempts at a host that answers with errors; then the server goes to ERROR and may be deleted again.
	deleteAttemptsMax = 8
	// deletePatience is how many attempts an unreachable host gets, about a second: users delete to get rid of a server, and the host cleans up when
	// it returns and finds that it holds a server that does not exist.
	deletePatience = 3
	stateHosts     = "hosts"
)

// sever takes a generation and remembers every host that may hold something of the server.
func (f *Flows) sever(ctx context.Context, r *run) error {
	hosts := map[cloud.HostName]bool{}
	v := f.Records.View()
	for _, o := range store.By(v, tables.Observations, tables.ByServer, r.Args.Server) {
		hosts[o.Host] = true
	}
	for _, u := range store.All(v, tables.Usages) {
		if _, claimed := u.Claims[cloud.ClaimKey(r.Args.Server)]; claimed {
			hosts[u.Host] = true
		}
	}
	var generation int64
	err := f.update(ctx, r, func(_ *store.Tx, s *cloud.Server) error {
		if s.Host != "" {
			hosts[s.Host] = true
		}
		generation = bump(s)
		s.Task = cloud.TaskDeleting
		return nil
	})
	if cloud.Is(err, cloud.KindNotFound) {
		err = nil // an earlier delete has buried it
	}
	if err != nil {
		return err
	}
	if err := r.Set(stateHosts, slices.Sorted(maps.Keys(hosts))); err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

// discardEverywhere removes the server from each host that can be reached.
func (f *Flows) discardEverywhere(ctx context.Context, r *run) error {
	var hosts []cloud.HostName
	if _, err := r.Get(stateHosts, &hosts); err != nil {
		return err
	}
	call, err := f.call(r)
	if err != nil {
		return err
	}
	for _, name := range hosts {
		err := f.discardOn(ctx, name, call, true)
		if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= deletePatience {
			logger(r).Warn("host does not answer; it will remove the server when it returns", "host", name, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
	}
	return nil
}

// discardOn removes the server from one host. A host that knows nothing of it is a success.
func (f *Flows) discardOn(ctx context.Context, name cloud.HostName, call *hostpb.Call, running bool) error {
	host, err := f.Hosts.Host(name)
	if err != nil {
		return err
	}
	_, err = host.Discard(ctx, &hostpb.DiscardRequest{Call: call, DestroyRunning: running})
	return ignoreMissing(err)
}

// bury removes the server's records and moves the server to the graves.
func (f *Flows) bury(ctx context.Context, r *run) error {
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		s, err := store.Get(tx, serversTable, r.Args.Server)
		if cloud.Is(err, cloud.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := giveBack(tx, r, &s); err != nil {
			return err
		}
		if err := settleResize(tx, &s); err != nil {
			return err
		}
		if err := dropTraces(tx, f.Records.View(), &s); err != nil {
			return err
		}
		s.VMState, s.Task, s.Power, s.Terminated, s.Updated = cloud.VMDeleted, cloud.TaskNone, cloud.PowerNone, now(), now()
		if err := store.Put(tx, tables.Graves, s.ID, s); err != nil {
			return err
		}
		return store.Delete(tx, serversTable, s.ID)
	})
	return err
}

// giveBack returns what the server took: claims, its place in a group, its ports with their addresses, its part of the quota.
func giveBack(tx *store.Tx, r *run, s *cloud.Server) error {
	var hosts []cloud.HostName
	if _, err := r.Get(stateHosts, &hosts); err != nil {
		return err
	}
	if s.Host != "" && !slices.Contains(hosts, s.Host) {
		hosts = append(hosts, s.Host)
	}
	for _, h := range hosts {
		if err := release(tx, s, h); err != nil {
			return err
		}
	}
	if err := leaveGroup(tx, s); err != nil {
		return err
	}
	if s.Shelved != nil {
		if err := dropImage(tx, s.Shelved.Image); err != nil {
			return err
		}
	}
	if err := dropVolumes(tx, r, s); err != nil {
		return err
	}
	for _, id := range s.Ports {
		if err := freePort(tx, s, id); err != nil {
			return err
		}
	}
	return giveBackQuota(tx, s)
}

func leaveGroup(tx *store.Tx, s *cloud.Server) error {
	g, err := groupIn(tx, s.Group)
	if err != nil || g == nil {
		return err
	}
	g.Members = slices.DeleteFunc(g.Members, func(m cloud.ServerID) bool { return m == s.ID })
	delete(g.Placed, s.ID)
	return store.Put(tx, tables.ServerGroups, g.ID, *g)
}

// freePort removes a port that was made for the server, with its addresses, and detaches one that was not.
func freePort(tx *store.Tx, s *cloud.Server, id cloud.PortID) error {
	p, err := store.Get(tx, tables.Ports, id)
	if cloud.Is(err, cloud.KindNotFound) || (err == nil && p.DeviceID != string(s.ID)) {
		return nil
	}
	if err != nil {
		return err
	}
	if !p.AutoCreated {
		p.DeviceID, p.DeviceOwner, p.BindingHost, p.Status, p.Updated = "", "", "", portDown, now()
		p.Revision++
		return store.Put(tx, tables.Ports, id, p)
	}
	return ipam.ReleasePort(tx, id)
}

func giveBackQuota(tx *store.Tx, s *cloud.Server) error {
	usage, err := store.Get(tx, tables.QuotaUsages, s.Project)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	usage.Instances = max(0, usage.Instances-1)
	charged := s.Charged()
	usage.Cores = max(0, usage.Cores-charged.VCPUs)
	usage.RAMMiB = max(0, usage.RAMMiB-charged.RAMMiB)
	return store.Put(tx, tables.QuotaUsages, s.Project, usage)
}

// dropTraces removes what hosts and placement said of the server. The instance actions stay with the grave.
func dropTraces(tx *store.Tx, v store.View, s *cloud.Server) error {
	for _, o := range store.By(v, tables.Observations, tables.ByServer, s.ID) {
		if err := store.Delete(tx, tables.Observations, tables.ObservationKey(o.Host, o.Server)); err != nil {
			return err
		}
	}
	for _, d := range store.Prefixed(v, tables.Decisions, tables.DecisionKey(s.ID, "")) {
		if err := store.Delete(tx, tables.Decisions, tables.DecisionKey(d.Server, d.Intent)); err != nil {
			return err
		}
	}
	return nil
}

// deleteFinished closes the action; a server that could not be deleted shows why.
func (f *Flows) deleteFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(_ *store.Tx, s *cloud.Server) error {
		if s == nil || o.Phase == workflow.Done {
			return nil
		}
		s.Fault = faultOf(o.Err)
		return s.Become(cloud.VMError, cloud.TaskNone)
	})
}
