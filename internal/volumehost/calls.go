package volumehost

import (
	"context"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

// ExtendVolume implements hostpb.VolumeHostServer.
func (h *Host) ExtendVolume(ctx context.Context, req *hostpb.ExtendVolumeRequest) (*hostpb.VolumeState, error) {
	return h.change(ctx, req.GetCall(), func(s *volume.Store, call volume.Call) (volume.State, error) {
		return s.Extend(ctx, call, req.GetBytes())
	})
}

// SetLimits implements hostpb.VolumeHostServer.
func (h *Host) SetLimits(ctx context.Context, req *hostpb.SetLimitsRequest) (*hostpb.VolumeState, error) {
	return h.change(ctx, req.GetCall(), func(s *volume.Store, call volume.Call) (volume.State, error) {
		return s.SetLimits(ctx, call, limitsOf(req.GetLimits()))
	})
}

// RevertVolume implements hostpb.VolumeHostServer.
func (h *Host) RevertVolume(ctx context.Context, req *hostpb.RevertVolumeRequest) (*hostpb.VolumeState, error) {
	if i := req.GetImage(); i != nil {
		return h.reimage(ctx, req.GetCall(), i)
	}
	return h.long(ctx, "revert "+req.GetSnapshotId(), req.GetCall(), func(ctx context.Context, s *volume.Store, call volume.Call) (volume.State, error) {
		return s.Revert(ctx, call, cloud.SnapshotID(req.GetSnapshotId()))
	})
}

// reimage makes a volume as an image is.
func (h *Host) reimage(ctx context.Context, call *hostpb.VolumeCall, i *hostpb.VolumeImage) (*hostpb.VolumeState, error) {
	return h.long(ctx, "reimage "+i.GetSha512(), call, func(ctx context.Context, s *volume.Store, call volume.Call) (volume.State, error) {
		st, err := s.Inspect(ctx, call.Volume)
		if err != nil {
			return volume.State{}, err
		}
		path, release, err := h.images[s].get(ctx, imageRequest{
			id: cloud.ImageID(i.GetImageId()), bytes: i.GetBytes(), sha512: i.GetSha512(), format: i.GetFormat(), volumeBytes: st.Bytes,
		})
		if err != nil {
			return volume.State{}, err
		}
		defer release()
		return s.Reimage(ctx, call, path)
	})
}

// MoveVolume implements hostpb.VolumeHostServer.
func (h *Host) MoveVolume(ctx context.Context, req *hostpb.MoveVolumeRequest) (*hostpb.VolumeState, error) {
	to, err := h.store(req.GetBackend())
	if err != nil {
		return nil, err
	}
	return h.long(ctx, "move to "+req.GetBackend(), req.GetCall(), func(ctx context.Context, _ *volume.Store, call volume.Call) (volume.State, error) {
		for _, s := range h.o.Stores {
			if s == to {
				continue
			}
			if st, err := s.Inspect(ctx, call.Volume); err != nil || st.Present { // both have it when an earlier attempt broke off late
				if err == nil {
					st, err = s.Move(ctx, call, to)
				}
				return st, err
			}
		}
		return to.Inspect(ctx, call.Volume)
	})
}

// change makes a quick change of a volume that is there.
func (h *Host) change(ctx context.Context, c *hostpb.VolumeCall, do func(*volume.Store, volume.Call) (volume.State, error)) (*hostpb.VolumeState, error) {
	call, leave, err := h.gate.enter(ctx, c)
	if err != nil {
		return nil, err
	}
	defer leave()
	s, err := h.mustHold(ctx, call.Volume)
	if err != nil {
		return nil, err
	}
	st, err := do(s, call)
	if err != nil {
		return nil, err
	}
	h.changed()
	return h.stateOf(st), nil
}

// long is change for what copies data: the work goes on when the caller goes away.
func (h *Host) long(ctx context.Context, op string, c *hostpb.VolumeCall, do func(context.Context, *volume.Store, volume.Call) (volume.State, error)) (*hostpb.VolumeState, error) {
	key := jobKey(op, c)
	return run(ctx, &h.jobs, key, func(ctx context.Context) (*hostpb.VolumeState, error) {
		if err := h.awaitFill(ctx); err != nil {
			return nil, err
		}
		defer h.filled()
		return h.change(ctx, c, func(s *volume.Store, call volume.Call) (volume.State, error) { return do(ctx, s, call) })
	})
}

// jobKey makes repeats of a call meet, and nothing else.
func jobKey(op string, c *hostpb.VolumeCall) string {
	return fmt.Sprintf("%s %s %d", op, c.GetVolumeId(), c.GetGeneration())
}

// awaitFill waits for a turn to fill a volume; filled gives it back.
func (h *Host) awaitFill(ctx context.Context) error {
	select {
	case h.fills <- struct{}{}:
		return nil
	case <-ctx.Done():
		return cloud.E(cloud.KindCancelled, "wait for a turn to copy", "", context.Cause(ctx))
	}
}

func (h *Host) filled() { <-h.fills }

// CreateSnapshot implements hostpb.VolumeHostServer.
func (h *Host) CreateSnapshot(ctx context.Context, req *hostpb.SnapshotRequest) (*hostpb.SnapshotReply, error) {
	return run(ctx, &h.jobs, jobKey("snapshot "+req.GetSnapshotId(), req.GetCall()), func(ctx context.Context) (*hostpb.SnapshotReply, error) {
		call, leave, err := h.gate.enter(ctx, req.GetCall())
		if err != nil {
			return nil, err
		}
		defer leave()
		s, err := h.mustHold(ctx, call.Volume)
		if err != nil {
			return nil, err
		}
		snap, err := s.Snapshot(ctx, call, cloud.SnapshotID(req.GetSnapshotId()))
		if err != nil {
			return nil, err
		}
		h.changed()
		return &hostpb.SnapshotReply{Bytes: snap.Bytes}, nil
	})
}

// DeleteSnapshot implements hostpb.VolumeHostServer.
func (h *Host) DeleteSnapshot(ctx context.Context, req *hostpb.SnapshotRequest) (*hostpb.SnapshotReply, error) {
	call, leave, err := h.gate.enter(ctx, req.GetCall())
	if err != nil {
		return nil, err
	}
	defer leave()
	s, _, err := h.holding(ctx, call.Volume)
	if err != nil {
		return nil, err
	}
	if s != nil {
		if err := s.DeleteSnapshot(ctx, call, cloud.SnapshotID(req.GetSnapshotId())); err != nil {
			return nil, err
		}
		h.changed()
	}
	return &hostpb.SnapshotReply{}, nil
}

// InspectVolume implements hostpb.VolumeHostServer.
func (h *Host) InspectVolume(ctx context.Context, req *hostpb.InspectVolumeRequest) (*hostpb.VolumeState, error) {
	_, st, err := h.holding(ctx, cloud.VolumeID(req.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	return h.stateOf(st), nil
}

// DeleteVolume implements hostpb.VolumeHostServer. It ends a creation under way, and every store remembers the decision, so that the request
// that was to make the volume makes nothing when it comes late.
func (h *Host) DeleteVolume(ctx context.Context, req *hostpb.DeleteVolumeRequest) (*hostpb.DeleteVolumeReply, error) {
	call, leave, err := h.gate.enter(ctx, req.GetCall())
	if err != nil {
		return nil, err
	}
	defer leave()
	holders, err := h.holders(ctx, call.Volume)
	if err != nil {
		return nil, err
	}
	for _, s := range holders {
		if err := s.Delete(ctx, call); err != nil {
			return nil, err
		}
	}
	h.changed()
	return &hostpb.DeleteVolumeReply{}, nil
}

// holders returns the stores that must be told that a volume is to go: those that have it, else all.
func (h *Host) holders(ctx context.Context, id cloud.VolumeID) ([]*volume.Store, error) {
	var have []*volume.Store
	for _, s := range h.o.Stores {
		st, err := s.Inspect(ctx, id)
		if err != nil {
			return nil, err
		}
		if st.Present {
			have = append(have, s)
		}
	}
	if len(have) == 0 {
		return h.o.Stores, nil
	}
	return have, nil
}
