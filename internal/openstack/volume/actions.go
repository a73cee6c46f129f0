package volume

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

// An action is one entry of POST /volumes/{id}/action.
type action struct {
	from int // microversion that brought it
	do   func(c *call, body *openstack.Object) error
}

// volumeActions are filled in by init: the handlers lead back to the table.
var volumeActions map[string]action

func init() {
	volumeActions = map[string]action{
		"os-extend": {do: (*call).extend}, "os-reset_status": {do: (*call).resetVolume}, "os-set_bootable": {do: (*call).setBootable},
		"os-update_readonly_flag": {do: (*call).setReadOnly}, "os-volume_upload_image": {do: (*call).uploadImage}, "os-retype": {do: (*call).retype},
		"os-force_delete": {do: (*call).forceDelete}, "os-show_image_metadata": {do: (*call).showImageMetadata},
		"os-set_image_metadata": {do: (*call).setImageMetadata}, "os-unset_image_metadata": {do: (*call).unsetImageMetadata}, "revert": {from: 40, do: (*call).revert},
		"os-reserve": {do: (*call).reserve}, "os-unreserve": {do: (*call).unreserve}, "os-begin_detaching": {do: (*call).beginDetaching},
		"os-roll_detaching": {do: (*call).rollDetaching}, "os-detach": {do: (*call).detach},
		"os-attach":                    {do: refuseAction("Volumes are attached by the compute service, which connects its hosts: use POST /servers/{id}/os-volume_attachments.")},
		"os-initialize_connection":     {do: refuseAction("Only hosts of the compute service are connected to volumes.")},
		"os-terminate_connection":      {do: refuseAction("Only hosts of the compute service are connected to volumes.")},
		"os-migrate_volume":            {do: refuseAction("Volumes move between back ends by os-retype; not between volume services.")},
		"os-migrate_volume_completion": {do: refuseAction("Volumes do not move between volume services.")},
		"os-extend_volume_completion":  {do: refuseAction("Servers learn of a volume's new size from godwit itself.")},
		"os-reimage":                   {from: 68, do: (*call).reimage},
		"os-unmanage":                  {do: refuseAction("Volumes cannot be taken out of godwit's care.")},
	}
}

// refuseAction refuses after the volume was found, so that a foreign volume stays a 404.
func refuseAction(why string) func(*call, *openstack.Object) error {
	return func(c *call, _ *openstack.Object) error {
		if _, err := c.volume(member, "volume_extension:volume_actions"); err != nil {
			return err
		}
		return unsupported("%s", why)
	}
}

// volumeAction answers POST /volumes/{id}/action: one action, by name.
func (c *call) volumeAction() error { return c.act(volumeActions) }

func (c *call) act(actions map[string]action) error {
	o, err := c.r.Object(c.w)
	if err != nil {
		return err
	}
	if len(o.Names) != 1 {
		return invalid("There is no such action: the body names %d actions", len(o.Names))
	}
	name := o.Names[0]
	a, ok := actions[name]
	if !ok || c.minor < a.from {
		return invalid("There is no such action: %s", name)
	}
	return a.do(c, o)
}

// arguments binds the action's arguments.
func (c *call) arguments(o *openstack.Object, into any) error {
	v, _ := o.Get(o.Names[0])
	if v == nil {
		v = &openstack.Object{}
	}
	inner, ok := v.(*openstack.Object)
	if !ok {
		return openstack.Mismatch(v, "object")
	}
	return openstack.Bind(inner, into, c.r.Version)
}

// order moves the volume into the status an intent stands for and writes the intent.
func (c *call) order(tx *store.Tx, v *cloud.Volume, status cloud.VolumeStatus, i cloud.Intent) error {
	v.PreviousStatus, v.Status, v.Fault = v.Status, status, nil
	i.Volume = v.ID
	return store.Create(tx, tables.Intents, i.ID, i)
}

func (c *call) extend(o *openstack.Object) error {
	var in struct {
		Size int `json:"new_size" api:"required;loose;range=1..1048576"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	allowed, words := []cloud.VolumeStatus{cloud.VolumeAvailable}, "'available'"
	if c.since(42) {
		allowed, words = append(allowed, cloud.VolumeInUse), "'available' or 'in-use'"
	}
	intent := c.newIntent(cloud.IntentVolumeExtend)
	intent.SizeGiB = in.Size
	_, err := c.changeVolume("volume:extend", func(tx *store.Tx, v *cloud.Volume) error {
		if !slices.Contains(allowed, v.Status) {
			return invalidVolume("Volume %s status must be %s to extend, currently %s.", v.ID, words, v.Status)
		}
		if in.Size <= v.SizeGiB {
			return invalidInput("New size for extend must be greater than current size. (current: %d, extended: %d).", v.SizeGiB, in.Size)
		}
		if err := volumebook.AffordSize(tx, v.Project, in.Size); err != nil {
			return err
		}
		if err := volumebook.Take(tx, v.Project, cloud.VolumeUsage{GiB: in.Size - v.SizeGiB}); err != nil {
			return err
		}
		return c.order(tx, v, cloud.VolumeExtending, intent)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// resetStatuses are those an administrator may give a volume.
var resetStatuses = []cloud.VolumeStatus{
	cloud.VolumeCreating, cloud.VolumeAvailable, cloud.VolumeDeleting, cloud.VolumeError, cloud.VolumeErrorDeleting, cloud.VolumeErrorRestoring,
	cloud.VolumeErrorExtending, cloud.VolumeInUse, cloud.VolumeMaintenance, cloud.VolumeReserved, cloud.VolumeAttaching, cloud.VolumeDetaching,
}

// resetVolume sets the status by an administrator's word. attach_status detached gives up the attachments of servers that are no more; those of a
// server that exists are compute's, and there is no way to say "attached" of what is not.
func (c *call) resetVolume(o *openstack.Object) error {
	var in struct {
		Status          *string `json:"status" api:"null"`
		AttachStatus    *string `json:"attach_status" api:"null;enum=detached|attached"`
		MigrationStatus *string `json:"migration_status" api:"null;enum=migrating|error|success|completing|none|starting"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	if in.Status == nil && in.AttachStatus == nil && in.MigrationStatus == nil {
		return invalid("Must specify 'status', 'attach_status' or 'migration_status' for update.")
	}
	if err := c.mayAdmin("volume_extension:volume_admin_actions:reset_status"); err != nil {
		return err
	}
	if in.Status != nil && !slices.Contains(resetStatuses, cloud.VolumeStatus(*in.Status)) {
		return invalid("Must specify a valid status")
	}
	if in.AttachStatus != nil {
		if err := c.resetAttachments(*in.AttachStatus == "attached"); err != nil {
			return err
		}
	}
	_, err := c.changeVolume("volume_extension:volume_admin_actions:reset_status", func(_ *store.Tx, v *cloud.Volume) error {
		if in.Status != nil {
			v.Status, v.PreviousStatus = cloud.VolumeStatus(*in.Status), ""
		}
		if in.MigrationStatus != nil {
			v.MigrationStatus = *in.MigrationStatus
			if v.MigrationStatus == "none" {
				v.MigrationStatus = ""
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// resetAttachments gives up what servers that are no more have left behind.
func (c *call) resetAttachments(attached bool) error {
	v, err := c.volume(member, "volume_extension:volume_admin_actions:reset_status")
	if err != nil {
		return err
	}
	if attached {
		if len(v.AttachmentIDs) == 0 {
			return invalidVolume("Volume %s has no attachment: attach it through the Compute API.", v.ID)
		}
		return nil
	}
	return c.update(func(tx *store.Tx) error {
		current, err := store.Get(tx, tables.Volumes, v.ID)
		if err != nil {
			return err
		}
		all, err := attachments.Of(tx, &current)
		if err != nil {
			return err
		}
		for _, a := range all {
			server, err := store.Peek(tx, tables.Servers, a.Server)
			if err != nil {
				return err
			}
			if server != nil {
				return conflict("Detach volume from instance %s using the Compute API", a.Server)
			}
			if err := attachments.Release(tx, a.ID, c.now()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *call) setBootable(o *openstack.Object) error {
	var in struct {
		Bootable bool `json:"bootable" api:"required;loose"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	_, err := c.changeVolume("volume_extension:volume_actions:set_bootable", func(_ *store.Tx, v *cloud.Volume) error {
		v.Bootable = in.Bootable
		return nil
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

// setReadOnly changes how later attachments open the volume.
func (c *call) setReadOnly(o *openstack.Object) error {
	var in struct {
		ReadOnly bool `json:"readonly" api:"required;loose"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	_, err := c.changeVolume("volume:update_readonly_flag", func(_ *store.Tx, v *cloud.Volume) error {
		if v.Status != cloud.VolumeAvailable {
			return invalidVolume("Volume %s status must be available to update readonly flag, but current status is: %s.", v.ID, v.Status)
		}
		v.ReadOnly = in.ReadOnly
		return nil
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

func (c *call) retype(o *openstack.Object) error {
	var in struct {
		Type   string  `json:"new_type" api:"required;len=1..255"`
		Policy *string `json:"migration_policy" api:"null;enum=on-demand|never"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	seen, err := c.volume(member, "volume:retype")
	if err != nil {
		return err
	}
	wanted, err := volumebook.FindType(c.view, in.Type, seen.Project, c.admin())
	if err != nil {
		return err
	}
	mayMove := in.Policy != nil && *in.Policy == "on-demand"
	intent := c.newIntent(cloud.IntentVolumeRetype)
	intent.VolumeType = wanted.ID
	_, err = c.changeVolume("volume:retype", func(tx *store.Tx, v *cloud.Volume) error {
		if err := mayRetype(v, wanted, mayMove); err != nil {
			return err
		}
		if backend := wanted.ExtraSpecs[cloud.SpecBackend]; backend != "" && backend != v.Backend {
			v.MigrationStatus = "migrating"
		}
		return c.order(tx, v, cloud.VolumeRetyping, intent)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// mayRetype refuses what a retype cannot do: data moves only while nobody uses it, and only when that was asked for.
func mayRetype(v *cloud.Volume, wanted *cloud.VolumeType, mayMove bool) error {
	backend := wanted.ExtraSpecs[cloud.SpecBackend]
	moves := backend != "" && backend != v.Backend
	switch {
	case v.Status != cloud.VolumeAvailable && v.Status != cloud.VolumeInUse:
		return invalidVolume("Volume status must be available or in-use, volume must not be migrating, and must not have replication or be a group's, but is %s.", v.Status)
	case v.Type == wanted.ID:
		return invalidVolume("New volume_type same as original: %s.", wanted.ID)
	case volumebook.IsMultiattach(wanted) != v.Multiattach && v.Status != cloud.VolumeAvailable:
		return invalidInput("Invalid volume_type passed. Retyping from/to a multiattach type requires the volume to be available.")
	case moves && !mayMove:
		return invalidVolume("Retype requires migration but is not allowed.")
	case moves && v.Status != cloud.VolumeAvailable:
		return invalidVolume("Retype needs volume to be in available state to move its data, but is %s.", v.Status)
	case moves && len(v.SnapshotIDs) > 0:
		return invalidVolume("Volume %s must not have snapshots to move its data to another back end.", v.ID)
	}
	return nil
}

func (c *call) forceDelete(*openstack.Object) error {
	if err := c.mayAdmin("volume_extension:volume_admin_actions:force_delete"); err != nil {
		return err
	}
	return c.removeVolume(true, false)
}

// revert makes the volume as its latest snapshot was.
func (c *call) revert(o *openstack.Object) error {
	var in struct {
		Snapshot string `json:"snapshot_id" api:"required"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	intent := c.newIntent(cloud.IntentVolumeRevert)
	_, err := c.changeVolume("volume:revert_to_snapshot", func(tx *store.Tx, v *cloud.Volume) error {
		if len(v.SnapshotIDs) == 0 {
			return invalid("Volume %s has no snapshots.", v.ID)
		}
		latest := v.SnapshotIDs[len(v.SnapshotIDs)-1]
		if string(latest) != in.Snapshot {
			return invalid("Specified snapshot %s is not the latest one of volume %s.", in.Snapshot, v.ID)
		}
		s, err := store.Get(tx, tables.VolumeSnapshots, latest)
		if err != nil {
			return err
		}
		if err := mayRevert(v, &s); err != nil {
			return err
		}
		s.Status, s.Updated = cloud.SnapshotRestoring, c.now()
		intent.Snapshot = s.ID
		if err := store.Put(tx, tables.VolumeSnapshots, s.ID, s); err != nil {
			return err
		}
		return c.order(tx, v, cloud.VolumeReverting, intent)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

func mayRevert(v *cloud.Volume, s *cloud.VolumeSnapshot) error {
	switch {
	case v.Status != cloud.VolumeAvailable:
		return conflict("Volume %s status must be available to revert it, but is %s.", v.ID, v.Status)
	case s.Status != cloud.SnapshotAvailable:
		return conflict("Snapshot %s status must be available to revert to it, but is %s.", s.ID, s.Status)
	case v.SizeGiB != s.SizeGiB:
		return invalid("Can't revert volume %s to its latest snapshot %s. The volume size must be equal to the snapshot size.", v.ID, s.ID)
	}
	return nil
}
