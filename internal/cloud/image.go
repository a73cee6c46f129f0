package cloud

import "time"

// ImageStatus is the state of an image's data.
type ImageStatus string

// The image states of Glance v2 that godwit uses.
const (
	ImageQueued  ImageStatus = "queued"
	ImageSaving  ImageStatus = "saving"
	ImageActive  ImageStatus = "active"
	ImageKilled  ImageStatus = "killed"
	ImageDeleted ImageStatus = "deleted"
	// ImageDeactivated means an operator has closed an active image: only administrators may read its data.
	ImageDeactivated ImageStatus = "deactivated"
)

// Image describes one image; its data is a file of the image store, named by ID.
type Image struct {
	ID              ImageID              `json:"id"`
	Name            string               `json:"name"`
	Owner           ProjectID            `json:"owner"`
	Visibility      string               `json:"visibility"` // public, private, shared, community
	Protected       bool                 `json:"protected"`
	Hidden          bool                 `json:"hidden"`
	DiskFormat      string               `json:"disk_format"`      // qcow2 or raw
	ContainerFormat string               `json:"container_format"` // bare
	MinDiskGiB      int                  `json:"min_disk_gib"`
	MinRAMMiB       int                  `json:"min_ram_mib"`
	Status          ImageStatus          `json:"status"`
	SizeBytes       int64                `json:"size_bytes"`
	VirtualBytes    int64                `json:"virtual_bytes"` // size as a guest sees it
	MD5             string               `json:"md5"`
	HashAlgo        string               `json:"hash_algo"` // sha512
	Hash            string               `json:"hash"`
	Tags            []string             `json:"tags,omitempty"`
	Properties      map[string]string    `json:"properties,omitempty"`
	Snapshots       []SnapshotID         `json:"snapshots,omitempty"` // of volumes: the image has no data and becomes active when all are available
	Members         map[ProjectID]string `json:"members,omitempty"`   // shared with: pending, accepted, rejected
	Created         time.Time            `json:"created"`
	Updated         time.Time            `json:"updated"`
}
