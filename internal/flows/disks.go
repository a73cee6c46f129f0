package flows

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// The volumes of servers. A server's Devices say which volumes it has; an Attachment says through which export its host reaches one. While a server moves,
// each of its volumes has two attachments, told apart by their hosts.

// volumesOn returns the server's volumes as that host connects to them. A volume that is not open there yet is left out.
func volumesOn(v store.View, s *cloud.Server, host cloud.HostName) ([]*hostpb.VolumeDisk, error) {
	var out []*hostpb.VolumeDisk
	for i := range s.Devices {
		d := &s.Devices[i]
		a := attachmentOn(v, d, host)
		if a == nil || a.Connection == nil {
			continue
		}
		disk, err := volumeDisk(v, d, a)
		if err != nil {
			return nil, err
		}
		out = append(out, disk)
	}
	return out, nil
}

// attachmentOn returns the attachment of one of a server's disks on a host, nil when there is none.
func attachmentOn(v store.View, d *cloud.BlockDevice, host cloud.HostName) *cloud.Attachment {
	own, ok := store.Lookup(v, tables.Attachments, d.Attachment)
	if !ok || own.Host == host {
		return own
	}
	for _, a := range store.By(v, tables.Attachments, tables.ByVolume, d.Volume) {
		if a.Server == own.Server && a.Host == host {
			return a
		}
	}
	return nil
}

func volumeDisk(v store.View, d *cloud.BlockDevice, a *cloud.Attachment) (*hostpb.VolumeDisk, error) {
	volume, ok := store.Lookup(v, tables.Volumes, d.Volume)
	if !ok {
		return nil, cloud.Errorf(cloud.KindInternal, "volume %s of server %s is gone", d.Volume, a.Server)
	}
	c := a.Connection
	return &hostpb.VolumeDisk{
		VolumeId: string(d.Volume), AttachmentId: string(a.ID), Device: strings.TrimPrefix(d.Device, "/dev/"), BootIndex: int64(d.BootIndex), ReadOnly: a.ReadOnly,
		Export: c.Export, Address: c.Address, Port: int64(c.Port), Tls: c.TLS, TlsHostname: c.TLSHostname, Shareable: volume.Multiattach, Tag: d.Tag,
		Bytes: volume.Bytes(),
	}, nil
}

// openAttachment opens an attachment at the volume's service for the host, and records how the host connects. Opening again is no change.
func (f *Flows) openAttachment(ctx context.Context, r *run, a *cloud.Attachment, host cloud.HostName, handover bool) error {
	return f.onVolume(ctx, r, a.Volume, func(c volumeCall) error {
		state, err := c.host.OpenAttachment(ctx, &hostpb.OpenAttachmentRequest{
			Call: c.call, AttachmentId: string(a.ID), Host: string(host), ReadOnly: a.ReadOnly, Handover: handover, Shared: c.volume.Multiattach,
		})
		if err != nil {
			return err
		}
		link := attachments.Link{Host: host, Epoch: state.GetEpoch(), Connection: cloud.Connection{Export: state.GetExport(), Address: state.GetAddress(),
			Port: int(state.GetPort()), TLS: state.GetTls(), TLSHostname: state.GetTlsHostname()}}
		_, err = f.Records.UpdateVisible(ctx, func(tx *store.Tx) error { return attachments.Connect(tx, a.ID, link, now()) })
		return err
	})
}

// closeAttachment ends an attachment at the volume's service. A volume or attachment that is nowhere is success.
func (f *Flows) closeAttachment(ctx context.Context, r *run, volume cloud.VolumeID, id cloud.AttachmentID) error {
	return ignoreMissing(f.onVolume(ctx, r, volume, func(c volumeCall) error {
		_, err := c.host.CloseAttachment(ctx, &hostpb.AttachmentRequest{Call: c.call, AttachmentId: string(id)})
		return err
	}))
}

// tidyAttachment is closeAttachment for undos: a service that does not answer is left alone after some attempts. The next attachment of the volume cuts
// the one that stayed open off.
func (f *Flows) tidyAttachment(ctx context.Context, r *run, volume cloud.VolumeID, id cloud.AttachmentID) error {
	err := f.closeAttachment(ctx, r, volume, id)
	if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= tidyAttemptsMax {
		logger(r).Warn("volume service does not answer; an attachment stays open until the next one", "volume", volume, "attachment", id, "error", err)
		return nil
	}
	return err
}

// awaitVolumes returns when the volumes that are made for the server are there.
func (f *Flows) awaitVolumes(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil || len(s.Devices) == 0 {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	changed := f.Records.Watch(watching, tables.Volumes)
	for {
		ready, err := volumesReady(f.Records.View(), &s)
		if ready || err != nil {
			return err
		}
		select {
		case _, open := <-changed:
			if !open {
				return cloud.Errorf(cloud.KindUnavailable, "the store is closing")
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// volumesReady reports whether all of the server's volumes are made; one that failed ends the boot.
func volumesReady(v store.View, s *cloud.Server) (bool, error) {
	ready := true
	for i := range s.Devices {
		volume, ok := store.Lookup(v, tables.Volumes, s.Devices[i].Volume)
		if !ok {
			return false, workflow.Abort(cloud.Errorf(cloud.KindInvalid, "Block Device Mapping is Invalid: failed to get volume %s.", s.Devices[i].Volume))
		}
		switch volume.Status {
		case cloud.VolumeCreating, cloud.VolumeDownloading:
			ready = false
		case cloud.VolumeError, cloud.VolumeDeleting, cloud.VolumeErrorDeleting, cloud.VolumeDeleted:
			return false, workflow.Abort(cloud.Errorf(cloud.KindInvalid, "Volume %s did not finish being created: its status is %s%s.",
				volume.ID, volume.Status, because(volume.Fault)))
		case cloud.VolumeAvailable, cloud.VolumeReserved, cloud.VolumeAttaching, cloud.VolumeInUse, cloud.VolumeDetaching, cloud.VolumeExtending,
			cloud.VolumeUploading, cloud.VolumeRetyping, cloud.VolumeMaintenance, cloud.VolumeReverting, cloud.VolumeErrorExtending,
			cloud.VolumeErrorRestoring: // it has data
		}
	}
	return ready, nil
}

func because(f *cloud.Fault) string {
	if f == nil {
		return ""
	}
	return " (" + f.Message + ")"
}

// openVolumes opens the server's volumes for its host.
func (f *Flows) openVolumes(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return err
	}
	for i := range s.Devices {
		a, ok := store.Lookup(f.Records.View(), tables.Attachments, s.Devices[i].Attachment)
		if !ok {
			return workflow.Abort(cloud.Errorf(cloud.KindInternal, "server %s: volume %s has no attachment", s.ID, s.Devices[i].Volume))
		}
		if err := f.openAttachment(ctx, r, a, s.Host, false); err != nil {
			return fmt.Errorf("open volume %s: %w", a.Volume, err)
		}
	}
	return nil
}

// openVolumesOfHard opens volumes for a reboot that makes the domain anew; in a soft one the guest keeps its connections.
func (f *Flows) openVolumesOfHard(ctx context.Context, r *run) error {
	if !r.Args.Hard {
		return nil
	}
	return f.openVolumes(ctx, r)
}

// closeVolumes undoes openVolumes at the services; the attachments' records stay, for another host.
func (f *Flows) closeVolumes(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return ignoreMissing(err)
	}
	for i := range s.Devices {
		if err := f.tidyAttachment(ctx, r, s.Devices[i].Volume, s.Devices[i].Attachment); err != nil {
			return err
		}
	}
	return nil
}

// completeVolumes records that the server uses its volumes.
func completeVolumes(tx *store.Tx, s *cloud.Server) error {
	for i := range s.Devices {
		if err := attachments.Complete(tx, s.Devices[i].Attachment, now()); err != nil {
			return err
		}
	}
	return nil
}

// releaseVolumes gives the volumes of a server that never ran back to their owner. What was made for it goes when it is deleted.
func releaseVolumes(tx *store.Tx, s *cloud.Server) error {
	for i := range s.Devices {
		if err := attachments.Release(tx, s.Devices[i].Attachment, now()); err != nil {
			return err
		}
		s.Devices[i].Attachment = ""
	}
	return nil
}

// closeDeleted ends every attachment of a server that is being deleted, those of an unfinished move included.
func (f *Flows) closeDeleted(ctx context.Context, r *run) error {
	for _, a := range store.By(f.Records.View(), tables.Attachments, tables.ByServer, r.Args.Server) {
		err := f.closeAttachment(ctx, r, a.Volume, a.ID)
		if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= deletePatience {
			logger(r).Warn("volume service does not answer; an attachment stays open until the next one", "volume", a.Volume, "attachment", a.ID, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", a.Volume, err)
		}
	}
	return nil
}

// dropVolumes releases a deleted server's volumes, and has those deleted that were to go with it.
func dropVolumes(tx *store.Tx, r *run, s *cloud.Server) error {
	all, err := store.PeekList(tx, tables.Attachments, "")
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Server != s.ID {
			continue
		}
		if err := attachments.Release(tx, a.ID, now()); err != nil {
			return err
		}
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		v, err := store.Peek(tx, tables.Volumes, d.Volume)
		if err != nil {
			return err
		}
		if orphan := v != nil && v.DeleteOnServerOf == s.ID && s.Launched.IsZero(); !d.DeleteOnTermination && !orphan {
			continue
		}
		if err := deleteWithServer(tx, r, s, s.Devices[i].Volume); err != nil {
			return err
		}
	}
	return nil
}

// deleteWithServer writes the intent to delete a volume, unless somebody else uses it or somebody deletes it already.
func deleteWithServer(tx *store.Tx, r *run, s *cloud.Server, id cloud.VolumeID) error {
	v, err := store.Get(tx, tables.Volumes, id)
	if err != nil {
		return ignoreMissing(err)
	}
	if len(v.AttachmentIDs) > 0 || len(v.SnapshotIDs) > 0 || v.Status == cloud.VolumeDeleting || !v.Status.CanBecome(cloud.VolumeDeleting) {
		logger(r).Warn("a volume that was to go with its server stays", "volume", id, "status", v.Status, "attachments", len(v.AttachmentIDs), "snapshots", len(v.SnapshotIDs))
		return nil
	}
	v.Status, v.PreviousStatus, v.Updated = cloud.VolumeDeleting, v.Status, now()
	i := cloud.Intent{
		ID: derivedIntent(r, "delete "+string(id)), Kind: cloud.IntentVolumeDelete, Volume: id, RequestID: r.Args.RequestID, Project: v.Project, User: s.User, Created: now(),
	}
	if err := store.Put(tx, tables.Volumes, id, v); err != nil {
		return err
	}
	return store.Put(tx, tables.Intents, i.ID, i)
}

// derivedIntent is the id of an intent that a run writes: the same each time it does.
func derivedIntent(r *run, what string) cloud.IntentID {
	return cloud.IntentID(derived(r, what))
}

func derived(r *run, what string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(string(r.ID)+" "+what)).String()
}

// openTargetVolumes opens the server's volumes for the target of a live migration: standing by, while the source writes.
func (f *Flows) openTargetVolumes(ctx context.Context, r *run) error {
	return f.openOnTarget(ctx, r, true)
}

// openOnTarget reserves and opens, for each of the server's volumes, the attachment that the target will use. Without handover it is the only writer when
// this returns.
func (f *Flows) openOnTarget(ctx context.Context, r *run, handover bool) error {
	s, m, err := f.both(r)
	if err != nil || s.Host == m.Target {
		return err
	}
	return f.openMove(ctx, r, movingVolumes{server: &s, migration: m.ID, host: m.Target, handover: handover})
}

// movingVolumes says for which host the volumes of a server that moves are opened.
type movingVolumes struct {
	server    *cloud.Server
	migration cloud.MigrationID
	host      cloud.HostName
	handover  bool // the host stands by while the other one writes
}

func (f *Flows) openMove(ctx context.Context, r *run, v movingVolumes) error {
	for i := range v.server.Devices {
		d := &v.server.Devices[i]
		var a cloud.Attachment
		_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) (err error) {
			a, err = attachments.ReserveMove(tx, attachments.Move{ID: targetAttachment(r, d), From: d.Attachment, Host: v.host, Migration: v.migration, Now: now()})
			return err
		})
		if err == nil {
			err = f.openAttachment(ctx, r, &a, v.host, v.handover)
		}
		if err != nil {
			return fmt.Errorf("open volume %s for host %s: %w", d.Volume, v.host, err)
		}
	}
	return nil
}

// targetAttachment is the id of the attachment through which the run's target reaches one of the server's volumes.
func targetAttachment(r *run, d *cloud.BlockDevice) cloud.AttachmentID {
	return cloud.AttachmentID(derived(r, "attach "+string(d.Volume)))
}

// closeTargetVolumes undoes openTargetVolumes. The source writes on: a standby that closes changes nothing for the writer.
func (f *Flows) closeTargetVolumes(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return ignoreMissing(err)
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		id := targetAttachment(r, d)
		if d.Attachment == id {
			continue // it has switched: not ours to close
		}
		if _, ok := store.Lookup(f.Records.View(), tables.Attachments, id); !ok {
			continue
		}
		if err := f.tidyAttachment(ctx, r, d.Volume, id); err != nil {
			return err
		}
		if _, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error { return attachments.Release(tx, id, now()) }); err != nil {
			return err
		}
	}
	return nil
}

// handOver makes a host's attachments the server's, in the transaction of the switch. The other host's stay, as the move's, until they are closed.
func handOver(tx *store.Tx, s *cloud.Server, m *cloud.Migration, host cloud.HostName) error {
	for i := range s.Devices {
		d := &s.Devices[i]
		v, err := store.Get(tx, tables.Volumes, d.Volume)
		if err != nil {
			return err
		}
		all, err := attachments.Of(tx, &v)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(a cloud.Attachment) bool { return a.Migration == m.ID && a.Host == host })
		if at < 0 {
			return cloud.Errorf(cloud.KindInternal, "server %s moved to %s without an attachment of volume %s", s.ID, host, d.Volume)
		}
		if err := attachments.CompleteMove(tx, d.Attachment, all[at].ID, now()); err != nil {
			return err
		}
		d.Attachment = all[at].ID
	}
	return nil
}

// promoteVolumes makes the target's attachments the writers. A service that does not answer does not hold the move up: the guest's first write does it.
func (f *Flows) promoteVolumes(ctx context.Context, r *run) error {
	s, err := f.server(r)
	if err != nil {
		return ignoreMissing(err)
	}
	for i := range s.Devices {
		err := f.onVolume(ctx, r, s.Devices[i].Volume, func(c volumeCall) error {
			_, err := c.host.PromoteAttachment(ctx, &hostpb.AttachmentRequest{Call: c.call, AttachmentId: string(s.Devices[i].Attachment)})
			return err
		})
		if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= tidyAttemptsMax {
			logger(r).Warn("volume service does not answer; the guest's first write makes it the writer", "volume", s.Devices[i].Volume, "error", err)
			continue
		}
		if err := ignoreMissing(err); err != nil {
			return fmt.Errorf("volume %s: %w", s.Devices[i].Volume, err)
		}
	}
	return nil
}

// stateLeft is the name under which a run remembers the attachments that the source had.
const stateLeft = "left"

// leftAttachment is one of them.
type leftAttachment struct {
	Volume     cloud.VolumeID     `json:"volume"`
	Attachment cloud.AttachmentID `json:"attachment"`
}

// rememberSource writes down, before the switch, what is to be closed after it.
func (f *Flows) rememberSource(ctx context.Context, r *run) error {
	s, m, err := f.both(r)
	if err != nil || s.Host == m.Target || len(s.Devices) == 0 {
		return err
	}
	var left []leftAttachment
	for _, d := range s.Devices {
		left = append(left, leftAttachment{d.Volume, d.Attachment})
	}
	return r.Save(ctx, stateLeft, left)
}

// closeSourceVolumes ends the source's attachments. Their records went with the switch.
func (f *Flows) closeSourceVolumes(ctx context.Context, r *run) error {
	var left []leftAttachment
	if _, err := r.Get(stateLeft, &left); err != nil {
		return err
	}
	for _, a := range left {
		if err := f.tidyAttachment(ctx, r, a.Volume, a.Attachment); err != nil {
			return err
		}
	}
	return nil
}
