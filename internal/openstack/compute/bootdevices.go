package compute

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack/image"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

// oldBlockDevice is an item of block_device_mapping, the form before there were versions of it: always a volume, or one made from a snapshot.
type oldBlockDevice struct {
	VolumeID       *string        `json:"volume_id" api:"null"`
	SnapshotID     *string        `json:"snapshot_id" api:"null"`
	DeviceName     *string        `json:"device_name" api:"null"`
	VolumeSize     *sizeGiB       `json:"volume_size"`
	DeleteWith     *boolean       `json:"delete_on_termination"`
	VirtualName    *string        `json:"virtual_name" api:"null"`
	NoDevice       map[string]any `json:"no_device"`
	ConnectionInfo *string        `json:"connection_info" api:"null"`
}

// sizeGiB is a number, a text that is one, or null or empty for none.
type sizeGiB int

// BindJSON implements openstack.Binder.
func (n *sizeGiB) BindJSON(v any) error {
	if v == nil || v == "" {
		return nil
	}
	i, err := integerIn(v, 0)
	*n = sizeGiB(i)
	return err
}

// A bootDisk is one disk of a server to be made: a volume that is there, or one to be made from something.
type bootDisk struct {
	device cloud.BlockDevice // Volume and Attachment are set for each server
	volume *cloud.Volume     // that is there
	wish   volumebook.Wish   // for one that is to be made
}

func badMapping(format string, args ...any) error {
	return invalid("Block Device Mapping is Invalid: %s", textf(format, args...))
}

func badSequence() error {
	return badMapping("Boot sequence for the instance and image/block device mapping combination is not valid.")
}

// devicesAsked returns the block devices of a request in the newer form. An old mapping of the root device's name is the one to boot from.
func (r *createRequest) devicesAsked() []blockDevice {
	out := slices.Clone(r.Devices)
	for _, old := range r.OldDevices {
		d := blockDevice{DestinationType: "volume", DeleteWith: old.DeleteWith, Rest: map[string]any{}}
		if old.VolumeSize != nil {
			size := natural(*old.VolumeSize)
			d.VolumeSize = &size
		}
		switch {
		case old.SnapshotID != nil && *old.SnapshotID != "":
			d.SourceType, d.UUID = "snapshot", *old.SnapshotID
		case old.VolumeID != nil:
			d.SourceType, d.UUID = "volume", *old.VolumeID
		}
		boots := looseText("-1")
		if old.DeviceName != nil {
			d.Rest["device_name"] = *old.DeviceName
			if deviceName(*old.DeviceName) == rootDevice {
				boots = "0"
			}
		}
		d.BootIndex = &boots
		out = append(out, d)
	}
	return out
}

// deviceName puts "vdb" and "/dev/vdb" into one form.
func deviceName(s string) string { return "/dev/" + strings.TrimPrefix(s, "/dev/") }

var devicePattern = regexp.MustCompile(`^/dev/vd[a-z]$`)

// localRoot is the one block device that says what happens anyway: the image on a local root disk.
func (d *blockDevice) localRoot() bool {
	return d.SourceType == "image" && (d.DestinationType == "" || d.DestinationType == "local")
}

// planDevices judges the block devices of a request.
func (c *call) planDevices(plan *bootPlan, asked *createRequest) error {
	devices, err := c.withImageDevices(asked, asked.devicesAsked())
	if err != nil {
		return err
	}
	var indexes []int
	for i := range devices {
		d := &devices[i]
		if d.localRoot() {
			if err := asked.takeLocalRoot(d); err != nil {
				return err
			}
			indexes = append(indexes, 0)
			continue
		}
		disk, err := c.planDisk(d)
		if err != nil {
			return err
		}
		if disk.device.BootIndex >= 0 {
			indexes = append(indexes, disk.device.BootIndex)
		}
		plan.disks = append(plan.disks, disk)
	}
	slices.Sort(indexes)
	for want, got := range indexes {
		if want != got {
			return badSequence()
		}
	}
	if len(devices) > 0 && len(indexes) == 0 && asked.ImageRef == "" {
		return badSequence()
	}
	if plan.countMax > 1 && slices.ContainsFunc(plan.disks, func(d bootDisk) bool { return d.volume != nil }) {
		return invalid("Cannot attach one or more volumes to multiple instances")
	}
	for i := range plan.disks {
		plan.template.Devices = append(plan.template.Devices, plan.disks[i].device)
	}
	return nameDevices(&plan.template)
}

// takeLocalRoot takes the image of a server with a local root disk from its block devices.
func (r *createRequest) takeLocalRoot(d *blockDevice) error {
	ref := d.UUID + d.ImageID
	if r.ImageRef == "" {
		r.ImageRef = imageRef(ref)
	}
	if ref != string(r.ImageRef) || d.BootIndex != nil && *d.BootIndex != "0" {
		return badSequence()
	}
	if d.VolumeType != nil {
		return badMapping("Specifying a volume type is only for disks that are made as volumes.")
	}
	return nil
}

// planDisk looks up what one disk is or is to be made from.
func (c *call) planDisk(d *blockDevice) (bootDisk, error) {
	out := bootDisk{device: cloud.BlockDevice{BootIndex: -1, Source: d.SourceType, SourceID: d.UUID, DeleteOnTermination: d.DeleteWith != nil && bool(*d.DeleteWith)}}
	if d.BootIndex != nil && *d.BootIndex != "" && *d.BootIndex != "None" {
		index, err := strconv.Atoi(string(*d.BootIndex))
		if err != nil {
			return out, badMapping("Boot index is invalid.")
		}
		out.device.BootIndex = max(index, -1)
	}
	if name, _ := d.Rest["device_name"].(string); name != "" {
		out.device.Device = deviceName(name)
	}
	if d.VolumeSize != nil {
		out.device.SizeGiB = int(*d.VolumeSize)
	}
	switch {
	case d.SourceType == "":
		return out, badMapping("a block device names neither a volume nor a snapshot.")
	case d.Tag != nil:
		return out, badMapping("tags of block devices are not supported.")
	case d.DestinationType == "local", d.SourceType == "blank" && d.DestinationType == "":
		return out, badMapping("a server has one local disk, made from its image.")
	case d.SourceType == "volume":
		if d.VolumeType != nil && *d.VolumeType != "" {
			return out, badMapping("Specifying a volume type for a volume that exists has no meaning.")
		}
		return out, c.useVolume(&out, d.UUID)
	}
	out.wish = volumebook.Wish{Project: c.r.Caller.Project, User: c.r.Caller.User, SizeGiB: out.device.SizeGiB, Now: c.now()}
	if err := c.wishSource(&out, d); err != nil {
		return out, err
	}
	if d.VolumeType != nil && *d.VolumeType != "" {
		t, err := volumebook.FindType(c.view, *d.VolumeType, c.r.Caller.Project, c.admin())
		if err != nil {
			return out, invalid("Volume type %s could not be found.", *d.VolumeType)
		}
		out.wish.Type, out.device.VolumeType = t, t.Name
	}
	_, err := volumebook.Plan(c.view, out.wish)
	return out, err
}

// useVolume finds a volume that exists.
func (c *call) useVolume(out *bootDisk, id string) error {
	v, err := c.findVolume(id)
	if err != nil {
		return badMapping("failed to get volume %s.", id)
	}
	if out.device.BootIndex == 0 && !v.Bootable {
		return badMapping("Block Device %s is not bootable.", id)
	}
	if v.Multiattach && !c.since(60) {
		return tooOldForShared()
	}
	out.volume, out.device.Volume, out.device.SizeGiB, out.device.ReadOnly = v, v.ID, v.SizeGiB, v.ReadOnly
	return nil
}

// findVolume returns a volume that the caller may see.
func (c *call) findVolume(id string) (*cloud.Volume, error) {
	v, ok := store.Lookup(c.view, tables.Volumes, cloud.VolumeID(id))
	if !ok || !c.r.Caller.Sees(v.Project) {
		return nil, notFound("Volume %s could not be found.", id)
	}
	return v, nil
}

func tooOldForShared() error {
	return invalid("Multiattach volumes are only supported starting with compute API version 2.60.")
}

// wishSource looks up what a volume is to be made from.
func (c *call) wishSource(out *bootDisk, d *blockDevice) error {
	size := out.device.SizeGiB
	switch d.SourceType {
	case "blank":
		if size == 0 {
			return badMapping("Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size.")
		}
		if out.device.BootIndex == 0 {
			return badMapping("a blank volume is not bootable.")
		}
	case "image":
		i, ok := store.Lookup(c.view, tables.Images, cloud.ImageID(d.UUID+d.ImageID))
		switch {
		case !ok || !image.Visible(c.r.Caller, i):
			return badMapping("failed to get image %s.", d.UUID+d.ImageID)
		case size == 0:
			return badMapping("Images with destination_type 'volume' need to have a non-zero size specified.")
		}
		out.wish.Image, out.device.SourceID = i, string(i.ID)
	case "snapshot":
		snapshot, ok := store.Lookup(c.view, tables.VolumeSnapshots, cloud.SnapshotID(d.UUID))
		if !ok || !c.r.Caller.Sees(snapshot.Project) {
			return badMapping("failed to get snapshot %s.", d.UUID)
		}
		out.wish.Snapshot = snapshot
	}
	return nil
}

// nameDevices gives every disk of a new server its device.
func nameDevices(s *cloud.Server) error {
	used := map[string]bool{}
	if s.RootDevice() == nil {
		used[rootDevice] = true
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		if d.BootIndex == 0 {
			d.Device = rootDevice
		}
		switch {
		case d.Device == "":
			continue
		case !devicePattern.MatchString(d.Device):
			return invalid("The supplied device path (%s) is invalid.", d.Device)
		case used[d.Device], d.Device == configDevice:
			return invalid("The supplied device path (%s) is in use.", d.Device)
		}
		used[d.Device] = true
	}
	for i := range s.Devices {
		if d := &s.Devices[i]; d.Device == "" {
			if d.Device = freeDevice(used); d.Device == "" {
				return tooManyDisks()
			}
			used[d.Device] = true
		}
	}
	return nil
}

// configDevice is where hosts put a config drive: last, whatever else a server has.
const configDevice = "/dev/vdz"

func tooManyDisks() error {
	return cloud.Errorf(cloud.KindForbidden, "The maximum allowed number of disk devices (%d) to attach to a single instance has been exceeded.", 'z'-'a')
}

func freeDevice(used map[string]bool) string {
	for letter := 'a'; letter < 'z'; letter++ {
		if name := "/dev/vd" + string(letter); !used[name] {
			return name
		}
	}
	return ""
}

// nextDevice names a disk that is attached to a server that exists. A guest with a config drive has one disk more than its devices: the guest's name
// of it is passed over, so that the guest will, if it was not changed since its boot, call the new disk what the API calls it.
func nextDevice(s *cloud.Server) string {
	used := map[string]bool{}
	if s.RootDevice() == nil {
		used[rootDevice] = true
	}
	for _, d := range s.Devices {
		used[d.Device] = true
	}
	if s.ConfigDrive {
		used[freeDevice(used)] = true
	}
	return freeDevice(used)
}

// A madeDisk has the ids of one server's disk, made before the transaction that writes them.
type madeDisk struct {
	volume     cloud.VolumeID
	attachment cloud.AttachmentID
	intent     cloud.Intent
}

func (c *call) newDisks(plan *bootPlan) []madeDisk {
	out := make([]madeDisk, len(plan.disks))
	for i := range plan.disks {
		out[i] = madeDisk{cloud.VolumeID(newID()), cloud.AttachmentID(newID()), c.newOrder(cloud.IntentVolumeCreate, "").intent}
	}
	return out
}

// makeDisks makes or takes the server's volumes, in its transaction.
func (c *call) makeDisks(tx *store.Tx, plan *bootPlan, made []madeDisk, s *cloud.Server) error {
	s.Devices = slices.Clone(s.Devices)
	for i := range plan.disks {
		d, ids := &s.Devices[i], made[i]
		d.Attachment = ids.attachment
		if plan.disks[i].volume == nil {
			d.Volume = ids.volume
			if err := c.makeVolume(tx, plan.disks[i].wish, ids, s); err != nil {
				return err
			}
		}
		_, err := attachments.Reserve(tx, attachments.Reservation{
			ID: d.Attachment, Volume: d.Volume, Server: s.ID, Project: s.Project, Device: d.Device, ReadOnly: d.ReadOnly, Now: s.Created,
		})
		if cloud.Is(err, cloud.KindNotFound) {
			return badMapping("failed to get volume %s.", d.Volume)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *call) makeVolume(tx *store.Tx, wish volumebook.Wish, ids madeDisk, s *cloud.Server) error {
	wish.ID, wish.Server, wish.Now = ids.volume, s.ID, s.Created
	v, err := volumebook.Plan(c.view, wish)
	if err != nil {
		return err
	}
	return volumebook.Create(tx, v, ids.intent)
}

// planRootVolume judges a server whose root disk is a volume. An image that is named besides, as the older form of block devices allows, is only shown.
func (c *call) planRootVolume(plan *bootPlan, flavor *cloud.Flavor, asked *createRequest) error {
	s := &plan.template
	s.Flavor = *flavor
	root := s.RootDevice()
	at := slices.IndexFunc(plan.disks, func(d bootDisk) bool { return d.device.BootIndex == 0 })
	properties := map[string]string{}
	switch disk := &plan.disks[at]; {
	case disk.volume != nil:
		properties = disk.volume.ImageMetadata
	case disk.wish.Snapshot != nil:
		if origin, ok := store.Lookup(c.view, tables.Volumes, disk.wish.Snapshot.Volume); ok {
			properties = origin.ImageMetadata
		}
	case disk.wish.Image != nil:
		properties = disk.wish.Image.Properties
		if disk.wish.Image.MinRAMMiB > flavor.RAMMiB {
			return invalid("Flavor's memory is too small for requested image.")
		}
	}
	s.ImageProperties = keptProperties(properties)
	if asked.ImageRef == "" {
		return nil
	}
	i, ok := store.Lookup(c.view, tables.Images, cloud.ImageID(asked.ImageRef))
	if !ok || !c.seesImage(i) {
		return invalid("Can not find requested image")
	}
	if i.Status != cloud.ImageActive {
		return invalid("Image %s is not active.", i.ID)
	}
	if root.Source == "volume" && len(asked.OldDevices) == 0 && i.Properties[propertyDevices] == "" {
		return badSequence() // a newer request says whether it boots from the image or from the volume
	}
	s.Image = i.ID
	return nil
}
