package compute

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack/image"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

// An image of a server that boots from a volume has no data: it has a snapshot of each of the server's volumes and says in these properties, as Nova's
// images do, which disks a server booted from it is to have.
const (
	propertyDevices    = "block_device_mapping" // JSON: a list of imageDevice
	propertyDevicesNew = "bdm_v2"               // "True": the list is of the newer form
	propertyRootDevice = "root_device_name"
)

// imageDevicesMax bounds what is read of a property that anybody who may write an image may write: as many disks as a server can have.
const imageDevicesMax = 'z' - 'a'

// imageDevice is one disk in an image's property, with Nova's fields.
type imageDevice struct {
	SourceType      string          `json:"source_type"`
	DestinationType string          `json:"destination_type"`
	SnapshotID      *string         `json:"snapshot_id"`
	VolumeID        *string         `json:"volume_id"`
	ImageID         *string         `json:"image_id"`
	DeviceName      *string         `json:"device_name"`
	BootIndex       json.RawMessage `json:"boot_index"` // a number, a text that is one, or null
	VolumeSize      *int            `json:"volume_size"`
	VolumeType      *string         `json:"volume_type"`
	DeleteWith      *bool           `json:"delete_on_termination"`
	DiskBus         *string         `json:"disk_bus"`
	DeviceType      *string         `json:"device_type"`
	GuestFormat     *string         `json:"guest_format"`
	NoDevice        *bool           `json:"no_device"`
	Tag             *string         `json:"tag"`
}

// A volumeImage is what one createImage of a server that boots from a volume makes; its ids are made before the transaction.
type volumeImage struct {
	record    cloud.Image
	snapshots []snapshotOrder // as the server's devices
	action    cloud.Action
}

type snapshotOrder struct {
	id     cloud.SnapshotID
	intent cloud.Intent
}

// createVolumeImage asks for a snapshot of each of a server's volumes, and for the image that names them. The image becomes active when the last
// snapshot is taken.
func (c *call) createVolumeImage(found *cloud.Server, record cloud.Image) error {
	made := volumeImage{record: record, action: c.newAction("createImage", c.now())}
	for range found.Devices {
		made.snapshots = append(made.snapshots, snapshotOrder{cloud.SnapshotID(newID()), c.newOrder(cloud.IntentSnapshotCreate, "").intent})
	}
	return c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		if err := c.allow(&s, cloud.OpCreateImage); err != nil {
			return err
		}
		if len(s.Devices) != len(made.snapshots) {
			return conflict("Cannot 'createImage' instance %s while its volumes change", s.ID)
		}
		i := made.record
		i.Snapshots = nil
		devices := make([]imageDevice, len(s.Devices))
		for at := range s.Devices {
			id := made.snapshots[at].id
			if devices[at], err = c.keepVolume(tx, &s.Devices[at], made.snapshots[at], &i); err != nil {
				return err
			}
			i.Snapshots = append(i.Snapshots, id)
		}
		if err := describeDevices(&i, devices); err != nil {
			return err
		}
		if err := store.Create(tx, tables.Images, i.ID, i); err != nil {
			return err
		}
		return recordAction(tx, s.ID, made.action)
	})
}

// keepVolume asks for the snapshot of one device, and returns what the image says of it.
func (c *call) keepVolume(tx *store.Tx, d *cloud.BlockDevice, o snapshotOrder, i *cloud.Image) (imageDevice, error) {
	v, err := store.Get(tx, tables.Volumes, d.Volume)
	if err != nil {
		return imageDevice{}, err
	}
	if v.Status != cloud.VolumeInUse && v.Status != cloud.VolumeAvailable {
		return imageDevice{}, invalid("Invalid volume: Volume %s status must be available or in-use, but current status is: %s.", v.ID, v.Status)
	}
	now := i.Created
	snapshot := cloud.VolumeSnapshot{
		ID: o.id, Volume: v.ID, Project: v.Project, User: c.r.Caller.User, Name: "snapshot for " + i.Name, Description: v.Description,
		SizeGiB: v.SizeGiB, Status: cloud.SnapshotCreating, Created: now, Updated: now,
	}
	o.intent.Image = i.ID
	if err := volumebook.AddSnapshot(tx, &v, snapshot, o.intent); err != nil {
		return imageDevice{}, err
	}
	v.Updated = now
	return kept(d, &snapshot), store.Put(tx, tables.Volumes, v.ID, v)
}

// kept says of a device that it is to be made from a snapshot.
func kept(d *cloud.BlockDevice, s *cloud.VolumeSnapshot) imageDevice {
	id, size, name, ends, bus, kind := string(s.ID), s.SizeGiB, d.Device, d.DeleteOnTermination, "virtio", "disk"
	out := imageDevice{
		SourceType: "snapshot", DestinationType: "volume", SnapshotID: &id, VolumeSize: &size, DeviceName: &name, DeleteWith: &ends, DiskBus: &bus, DeviceType: &kind,
	}
	if d.BootIndex >= 0 {
		out.BootIndex, _ = json.Marshal(d.BootIndex)
	}
	return out
}

// describeDevices writes what Nova writes into such an image.
func describeDevices(i *cloud.Image, devices []imageDevice) error {
	text, err := json.Marshal(devices)
	if err != nil {
		return err
	}
	i.Properties[propertyDevices], i.Properties[propertyDevicesNew], i.Properties[propertyRootDevice] = string(text), "True", rootDevice
	i.DiskFormat, i.MinDiskGiB = "qcow2", 0 // Nova's format for an image of no bytes; the volumes say how large they must be
	return nil
}

// devicesOf returns the disks that an image brings, in the form of a request's; nil for an ordinary image.
func devicesOf(i *cloud.Image) ([]blockDevice, error) {
	text := i.Properties[propertyDevices]
	if text == "" {
		return nil, nil
	}
	var listed []imageDevice
	if err := json.Unmarshal([]byte(text), &listed); err != nil || len(listed) > imageDevicesMax {
		return nil, badMapping("image %s: its property %s is not a list of disks.", i.ID, propertyDevices)
	}
	out := make([]blockDevice, 0, len(listed))
	for at := range listed {
		d, err := listed[at].asked()
		if err != nil {
			return nil, badMapping("image %s: %s", i.ID, err)
		}
		if d != nil {
			out = append(out, *d)
		}
	}
	return out, nil
}

// asked is the disk as a request would ask for it; nil for one that is explicitly none, or that is the image on a local disk.
func (d *imageDevice) asked() (*blockDevice, error) {
	if d.NoDevice != nil && *d.NoDevice || d.SourceType == "image" && d.DestinationType == "local" {
		return nil, nil
	}
	source := map[string]*string{"snapshot": d.SnapshotID, "volume": d.VolumeID, "image": d.ImageID, "blank": new(string)}[d.SourceType]
	if source == nil {
		return nil, fmt.Errorf("a disk with source_type %q does not name its source", d.SourceType)
	}
	out := &blockDevice{SourceType: d.SourceType, UUID: *source, DestinationType: "volume", VolumeType: d.VolumeType, Rest: map[string]any{}}
	if d.DeviceName != nil {
		out.Rest["device_name"] = *d.DeviceName
	}
	if d.VolumeSize != nil {
		size := natural(*d.VolumeSize)
		out.VolumeSize = &size
	}
	if d.DeleteWith != nil {
		ends := boolean(*d.DeleteWith)
		out.DeleteWith = &ends
	}
	index := looseText(strings.Trim(string(d.BootIndex), `"`)) // judged where the request's own are
	if index == "null" {
		index = ""
	}
	out.BootIndex = &index
	return out, nil
}

// withImageDevices adds the disks that the request's image brings to those that it names itself. Clients that name other disks add the image as a
// local root disk; when the image brings a root disk, that is meant. A disk that the request names under the same device takes the image's place.
func (c *call) withImageDevices(asked *createRequest, devices []blockDevice) ([]blockDevice, error) {
	ref := string(asked.ImageRef)
	for i := range devices {
		if d := &devices[i]; ref == "" && d.localRoot() {
			ref = d.UUID + d.ImageID
		}
	}
	i, ok := store.Lookup(c.view, tables.Images, cloud.ImageID(ref))
	if !ok || !image.Visible(c.r.Caller, i) {
		return devices, nil // refused where images are looked up
	}
	brought, err := devicesOf(i)
	if err != nil || len(brought) == 0 {
		return devices, err
	}
	if i.Status != cloud.ImageActive {
		return nil, invalid("Image %s is not active.", i.ID)
	}
	names := map[string]bool{}
	for at := range devices {
		if name, _ := devices[at].Rest["device_name"].(string); name != "" {
			names[deviceName(name)] = true
		}
	}
	brought = slices.DeleteFunc(brought, func(d blockDevice) bool {
		name, _ := d.Rest["device_name"].(string)
		return name != "" && names[deviceName(name)]
	})
	if slices.ContainsFunc(brought, func(d blockDevice) bool { return d.BootIndex != nil && *d.BootIndex == "0" }) {
		devices = slices.DeleteFunc(devices, func(d blockDevice) bool {
			if d.localRoot() && asked.ImageRef == "" {
				asked.ImageRef = imageRef(ref)
			}
			return d.localRoot() && d.UUID+d.ImageID == ref
		})
	}
	return append(devices, brought...), nil
}

// answerImage answers createImage.
func (c *call) answerImage(id cloud.ImageID) error {
	if c.since(45) {
		return c.reply(http.StatusAccepted, object{"image_id": id})
	}
	c.w.Header().Set("Location", c.r.PublicURL("/image/v2/images/"+string(id)))
	return c.status(http.StatusAccepted)
}

// mayReimage judges a rebuild of a server that boots from a volume. Before 2.93 the volume keeps its data, so only its own image may be named.
func (c *call) mayReimage(root *cloud.BlockDevice, i *cloud.Image) error {
	v, err := c.findVolume(string(root.Volume))
	if err != nil {
		return err
	}
	if !c.since(93) {
		if v.ImageMetadata["image_id"] != string(i.ID) {
			return invalid("Image %s is unacceptable: Unable to rebuild with a different image for a volume-backed server.", i.ID)
		}
		return nil
	}
	switch {
	case i.Status != cloud.ImageActive:
		return invalid("Image %s is not active.", i.ID)
	case v.Multiattach:
		return invalid("Volume %s: a volume that several servers may use is not made anew for one of them.", v.ID)
	case v.Status != cloud.VolumeInUse:
		return invalid("Invalid volume: Volume %s status must be in-use, but current status is: %s.", v.ID, v.Status)
	case i.MinDiskGiB > v.SizeGiB:
		return invalid("Volume is smaller than the minimum size specified in image metadata. Volume size is %d bytes, minimum size is %d bytes.",
			v.Bytes(), int64(i.MinDiskGiB)<<30)
	case max(i.VirtualBytes, i.SizeBytes) > v.Bytes():
		return invalid("Image %s is larger than the volume: %d bytes, the volume has %d.", i.ID, max(i.VirtualBytes, i.SizeBytes), v.Bytes())
	}
	return nil
}

// keptProperties are those of an image's that a server on a volume keeps.
func keptProperties(from map[string]string) map[string]string {
	out := map[string]string{}
	for _, name := range []string{"hw_architecture", cloud.PropertyWatchdog, cloud.PropertyGuestAgent} {
		if value := from[name]; value != "" {
			out[name] = value
		}
	}
	return out
}
