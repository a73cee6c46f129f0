package cloud

import (
	"slices"
	"time"
)

// VolumeStatus is where a volume stands, by Cinder's words.
type VolumeStatus string

// The volume statuses.
const (
	VolumeCreating       VolumeStatus = "creating"
	VolumeDownloading    VolumeStatus = "downloading" // being filled from an image, when it is made or later
	VolumeAvailable      VolumeStatus = "available"
	VolumeReserved       VolumeStatus = "reserved" // promised to a server, not yet connected
	VolumeAttaching      VolumeStatus = "attaching"
	VolumeInUse          VolumeStatus = "in-use"
	VolumeDetaching      VolumeStatus = "detaching"
	VolumeExtending      VolumeStatus = "extending"
	VolumeUploading      VolumeStatus = "uploading" // being read into an image
	VolumeRetyping       VolumeStatus = "retyping"
	VolumeMaintenance    VolumeStatus = "maintenance"
	VolumeReverting      VolumeStatus = "reverting" // being made as its latest snapshot was
	VolumeDeleting       VolumeStatus = "deleting"
	VolumeError          VolumeStatus = "error"
	VolumeErrorDeleting  VolumeStatus = "error_deleting"
	VolumeErrorExtending VolumeStatus = "error_extending"
	VolumeErrorRestoring VolumeStatus = "error_restoring"
	VolumeDeleted        VolumeStatus = "deleted"
)

// VolumeStatuses returns every status.
func VolumeStatuses() []VolumeStatus {
	return []VolumeStatus{VolumeCreating, VolumeDownloading, VolumeAvailable, VolumeReserved, VolumeAttaching, VolumeInUse, VolumeDetaching,
		VolumeExtending, VolumeUploading, VolumeRetyping, VolumeMaintenance, VolumeReverting, VolumeDeleting, VolumeError, VolumeErrorDeleting,
		VolumeErrorExtending, VolumeErrorRestoring, VolumeDeleted}
}

// volumeMoves are the legal moves besides an administrator's reset. VolumeDeleted is final.
var volumeMoves = map[VolumeStatus][]VolumeStatus{
	VolumeCreating:       {VolumeDownloading, VolumeAvailable, VolumeReserved, VolumeDeleting, VolumeError},
	VolumeDownloading:    {VolumeAvailable, VolumeReserved, VolumeDeleting, VolumeError},
	VolumeAvailable:      {VolumeReserved, VolumeAttaching, VolumeInUse, VolumeExtending, VolumeUploading, VolumeRetyping, VolumeMaintenance, VolumeReverting, VolumeDownloading, VolumeDeleting, VolumeError},
	VolumeReserved:       {VolumeAttaching, VolumeInUse, VolumeAvailable, VolumeError},
	VolumeAttaching:      {VolumeInUse, VolumeAvailable, VolumeReserved, VolumeError},
	VolumeInUse:          {VolumeDetaching, VolumeAvailable, VolumeReserved, VolumeExtending, VolumeUploading, VolumeRetyping, VolumeError},
	VolumeDetaching:      {VolumeAvailable, VolumeInUse, VolumeReserved, VolumeError},
	VolumeExtending:      {VolumeAvailable, VolumeInUse, VolumeErrorExtending, VolumeError},
	VolumeUploading:      {VolumeAvailable, VolumeInUse, VolumeError},
	VolumeRetyping:       {VolumeAvailable, VolumeInUse, VolumeError},
	VolumeMaintenance:    {VolumeAvailable, VolumeInUse, VolumeError},
	VolumeReverting:      {VolumeAvailable, VolumeErrorRestoring, VolumeError},
	VolumeDeleting:       {VolumeDeleted, VolumeErrorDeleting, VolumeError},
	VolumeError:          {VolumeDeleting, VolumeAvailable, VolumeDownloading},
	VolumeErrorDeleting:  {VolumeDeleting},
	VolumeErrorExtending: {VolumeDeleting, VolumeAvailable, VolumeInUse},
	VolumeErrorRestoring: {VolumeDeleting},
	VolumeDeleted:        {},
}

// CanBecome reports whether the move from s to next is legal. Staying is always legal.
func (s VolumeStatus) CanBecome(next VolumeStatus) bool {
	return s == next || slices.Contains(volumeMoves[s], next)
}

// Volume is a block device that outlives servers. Created by the edge (VolumeCreating with an intent); its status is moved on by the volume
// and server flows, by the edge when it reserves, and by an administrator's reset.
type Volume struct {
	ID               VolumeID          `json:"id"`
	Project          ProjectID         `json:"project"`
	User             UserID            `json:"user"`
	Name             string            `json:"name"`
	Description      string            `json:"description,omitempty"`
	SizeGiB          int               `json:"size_gib"`
	Type             VolumeTypeID      `json:"type"`
	Multiattach      bool              `json:"multiattach,omitempty"` // the type's word at creation: several writers at once
	Zone             string            `json:"zone"`
	Metadata         map[string]string `json:"metadata,omitempty"`
	AdminMetadata    map[string]string `json:"admin_metadata,omitempty"`
	Bootable         bool              `json:"bootable"`
	ReadOnly         bool              `json:"read_only,omitempty"`
	SourceImage      ImageID           `json:"source_image,omitempty"`
	SourceSnapshot   SnapshotID        `json:"source_snapshot,omitempty"`
	SourceVolume     VolumeID          `json:"source_volume,omitempty"`
	ImageMetadata    map[string]string `json:"image_metadata,omitempty"` // volume_image_metadata: of the image it was made from
	Status           VolumeStatus      `json:"status"`
	PreviousStatus   VolumeStatus      `json:"previous_status,omitempty"`  // to return to after extending, uploading, retyping
	MigrationStatus  string            `json:"migration_status,omitempty"` // of a retype that moves data
	Service          HostName          `json:"service,omitempty"`          // volume service that holds it; empty until placed
	Backend          string            `json:"backend,omitempty"`          // back end of that service
	Generation       int64             `json:"generation"`                 // grows with each decision; calls to the volume service carry it
	Fault            *Fault            `json:"fault,omitempty"`
	Progress         int               `json:"progress,omitempty"`            // 0..100 while filled from an image
	AttachmentIDs    []AttachmentID    `json:"attachment_ids,omitempty"`      // all attachments, also reserved ones
	SnapshotIDs      []SnapshotID      `json:"snapshot_ids,omitempty"`        // all snapshots, so that a delete meets the one asked for at the same moment
	DeleteOnServerOf ServerID          `json:"delete_on_server_of,omitempty"` // made by a boot for this server; deleted with it when unattached by a failed boot
	Created          time.Time         `json:"created"`
	Updated          time.Time         `json:"updated"`
	Launched         time.Time         `json:"launched,omitzero"`
}

// Bytes returns the volume's size in bytes.
func (v *Volume) Bytes() int64 { return int64(v.SizeGiB) << 30 }

// Become moves the volume to next, or returns an internal error when the move is illegal.
func (v *Volume) Become(next VolumeStatus) error {
	if !v.Status.CanBecome(next) {
		return Errorf(KindInternal, "volume %s: illegal move from %s to %s", v.ID, v.Status, next)
	}
	v.Status = next
	return nil
}

// SnapshotStatus is where a volume snapshot stands, by Cinder's words.
type SnapshotStatus string

// The snapshot statuses.
const (
	SnapshotCreating      SnapshotStatus = "creating"
	SnapshotAvailable     SnapshotStatus = "available"
	SnapshotDeleting      SnapshotStatus = "deleting"
	SnapshotError         SnapshotStatus = "error"
	SnapshotErrorDeleting SnapshotStatus = "error_deleting"
	SnapshotRestoring     SnapshotStatus = "restoring" // its volume is being made as it is
)

// VolumeSnapshot is a volume as it was at one moment. It lives on the volume's back end.
type VolumeSnapshot struct {
	ID          SnapshotID        `json:"id"`
	Volume      VolumeID          `json:"volume"`
	Project     ProjectID         `json:"project"`
	User        UserID            `json:"user"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	SizeGiB     int               `json:"size_gib"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Status      SnapshotStatus    `json:"status"`
	Fault       *Fault            `json:"fault,omitempty"`
	Created     time.Time         `json:"created"`
	Updated     time.Time         `json:"updated"`
}

// VolumeType says on what kind of back end a volume goes and what it may do.
type VolumeType struct {
	ID          VolumeTypeID      `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Public      bool              `json:"public"`
	Access      []ProjectID       `json:"access,omitempty"`      // projects that may use it when it is not public
	ExtraSpecs  map[string]string `json:"extra_specs,omitempty"` // the Spec... keys
	Created     time.Time         `json:"created"`
	Updated     time.Time         `json:"updated"`
}

// The extra specs of volume types that godwit acts on.
const (
	SpecBackend     = "volume_backend_name" // name of the back end; empty: any
	SpecMultiattach = "multiattach"         // "<is> True": several servers may write at once
	SpecIOPSMax     = "godwit:iops_max"     // requests per second; empty: unlimited
	SpecBytesMax    = "godwit:bytes_per_second_max"
)

// DefaultVolumeType is the type of volumes for which none is named.
const DefaultVolumeType = "__DEFAULT__"

// AttachmentStatus is where an attachment stands, by Cinder's words.
type AttachmentStatus string

// The attachment statuses.
const (
	AttachmentReserved  AttachmentStatus = "reserved"  // holds the volume for a server; no host yet
	AttachmentAttaching AttachmentStatus = "attaching" // a host was told how to connect
	AttachmentAttached  AttachmentStatus = "attached"
	AttachmentDetaching AttachmentStatus = "detaching"
	AttachmentDetached  AttachmentStatus = "detached"
)

// Attachment joins a volume to a server on one host. While a server moves it has two for each volume: the source's, which writes, and the
// target's, which takes over (Handover) when the target first writes or the switch is recorded. Opening a newer one at the volume service
// cuts the older writer off.
type Attachment struct {
	ID         AttachmentID     `json:"id"`
	Volume     VolumeID         `json:"volume"`
	Server     ServerID         `json:"server,omitempty"`
	Host       HostName         `json:"host,omitempty"` // empty while reserved
	Project    ProjectID        `json:"project"`
	Device     string           `json:"device,omitempty"` // "/dev/vdb"
	ReadOnly   bool             `json:"read_only,omitempty"`
	Migration  MigrationID      `json:"migration,omitempty"` // set on the target's attachment of an unfinished move
	Status     AttachmentStatus `json:"status"`
	Epoch      int64            `json:"epoch,omitempty"`      // the volume service's number; greater is newer
	Connection *Connection      `json:"connection,omitempty"` // how the host reaches it; nil until opened
	Created    time.Time        `json:"created"`
	Attached   time.Time        `json:"attached,omitzero"`
}

// Connection is how a host reaches an attached volume over NBD.
type Connection struct {
	Export      string `json:"export"`  // NBD export name; good for this attachment only
	Address     string `json:"address"` // IP
	Port        int    `json:"port"`
	TLS         bool   `json:"tls"`
	TLSHostname string `json:"tls_hostname,omitempty"` // the name in the service's certificate
}

// BlockDevice is one disk of a server as its owner asked for it (block_device_mapping_v2) and as it became.
type BlockDevice struct {
	Device              string       `json:"device"`     // "/dev/vda"; unique in its server
	BootIndex           int          `json:"boot_index"` // 0: boots from it; negative: never
	Source              string       `json:"source"`     // image, volume, snapshot, blank: what it was made from
	SourceID            string       `json:"source_id,omitempty"`
	Volume              VolumeID     `json:"volume,omitempty"`     // set once known
	Attachment          AttachmentID `json:"attachment,omitempty"` // the live one
	SizeGiB             int          `json:"size_gib,omitempty"`
	VolumeType          string       `json:"volume_type,omitempty"`
	Tag                 string       `json:"tag,omitempty"`
	DeleteOnTermination bool         `json:"delete_on_termination"`
	ReadOnly            bool         `json:"read_only,omitempty"`
}

// VolumeService is what operators say of a volume service. Written by the edge and, on first contact, by control.
type VolumeService struct {
	Name           HostName  `json:"name"`
	Zone           string    `json:"zone"`
	Disabled       bool      `json:"disabled"`
	DisabledReason string    `json:"disabled_reason,omitempty"`
	Created        time.Time `json:"created"`
	Updated        time.Time `json:"updated"`
}

// VolumeReport is what a volume service says of itself; ordered like HostReport. Its session is a HostSession with the service's name in its
// own table.
type VolumeReport struct {
	Service    HostName        `json:"service"`
	Generation int64           `json:"generation"`
	Seq        int64           `json:"seq"`
	Version    string          `json:"version"`
	Engine     string          `json:"engine"`               // "io_uring" or "threads"
	EngineWhy  string          `json:"engine_why,omitempty"` // why not io_uring
	Backends   []VolumeBackend `json:"backends"`
	At         time.Time       `json:"at"`
}

// VolumeBackend is one directory that a volume service keeps volumes in.
type VolumeBackend struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"`    // "file" or "gluster"
	Reflink    bool   `json:"reflink"` // snapshots and clones share blocks
	TotalBytes int64  `json:"total_bytes"`
	FreeBytes  int64  `json:"free_bytes"`
	Volumes    int    `json:"volumes"`
	Error      string `json:"error,omitempty"` // why it takes no volumes now
	// Troubles are those of its volumes whose users stand still, the oldest first; Troubled is how many there are, of which only so many are named.
	Troubles []VolumeTrouble `json:"troubles,omitempty"`
	Troubled int             `json:"troubled,omitempty"`
}

// VolumeTroubleKind is why the users of a volume stand still.
type VolumeTroubleKind string

// The kinds.
const (
	TroubleFull    VolumeTroubleKind = "full"        // the back end has no room for what is written
	TroubleIO      VolumeTroubleKind = "io-error"    // the disk fails a request
	TroubleSync    VolumeTroubleKind = "sync-failed" // nothing more is acknowledged until the volume is opened anew
	TroubleDamaged VolumeTroubleKind = "damaged"     // its metadata or data cannot be used
)

// String says it in words.
func (k VolumeTroubleKind) String() string {
	switch k {
	case TroubleFull:
		return "no room"
	case TroubleIO:
		return "I/O error"
	case TroubleSync:
		return "a sync failed"
	case TroubleDamaged:
		return "damaged"
	default:
		return string(k)
	}
}

// VolumeTrouble says of one volume why its users stand still.
type VolumeTrouble struct {
	Volume VolumeID          `json:"volume"`
	What   VolumeTroubleKind `json:"what"`
	Since  time.Time         `json:"since,omitzero"` // zero: since before the service began
	Detail string            `json:"detail,omitempty"`
}
