package hostapitest

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// volume returns the server's disk with this export, nil if it has none.
func (s *slot) volume(export string) *hostpb.VolumeDisk {
	for _, d := range s.spec.GetVolumes() {
		if d.GetExport() == export {
			return d
		}
	}
	return nil
}

// connected reports whether a guest here has the export open.
func (h *FakeHost) connected(export string) bool {
	for _, s := range h.servers {
		if (s.runs() || s.domain == incoming) && s.volume(export) != nil {
			return true
		}
	}
	return false
}

// reachVolumes connects to volumes as QEMU does when it opens its disks. A volume that refuses is the caller's mistake, unless its service is away.
func (h *FakeHost) reachVolumes(name string, s *slot, disks ...*hostpb.VolumeDisk) error {
	for _, d := range disks {
		_, _, _, err := h.fleet.reach(h.name, d)
		if cloud.Is(err, cloud.KindUnavailable) {
			return err
		}
		if err != nil {
			h.fleet.violate("%s: %s of server %s with volume %s that cannot be opened: %v", h.name, name, s.id, d.GetVolumeId(), err)
			return conflict("server %s: volume %s: %w", s.id, d.GetVolumeId(), err)
		}
	}
	return nil
}

// writeVolumes is what a guest does that begins to run: it writes to its disks, which makes a standby the writer.
func (h *FakeHost) writeVolumes(s *slot) {
	for _, d := range s.spec.GetVolumes() {
		service, v, a, err := h.fleet.reach(h.name, d)
		switch {
		case cloud.Is(err, cloud.KindUnavailable): // the guest waits for its disk
		case err != nil:
			h.fleet.violate("server %s runs on %s with volume %s that it cannot use: %v", s.id, h.name, d.GetVolumeId(), err)
		case d.GetReadOnly():
		case v.role(a) == roleReader:
			h.fleet.violate("server %s on %s writes volume %s, whose attachment %s is read-only", s.id, h.name, v.id, a.id)
		case v.role(a) == roleStandby:
			service.promote(v, a)
		}
	}
}

// AttachVolume implements hostpb.HostServer.
func (h *FakeHost) AttachVolume(ctx context.Context, req *hostpb.AttachVolumeRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "AttachVolume", req, func(req *hostpb.AttachVolumeRequest) (*hostpb.ServerState, error) {
		s, err := h.attachable("AttachVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		d := req.GetVolume()
		if d.GetVolumeId() == "" || d.GetAttachmentId() == "" || d.GetDevice() == "" {
			h.fleet.violate("%s: AttachVolume to server %s without volume, attachment or device: %v", h.name, s.id, d)
			return nil, cloud.Errorf(cloud.KindInvalid, "server %s: the volume has no id, attachment or device", s.id)
		}
		if err := h.reachVolumes("AttachVolume", s, d); err != nil {
			return nil, err
		}
		s.removeVolume(d.GetVolumeId())
		if i := slices.IndexFunc(s.spec.GetVolumes(), func(o *hostpb.VolumeDisk) bool { return o.GetDevice() == d.GetDevice() }); i >= 0 {
			h.fleet.violate("%s: AttachVolume of %s to server %s as %s, which is taken", h.name, d.GetVolumeId(), s.id, d.GetDevice())
			return nil, conflict("server %s: device %s is taken", s.id, d.GetDevice())
		}
		s.spec.Volumes = append(s.spec.Volumes, proto.CloneOf(d))
		if s.runs() {
			h.writeVolumes(s)
		}
		return h.state(s), nil
	})
}

// DetachVolume implements hostpb.HostServer.
func (h *FakeHost) DetachVolume(ctx context.Context, req *hostpb.DetachVolumeRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "DetachVolume", req, func(req *hostpb.DetachVolumeRequest) (*hostpb.ServerState, error) {
		s, err := h.attachable("DetachVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		s.removeVolume(req.GetVolumeId())
		return h.state(s), nil
	})
}

// ResizeVolume implements hostpb.HostServer.
func (h *FakeHost) ResizeVolume(ctx context.Context, req *hostpb.ResizeVolumeRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "ResizeVolume", req, func(req *hostpb.ResizeVolumeRequest) (*hostpb.ServerState, error) {
		s, err := h.accept("ResizeVolume", req.GetCall())
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(s.spec.GetVolumes(), func(d *hostpb.VolumeDisk) bool { return d.GetVolumeId() == req.GetVolumeId() })
		if !s.present() || i < 0 {
			return nil, cloud.Errorf(cloud.KindNotFound, "server %s has no volume %s on this host", s.id, req.GetVolumeId())
		}
		_, v, _, err := h.fleet.reach(h.name, s.spec.GetVolumes()[i])
		if err == nil && v.bytes < req.GetBytes() {
			h.fleet.violate("%s: ResizeVolume of %s to %d bytes, but it has %d", h.name, v.id, req.GetBytes(), v.bytes)
			err = conflict("volume %s has %d bytes", v.id, v.bytes)
		}
		return h.state(s), err
	})
}

// attachable accepts a call that changes the disks of a server that is here and does not migrate.
func (h *FakeHost) attachable(name string, call *hostpb.Call) (*slot, error) {
	s, err := h.accept(name, call)
	switch {
	case err != nil:
		return nil, err
	case s.spec == nil || !s.present():
		return nil, cloud.Errorf(cloud.KindNotFound, "server %s is not on this host", s.id)
	case s.domain == outgoing || s.domain == incoming:
		return nil, conflict("server %s is migrating", s.id)
	}
	return s, nil
}

func (s *slot) removeVolume(id string) {
	s.spec.Volumes = slices.DeleteFunc(s.spec.GetVolumes(), func(d *hostpb.VolumeDisk) bool { return d.GetVolumeId() == id })
}
