package attachments

import (
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A Reservation asks for a volume on behalf of a server.
type Reservation struct {
	ID       cloud.AttachmentID // made by the caller before the transaction, so that a repeated one writes the same record
	Volume   cloud.VolumeID
	Server   cloud.ServerID // empty: held for somebody who will say later (Cinder's os-reserve and attachments without a server)
	Project  cloud.ProjectID
	Device   string // "/dev/vdb"; empty when not known yet
	ReadOnly bool
	Now      time.Time
}

// Reserve promises the volume to a server. A volume that does not exist is cloud.KindNotFound, one that cannot be promised now is cloud.KindInvalid
// in Cinder's words. Reserving again under the same id changes nothing.
//
// A volume without multiattach goes to one server at a time. A volume that is still being created can be promised only to the server it is
// created for.
func Reserve(tx *store.Tx, r Reservation) (cloud.Attachment, error) {
	v, err := volume(tx, r.Volume)
	if err != nil {
		return cloud.Attachment{}, err
	}
	if held, err := store.Get(tx, tables.Attachments, r.ID); err == nil {
		return held, nil
	} else if !cloud.Is(err, cloud.KindNotFound) {
		return held, err
	}
	if err := mayReserve(tx, &v, r.Server); err != nil {
		return cloud.Attachment{}, err
	}
	a := cloud.Attachment{
		ID: r.ID, Volume: r.Volume, Server: r.Server, Project: r.Project, Device: r.Device, ReadOnly: r.ReadOnly || v.ReadOnly,
		Status: cloud.AttachmentReserved, Created: r.Now,
	}
	return a, add(tx, &v, a, r.Now)
}

// mayReserve applies the rule of one server at a time.
func mayReserve(tx *store.Tx, v *cloud.Volume, server cloud.ServerID) error {
	wanted := "available or downloading"
	switch v.Status {
	case cloud.VolumeAvailable:
		if v.Multiattach {
			return onceEach(tx, v, server)
		}
		return untaken(tx, v) // an administrator may have called it available
	case cloud.VolumeCreating, cloud.VolumeDownloading:
		if v.DeleteOnServerOf != "" && v.DeleteOnServerOf == server && len(v.AttachmentIDs) == 0 {
			return nil
		}
	case cloud.VolumeReserved, cloud.VolumeAttaching, cloud.VolumeInUse, cloud.VolumeDetaching:
		if v.Multiattach {
			return onceEach(tx, v, server)
		}
	case cloud.VolumeExtending, cloud.VolumeUploading, cloud.VolumeRetyping, cloud.VolumeMaintenance, cloud.VolumeReverting, cloud.VolumeDeleting, cloud.VolumeError,
		cloud.VolumeErrorDeleting, cloud.VolumeErrorExtending, cloud.VolumeErrorRestoring, cloud.VolumeDeleted: // refused
	}
	if v.Multiattach {
		wanted = "available or in-use or downloading"
	}
	return cloud.Errorf(cloud.KindInvalid, "Invalid volume: Volume %s status must be %s to reserve, but the current status is %s.", v.ID, wanted, v.Status)
}

// untaken refuses a volume that is available in name only.
func untaken(tx *store.Tx, v *cloud.Volume) error {
	all, err := Of(tx, v)
	if err != nil || resting(all) == cloud.VolumeAvailable {
		return err
	}
	return cloud.Errorf(cloud.KindInvalid, "Invalid volume: Volume %s is called available, but it has attachments and is %s.", v.ID, resting(all))
}

// onceEach refuses a second attachment of a shared volume to the same server.
func onceEach(tx *store.Tx, v *cloud.Volume, server cloud.ServerID) error {
	all, err := Of(tx, v)
	if err != nil {
		return err
	}
	if server != "" && slices.ContainsFunc(all, func(a cloud.Attachment) bool { return a.Server == server }) {
		return cloud.Errorf(cloud.KindInvalid, "Invalid volume: volume %s already attached to server %s", v.ID, server)
	}
	return nil
}

// A Move asks for the second attachment of a volume whose server moves to another host.
type Move struct {
	ID        cloud.AttachmentID // of the new attachment; made by the caller before the transaction
	From      cloud.AttachmentID // the attachment of the server where it is now
	Host      cloud.HostName     // the target
	Migration cloud.MigrationID
	Now       time.Time
}

// ReserveMove adds the attachment through which the target host will reach the volume. It does not change the volume's status. Asking again under the same id
// changes nothing.
func ReserveMove(tx *store.Tx, m Move) (cloud.Attachment, error) {
	if held, err := store.Get(tx, tables.Attachments, m.ID); err == nil {
		return held, nil
	} else if !cloud.Is(err, cloud.KindNotFound) {
		return held, err
	}
	from, err := attachment(tx, m.From)
	if err != nil {
		return cloud.Attachment{}, err
	}
	if from.Status != cloud.AttachmentAttached {
		return cloud.Attachment{}, cloud.Errorf(cloud.KindConflict, "attachment %s of volume %s is %s: a server moves with attached volumes only", from.ID, from.Volume, from.Status)
	}
	v, err := volume(tx, from.Volume)
	if err != nil {
		return cloud.Attachment{}, err
	}
	a := cloud.Attachment{
		ID: m.ID, Volume: from.Volume, Server: from.Server, Host: m.Host, Project: from.Project, Device: from.Device, ReadOnly: from.ReadOnly,
		Migration: m.Migration, Status: cloud.AttachmentReserved, Created: m.Now,
	}
	return a, add(tx, &v, a, m.Now)
}

// CompleteMove makes the target's attachment the server's and removes the source's: one transaction with the switch of a migration. An id
// that is gone already is passed over.
func CompleteMove(tx *store.Tx, source, target cloud.AttachmentID, now time.Time) error {
	err := change(tx, target, now, func(a *cloud.Attachment) error {
		a.Migration, a.Status, a.Attached = "", cloud.AttachmentAttached, now
		return nil
	})
	if err != nil {
		return err
	}
	return Release(tx, source, now)
}

// A Link is what the volume service said when it opened an attachment.
type Link struct {
	Host       cloud.HostName
	Device     string // empty: as reserved
	Epoch      int64
	Connection cloud.Connection
}

// Connect records how the host reaches the volume: reserved -> attaching. A standing-by attachment of a move, or one that is attached already (a host that
// connects anew), keeps its status.
func Connect(tx *store.Tx, id cloud.AttachmentID, l Link, now time.Time) error {
	return change(tx, id, now, func(a *cloud.Attachment) error {
		a.Host, a.Epoch, a.Connection = l.Host, l.Epoch, &l.Connection
		if l.Device != "" {
			a.Device = l.Device
		}
		if a.Status == cloud.AttachmentReserved {
			a.Status = cloud.AttachmentAttaching
		}
		return nil
	})
}

// Complete records that the server uses the volume: the attachment is attached, the volume in-use.
func Complete(tx *store.Tx, id cloud.AttachmentID, now time.Time) error {
	return change(tx, id, now, func(a *cloud.Attachment) error {
		if a.Status == cloud.AttachmentAttached {
			return nil
		}
		a.Status, a.Attached = cloud.AttachmentAttached, now
		return nil
	})
}

// BeginDetach announces that the server is to let go of the volume. An attachment that is not attached is cloud.KindInvalid, one that is
// detaching already stays so.
func BeginDetach(tx *store.Tx, id cloud.AttachmentID, now time.Time) error {
	return change(tx, id, now, func(a *cloud.Attachment) error {
		switch a.Status {
		case cloud.AttachmentAttached:
			a.Status = cloud.AttachmentDetaching
		case cloud.AttachmentDetaching:
		case cloud.AttachmentReserved, cloud.AttachmentAttaching, cloud.AttachmentDetached:
			return cloud.Errorf(cloud.KindInvalid, "Invalid volume: Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.")
		}
		return nil
	})
}

// RollBackDetach takes BeginDetach back: the server still has the volume.
func RollBackDetach(tx *store.Tx, id cloud.AttachmentID, now time.Time) error {
	return change(tx, id, now, func(a *cloud.Attachment) error {
		if a.Status == cloud.AttachmentDetaching {
			a.Status = cloud.AttachmentAttached
		}
		return nil
	})
}

// Release removes the attachment, whatever its status, and settles its volume. One that is gone already is success. The volume service must
// have closed the attachment before, or never have opened it.
func Release(tx *store.Tx, id cloud.AttachmentID, now time.Time) error {
	a, err := store.Get(tx, tables.Attachments, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := store.Delete(tx, tables.Attachments, id); err != nil {
		return err
	}
	v, err := volume(tx, a.Volume)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v.AttachmentIDs = slices.DeleteFunc(v.AttachmentIDs, func(have cloud.AttachmentID) bool { return have == id })
	return settle(tx, &v, now)
}

// Of returns the volume's attachments as the transaction sees them, oldest first.
func Of(tx *store.Tx, v *cloud.Volume) ([]cloud.Attachment, error) {
	out := make([]cloud.Attachment, 0, len(v.AttachmentIDs))
	for _, id := range v.AttachmentIDs {
		a, err := store.Peek(tx, tables.Attachments, id)
		if err != nil {
			return nil, err
		}
		if a != nil {
			out = append(out, *a)
		}
	}
	return out, nil
}

// Resting returns the status that a volume has at rest, from its attachments.
func Resting(tx *store.Tx, v *cloud.Volume) (cloud.VolumeStatus, error) {
	all, err := Of(tx, v)
	if err != nil {
		return "", err
	}
	return resting(all), nil
}

// ranks orders what attachments make of their volume; the greatest wins.
var ranks = map[cloud.AttachmentStatus]struct {
	rank   int
	volume cloud.VolumeStatus
}{
	cloud.AttachmentDetached:  {0, cloud.VolumeAvailable},
	cloud.AttachmentReserved:  {1, cloud.VolumeReserved},
	cloud.AttachmentDetaching: {2, cloud.VolumeDetaching},
	cloud.AttachmentAttaching: {3, cloud.VolumeAttaching},
	cloud.AttachmentAttached:  {4, cloud.VolumeInUse},
}

func resting(all []cloud.Attachment) cloud.VolumeStatus {
	best := ranks[cloud.AttachmentDetached]
	for _, a := range all {
		if r := ranks[a.Status]; a.Migration == "" && r.rank > best.rank {
			best = r
		}
	}
	return best.volume
}

// settle writes the volume with the status its attachments give it, now or for when it is at rest again.
func settle(tx *store.Tx, v *cloud.Volume, now time.Time) error {
	rest, err := Resting(tx, v)
	if err != nil {
		return err
	}
	switch v.Status {
	case cloud.VolumeAvailable, cloud.VolumeReserved, cloud.VolumeAttaching, cloud.VolumeInUse, cloud.VolumeDetaching:
		v.Status = rest // derived, not moved: with several servers any of these may follow any other
	case cloud.VolumeExtending, cloud.VolumeUploading, cloud.VolumeRetyping, cloud.VolumeMaintenance, cloud.VolumeReverting:
		v.PreviousStatus = rest
	case cloud.VolumeCreating, cloud.VolumeDownloading, cloud.VolumeDeleting, cloud.VolumeError, cloud.VolumeErrorDeleting,
		cloud.VolumeErrorExtending, cloud.VolumeErrorRestoring, cloud.VolumeDeleted: // not an attachment's to change
	}
	v.Updated = now
	return store.Put(tx, tables.Volumes, v.ID, *v)
}

// add writes a new attachment and its volume.
func add(tx *store.Tx, v *cloud.Volume, a cloud.Attachment, now time.Time) error {
	if err := store.Put(tx, tables.Attachments, a.ID, a); err != nil {
		return err
	}
	v.AttachmentIDs = append(v.AttachmentIDs, a.ID)
	return settle(tx, v, now)
}

// change changes an attachment and settles its volume.
func change(tx *store.Tx, id cloud.AttachmentID, now time.Time, do func(*cloud.Attachment) error) error {
	a, err := attachment(tx, id)
	if err != nil {
		return err
	}
	if err := do(&a); err != nil {
		return err
	}
	if err := store.Put(tx, tables.Attachments, id, a); err != nil {
		return err
	}
	v, err := volume(tx, a.Volume)
	if err != nil {
		return err
	}
	return settle(tx, &v, now)
}

func volume(tx *store.Tx, id cloud.VolumeID) (cloud.Volume, error) {
	v, err := store.Get(tx, tables.Volumes, id)
	if cloud.Is(err, cloud.KindNotFound) {
		err = cloud.Errorf(cloud.KindNotFound, "Volume %s could not be found.", id)
	}
	return v, err
}

func attachment(tx *store.Tx, id cloud.AttachmentID) (cloud.Attachment, error) {
	a, err := store.Get(tx, tables.Attachments, id)
	if cloud.Is(err, cloud.KindNotFound) {
		err = cloud.Errorf(cloud.KindNotFound, "Volume attachment could not be found with filter: attachment_id = %s.", id)
	}
	return a, err
}

// Guarded reports whether the storage refuses every disk of the server to its old copy as soon as it is opened elsewhere: each is a volume with one
// writer. A server with no disk at all, or with a disk of its host, is not.
func Guarded(r store.Reader, s *cloud.Server) bool {
	if s.RootDevice() == nil {
		return false
	}
	for i := range s.Devices {
		volume, ok := store.Lookup(r, tables.Volumes, s.Devices[i].Volume)
		if !ok || volume.Multiattach {
			return false
		}
	}
	return true
}
