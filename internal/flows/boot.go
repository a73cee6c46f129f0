package flows

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

const (
	// prepareMax bounds making a server ready: the base image may have to be fetched, at least at 10 MB/s for 10 GB.
	prepareMax = 20 * time.Minute
	// startMax bounds starting a domain; libvirt's own limit for a QEMU that does not answer is 30 s, and a busy host may need several tries.
	startMax = 3 * time.Minute
	// discardMax bounds removing a server from a host.
	discardMax = 2 * time.Minute
)

// Boot brings a new server to life.
func (f *Flows) Boot() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentBoot, f.bootFinished,
		// The claim comes first: what follows costs a host something, and two boots must not both believe in the last room.
		workflow.Step("choose-host", f.chooseHost, f.leaveHost),
		// Volumes that are made for the server are made by runs of their own, which know how to try another back end.
		workflow.Step("await-volumes", f.awaitVolumes, nil, workflow.NoUndo("it only waits"), workflow.TimeLimit(volumeCopyMax)),
		// Before prepare: the host is told how to connect.
		workflow.Step("open-volumes", f.openVolumes, f.closeVolumes, workflow.TimeLimit(volumeCallMax)),
		// Everything slow (fetching the image) happens before anything runs, so that a failure here leaves only files behind.
		workflow.Step("prepare", f.prepare, f.discardPrepared, workflow.TimeLimit(prepareMax)),
		// Undone by cutting the power rather than by discarding: prepare's undo refuses to touch a running guest, and should.
		workflow.Step("start", f.start, f.powerOff, workflow.TimeLimit(startMax)),
	)
}

// chooseHost claims a host and moves the server there on paper, all in one transaction.
func (f *Flows) chooseHost(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return err
	}
	if s.Host != "" { // an earlier attempt of this run committed: no other run places a server that has no host
		return r.Set(stateGeneration, s.Generation)
	}
	var generation int64
	request := placement.ForServer(&s)
	request.Exclude = r.Args.Tried
	_, err = f.land(ctx, r, landing{request: request, commit: func(tx *store.Tx, host cloud.HostName) error {
		current, err := store.Get(tx, serversTable, s.ID)
		if err != nil {
			return err
		}
		generation = bump(&current)
		current.Host, current.Updated = host, now()
		// From here on the guest has this model, wherever it moves; hosts may differ in what they give when nobody asks.
		current.CPUModel = cmp.Or(s.Flavor.CPUModel(), f.report(host).CPUModel)
		if current.Task != cloud.TaskDeleting {
			current.Task = cloud.TaskSpawning
		}
		if err := bindPorts(tx, &current, host, portDown); err != nil {
			return err
		}
		return store.Put(tx, serversTable, s.ID, current)
	}})
	if err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

// leaveHost undoes chooseHost.
func (f *Flows) leaveHost(ctx context.Context, r *run) error {
	return ignoreMissing(f.update(ctx, r, func(tx *store.Tx, s *cloud.Server) error {
		if err := release(tx, s, s.Host); err != nil {
			return err
		}
		s.Host = ""
		return bindPorts(tx, s, "", portDown)
	}))
}

func (f *Flows) prepare(ctx context.Context, r *run) error {
	host, call, spec, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	f.namePeers(spec, f.hostOf(r), "")
	_, err = host.Prepare(ctx, &hostpb.PrepareRequest{Call: call, Spec: spec})
	return err
}

// discardPrepared undoes prepare. A host that cannot be reached keeps files it does not need; when it returns it reports them, and reconcile has
// them removed, so the run need not wait.
func (f *Flows) discardPrepared(ctx context.Context, r *run) error {
	return f.tidyUp(r, itsHost, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call})
		return err
	})
}

func (f *Flows) start(ctx context.Context, r *run) error {
	host, call, spec, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	_, err = host.Start(ctx, &hostpb.StartRequest{Call: call, Spec: spec})
	return err
}

// powerOff undoes start.
func (f *Flows) powerOff(ctx context.Context, r *run) error {
	return f.tidyUp(r, itsHost, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Stop(ctx, &hostpb.StopRequest{Call: call, Grace: durationpb.New(0)})
		return err
	})
}

// tidyAttemptsMax: a host that has not answered so many times is left to clean up when it returns.
const tidyAttemptsMax = 5

// tidyUp makes an undoing call to a host. A server or host that is gone has nothing to tidy.
func (f *Flows) tidyUp(r *run, where func(cloud.Server) cloud.HostName, do func(hostpb.HostClient, *hostpb.Call) error) error {
	s, err := f.server(r)
	if err != nil {
		return ignoreMissing(err)
	}
	call, err := f.call(r)
	if err != nil || where(s) == "" {
		return nil // the run never got as far as calling a host
	}
	host, err := f.Hosts.Host(where(s))
	if err == nil {
		err = do(host, call)
	}
	switch {
	case cloud.Is(err, cloud.KindNotFound):
		return nil
	case cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= tidyAttemptsMax:
		logger(r).Warn("host does not answer; it will be tidied up when it returns", "host", where(s), "error", err)
		return nil
	}
	return err
}

func ignoreMissing(err error) error {
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	return err
}

// bootFinished makes the server ACTIVE or puts it into ERROR with its fault.
func (f *Flows) bootFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if s == nil {
			return nil
		}
		if o.Phase == workflow.Done {
			s.Launched, s.Power, s.Progress, s.Fault = now(), cloud.PowerRunning, 100, nil
			if err := bindPorts(tx, s, s.Host, portActive); err != nil {
				return err
			}
			if err := completeVolumes(tx, s); err != nil {
				return err
			}
			return become(s, cloud.VMActive)
		}
		if s.Task == cloud.TaskDeleting {
			return nil // a delete cancelled the boot and will settle the rest
		}
		if again, ok := f.anotherHost(r, o); ok {
			s.Task = cloud.TaskScheduling
			return store.Put(tx, tables.Intents, again.ID, again)
		}
		s.Fault = faultOf(o.Err)
		if err := releaseVolumes(tx, s); err != nil {
			return err
		}
		return become(s, cloud.VMError)
	})
}

// bootHostsMax is on how many hosts a boot is tried, Nova's scheduler.max_attempts: if three hosts failed, the fault is the server's.
const bootHostsMax = 3

// anotherHost returns the intent that boots the server elsewhere, when it was a host that failed and not the search for one, nor the caller's wish.
func (f *Flows) anotherHost(r *run, o workflow.Outcome) (again cloud.Intent, ok bool) {
	host := f.triedHost(r)
	if host == "" || len(r.Args.Tried)+1 >= bootHostsMax || cloud.Is(o.Err, cloud.KindCancelled) || cloud.Is(o.Err, cloud.KindInvalid) {
		return again, false
	}
	return nextTry(r.Args, host), true
}

// nextTry is the intent that goes on with the request on another host than failed. Its id is the first one's with the number of the try.
func nextTry(i cloud.Intent, failed cloud.HostName) cloud.Intent {
	first := strings.TrimSuffix(string(i.ID), fmt.Sprintf("-%d", len(i.Tried)+1))
	i.Tried = append(slices.Clone(i.Tried), failed)
	i.ID = cloud.IntentID(fmt.Sprintf("%s-%d", first, len(i.Tried)+1))
	return i
}

// triedHost returns the host that this run chose and, by now, has left; none when the server must be on one host or when the run chose none.
func (f *Flows) triedHost(r *run) cloud.HostName {
	s, err := f.server(r)
	if err != nil || s.ForcedHost != "" || s.Host != "" {
		return ""
	}
	d, ok := store.Lookup(f.Records.View(), tables.Decisions, tables.DecisionKey(s.ID, r.Args.ID))
	if !ok {
		return ""
	}
	return d.Chosen
}
