package volume

import (
	"cmp"
	"maps"
	"net/http"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

// uploadImage makes an image of the volume's data. The image is made here, queued, and filled by the flow.
func (c *call) uploadImage(o *openstack.Object) error {
	var in struct {
		Name            string  `json:"image_name" api:"required;len=1..255"`
		Force           bool    `json:"force" api:"loose"`
		DiskFormat      *string `json:"disk_format" api:"null;enum=raw|vmdk|vhd|vhdx|vdi|qcow2|iso"`
		ContainerFormat *string `json:"container_format" api:"null"`
		Visibility      *string `json:"visibility" api:"null;since=3.1;enum=community|public|private|shared"`
		Protected       *bool   `json:"protected" api:"null;loose;since=3.1"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	format, container := cmp.Or(firstText(in.DiskFormat), "raw"), cmp.Or(firstText(in.ContainerFormat), "bare")
	if format != "raw" || container != "bare" {
		return invalidInput("A volume becomes an image with disk_format raw and container_format bare; %s in %s is not offered.", format, container)
	}
	visibility := cmp.Or(firstText(in.Visibility), "private")
	if visibility == "public" {
		if err := c.mayAdmin("volume_extension:volume_actions:upload_public"); err != nil {
			return err
		}
	}
	intent := c.newIntent(cloud.IntentVolumeUpload)
	i := cloud.Image{
		ID: cloud.ImageID(newID()), Name: in.Name, Owner: c.r.Caller.Project, Visibility: visibility, Protected: in.Protected != nil && *in.Protected,
		DiskFormat: format, ContainerFormat: container, Status: cloud.ImageQueued, Created: c.now(), Updated: c.now(),
	}
	intent.Image = i.ID
	v, err := c.changeVolume("volume_extension:volume_actions:upload_image", func(tx *store.Tx, v *cloud.Volume) error {
		if v.Status != cloud.VolumeAvailable && (v.Status != cloud.VolumeInUse || !in.Force) {
			return invalidVolume("Volume %s status must be available (or in-use with force), but current status is: %s.", v.ID, v.Status)
		}
		i.MinDiskGiB, i.Properties = v.SizeGiB, imageProperties(v)
		if err := store.Create(tx, tables.Images, i.ID, i); err != nil {
			return err
		}
		return c.order(tx, v, cloud.VolumeUploading, intent)
	})
	if err != nil {
		return err
	}
	out := object{
		"id": v.ID, "updated_at": openstack.TimeMicros(v.Updated), "status": v.Status, "display_description": orNull(v.Description), "size": v.SizeGiB,
		"volume_type": c.typeObject(v.Type), "image_id": i.ID, "container_format": container, "disk_format": format, "image_name": in.Name,
	}
	if c.since(1) {
		out["visibility"], out["protected"] = visibility, i.Protected
	}
	return c.reply(http.StatusAccepted, object{"os-volume_upload_image": out})
}

// notProperties are the image metadata of a volume that describe the image it came from, not the one it becomes.
var notProperties = []string{"image_id", "image_name", "checksum", "container_format", "disk_format", "min_disk", "min_ram", "size"}

// imageProperties hands on what the volume's own image said of its guest.
func imageProperties(v *cloud.Volume) map[string]string {
	out := maps.Clone(v.ImageMetadata)
	for _, name := range notProperties {
		delete(out, name)
	}
	return out
}

// typeObject is a volume's type as the upload shows it.
func (c *call) typeObject(id cloud.VolumeTypeID) any {
	t, ok := store.Lookup(c.view, tables.VolumeTypes, id)
	if !ok {
		return nil
	}
	return object{"id": t.ID, "name": t.Name, "description": orNull(t.Description), "is_public": t.Public}
}

func (c *call) showImageMetadata(*openstack.Object) error {
	v, err := c.volume(reader, "volume_extension:volume_image_metadata:show")
	if err != nil {
		return err
	}
	return c.ok(object{"metadata": texts(v.ImageMetadata)})
}

func (c *call) setImageMetadata(o *openstack.Object) error {
	var in metadataBody
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	v, err := c.changeVolume("volume_extension:volume_image_metadata:set", func(_ *store.Tx, v *cloud.Volume) error {
		out := maps.Clone(texts(v.ImageMetadata))
		maps.Copy(out, in.Metadata)
		v.ImageMetadata = out
		return checkMetadata(out)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"metadata": v.ImageMetadata})
}

func (c *call) unsetImageMetadata(o *openstack.Object) error {
	var in struct {
		Key string `json:"key" api:"required;len=1..255"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	_, err := c.changeVolume("volume_extension:volume_image_metadata:remove", func(_ *store.Tx, v *cloud.Volume) error {
		if _, ok := v.ImageMetadata[in.Key]; !ok {
			return notFound("Metadata item was not found")
		}
		v.ImageMetadata = maps.Clone(v.ImageMetadata)
		delete(v.ImageMetadata, in.Key)
		return nil
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

// reimage gives a volume that nobody uses the data of an image. What was on it is given up; its snapshots stay.
func (c *call) reimage(o *openstack.Object) error {
	var in struct {
		Image    string `json:"image_id" api:"required"`
		Reserved bool   `json:"reimage_reserved" api:"loose"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	if _, err := uuid.Parse(in.Image); err != nil {
		return invalid("Invalid input for field/attribute image_id. Value: %.60s. '%.60s' is not a 'uuid'", in.Image, in.Image)
	}
	const rule = "volume_extension:volume_actions:reimage"
	if _, err := c.volume(member, rule); err != nil { // first, so that a foreign volume stays a 404
		return err
	}
	i, err := c.findImage(in.Image)
	if err != nil {
		return err
	}
	intent := c.newIntent(cloud.IntentVolumeReimage)
	intent.Reimage = &cloud.Reimage{Image: i.ID, Format: i.DiskFormat, Bytes: i.SizeBytes, VirtualBytes: i.VirtualBytes, Hash: i.Hash}
	_, err = c.changeVolume(rule, func(tx *store.Tx, v *cloud.Volume) error {
		if err := mayReimage(v, in.Reserved); err != nil {
			return err
		}
		if err := volumebook.MayHold(v, i); err != nil {
			return err
		}
		return c.order(tx, v, cloud.VolumeDownloading, intent)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// mayReimage refuses a volume that somebody uses or is about to use, and one that never came to be anywhere.
func mayReimage(v *cloud.Volume, reserved bool) error {
	switch {
	case reserved && v.Status == cloud.VolumeReserved:
		return unsupported("A server is about to use volume %s: rebuild the server, with compute's microversion 2.93 or newer.", v.ID)
	case v.Status != cloud.VolumeAvailable && v.Status != cloud.VolumeError:
		return invalidVolume("Volume %s status must be available or error to re-image it, but current status is: %s.", v.ID, v.Status)
	case len(v.AttachmentIDs) > 0:
		return invalidVolume("Volume %s has attachments: a volume that a server has is not re-imaged.", v.ID)
	case v.Service == "":
		return invalidVolume("Volume %s was never made: delete it, and create a new one from the image.", v.ID)
	}
	return nil
}
