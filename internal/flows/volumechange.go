package flows

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// VolumeExtend grows a volume, also while a server uses it.
func (f *Flows) VolumeExtend() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentVolumeExtend, f.volumeExtended,
		workflow.Step("extend", f.extendVolume, nil, workflow.NoUndo("a device does not shrink under its user"), workflow.TimeLimit(volumeCallMax)),
		// The size is a fact before any guest hears of it; a guest that does not hear meets it when it starts again or has moved.
		workflow.Step("tell-guests", f.tellGuests, nil, workflow.NoUndo("the guest was told the truth"), workflow.TimeLimit(volumeCallMax)),
	)
}

// extendVolume grows the volume and records its new size at once, because from then on it is the true one, however the run ends.
func (f *Flows) extendVolume(ctx context.Context, r *run) error {
	err := f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.ExtendVolume(ctx, &hostpb.ExtendVolumeRequest{Call: c.call, Bytes: int64(r.Args.SizeGiB) << 30})
		return err
	})
	if err != nil {
		return err
	}
	return f.updateVolume(ctx, r.Args.Volume, func(_ *store.Tx, v *cloud.Volume) error {
		v.SizeGiB = r.Args.SizeGiB
		return nil
	})
}

// tellGuests lets the hosts of running servers know the new size. Who cannot be told is passed over after some attempts, and at once when the host's QEMU
// cannot do it.
func (f *Flows) tellGuests(ctx context.Context, r *run) error {
	for _, a := range store.By(f.Records.View(), tables.Attachments, tables.ByVolume, r.Args.Volume) {
		if a.Status != cloud.AttachmentAttached || a.Server == "" {
			continue
		}
		err := f.tellGuest(ctx, r, a.Server)
		if err == nil || cloud.Is(err, cloud.KindNotFound) {
			continue
		}
		if r.Attempt < tidyAttemptsMax && !cloud.Is(err, cloud.KindUnsupported) {
			return workflow.Retry(err)
		}
		logger(r).Warn("a guest learns of its volume's new size when it starts again or has moved", "volume", r.Args.Volume, "server", a.Server, "error", err)
	}
	return nil
}

// tellGuest calls the host the server is on. The call carries the server's present generation: if the server's own runs take another meanwhile, the host
// refuses and the next attempt uses that.
func (f *Flows) tellGuest(ctx context.Context, r *run, id cloud.ServerID) error {
	s, ok := store.Lookup(f.Records.View(), tables.Servers, id)
	if !ok || s.Host == "" {
		return nil
	}
	host, err := f.Hosts.Host(s.Host)
	if err != nil {
		return err
	}
	_, err = host.ResizeVolume(ctx, &hostpb.ResizeVolumeRequest{
		Call:     &hostpb.Call{ServerId: string(id), Generation: s.Generation, RunId: string(r.ID)},
		VolumeId: string(r.Args.Volume), Bytes: int64(r.Args.SizeGiB) << 30,
	})
	return err
}

// volumeExtended settles the volume. If it did not grow, its project gets back what the edge took for it.
func (f *Flows) volumeExtended(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.concludeVolume(ctx, r, func(tx *store.Tx, v *cloud.Volume) error {
		if v == nil {
			return nil
		}
		if v.SizeGiB >= r.Args.SizeGiB {
			v.Fault = nil
			return returnToRest(tx, v)
		}
		v.Status, v.PreviousStatus, v.Fault = cloud.VolumeErrorExtending, "", volumeFault(o.Err)
		return volumebook.GiveBack(tx, v.Project, cloud.VolumeUsage{GiB: r.Args.SizeGiB - v.SizeGiB})
	})
}

// VolumeRetype gives a volume another type: another place on its service, other limits.
func (f *Flows) VolumeRetype() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentVolumeRetype, f.volumeRetyped,
		workflow.Step("choose-backend", f.chooseNewBackend, nil, workflow.NoUndo("a decision is no effect")),
		// Data before limits: while it is copied the old limits are still what was promised.
		workflow.Step("move", f.moveVolume, f.moveBack, workflow.TimeLimit(volumeCopyMax)),
		workflow.Step("limits", f.setLimits, f.restoreLimits, workflow.TimeLimit(volumeCallMax)),
	)
}

// stateOldBackend is where a retyped volume was.
const stateOldBackend = "old-backend"

// chooseNewBackend remembers the back end the volume is on and the one the new type wants, which may be the same.
func (f *Flows) chooseNewBackend(_ context.Context, r *run) error {
	v, err := f.volume(r.Args.Volume)
	if err != nil {
		return err
	}
	if known, err := r.Get(stateBackend, new(string)); err != nil || known {
		return err
	}
	view := f.Records.View()
	wanted, ok := store.Lookup(view, tables.VolumeTypes, r.Args.VolumeType)
	if !ok {
		return cloud.Errorf(cloud.KindInvalid, "volume type %s is gone", r.Args.VolumeType)
	}
	target := v.Backend
	if name := wanted.ExtraSpecs[cloud.SpecBackend]; name != "" && name != v.Backend {
		best, err := f.rankBackends(view, placement.VolumeRequest{Bytes: v.Bytes(), Type: *wanted, NearService: v.Service})
		if err != nil {
			return err
		}
		target = best.Backend
	}
	if err := r.Set(stateOldBackend, v.Backend); err != nil {
		return err
	}
	return r.Set(stateBackend, target)
}

func (f *Flows) moveVolume(ctx context.Context, r *run) error { return f.moveTo(ctx, r, stateBackend) }

func (f *Flows) moveBack(ctx context.Context, r *run) error {
	return f.moveTo(ctx, r, stateOldBackend)
}

// moveTo brings the volume to a remembered back end and records it.
func (f *Flows) moveTo(ctx context.Context, r *run, state string) error {
	var from, to, target string
	for name, into := range map[string]*string{stateOldBackend: &from, stateBackend: &to, state: &target} {
		if _, err := r.Get(name, into); err != nil {
			return err
		}
	}
	if from == to {
		return nil
	}
	err := f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.MoveVolume(ctx, &hostpb.MoveVolumeRequest{Call: c.call, Backend: target})
		return err
	})
	if err != nil {
		return err
	}
	return f.updateVolume(ctx, r.Args.Volume, func(_ *store.Tx, v *cloud.Volume) error {
		v.Backend = target
		return nil
	})
}

func (f *Flows) setLimits(ctx context.Context, r *run) error {
	return f.limit(ctx, r, r.Args.VolumeType)
}

func (f *Flows) restoreLimits(ctx context.Context, r *run) error {
	v, err := f.volume(r.Args.Volume) // its type changes with the run's end only
	if err != nil {
		return ignoreMissing(err)
	}
	return f.limit(ctx, r, v.Type)
}

func (f *Flows) limit(ctx context.Context, r *run, id cloud.VolumeTypeID) error {
	return f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.SetLimits(ctx, &hostpb.SetLimitsRequest{Call: c.call, Limits: limitsOf(f.Records.View(), id)})
		return err
	})
}

// volumeRetyped gives the volume its new type, or leaves the old one and says why.
func (f *Flows) volumeRetyped(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.concludeVolume(ctx, r, func(tx *store.Tx, v *cloud.Volume) error {
		if v == nil {
			return nil
		}
		v.MigrationStatus = ""
		if o.Phase != workflow.Done {
			v.Fault = volumeFault(o.Err)
			return returnToRest(tx, v)
		}
		wanted, err := store.Peek(tx, tables.VolumeTypes, r.Args.VolumeType)
		if err != nil {
			return err
		}
		v.Type, v.Fault = r.Args.VolumeType, nil
		if wanted != nil {
			v.Multiattach = volumebook.IsMultiattach(wanted)
		}
		return returnToRest(tx, v)
	})
}

// VolumeRevert makes a volume as its latest snapshot was.
func (f *Flows) VolumeRevert() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentVolumeRevert, f.volumeReverted,
		workflow.Step("revert", f.revertVolume, nil, workflow.NoUndo("what was written since the snapshot is what the caller gives up"),
			workflow.TimeLimit(volumeCopyMax)),
	)
}

func (f *Flows) revertVolume(ctx context.Context, r *run) error {
	return f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.RevertVolume(ctx, &hostpb.RevertVolumeRequest{Call: c.call, SnapshotId: string(r.Args.Snapshot)})
		return err
	})
}

// volumeReverted makes both available again; a volume whose revert failed may be half of each and says so.
func (f *Flows) volumeReverted(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.concludeVolume(ctx, r, func(tx *store.Tx, v *cloud.Volume) error {
		err := changeSnapshot(tx, r.Args.Snapshot, func(s *cloud.VolumeSnapshot) { s.Status = cloud.SnapshotAvailable })
		if err != nil || v == nil {
			return err
		}
		if o.Phase == workflow.Done {
			v.Fault = nil
			return returnToRest(tx, v)
		}
		v.Status, v.PreviousStatus, v.Fault = cloud.VolumeErrorRestoring, "", volumeFault(o.Err)
		return nil
	})
}

// VolumeReimage gives a volume that no server has the data of an image.
func (f *Flows) VolumeReimage() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentVolumeReimage, f.volumeReimaged,
		workflow.Step("reimage", f.reimage, nil, workflow.NoUndo("the volume's data are what the caller gives up"), workflow.TimeLimit(volumeCopyMax)),
	)
}

func (f *Flows) reimage(ctx context.Context, r *run) error {
	if r.Args.Reimage == nil {
		return workflow.Abort(cloud.Errorf(cloud.KindInternal, "volume %s is to be made of no image", r.Args.Volume))
	}
	return f.fillVolume(ctx, r, r.Args.Volume, r.Args.Reimage)
}

// volumeReimaged makes the volume available, or puts it into error with the reason, as Cinder does; either way it is whole, as the image or as it was, and
// may be asked again.
func (f *Flows) volumeReimaged(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.concludeVolume(ctx, r, func(tx *store.Tx, v *cloud.Volume) error {
		if v == nil || v.Status != cloud.VolumeDownloading {
			return nil // an administrator has decided otherwise
		}
		if o.Phase == workflow.Done {
			v.Fault = nil
			return returnToRest(tx, v)
		}
		v.PreviousStatus, v.Fault = "", volumeFault(o.Err)
		return v.Become(cloud.VolumeError)
	})
}
