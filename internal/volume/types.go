package volume

import (
	"errors"
	"io"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Why a lease may not be used, or may not write. The data path tells clients ESHUTDOWN for the first and the last, EPERM for the second.
var (
	ErrCutOff   = errors.New("a newer attachment writes this volume")
	ErrReadOnly = errors.New("the attachment is read-only")
	ErrClosed   = errors.New("the attachment is closed")
)

// Call is a decision about a volume.
type Call struct {
	Volume     cloud.VolumeID
	Generation int64  // of the decision; older ones than the volume has accepted are refused with cloud.KindStale
	Run        string // for logs
}

// Limits are what all clients of a volume together may use.
type Limits struct {
	IOPS           int64 `json:"iops,omitempty"`             // requests per second; 0: unlimited
	BytesPerSecond int64 `json:"bytes_per_second,omitempty"` // 0: unlimited
}

// Spec describes a volume to be made.
type Spec struct {
	Bytes  int64 // a multiple of 512
	Limits Limits
	Source Source // the zero Source: blank
	// Progress, if not nil, is told how many bytes of the source have been dealt with, now and then, from one goroutine at a time.
	Progress func(done int64)
}

// Source is what a new volume is filled from. At most one of Path, Raw and Volume is set.
type Source struct {
	Path string // a raw image file on this machine; blocks are shared with it if it is on the Store's file system and that can
	Raw  io.Reader
	// Volume, and if Snapshot is set that snapshot of it. Store is where it lives; nil: where the new one is made.
	Volume   cloud.VolumeID
	Snapshot cloud.SnapshotID
	Store    *Store
}

// State is the truth about a volume.
type State struct {
	ID             cloud.VolumeID
	Present        bool
	Backend        string
	Bytes          int64
	AllocatedBytes int64 // of data and snapshots; shared blocks count for each file that has them
	Generation     int64 // greatest accepted
	Epoch          int64 // greatest given out
	Limits         Limits
	Attachments    []Attachment
	Snapshots      []Snapshot
}

// Snapshot is a kept state of a volume.
type Snapshot struct {
	ID      cloud.SnapshotID `json:"id"`
	Bytes   int64            `json:"bytes"`
	Created time.Time        `json:"created"`
}

// Role is what an attachment may do.
type Role uint8

// The roles.
const (
	RoleAbsent  Role = iota // not open
	RoleWriter              // reads and writes
	RoleReader              // reads, for good
	RoleStandby             // reads; becomes the writer with its first mutation or by Promote
	RoleCutOff              // nothing: a newer one writes
)

// String returns the role's name.
func (r Role) String() string {
	switch r {
	case RoleWriter:
		return "writer"
	case RoleReader:
		return "reader"
	case RoleStandby:
		return "standby"
	case RoleCutOff:
		return "cut off"
	default:
		return "absent"
	}
}

// Request asks for an attachment.
type Request struct {
	Attachment cloud.AttachmentID
	Host       cloud.HostName // only this host's connections are admitted
	ReadOnly   bool
	Handover   bool // stand by rather than become the writer
	Shared     bool // write beside others (multiattach); nobody is cut off
}

// Attachment is an open attachment.
type Attachment struct {
	ID          cloud.AttachmentID
	Host        cloud.HostName
	Epoch       int64
	Role        Role
	Connections int
}

// DirectIO says whether volumes' data bypasses the page cache.
type DirectIO uint8

// The choices.
const (
	DirectAuto DirectIO = iota // where the file system takes it
	DirectOn                   // Open fails where it does not
	DirectOff
)

// Facts describe a back end as it is now.
type Facts struct {
	Name         string
	Kind         string
	Reflink      bool   // snapshots and clones share blocks
	ReflinkWhy   string // why not
	Direct       bool
	DirectWhy    string // why not
	TotalBytes   int64
	FreeBytes    int64
	Volumes      int
	Attachments  int
	Damaged      []cloud.VolumeID // whose metadata or data cannot be used
	Troubles     []Trouble        // why users of volumes stand still, the oldest first
	RequestsHeld int              // leases that wait for a writer's turn or for a copy
	Error        string           // why it takes no volumes now
}

// File is an open data file, for the data path. Offsets and lengths must fit the lease's Align.
type File interface {
	io.ReaderAt
	io.WriterAt
	// FD returns the descriptor for requests filled by hand, negative if there is none; valid until the last lease is closed.
	FD() int
	// Sync makes written data durable.
	Sync() error
	// Punch gives a range's space back; it reads as zeros.
	Punch(off, length int64) error
	// Zero makes a range read as zeros and keeps its space allocated.
	Zero(off, length int64) error
	// NextData returns the first stretch of data at or after off: [start, end). io.EOF: there is none.
	NextData(off int64) (start, end int64, err error)
}
