package volumebook

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// SizeGiBMax bounds one volume; beyond it the size in bytes would be no use to anybody's file system.
const SizeGiBMax = 1 << 20

// A Wish is a volume that somebody wants. At most one of Image, Snapshot and Source is set; whether the caller may see them is the edge's to
// check.
type Wish struct {
	ID          cloud.VolumeID // made by the edge
	Project     cloud.ProjectID
	User        cloud.UserID
	Name        string
	Description string
	SizeGiB     int // 0: the size of the snapshot or volume it is made from
	Zone        string
	Metadata    map[string]string
	Type        *cloud.VolumeType // nil: that of the snapshot or volume it is made from, else the default
	Image       *cloud.Image
	Snapshot    *cloud.VolumeSnapshot
	Source      *cloud.Volume
	// Server is the server that the volume is made for by its boot; see cloud.Volume.DeleteOnServerOf.
	Server cloud.ServerID
	Now    time.Time
}

// Plan returns the record of the volume that the wish asks for, as creating, or why it cannot be made: cloud.KindInvalid in Cinder's words.
func Plan(r store.Reader, w Wish) (cloud.Volume, error) {
	v := cloud.Volume{
		ID: w.ID, Project: w.Project, User: w.User, Name: w.Name, Description: w.Description, SizeGiB: w.SizeGiB, Zone: w.Zone,
		Metadata: maps.Clone(w.Metadata), Status: cloud.VolumeCreating, DeleteOnServerOf: w.Server, Created: w.Now, Updated: w.Now,
	}
	var err error
	switch {
	case w.Snapshot != nil:
		err = fromSnapshot(r, &v, w.Snapshot)
	case w.Source != nil:
		err = fromVolume(&v, w.Source)
	}
	if err != nil {
		return v, err
	}
	if v.SizeGiB < 1 || v.SizeGiB > SizeGiBMax {
		return v, invalidInput("Volume size '%s' must be an integer and greater than 0", sizeText(w.SizeGiB))
	}
	if w.Image != nil {
		if err := fromImage(&v, w.Image); err != nil {
			return v, err
		}
	}
	return v, setType(r, &v, w.Type)
}

func sizeText(size int) string {
	if size == 0 {
		return "None"
	}
	return strconv.Itoa(size)
}

func fromSnapshot(r store.Reader, v *cloud.Volume, s *cloud.VolumeSnapshot) error {
	if s.Status != cloud.SnapshotAvailable {
		return cloud.Errorf(cloud.KindInvalid, "Invalid snapshot: Originating snapshot status must be one of 'available' values")
	}
	if v.SizeGiB == 0 {
		v.SizeGiB = s.SizeGiB
	}
	if v.SizeGiB < s.SizeGiB {
		return invalidInput("Volume size '%d'GB cannot be smaller than the snapshot size %dGB. They must be >= original snapshot size.", v.SizeGiB, s.SizeGiB)
	}
	v.SourceSnapshot = s.ID
	if origin, ok := store.Lookup(r, tables.Volumes, s.Volume); ok {
		inherit(v, origin)
	}
	return nil
}

func fromVolume(v *cloud.Volume, source *cloud.Volume) error {
	if source.Status != cloud.VolumeAvailable && source.Status != cloud.VolumeInUse {
		return cloud.Errorf(cloud.KindInvalid, "Invalid volume: Originating source volume status must be one of 'available', 'in-use' values")
	}
	if v.SizeGiB == 0 {
		v.SizeGiB = source.SizeGiB
	}
	if v.SizeGiB < source.SizeGiB {
		return invalidInput("Volume size '%d'GB cannot be smaller than original volume size  %dGB. They must be >= original volume size.", v.SizeGiB, source.SizeGiB)
	}
	v.SourceVolume = source.ID
	inherit(v, source)
	return nil
}

// inherit gives a copy what its origin has: the type unless another is chosen later, what it was made from, and its place.
func inherit(v *cloud.Volume, origin *cloud.Volume) {
	v.Type, v.Bootable, v.ImageMetadata = origin.Type, origin.Bootable, maps.Clone(origin.ImageMetadata)
	if v.Zone == "" {
		v.Zone = origin.Zone
	}
}

func fromImage(v *cloud.Volume, i *cloud.Image) error {
	if err := MayHold(v, i); err != nil {
		return err
	}
	v.SourceImage, v.Bootable, v.ImageMetadata = i.ID, true, ImageMetadata(i)
	return nil
}

// MayHold refuses an image that a volume of this size cannot be made of: one that is not active, has no data, or is too large. cloud.KindInvalid.
func MayHold(v *cloud.Volume, i *cloud.Image) error {
	if i.Status != cloud.ImageActive {
		return invalidInput("Image %s is not active.", i.ID)
	}
	if len(i.Snapshots) > 0 && i.SizeBytes == 0 {
		return invalidInput("Image %s has no data of its own, only snapshots of volumes.", i.ID)
	}
	if size := gibOf(max(i.VirtualBytes, i.SizeBytes)); size > v.SizeGiB {
		return invalidInput("Size of specified image %dGB is larger than volume size %dGB.", size, v.SizeGiB)
	}
	if i.MinDiskGiB > v.SizeGiB {
		return invalidInput("Volume size %dGB cannot be smaller than the image minDisk size %dGB.", v.SizeGiB, i.MinDiskGiB)
	}
	return nil
}

// gibOf rounds up.
func gibOf(bytes int64) int { return int((bytes + 1<<30 - 1) >> 30) }

// ImageMetadata returns what a volume remembers of the image it is made from, by Cinder's names.
func ImageMetadata(i *cloud.Image) map[string]string {
	out := make(map[string]string, 8+len(i.Properties))
	for k, value := range i.Properties {
		if !strings.HasPrefix(k, "os_glance") {
			out[k] = value
		}
	}
	maps.Copy(out, map[string]string{
		"image_id": string(i.ID), "image_name": i.Name, "checksum": i.MD5, "container_format": i.ContainerFormat, "disk_format": i.DiskFormat,
		"min_disk": strconv.Itoa(i.MinDiskGiB), "min_ram": strconv.Itoa(i.MinRAMMiB), "size": strconv.FormatInt(i.SizeBytes, 10),
	})
	return out
}

// setType gives the volume the type asked for, or the one it has inherited, or the default.
func setType(r store.Reader, v *cloud.Volume, asked *cloud.VolumeType) error {
	t := asked
	if t == nil && v.Type != "" {
		t, _ = store.Lookup(r, tables.VolumeTypes, v.Type)
	}
	if t == nil {
		var err error
		if t, err = DefaultType(r); err != nil {
			return err
		}
	}
	if v.Type != "" && v.Type != t.ID {
		origin, ok := store.Lookup(r, tables.VolumeTypes, v.Type)
		if ok && origin.ExtraSpecs[cloud.SpecBackend] != t.ExtraSpecs[cloud.SpecBackend] {
			return invalidInput("Invalid volume_type provided: %s (requested type is not compatible; either match source volume, or omit type argument).", t.Name)
		}
	}
	v.Type, v.Multiattach = t.ID, IsMultiattach(t)
	return nil
}

// DefaultType returns the type of volumes for which none is named.
func DefaultType(r store.Reader) (*cloud.VolumeType, error) {
	t, ok := store.One(r, tables.VolumeTypes, tables.ByName, cloud.DefaultVolumeType)
	if !ok {
		return nil, cloud.Errorf(cloud.KindNotFound, "Default volume type can not be found.")
	}
	return t, nil
}

// FindType returns the type with this id or name, if the project may use it; admin sees all.
func FindType(r store.Reader, idOrName string, project cloud.ProjectID, admin bool) (*cloud.VolumeType, error) {
	t, ok := store.Lookup(r, tables.VolumeTypes, idOrName)
	if !ok {
		t, ok = store.One(r, tables.VolumeTypes, tables.ByName, idOrName)
	}
	if !ok || !admin && !MayUse(t, project) {
		return nil, cloud.Errorf(cloud.KindNotFound, "Volume type with name %s could not be found.", idOrName)
	}
	return t, nil
}

// MayUse reports whether a project may make volumes of the type.
func MayUse(t *cloud.VolumeType, project cloud.ProjectID) bool {
	if t.Public {
		return true
	}
	for _, p := range t.Access {
		if p == project {
			return true
		}
	}
	return false
}

// IsMultiattach reports whether volumes of the type may be attached to several servers.
func IsMultiattach(t *cloud.VolumeType) bool {
	return strings.EqualFold(strings.TrimSpace(t.ExtraSpecs[cloud.SpecMultiattach]), "<is> True")
}

func invalidInput(format string, args ...any) error {
	return cloud.Errorf(cloud.KindInvalid, "Invalid input received: "+format, args...)
}
