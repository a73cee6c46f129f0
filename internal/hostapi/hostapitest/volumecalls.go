package hostapitest

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// CreateVolume implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) CreateVolume(ctx context.Context, req *hostpb.CreateVolumeRequest) (*hostpb.VolumeState, error) {
	return serve(ctx, h, "CreateVolume", req, func(req *hostpb.CreateVolumeRequest) (*hostpb.VolumeState, error) {
		v, err := h.accept("CreateVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		if v.present {
			if v.backend != req.GetBackend() || v.bytes != req.GetBytes() {
				return nil, conflict("volume %s is already here, on %s with %d bytes", v.id, v.backend, v.bytes)
			}
			return h.state(v), nil
		}
		if err := h.checkCreate(v, req); err != nil {
			return nil, err
		}
		content, err := h.source(req)
		if err != nil {
			return nil, err
		}
		*v = fakeVolume{
			id: v.id, present: true, generation: v.generation, backend: req.GetBackend(), bytes: req.GetBytes(), content: content,
			limits: proto.CloneOf(req.GetLimits()), epoch: v.epoch, writer: v.writer, snapshots: map[string]fakeSnapshot{},
		}
		return h.state(v), nil
	})
}

func (h *FakeVolumeHost) checkCreate(v *fakeVolume, req *hostpb.CreateVolumeRequest) error {
	sources := 0
	for _, set := range []bool{req.GetImage() != nil, req.GetSnapshotId() != "", req.GetSourceVolumeId() != ""} {
		if set {
			sources++
		}
	}
	switch {
	case sources > 1 || (req.GetSnapshotId() == "") != (req.GetSnapshotVolumeId() == ""):
		h.fleet.violate("%s: CreateVolume of %s from more than one source, or from half a snapshot", h.name, v.id)
		return cloud.Errorf(cloud.KindInvalid, "volume %s: its source is not clear", v.id)
	case req.GetBytes() <= 0 || req.GetBytes()%512 != 0:
		h.fleet.violate("%s: CreateVolume of %s with %d bytes", h.name, v.id, req.GetBytes())
		return cloud.Errorf(cloud.KindInvalid, "volume %s: %d bytes is no size", v.id, req.GetBytes())
	case req.GetImage() != nil && (req.GetImage().GetImageId() == "" || req.GetImage().GetFormat() == "" || req.GetImage().GetSha512() == ""):
		h.fleet.violate("%s: CreateVolume of %s from an image without id, format or hash", h.name, v.id)
		return cloud.Errorf(cloud.KindInvalid, "volume %s: the image has no id, format or hash", v.id)
	case !slices.Contains(h.backends, req.GetBackend()):
		h.fleet.violate("%s: CreateVolume of %s on back end %q, which it has not", h.name, v.id, req.GetBackend())
		return cloud.Errorf(cloud.KindInvalid, "volume %s: no back end %q", v.id, req.GetBackend())
	case req.GetBytes() > h.free(req.GetBackend()):
		return cloud.Errorf(cloud.KindExhausted, "volume %s: back end %s is full", v.id, req.GetBackend())
	}
	return nil
}

// source returns the content that a new volume gets.
func (h *FakeVolumeHost) source(req *hostpb.CreateVolumeRequest) ([]byte, error) {
	if i := req.GetImage(); i != nil {
		return []byte("image:" + i.GetImageId() + " " + i.GetSha512()), nil
	}
	if id := req.GetSourceVolumeId(); id != "" {
		v := h.volumes[id]
		if v == nil || !v.present {
			return nil, noVolume(id)
		}
		return bytes.Clone(v.content), h.fits(req, v.bytes)
	}
	if id := req.GetSnapshotId(); id != "" {
		s, ok := h.volume(req.GetSnapshotVolumeId()).snapshots[id]
		if !ok {
			return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no snapshot %s", req.GetSnapshotVolumeId(), id)
		}
		return bytes.Clone(s.content), h.fits(req, s.bytes)
	}
	return nil, nil
}

func (h *FakeVolumeHost) fits(req *hostpb.CreateVolumeRequest, source int64) error {
	if source <= req.GetBytes() {
		return nil
	}
	h.fleet.violate("%s: CreateVolume of %s with %d bytes from a source of %d", h.name, req.GetCall().GetVolumeId(), req.GetBytes(), source)
	return cloud.Errorf(cloud.KindInvalid, "volume %s: smaller than its source", req.GetCall().GetVolumeId())
}

// DeleteVolume implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) DeleteVolume(ctx context.Context, req *hostpb.DeleteVolumeRequest) (*hostpb.DeleteVolumeReply, error) {
	return serve(ctx, h, "DeleteVolume", req, func(req *hostpb.DeleteVolumeRequest) (*hostpb.DeleteVolumeReply, error) {
		v, err := h.accept("DeleteVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		if len(v.open) > 0 {
			return nil, conflict("volume %s: %d attachments are open", v.id, len(v.open))
		}
		if len(v.snapshots) > 0 {
			return nil, conflict("volume %s: it has %d snapshots", v.id, len(v.snapshots))
		}
		*v = fakeVolume{id: v.id, generation: v.generation, epoch: v.epoch, writer: v.writer}
		return &hostpb.DeleteVolumeReply{}, nil
	})
}

// ExtendVolume implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) ExtendVolume(ctx context.Context, req *hostpb.ExtendVolumeRequest) (*hostpb.VolumeState, error) {
	return serve(ctx, h, "ExtendVolume", req, func(req *hostpb.ExtendVolumeRequest) (*hostpb.VolumeState, error) {
		v, err := h.acceptPresent("ExtendVolume", req.GetCall())
		switch {
		case err != nil:
			return nil, err
		case req.GetBytes() < v.bytes:
			h.fleet.violate("%s: ExtendVolume of %s from %d to %d bytes", h.name, v.id, v.bytes, req.GetBytes())
			return nil, cloud.Errorf(cloud.KindInvalid, "volume %s: it has %d bytes and cannot shrink to %d", v.id, v.bytes, req.GetBytes())
		case req.GetBytes()-v.bytes > h.free(v.backend):
			return nil, cloud.Errorf(cloud.KindExhausted, "volume %s: back end %s is full", v.id, v.backend)
		}
		v.bytes = req.GetBytes()
		return h.state(v), nil
	})
}

// RevertVolume implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) RevertVolume(ctx context.Context, req *hostpb.RevertVolumeRequest) (*hostpb.VolumeState, error) {
	return serve(ctx, h, "RevertVolume", req, func(req *hostpb.RevertVolumeRequest) (*hostpb.VolumeState, error) {
		v, err := h.detached("RevertVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		if i := req.GetImage(); i != nil {
			v.content = []byte("image:" + i.GetImageId() + " " + i.GetSha512())
			return h.state(v), nil
		}
		s, ok := v.snapshots[req.GetSnapshotId()]
		if !ok {
			return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no snapshot %s", v.id, req.GetSnapshotId())
		}
		v.content = bytes.Clone(s.content)
		return h.state(v), nil
	})
}

// MoveVolume implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) MoveVolume(ctx context.Context, req *hostpb.MoveVolumeRequest) (*hostpb.VolumeState, error) {
	return serve(ctx, h, "MoveVolume", req, func(req *hostpb.MoveVolumeRequest) (*hostpb.VolumeState, error) {
		v, err := h.detached("MoveVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		if !slices.Contains(h.backends, req.GetBackend()) {
			h.fleet.violate("%s: MoveVolume of %s to back end %q, which it has not", h.name, v.id, req.GetBackend())
			return nil, cloud.Errorf(cloud.KindInvalid, "volume %s: no back end %q", v.id, req.GetBackend())
		}
		v.backend = req.GetBackend()
		return h.state(v), nil
	})
}

// CreateSnapshot implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) CreateSnapshot(ctx context.Context, req *hostpb.SnapshotRequest) (*hostpb.SnapshotReply, error) {
	return serve(ctx, h, "CreateSnapshot", req, func(req *hostpb.SnapshotRequest) (*hostpb.SnapshotReply, error) {
		v, err := h.acceptPresent("CreateSnapshot", req.GetCall())
		if err != nil {
			return nil, err
		}
		if req.GetSnapshotId() == "" {
			h.fleet.violate("%s: CreateSnapshot of %s without an id", h.name, v.id)
			return nil, cloud.Errorf(cloud.KindInvalid, "volume %s: the snapshot has no id", v.id)
		}
		s, ok := v.snapshots[req.GetSnapshotId()]
		if !ok {
			s = fakeSnapshot{bytes: v.bytes, content: bytes.Clone(v.content)}
			if v.snapshots == nil {
				v.snapshots = map[string]fakeSnapshot{}
			}
			v.snapshots[req.GetSnapshotId()] = s
		}
		return &hostpb.SnapshotReply{Bytes: s.bytes}, nil
	})
}

// DeleteSnapshot implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) DeleteSnapshot(ctx context.Context, req *hostpb.SnapshotRequest) (*hostpb.SnapshotReply, error) {
	return serve(ctx, h, "DeleteSnapshot", req, func(req *hostpb.SnapshotRequest) (*hostpb.SnapshotReply, error) {
		v, err := h.accept("DeleteSnapshot", req.GetCall())
		if err != nil {
			return nil, err
		}
		delete(v.snapshots, req.GetSnapshotId())
		return &hostpb.SnapshotReply{}, nil
	})
}

// SetLimits implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) SetLimits(ctx context.Context, req *hostpb.SetLimitsRequest) (*hostpb.VolumeState, error) {
	return serve(ctx, h, "SetLimits", req, func(req *hostpb.SetLimitsRequest) (*hostpb.VolumeState, error) {
		v, err := h.acceptPresent("SetLimits", req.GetCall())
		if err != nil {
			return nil, err
		}
		v.limits = proto.CloneOf(req.GetLimits())
		return h.state(v), nil
	})
}

// InspectVolume implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) InspectVolume(ctx context.Context, req *hostpb.InspectVolumeRequest) (*hostpb.VolumeState, error) {
	return serve(ctx, h, "InspectVolume", req, func(req *hostpb.InspectVolumeRequest) (*hostpb.VolumeState, error) {
		if v := h.volumes[req.GetVolumeId()]; v != nil {
			return h.state(v), nil
		}
		return &hostpb.VolumeState{VolumeId: req.GetVolumeId()}, nil
	})
}

// OpenAttachment implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) OpenAttachment(ctx context.Context, req *hostpb.OpenAttachmentRequest) (*hostpb.AttachmentState, error) {
	return serve(ctx, h, "OpenAttachment", req, func(req *hostpb.OpenAttachmentRequest) (*hostpb.AttachmentState, error) {
		v, err := h.acceptPresent("OpenAttachment", req.GetCall())
		if err != nil {
			return nil, err
		}
		if req.GetAttachmentId() == "" || req.GetHost() == "" {
			h.fleet.violate("%s: OpenAttachment of %s without attachment or host", h.name, v.id)
			return nil, cloud.Errorf(cloud.KindInvalid, "volume %s: the attachment has no id or host", v.id)
		}
		a := v.find(req.GetAttachmentId())
		same := a != nil && a.host == req.GetHost() && a.readOnly == req.GetReadOnly() && a.shared == req.GetShared()
		if !same || v.role(a) == roleCutOff {
			v.close(req.GetAttachmentId())
			v.epoch++
			a = &fakeAttachment{id: req.GetAttachmentId(), host: req.GetHost(), epoch: v.epoch, readOnly: req.GetReadOnly(), shared: req.GetShared()}
			v.open = append(v.open, a)
		}
		if !req.GetHandover() && !a.readOnly && !a.shared {
			h.promote(v, a)
		}
		return h.attachment(v, a), nil
	})
}

// promote makes the attachment the writer. A guest that runs with an older one has lost its disk.
func (h *FakeVolumeHost) promote(v *fakeVolume, a *fakeAttachment) {
	for _, older := range v.open {
		if older.epoch < a.epoch && !older.readOnly && !older.shared {
			h.fleet.cutOff(older, export(v.id, older.id), "cut off by attachment "+a.id)
		}
	}
	v.writer = max(v.writer, a.epoch)
}

func (v *fakeVolume) close(attachment string) {
	v.open = slices.DeleteFunc(v.open, func(a *fakeAttachment) bool { return a.id == attachment })
}

// PromoteAttachment implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) PromoteAttachment(ctx context.Context, req *hostpb.AttachmentRequest) (*hostpb.AttachmentState, error) {
	return serve(ctx, h, "PromoteAttachment", req, func(req *hostpb.AttachmentRequest) (*hostpb.AttachmentState, error) {
		v, err := h.acceptPresent("PromoteAttachment", req.GetCall())
		if err != nil {
			return nil, err
		}
		a := v.find(req.GetAttachmentId())
		if a == nil {
			return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: attachment %s is not open", v.id, req.GetAttachmentId())
		}
		if v.role(a) == roleCutOff {
			return nil, conflict("volume %s: attachment %s is cut off", v.id, a.id)
		}
		if v.role(a) == roleStandby {
			h.promote(v, a)
		}
		return h.attachment(v, a), nil
	})
}

// CloseAttachment implements hostpb.VolumeHostServer.
func (h *FakeVolumeHost) CloseAttachment(ctx context.Context, req *hostpb.AttachmentRequest) (*hostpb.AttachmentState, error) {
	return serve(ctx, h, "CloseAttachment", req, func(req *hostpb.AttachmentRequest) (*hostpb.AttachmentState, error) {
		v, err := h.accept("CloseAttachment", req.GetCall())
		if err != nil {
			return nil, err
		}
		if a := v.find(req.GetAttachmentId()); a != nil {
			h.fleet.cutOff(a, export(v.id, a.id), "closed")
			v.close(a.id)
		}
		return &hostpb.AttachmentState{AttachmentId: req.GetAttachmentId(), Role: roleAbsent}, nil
	})
}

// cutOff notes a violation when a guest runs with the attachment that ends.
func (f *Fleet) cutOff(a *fakeAttachment, export, why string) {
	host := f.hosts[cloud.HostName(a.host)]
	if host == nil {
		return
	}
	for _, s := range host.servers {
		if s.runs() && s.volume(export) != nil {
			f.violate("server %s runs on %s with volume attachment %s, which was %s", s.id, host.name, export, why)
		}
	}
}

// reach finds the attachment behind an export as a host's NBD client does; the error says why it is refused.
func (f *Fleet) reach(host cloud.HostName, d *hostpb.VolumeDisk) (*FakeVolumeHost, *fakeVolume, *fakeAttachment, error) {
	for _, service := range f.volumes {
		if service.address != d.GetAddress() {
			continue
		}
		if !service.reachable {
			return nil, nil, nil, service.gone
		}
		v := service.volumes[d.GetVolumeId()]
		if v == nil || !v.present {
			return nil, nil, nil, noVolume(d.GetVolumeId())
		}
		a := v.find(d.GetAttachmentId())
		switch {
		case a == nil || d.GetExport() != export(v.id, a.id):
			return nil, nil, nil, cloud.Errorf(cloud.KindNotFound, "export %q is not open", d.GetExport())
		case a.host != string(host):
			return nil, nil, nil, cloud.Errorf(cloud.KindForbidden, "export %q is for host %s", d.GetExport(), a.host)
		case v.role(a) == roleCutOff:
			return nil, nil, nil, conflict("export %q is cut off", d.GetExport())
		case d.GetPort() != nbdPort || !d.GetTls() || d.GetTlsHostname() != string(service.name):
			return nil, nil, nil, cloud.Errorf(cloud.KindInvalid, "export %q: connected to port %d, TLS %t of %q", d.GetExport(), d.GetPort(), d.GetTls(), d.GetTlsHostname())
		}
		return service, v, a, nil
	}
	return nil, nil, nil, fmt.Errorf("no volume service at %q", d.GetAddress())
}
