package flows

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Rebuild makes a server's root disk, local or a volume, anew from an image, on its host. What was on the disk is gone: that is what was asked for.
func (f *Flows) Rebuild() *workflow.Definition[cloud.Intent] {
	forward := workflow.NoUndo("a disk that was given up does not come back")
	return define(cloud.IntentRebuild, f.rebuildFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		// Stopped with the guest's consent, as Nova does, though its disk goes: it may have something to say to others.
		workflow.Step("stop", f.stopForRebuild, f.startAgain, workflow.TimeLimit(f.StopGrace+callMargin)),
		workflow.Step("discard", f.discardForRebuild, nil, workflow.PointOfNoReturn(), forward, workflow.TimeLimit(discardMax)),
		workflow.Step("reimage-volume", f.tolerant(f.reimageVolume), nil, forward, workflow.TimeLimit(volumeCopyMax)),
		workflow.Step("change", f.changeImage, nil, forward),
		workflow.Step("open-volumes", f.tolerant(f.openVolumes), nil, forward, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("prepare", f.tolerant(f.prepare), nil, forward, workflow.TimeLimit(prepareMax)),
		workflow.Step("start", f.tolerant(f.startRebuilt), nil, forward, workflow.TimeLimit(startMax)),
	)
}

// stopForRebuild shuts the guest down.
func (f *Flows) stopForRebuild(ctx context.Context, r *run) error {
	host, call, _, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	_, err = host.Stop(ctx, &hostpb.StopRequest{Call: call, Grace: durationpb.New(f.StopGrace)})
	return ignoreMissing(err)
}

// startAgain undoes the stop of a server that ran.
func (f *Flows) startAgain(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil || s.VMState != cloud.VMActive || s.Task == cloud.TaskDeleting {
		return ignoreMissing(err)
	}
	return f.start(ctx, r)
}

func (f *Flows) discardForRebuild(ctx context.Context, r *run) error {
	host, call, _, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	_, err = host.Discard(ctx, &hostpb.DiscardRequest{Call: call, DestroyRunning: true})
	return ignoreMissing(err)
}

// reimageVolume gives the root volume the image's data. Nobody may have it open meanwhile; that the attachment is opened again afterwards makes it the
// writer again.
func (f *Flows) reimageVolume(ctx context.Context, r *run) error {
	to := r.Args.Reimage
	if to == nil || to.Volume == "" {
		return nil
	}
	if err := f.closeVolumes(ctx, r); err != nil {
		return err
	}
	return f.fillVolume(ctx, r, to.Volume, to)
}

// fillVolume gives a volume, which nobody has open, an image's data and records whose they are.
func (f *Flows) fillVolume(ctx context.Context, r *run, id cloud.VolumeID, to *cloud.Reimage) error {
	image := &hostpb.VolumeImage{ImageId: string(to.Image), Format: to.Format, Bytes: to.Bytes, Sha512: to.Hash}
	err := f.onVolume(ctx, r, id, func(c volumeCall) error {
		_, err := c.host.RevertVolume(ctx, &hostpb.RevertVolumeRequest{Call: c.call, Image: image})
		return err
	})
	if err != nil {
		return err
	}
	return f.updateVolume(ctx, id, func(tx *store.Tx, v *cloud.Volume) error {
		i, err := store.Peek(tx, tables.Images, to.Image)
		if err != nil {
			return err
		}
		v.SourceImage, v.SourceSnapshot, v.SourceVolume, v.Bootable = to.Image, "", "", true
		if i != nil {
			v.ImageMetadata = volumebook.ImageMetadata(i)
		}
		return nil
	})
}

// changeImage writes what the server is from now on.
func (f *Flows) changeImage(ctx context.Context, r *run) error {
	to := r.Args.Reimage
	if to == nil {
		return workflow.Abort(cloud.Errorf(cloud.KindInternal, "rebuild of server %s names no image", r.Args.Server))
	}
	return f.update(ctx, r, func(_ *store.Tx, s *cloud.Server) error {
		if s.RootDevice() == nil { // a server that boots from a volume has no image of its own
			s.ShownImage = ""
			s.Image, s.ImageFormat, s.ImageBytes, s.ImageVirtualBytes, s.ImageHash = to.Image, to.Format, to.Bytes, to.VirtualBytes, to.Hash
		}
		if !to.KeepVolume {
			s.ImageProperties = to.Properties
		}
		s.Power = cloud.PowerShutdown
		setTask(s, cloud.TaskRebuildSpawning)
		return nil
	})
}

// tolerant makes a step behind the point of no return give up after a while: the finish hook then tells the server's owner.
func (f *Flows) tolerant(step func(context.Context, *run) error) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		why := ""
		if _, err := r.Get(stateUnstarted, &why); err != nil || why != "" {
			return err
		}
		err := step(ctx, r)
		if err == nil || !startsEnough(r.Attempt, err) || errors.Is(err, context.Canceled) {
			return err
		}
		return r.Set(stateUnstarted, fmt.Sprint(err))
	}
}

func (f *Flows) startRebuilt(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil || r.Args.Reimage.Stopped || s.Task == cloud.TaskDeleting {
		return err
	}
	return f.start(ctx, r)
}

func (f *Flows) rebuildFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	unstarted := ""
	if _, err := r.Get(stateUnstarted, &unstarted); err != nil {
		return err
	}
	if unstarted != "" {
		o = workflow.Outcome{Phase: workflow.Failed, Step: "start", Err: cloud.Errorf(cloud.KindUnavailable, "%s", unstarted)}
	}
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		switch {
		case s == nil:
			return nil
		case unstarted != "":
			s.Fault = faultOf(o.Err)
			return become(s, cloud.VMError)
		case o.Phase != workflow.Done:
			s.Fault = faultOf(o.Err)
			return become(s, s.VMState)
		}
		s.Fault, s.Progress, s.Launched = nil, 100, now()
		if r.Args.Reimage.Stopped {
			s.Power = cloud.PowerShutdown
			return become(s, cloud.VMStopped)
		}
		s.Power = cloud.PowerRunning
		if err := bindPorts(tx, s, s.Host, portActive); err != nil {
			return err
		}
		return become(s, cloud.VMActive)
	})
}
