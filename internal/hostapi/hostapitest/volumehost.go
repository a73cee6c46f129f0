package hostapitest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	roleAbsent  = hostpb.AttachmentRole_ATTACHMENT_ROLE_ABSENT
	roleWriter  = hostpb.AttachmentRole_ATTACHMENT_ROLE_WRITER
	roleReader  = hostpb.AttachmentRole_ATTACHMENT_ROLE_READER
	roleStandby = hostpb.AttachmentRole_ATTACHMENT_ROLE_STANDBY
	roleCutOff  = hostpb.AttachmentRole_ATTACHMENT_ROLE_CUT_OFF

	nbdPort = 10809
	// fakeBackendBytes is the size of each back end; a volume that does not fit is refused with KindExhausted.
	fakeBackendBytes = int64(10) << 40
)

// FakeVolumeHost is one volume service of a Fleet; it implements hostpb.VolumeHostServer. All its state is guarded by the fleet's lock.
//
// Its volumes have no blocks but a content, a few bytes that are copied from image to volume to snapshot to clone, so that a test can
// tell what a volume was made from: that of an image is "image:ID" and the hash it was asked for.
type FakeVolumeHost struct {
	hostpb.UnimplementedVolumeHostServer
	member
	address  string
	seq      int64
	backends []string
	volumes  map[string]*fakeVolume
}

// fakeVolume outlives DeleteVolume as a tombstone with the generation.
type fakeVolume struct {
	id         string
	present    bool
	generation int64
	backend    string
	bytes      int64
	content    []byte
	limits     *hostpb.VolumeLimits
	epoch      int64 // greatest given out
	writer     int64 // greatest that became the exclusive writer
	open       []*fakeAttachment
	snapshots  map[string]fakeSnapshot
}

type fakeSnapshot struct {
	bytes   int64
	content []byte
}

type fakeAttachment struct {
	id       string
	host     string
	epoch    int64
	readOnly bool
	shared   bool
}

// AddVolumes adds a volume service with these back ends, reachable and empty; "main" when none are named.
func (f *Fleet) AddVolumes(name cloud.HostName, backends ...string) *FakeVolumeHost {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(backends) == 0 {
		backends = []string{"main"}
	}
	v := &FakeVolumeHost{
		member: newMember(f, name, errNoVolumes(name)), address: fmt.Sprintf("198.51.100.%d", len(f.volumes)+1), backends: backends,
		volumes: map[string]*fakeVolume{},
	}
	f.volumes[name] = v
	return v
}

func errNoVolumes(name cloud.HostName) error {
	return cloud.Errorf(cloud.KindUnavailable, "volume service %s: it is not connected", name)
}

// Volumes returns a client of the named volume service, or KindUnavailable when it is unknown or down. See On.
func (f *Fleet) Volumes(name cloud.HostName) (hostpb.VolumeHostClient, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.volumes[name]
	if v == nil || !v.reachable {
		return nil, errNoVolumes(name)
	}
	return &volumeClient{host: v}, nil
}

// WaitVolumes is Volumes: a fleet's services do not come by themselves.
func (f *Fleet) WaitVolumes(_ context.Context, name cloud.HostName) (hostpb.VolumeHostClient, error) {
	return f.Volumes(name)
}

// VolumeHost returns a fake volume service; it panics when there is none of that name, for only a wrong test asks for it.
func (f *Fleet) VolumeHost(name cloud.HostName) *FakeVolumeHost {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.volumes[name]
	if v == nil {
		panic(fmt.Sprintf("hostapitest: no volume service %q in the fleet", name))
	}
	return v
}

// VolumeLeftovers returns what the services keep of a volume, as "storage-1: main, 1073741824 bytes, a1 on compute-1 writer, snapshot s1":
// nothing at all when it is gone.
func (f *Fleet) VolumeLeftovers(id cloud.VolumeID) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(f.volumes)) {
		if v := f.volumes[name].volumes[string(id)]; v != nil && v.present {
			out = append(out, string(name)+": "+v.describe())
		}
	}
	return out
}

// Crash makes the service unreachable; volumes, snapshots and open attachments stay.
func (h *FakeVolumeHost) Crash() {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	if h.reachable {
		h.crash()
	}
}

// Revive starts the service again, with a greater generation.
func (h *FakeVolumeHost) Revive() {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.revive()
}

// State returns what InspectVolume would, whether or not the service is reachable.
func (h *FakeVolumeHost) State(id cloud.VolumeID) *hostpb.VolumeState {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return h.state(h.volume(string(id)))
}

// Content returns what the volume holds, nil when it is blank or absent.
func (h *FakeVolumeHost) Content(id cloud.VolumeID) []byte {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return bytes.Clone(h.volume(string(id)).content)
}

// SetContent writes what the volume holds, as its guest would.
func (h *FakeVolumeHost) SetContent(id cloud.VolumeID, content []byte) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.volume(string(id)).content = bytes.Clone(content)
}

// Place puts a blank volume on the first back end without any call, as a test's starting point.
func (h *FakeVolumeHost) Place(id cloud.VolumeID, size, generation int64) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	v := h.volume(string(id))
	v.present, v.bytes, v.generation, v.backend = true, size, generation, h.backends[0]
}

// CurrentFacts returns what the service says of itself.
func (h *FakeVolumeHost) CurrentFacts() *hostpb.VolumeFacts {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.seq++
	facts := &hostpb.VolumeFacts{Name: string(h.name), Generation: h.epoch, Seq: h.seq, Version: "fake", Engine: "threads", EngineWhy: "fake"}
	for _, name := range h.backends {
		b := &hostpb.Backend{Name: name, Kind: "file", Reflink: true, TotalBytes: fakeBackendBytes, FreeBytes: h.free(name)}
		for _, v := range h.volumes {
			if v.present && v.backend == name {
				b.Volumes++
			}
		}
		facts.Backends = append(facts.Backends, b)
	}
	return facts
}

func (h *FakeVolumeHost) free(backend string) int64 {
	free := fakeBackendBytes
	for _, v := range h.volumes {
		if v.present && v.backend == backend {
			free -= v.bytes
		}
	}
	return free
}

func (h *FakeVolumeHost) volume(id string) *fakeVolume {
	v := h.volumes[id]
	if v == nil {
		v = &fakeVolume{id: id}
		h.volumes[id] = v
	}
	return v
}

// accept checks a call's generation as a real service does.
func (h *FakeVolumeHost) accept(name string, call *hostpb.VolumeCall) (*fakeVolume, error) {
	if call.GetVolumeId() == "" || call.GetGeneration() <= 0 || call.GetRunId() == "" {
		h.fleet.violate("%s: %s without volume, generation or run: %v", h.name, name, call)
		return nil, cloud.Errorf(cloud.KindInvalid, "%s: the call names no volume, generation or run", name)
	}
	v := h.volume(call.GetVolumeId())
	if call.GetGeneration() < v.generation {
		return nil, cloud.Errorf(cloud.KindStale, "%s: volume %s: generation %d is older than %d", name, v.id, call.GetGeneration(), v.generation)
	}
	v.generation = call.GetGeneration()
	return v, nil
}

// acceptPresent is accept for calls that need the volume to be there.
func (h *FakeVolumeHost) acceptPresent(name string, call *hostpb.VolumeCall) (*fakeVolume, error) {
	v, err := h.accept(name, call)
	if err == nil && !v.present {
		err = noVolume(v.id)
	}
	return v, err
}

func noVolume(id string) error {
	return cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", id)
}

// detached is acceptPresent for calls that refuse while an attachment is open.
func (h *FakeVolumeHost) detached(name string, call *hostpb.VolumeCall) (*fakeVolume, error) {
	v, err := h.acceptPresent(name, call)
	if err == nil && len(v.open) > 0 {
		err = conflict("volume %s: %d attachments are open", v.id, len(v.open))
	}
	return v, err
}

func (h *FakeVolumeHost) state(v *fakeVolume) *hostpb.VolumeState {
	s := &hostpb.VolumeState{VolumeId: v.id, Present: v.present, Generation: v.generation, Epoch: v.epoch}
	if !v.present {
		return s
	}
	s.Backend, s.Bytes, s.AllocatedBytes = v.backend, v.bytes, int64(len(v.content))
	for _, a := range v.open {
		s.Attachments = append(s.Attachments, h.attachment(v, a))
	}
	s.SnapshotIds = slices.Sorted(maps.Keys(v.snapshots))
	return s
}

func (h *FakeVolumeHost) attachment(v *fakeVolume, a *fakeAttachment) *hostpb.AttachmentState {
	s := &hostpb.AttachmentState{
		AttachmentId: a.id, Host: a.host, Epoch: a.epoch, Role: v.role(a), Export: export(v.id, a.id), Address: h.address, Port: nbdPort,
		Tls: true, TlsHostname: string(h.name),
	}
	for _, host := range h.fleet.hosts {
		if string(host.name) == a.host && host.connected(s.GetExport()) {
			s.Connections = 1
		}
	}
	return s
}

func export(volume, attachment string) string { return volume + "/" + attachment }

func (v *fakeVolume) role(a *fakeAttachment) hostpb.AttachmentRole {
	switch {
	case a.readOnly:
		return roleReader
	case a.epoch < v.writer:
		return roleCutOff
	case a.shared || a.epoch == v.writer:
		return roleWriter
	}
	return roleStandby
}

func (v *fakeVolume) find(attachment string) *fakeAttachment {
	for _, a := range v.open {
		if a.id == attachment {
			return a
		}
	}
	return nil
}

func (v *fakeVolume) describe() string {
	parts := []string{v.backend, fmt.Sprintf("%d bytes", v.bytes)}
	for _, a := range v.open {
		role := strings.ToLower(strings.TrimPrefix(v.role(a).String(), "ATTACHMENT_ROLE_"))
		parts = append(parts, fmt.Sprintf("%s on %s %s", a.id, a.host, role))
	}
	for _, id := range slices.Sorted(maps.Keys(v.snapshots)) {
		parts = append(parts, "snapshot "+id)
	}
	return strings.Join(parts, ", ")
}

// ReadVolume implements hostpb.VolumeHostServer. The content is at the beginning; the rest reads as zeros.
func (h *FakeVolumeHost) ReadVolume(req *hostpb.ReadVolumeRequest, stream grpc.ServerStreamingServer[hostpb.VolumeChunk]) error {
	chunk, err := serve(stream.Context(), h, "ReadVolume", req, func(req *hostpb.ReadVolumeRequest) (*hostpb.VolumeChunk, error) {
		v := h.volumes[req.GetVolumeId()]
		if v == nil || !v.present {
			return nil, noVolume(req.GetVolumeId())
		}
		size, content := v.bytes, v.content
		if id := req.GetSnapshotId(); id != "" {
			s, ok := v.snapshots[id]
			if !ok {
				return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no snapshot %s", v.id, id)
			}
			size, content = s.bytes, s.content
		}
		return &hostpb.VolumeChunk{Bytes: size, Data: bytes.Clone(content)}, nil
	})
	if err != nil {
		return err
	}
	return stream.Send(chunk)
}
