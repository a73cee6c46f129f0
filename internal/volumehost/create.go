package volumehost

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

// CreateVolume implements hostpb.VolumeHostServer.
func (h *Host) CreateVolume(ctx context.Context, req *hostpb.CreateVolumeRequest) (*hostpb.VolumeState, error) {
	to, err := h.store(req.GetBackend())
	if err != nil {
		return nil, err
	}
	return run(ctx, &h.jobs, jobKey("create on "+req.GetBackend(), req.GetCall()), func(ctx context.Context) (*hostpb.VolumeState, error) {
		call, leave, err := h.gate.enter(ctx, req.GetCall())
		if err != nil {
			return nil, err
		}
		defer leave()
		if err := h.clear(ctx, call, to); err != nil {
			return nil, err
		}
		st, err := h.create(ctx, call, to, req)
		if err != nil {
			return nil, err
		}
		h.changed()
		return h.stateOf(st), nil
	})
}

// clear makes sure that no other store has the volume, or is about to: an earlier decision may have chosen one of them, and the call that
// carries it may still be fetching the image. A store that has been told of the newer decision refuses the older.
func (h *Host) clear(ctx context.Context, call volume.Call, to *volume.Store) error {
	for _, s := range h.o.Stores {
		if s == to {
			continue
		}
		st, err := s.Inspect(ctx, call.Volume)
		switch {
		case err != nil:
			return err
		case st.Present:
			return cloud.Errorf(cloud.KindConflict, "volume %s is on back end %s already", call.Volume, s.Name())
		case st.Generation == 0 && !h.gate.contended(call.Volume):
			continue // never heard of it, and will not
		}
		if err := s.Delete(ctx, call); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) create(ctx context.Context, call volume.Call, to *volume.Store, req *hostpb.CreateVolumeRequest) (volume.State, error) {
	spec := volume.Spec{Bytes: req.GetBytes(), Limits: limitsOf(req.GetLimits())}
	if st, err := to.Inspect(ctx, call.Volume); err != nil || st.Present {
		if err == nil {
			st, err = to.Create(ctx, call, spec) // made by an earlier call; this accepts the generation
		}
		return st, err
	}
	if req.GetImage() == nil && req.GetSnapshotId() == "" && req.GetSourceVolumeId() == "" {
		return to.Create(ctx, call, spec)
	}
	if err := h.awaitFill(ctx); err != nil {
		return volume.State{}, err
	}
	defer h.filled()
	source, release, err := h.source(ctx, to, req)
	if err != nil {
		return volume.State{}, err
	}
	defer release()
	spec.Source = source
	return to.Create(ctx, call, spec)
}

// source finds, or fetches, what the volume is made of. release says that it is not needed any more.
func (h *Host) source(ctx context.Context, to *volume.Store, req *hostpb.CreateVolumeRequest) (source volume.Source, release func(), err error) {
	image, snapshot, from := req.GetImage(), req.GetSnapshotId(), req.GetSourceVolumeId()
	kept := func() {}
	switch {
	case image != nil && (snapshot != "" || from != "") || snapshot != "" && from != "":
		return source, nil, cloud.Errorf(cloud.KindInvalid, "volume %s: more than one source", req.GetCall().GetVolumeId())
	case image != nil:
		path, release, err := h.images[to].get(ctx, imageRequest{
			id: cloud.ImageID(image.GetImageId()), bytes: image.GetBytes(), sha512: image.GetSha512(), format: image.GetFormat(), volumeBytes: req.GetBytes(),
		})
		return volume.Source{Path: path}, release, err
	case snapshot != "":
		source.Volume, source.Snapshot = cloud.VolumeID(req.GetSnapshotVolumeId()), cloud.SnapshotID(snapshot)
	default:
		source.Volume = cloud.VolumeID(from)
	}
	source.Store, err = h.mustHold(ctx, source.Volume)
	return source, kept, err
}
