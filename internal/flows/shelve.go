package flows

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Shelve shuts a server down, keeps its root disk as an image, and takes it off its host: what Nova does when shelved_offload_time is 0, its default. A
// server that boots from a volume needs no image.
func (f *Flows) Shelve() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("its disk is an image, or a volume; unshelve brings it back")
	return define(cloud.IntentShelve, f.shelveFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("stop", f.stopForRebuild, f.startAgain, workflow.TimeLimit(f.StopGrace+callMargin)),
		workflow.Step("upload", f.uploadShelved, nil, workflow.NoUndo("the end of the run drops the image"), workflow.TimeLimit(volumeCopyMax)),
		// The image is whole: from here on it is the server.
		workflow.Step("offload", f.offload, nil, workflow.PointOfNoReturn(), forward, workflow.TimeLimit(discardMax)),
		workflow.Step("close-volumes", f.closeVolumes, nil, forward, workflow.TimeLimit(volumeCallMax)),
	)
}

func (f *Flows) uploadShelved(ctx context.Context, r *run) error {
	if r.Args.Image == "" {
		return nil
	}
	return f.upload(cloud.TaskShelvingImagePending, cloud.TaskShelvingImageUploading)(ctx, r)
}

// offload removes the server from its host. One that does not answer removes it when it returns.
func (f *Flows) offload(ctx context.Context, r *run) error {
	return f.tidyUp(r, itsHost, func(host hostpb.HostClient, call *hostpb.Call) error {
		_, err := host.Discard(ctx, &hostpb.DiscardRequest{Call: call, DestroyRunning: true})
		return err
	})
}

func (f *Flows) shelveFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if o.Phase != workflow.Done {
			if err := dropImage(tx, r.Args.Image); err != nil {
				return err
			}
		}
		switch {
		case s == nil:
			return nil
		case o.Phase != workflow.Done:
			s.Fault = faultOf(o.Err)
			return become(s, s.VMState)
		}
		if err := release(tx, s, s.Host); err != nil {
			return err
		}
		if err := bindPorts(tx, s, "", portDown); err != nil {
			return err
		}
		s.Host, s.Power, s.Fault, s.Shelved = "", cloud.PowerShutdown, nil, &cloud.Shelved{Image: r.Args.Image, Base: s.OwnersImage()}
		return become(s, cloud.VMOffloaded)
	})
}

// dropImage deletes the image that a shelved server was kept as, when it is not needed any more: it is gone for everybody at once, and its data with the
// last server whose root disk is built on it. One that its owner has protected stays, as in Nova. An empty id is nothing.
func dropImage(tx *store.Tx, id cloud.ImageID) error {
	if id == "" {
		return nil
	}
	i, err := store.Get(tx, tables.Images, id)
	if err != nil || i.Protected || i.Status == cloud.ImageDeleted {
		return ignoreMissing(err)
	}
	i.Status, i.Updated = cloud.ImageDeleted, now()
	return store.Put(tx, tables.Images, id, i)
}

// Unshelve brings a shelved server back, on whatever host has room.
func (f *Flows) Unshelve() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentUnshelve, f.unshelveFinished,
		workflow.Step("choose-host", f.chooseUnshelved, f.leaveHost),
		workflow.Step("open-volumes", f.openVolumes, f.closeVolumes, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("prepare", f.prepare, f.discardPrepared, workflow.TimeLimit(prepareMax)),
		workflow.Step("start", f.start, f.powerOff, workflow.TimeLimit(startMax)),
	)
}

// chooseUnshelved claims a host, as chooseHost does for a new server.
func (f *Flows) chooseUnshelved(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return err
	}
	if s.Host != "" { // an earlier attempt of this run committed
		return r.Set(stateGeneration, s.Generation)
	}
	if s.Shelved == nil {
		return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s is not shelved", s.ID))
	}
	request := placement.ForServer(&s)
	request.ForcedHost, request.CPUModel = s.Shelved.AskedHost, s.CPUModel
	if s.Shelved.Pinned {
		request.Zone = s.Shelved.Zone
	}
	var generation int64
	_, err = f.land(ctx, r, landing{request: request, commit: func(tx *store.Tx, host cloud.HostName) error {
		current, err := store.Get(tx, serversTable, s.ID)
		if err != nil {
			return err
		}
		generation = bump(&current)
		current.Host, current.Updated = host, now()
		setTask(&current, cloud.TaskSpawning)
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

func (f *Flows) unshelveFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if s == nil {
			return nil
		}
		if o.Phase != workflow.Done {
			s.Fault = faultOf(o.Err)
			return become(s, cloud.VMOffloaded)
		}
		if s.Shelved != nil && s.Shelved.Pinned {
			s.Zone = s.Shelved.Zone
		}
		if s.Shelved != nil {
			if err := dropImage(tx, s.Shelved.Image); err != nil {
				return err
			}
		}
		s.Shelved, s.Fault, s.Power, s.Launched, s.Progress = nil, nil, cloud.PowerRunning, now(), 100
		if err := bindPorts(tx, s, s.Host, portActive); err != nil {
			return err
		}
		return become(s, cloud.VMActive)
	})
}
