package volumehost

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/blockserve"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

// OpenAttachment implements hostpb.VolumeHostServer.
func (h *Host) OpenAttachment(ctx context.Context, req *hostpb.OpenAttachmentRequest) (*hostpb.AttachmentState, error) {
	if req.GetAttachmentId() == "" || req.GetHost() == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "volume %s: the attachment has no id or no host", req.GetCall().GetVolumeId())
	}
	return h.attachment(ctx, req.GetCall(), func(s *volume.Store, call volume.Call) (volume.Attachment, error) {
		return s.OpenAttachment(ctx, call, volume.Request{
			Attachment: cloud.AttachmentID(req.GetAttachmentId()), Host: cloud.HostName(req.GetHost()), ReadOnly: req.GetReadOnly(),
			Handover: req.GetHandover(), Shared: req.GetShared(),
		})
	})
}

// PromoteAttachment implements hostpb.VolumeHostServer.
func (h *Host) PromoteAttachment(ctx context.Context, req *hostpb.AttachmentRequest) (*hostpb.AttachmentState, error) {
	return h.attachment(ctx, req.GetCall(), func(s *volume.Store, call volume.Call) (volume.Attachment, error) {
		return s.Promote(ctx, call, cloud.AttachmentID(req.GetAttachmentId()))
	})
}

// CloseAttachment implements hostpb.VolumeHostServer.
func (h *Host) CloseAttachment(ctx context.Context, req *hostpb.AttachmentRequest) (*hostpb.AttachmentState, error) {
	a, err := h.attachment(ctx, req.GetCall(), func(s *volume.Store, call volume.Call) (volume.Attachment, error) {
		return s.CloseAttachment(ctx, call, cloud.AttachmentID(req.GetAttachmentId()))
	})
	if cloud.Is(err, cloud.KindNotFound) {
		return &hostpb.AttachmentState{AttachmentId: req.GetAttachmentId(), Role: hostpb.AttachmentRole_ATTACHMENT_ROLE_ABSENT}, nil
	}
	return a, err
}

func (h *Host) attachment(ctx context.Context, c *hostpb.VolumeCall, do func(*volume.Store, volume.Call) (volume.Attachment, error)) (*hostpb.AttachmentState, error) {
	call, leave, err := h.gate.enter(ctx, c)
	if err != nil {
		return nil, err
	}
	defer leave()
	s, err := h.mustHold(ctx, call.Volume)
	if err != nil {
		return nil, err
	}
	a, err := do(s, call)
	if err != nil {
		return nil, err
	}
	h.log.Info("attachment", "volume", call.Volume, "attachment", a.ID, "host", a.Host, "role", a.Role, "epoch", a.Epoch, "run", call.Run)
	return h.attachmentOf(call.Volume, a), nil
}

var roles = map[volume.Role]hostpb.AttachmentRole{
	volume.RoleAbsent:  hostpb.AttachmentRole_ATTACHMENT_ROLE_ABSENT,
	volume.RoleWriter:  hostpb.AttachmentRole_ATTACHMENT_ROLE_WRITER,
	volume.RoleReader:  hostpb.AttachmentRole_ATTACHMENT_ROLE_READER,
	volume.RoleStandby: hostpb.AttachmentRole_ATTACHMENT_ROLE_STANDBY,
	volume.RoleCutOff:  hostpb.AttachmentRole_ATTACHMENT_ROLE_CUT_OFF,
}

// attachmentOf says what an attachment is and, if it is open, how its host connects.
func (h *Host) attachmentOf(id cloud.VolumeID, a volume.Attachment) *hostpb.AttachmentState {
	s := &hostpb.AttachmentState{
		AttachmentId: string(a.ID), Host: string(a.Host), Epoch: a.Epoch, Role: roles[a.Role], Connections: int64(a.Connections),
	}
	if a.Role == volume.RoleAbsent {
		return s
	}
	s.Export = blockserve.ExportName(id, a.ID)
	s.Address, s.Port, s.Tls = h.o.NBD.Addr().String(), int64(h.o.NBD.Port()), h.o.TLS
	if h.o.TLS {
		s.TlsHostname = string(h.o.Name)
	}
	return s
}

func (h *Host) stateOf(st volume.State) *hostpb.VolumeState {
	s := &hostpb.VolumeState{VolumeId: string(st.ID), Present: st.Present, Generation: st.Generation, Epoch: st.Epoch}
	if !st.Present {
		return s
	}
	s.Backend, s.Bytes, s.AllocatedBytes = st.Backend, st.Bytes, st.AllocatedBytes
	for _, a := range st.Attachments {
		s.Attachments = append(s.Attachments, h.attachmentOf(st.ID, a))
	}
	for _, snap := range st.Snapshots {
		s.SnapshotIds = append(s.SnapshotIds, string(snap.ID))
	}
	return s
}

func limitsOf(l *hostpb.VolumeLimits) volume.Limits {
	return volume.Limits{IOPS: l.GetIops(), BytesPerSecond: l.GetBytesPerSecond()}
}
