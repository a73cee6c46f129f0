package hostagent

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/peerdisk"
)

// What a server needs whose power is off while it changes its host or its size. The source serves the disk to one other host, read-only, until it is told
// to stop; the target pulls it under a temporary name. The source's own copy stays until Discard: it is the way back.

// Peers is how this host serves other hosts' agents, and reads from them.
type Peers struct {
	Server *peerdisk.Server
	Puller *peerdisk.Puller
	Port   int // where Server listens, on the migration address
	// TLS returns how another host is met: its name verified, this host's certificate shown.
	TLS func(host cloud.HostName) *tls.Config
}

// FetchNear is hostapi.Agent.FetchNear.
type FetchNear func(ctx context.Context, id cloud.ImageID, offset int64, tried []string) (io.ReadCloser, []*hostpb.DiskSource, error)

// errNoPeers is the answer of an agent that was built without them.
func errNoPeers(name cloud.HostName) error {
	return cloud.Errorf(cloud.KindUnsupported, "host %s serves no disks to other hosts", name)
}

// ExportDisk serves a stopped server's root disk to one other host.
func (a *Agent) ExportDisk(ctx context.Context, req *hostpb.ExportDiskRequest) (*hostpb.DiskSource, error) {
	var out *hostpb.DiskSource
	err := a.change(ctx, KindExport, req.GetCall(), "", func(ctx context.Context, v *vm) error {
		var err error
		out, err = v.export(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// UnexportDisk ends that. A server that is not exported, or not here, is success.
func (a *Agent) UnexportDisk(ctx context.Context, req *hostpb.UnexportDiskRequest) (*hostpb.UnexportDiskReply, error) {
	err := a.change(ctx, KindExport, req.GetCall(), "", func(_ context.Context, v *vm) error {
		v.unexport()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &hostpb.UnexportDiskReply{}, nil
}

func (v *vm) export(ctx context.Context, req *hostpb.ExportDiskRequest) (*hostpb.DiskSource, error) {
	peers := v.a.o.Peers
	if peers == nil {
		return nil, errNoPeers(v.a.o.Name)
	}
	if req.GetPeer() == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "export: no host is named")
	}
	s, err := v.resident(ctx, "export its disk")
	if err != nil {
		return nil, err
	}
	if s.HasProcess() {
		return nil, cloud.Errorf(cloud.KindConflict, "cannot export its disk: it is %s (%s) here", s.Run, s.Reason)
	}
	files, err := v.a.o.Disk.Files(v.id)
	if err != nil {
		return nil, err
	}
	// The name says which stay of the disk this is: generations are never used twice.
	name := fmt.Sprintf("disk:%s:%d", v.id, req.GetCall().GetGeneration())
	if v.exported != name {
		v.unexport()
	}
	v.exported = name
	bytes, err := peers.Server.Offer(name, files.Root, cloud.HostName(req.GetPeer()))
	if err != nil {
		return nil, err
	}
	return &hostpb.DiskSource{Host: string(v.a.o.Name), Address: v.a.o.MigrationAddress, Port: int64(peers.Port), Export: name, TlsHostname: string(v.a.o.Name), Bytes: bytes}, nil
}

// unexport takes the disk back from whoever reads it. It comes before anything that may write to the disk.
func (v *vm) unexport() {
	if v.exported != "" {
		v.a.o.Peers.Server.Withdraw(v.exported)
		v.exported = ""
	}
}

// sourceOf is where the wire says that another host serves something.
func (a *Agent) sourceOf(s *hostpb.DiskSource) peerdisk.Source {
	return peerdisk.Source{
		Address: net.JoinHostPort(s.GetAddress(), strconv.FormatInt(s.GetPort(), 10)), Export: s.GetExport(),
		TLS: a.o.Peers.TLS(cloud.HostName(or(s.GetTlsHostname(), s.GetHost()))),
	}
}

// prepareCold makes the root disk of a server that comes with its power off: pulled from its last host, or taken as it is here.
func (v *vm) prepareCold(ctx context.Context, req *hostpb.PrepareRequest) error {
	root := req.GetSpec().GetRoot()
	switch {
	case root == nil:
		if err := v.a.o.Disk.EnsureRootless(v.id); err != nil {
			return err
		}
		return v.a.o.Disk.Claim(v.id)
	case req.GetKeepDisk():
		// The directory may be shared; the base of the disk is on each host by itself.
		if _, _, err := v.a.o.Disk.EnsureBase(ctx, v.rootOf(req.GetSpec()).Base); err != nil {
			return err
		}
		return v.a.o.Disk.KeepRoot(ctx, v.id, root.GetBytes())
	case v.a.o.Peers == nil:
		return errNoPeers(v.a.o.Name)
	}
	from := req.GetDiskSource()
	return v.a.o.Disk.Receive(ctx, v.id, v.rootOf(req.GetSpec()), from.GetExport(), func(ctx context.Context, path string) error {
		written, err := v.a.o.Peers.Puller.Pull(ctx, v.a.sourceOf(from), path, 0)
		if err != nil {
			return fmt.Errorf("disk from host %s: %w", from.GetHost(), err)
		}
		v.log.Info("disk came", "from", from.GetHost(), "bytes", from.GetBytes(), "written", written)
		return nil
	})
}

// peerFacts adds to the facts what other hosts may read here.
func (a *Agent) peerFacts(f *hostpb.HostFacts) {
	if a.o.Peers == nil {
		return
	}
	f.PeerPort, f.PeerTlsHostname = int64(a.o.Peers.Port), string(a.o.Name)
	var err error
	if f.Images, err = a.o.Disk.Bases(); err != nil {
		a.log.Warn("images not told", "error", err)
	}
}

// rootOf is rootOf, with the hosts that have the base image.
func (v *vm) rootOf(spec *hostpb.ServerSpec) disk.Root {
	root := rootOf(spec)
	if v.a.o.Peers == nil {
		return root
	}
	root.Base.Peers = v.a.imagePeers(spec.GetRoot().GetImagePeers(), root.Base.Bytes)
	if v.a.o.FetchNear != nil {
		root.Base.Near = v.a.near(root.Base)
	}
	return root
}

// near asks the image service for a base image.
func (a *Agent) near(base disk.Base) disk.Near {
	return func(ctx context.Context, offset int64, tried []cloud.HostName) (io.ReadCloser, []disk.Peer, error) {
		names := make([]string, len(tried))
		for i, host := range tried {
			names[i] = string(host)
		}
		r, peers, err := a.o.FetchNear(ctx, base.Image, offset, names)
		return r, a.imagePeers(peers, base.Bytes), err
	}
}

// imagePeers are hosts that the wire says have an image of that many bytes.
func (a *Agent) imagePeers(from []*hostpb.DiskSource, bytesMax int64) []disk.Peer {
	out := make([]disk.Peer, len(from))
	for i, p := range from {
		source := a.sourceOf(p)
		out[i] = disk.Peer{Host: cloud.HostName(p.GetHost()), Pull: func(ctx context.Context, path string) error {
			_, err := a.o.Peers.Puller.Pull(ctx, source, path, bytesMax)
			return err
		}}
	}
	return out
}
