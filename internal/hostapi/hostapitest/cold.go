package hostapitest

import (
	"bytes"
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// The disks of fake servers have a content, so that a test sees which one a server runs on: each start writes the host's name and the start's number at
// its end. Hosts of the same Share keep one disk between them.

// Share makes hosts keep servers' disks in one directory. Call it before anything is on them.
func (f *Fleet) Share(id string, hosts ...cloud.HostName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range hosts {
		f.hosts[name].share = id
	}
}

// DiskContent returns what is on the server's disk on a host.
func (h *FakeHost) DiskContent(id cloud.ServerID) string {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return string(h.content(string(id)))
}

// diskKey tells disks apart: those of a shared directory are one.
func (h *FakeHost) diskKey(id string) string {
	if h.share != "" {
		return h.share + "/" + id
	}
	return string(h.name) + "/" + id
}

func (h *FakeHost) content(id string) []byte { return h.fleet.disks[h.diskKey(id)] }

func (h *FakeHost) setContent(id string, data []byte) {
	if h.fleet.disks == nil {
		h.fleet.disks = map[string][]byte{}
	}
	h.fleet.disks[h.diskKey(id)] = bytes.Clone(data)
}

// writeDisk is what a guest does that starts.
func (h *FakeHost) writeDisk(s *slot) {
	if s.spec.GetRoot() != nil {
		h.setContent(s.id, fmt.Appendf(h.content(s.id), "[%s]", h.name))
	}
}

// dropDisk is what Discard does with the disk.
func (h *FakeHost) dropDisk(s *slot, keep bool) {
	if keep || h.share != "" && s.elsewhere(h) {
		return
	}
	delete(h.fleet.disks, h.diskKey(s.id))
}

// elsewhere reports whether another host that shares the directory has the server.
func (s *slot) elsewhere(h *FakeHost) bool {
	for _, other := range h.fleet.hosts {
		if other != h && other.share == h.share {
			if there := other.servers[s.id]; there != nil && there.disks {
				return true
			}
		}
	}
	return false
}

// prepareCold makes a disk for a server that comes with its power off.
func (h *FakeHost) prepareCold(s *slot, req *hostpb.PrepareRequest) error {
	from := req.GetDiskSource()
	switch {
	case s.runs() && from == nil:
		return nil // a repeat
	case s.runs():
		h.fleet.violate("%s: prepared server %s, which is %s", h.name, s.id, s.describe())
		return conflict("server %s runs here", s.id)
	case from == nil: // keep_disk
		if req.GetSpec().GetRoot() != nil && h.content(s.id) == nil {
			h.fleet.violate("%s: server %s is to keep a disk that is not there", h.name, s.id)
			return cloud.Errorf(cloud.KindNotFound, "server %s has no disk on this host", s.id)
		}
		return nil
	}
	source := h.fleet.hosts[cloud.HostName(from.GetHost())]
	if source == nil || !source.reachable {
		return cloud.Errorf(cloud.KindUnavailable, "host %s does not answer", from.GetHost())
	}
	there := source.servers[s.id]
	switch {
	case there == nil || there.exported != from.GetExport() || there.exportedTo != h.name:
		return cloud.Errorf(cloud.KindUnavailable, "host %s does not export %s to %s", from.GetHost(), from.GetExport(), h.name)
	case there.runs():
		h.fleet.violate("%s: pulled the disk of server %s while it runs on %s", h.name, s.id, source.name)
	}
	h.setContent(s.id, source.content(s.id))
	return nil
}

// ExportDisk implements hostpb.HostServer.
func (h *FakeHost) ExportDisk(ctx context.Context, req *hostpb.ExportDiskRequest) (*hostpb.DiskSource, error) {
	return serve(ctx, h, "ExportDisk", req, func(req *hostpb.ExportDiskRequest) (*hostpb.DiskSource, error) {
		s, err := h.accept("ExportDisk", req.GetCall())
		if err != nil {
			return nil, err
		}
		if s.runs() || !s.disks {
			h.fleet.violate("%s: asked for the disk of server %s, which is %s", h.name, s.id, s.describe())
			return nil, conflict("server %s is %s", s.id, s.describe())
		}
		s.exported, s.exportedTo = fmt.Sprintf("disk:%s:%d", s.id, s.generation), cloud.HostName(req.GetPeer())
		return &hostpb.DiskSource{Host: string(h.name), Address: h.address, Port: 10810, Export: s.exported, Bytes: int64(len(h.content(s.id)))}, nil
	})
}

// UnexportDisk implements hostpb.HostServer.
func (h *FakeHost) UnexportDisk(ctx context.Context, req *hostpb.UnexportDiskRequest) (*hostpb.UnexportDiskReply, error) {
	return serve(ctx, h, "UnexportDisk", req, func(req *hostpb.UnexportDiskRequest) (*hostpb.UnexportDiskReply, error) {
		s, err := h.accept("UnexportDisk", req.GetCall())
		if err != nil {
			return nil, err
		}
		s.exported, s.exportedTo = "", ""
		return &hostpb.UnexportDiskReply{}, nil
	})
}

// Exported returns the hosts that still serve the server's disk to another.
func (f *Fleet) Exported(id cloud.ServerID) []cloud.HostName {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []cloud.HostName
	for _, h := range f.hosts {
		if s := h.servers[string(id)]; s != nil && s.exported != "" {
			out = append(out, h.name)
		}
	}
	return out
}

// CaptureDisk implements hostpb.HostServer.
func (h *FakeHost) CaptureDisk(req *hostpb.CaptureDiskRequest, stream grpc.ServerStreamingServer[hostpb.VolumeChunk]) error {
	reply, err := serve(stream.Context(), h, "CaptureDisk", req, func(req *hostpb.CaptureDiskRequest) (*hostpb.VolumeChunk, error) {
		s, err := h.accept("CaptureDisk", req.GetCall())
		if err != nil {
			return nil, err
		}
		if !s.disks {
			return nil, cloud.Errorf(cloud.KindNotFound, "server %s has no disk on this host", s.id)
		}
		data := bytes.Clone(h.content(s.id))
		return &hostpb.VolumeChunk{Data: data, Bytes: int64(len(data))}, nil
	})
	if err != nil {
		return err
	}
	return stream.Send(proto.CloneOf(reply))
}
