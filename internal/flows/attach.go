package flows

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

const (
	// attachMax bounds plugging a disk in: QEMU connects and the guest is told, in milliseconds unless the host is busy.
	attachMax = 2 * time.Minute
	// detachGrace is how long a guest may take to let go of a disk. One that is still booting does not hear the first requests.
	detachGrace = time.Minute
	// closeAttempts is how often a service that does not answer is asked to forget an attachment that the guest has let go of.
	closeAttempts = 20
)

// Attach gives a server a volume. The edge has reserved the volume and listed it among the server's devices.
func (f *Flows) Attach() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentAttach, f.attachFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		// From here on the volume is this host's; before, another's guest is cut off, if one was left.
		workflow.Step("open", f.openOne, f.closeOne, workflow.TimeLimit(volumeCallMax)),
		workflow.Step("plug", f.plug, f.unplug, workflow.TimeLimit(attachMax)),
	)
}

// Detach takes a volume from a server.
func (f *Flows) Detach() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentDetach, f.detachFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("unplug", f.unplugForGood, nil, workflow.NoUndo("a guest that has let go in part is not helped by plugging in again"), workflow.TimeLimit(detachGrace+callMargin)),
		// The host first: a guest must not lose its disk while it still has it.
		workflow.Step("close", f.closeDetached, nil, workflow.NoUndo("the guest has let go; only forward"), workflow.TimeLimit(volumeCallMax), workflow.RetryMax(closeAttempts)),
	)
}

// attachment returns the run's attachment, a copy.
func (f *Flows) attachment(r *run) (cloud.Attachment, error) {
	a, ok := store.Lookup(f.Records.View(), tables.Attachments, r.Args.Attachment)
	if !ok {
		return cloud.Attachment{}, workflow.Abort(cloud.E(cloud.KindNotFound, "", "attachment "+string(r.Args.Attachment), nil))
	}
	return *a, nil
}

func (f *Flows) openOne(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return err
	}
	a, err := f.attachment(r)
	if err != nil {
		return err
	}
	return f.openAttachment(ctx, r, &a, s.Host, false)
}

func (f *Flows) closeOne(ctx context.Context, r *run) error {
	return f.tidyAttachment(ctx, r, r.Args.Volume, r.Args.Attachment)
}

func (f *Flows) plug(ctx context.Context, r *run) error {
	host, call, spec, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(spec.GetVolumes(), func(d *hostpb.VolumeDisk) bool { return d.GetAttachmentId() == string(r.Args.Attachment) })
	if at < 0 {
		return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s does not have attachment %s any more", r.Args.Server, r.Args.Attachment))
	}
	_, err = host.AttachVolume(ctx, &hostpb.AttachVolumeRequest{Call: call, Spec: spec, Volume: spec.GetVolumes()[at]})
	return err
}

// unplug undoes plug.
func (f *Flows) unplug(ctx context.Context, r *run) error {
	return f.tidyUp(r, itsHost, func(host hostpb.HostClient, call *hostpb.Call) error { return f.askToLetGo(ctx, r, host, call) })
}

func (f *Flows) askToLetGo(ctx context.Context, r *run, host hostpb.HostClient, call *hostpb.Call) error {
	s, err := f.server(r)
	if err != nil {
		return err
	}
	spec, err := Spec(f.Records.View(), &s)
	if err != nil {
		return err
	}
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(d *hostpb.VolumeDisk) bool { return d.GetVolumeId() == string(r.Args.Volume) })
	_, err = host.DetachVolume(ctx, &hostpb.DetachVolumeRequest{Call: call, Spec: spec, VolumeId: string(r.Args.Volume), Grace: durationpb.New(detachGrace)})
	return err
}

func (f *Flows) unplugForGood(ctx context.Context, r *run) error {
	host, call, _, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	return ignoreMissing(f.askToLetGo(ctx, r, host, call))
}

func (f *Flows) closeDetached(ctx context.Context, r *run) error {
	return f.closeAttachment(ctx, r, r.Args.Volume, r.Args.Attachment)
}

// attachFinished makes the volume in-use, or gives it back to its owner.
func (f *Flows) attachFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if s == nil {
			return nil // its deletion has settled the volume
		}
		if o.Phase == workflow.Done {
			return attachments.Complete(tx, r.Args.Attachment, now())
		}
		return forgetDevice(tx, r, s)
	})
}

// detachFinished makes the volume available, or gives it back to the server that did not let go of it.
func (f *Flows) detachFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		switch {
		case s == nil:
			return nil
		case o.Phase == workflow.Done, o.Step == "close": // the guest has let go in any case; the next attachment cuts off what the service still has open
			return forgetDevice(tx, r, s)
		}
		return ignoreMissing(attachments.RollBackDetach(tx, r.Args.Attachment, now()))
	})
}

func forgetDevice(tx *store.Tx, r *run, s *cloud.Server) error {
	s.Devices = slices.DeleteFunc(s.Devices, func(d cloud.BlockDevice) bool { return d.Attachment == r.Args.Attachment })
	return attachments.Release(tx, r.Args.Attachment, now())
}
