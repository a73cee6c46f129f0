package cloud

import (
	"slices"
	"time"
)

// MigrationStatus is where a migration stands, by Nova's words.
type MigrationStatus string

// The migration statuses.
const (
	MigrationQueued    MigrationStatus = "queued"
	MigrationAccepted  MigrationStatus = "accepted"
	MigrationPreparing MigrationStatus = "preparing"
	MigrationRunning   MigrationStatus = "running"
	MigrationPostCopy  MigrationStatus = "running (post-copy)"
	MigrationCompleted MigrationStatus = "completed"
	MigrationCancelled MigrationStatus = "cancelled"
	MigrationFailed    MigrationStatus = "failed"
	MigrationError     MigrationStatus = "error"
)

// MigrationStatuses returns every status.
func MigrationStatuses() []MigrationStatus {
	return []MigrationStatus{MigrationQueued, MigrationAccepted, MigrationPreparing, MigrationRunning, MigrationPostCopy,
		MigrationCompleted, MigrationCancelled, MigrationFailed, MigrationError,
		MigrationPreMigrating, MigrationMigrating, MigrationPostMigrating, MigrationFinished, MigrationConfirming, MigrationConfirmed,
		MigrationReverting, MigrationReverted}
}

var migrationMoves = map[MigrationStatus][]MigrationStatus{
	MigrationQueued:    {MigrationAccepted, MigrationPreparing, MigrationPreMigrating, MigrationCancelled, MigrationFailed, MigrationError},
	MigrationAccepted:  {MigrationPreparing, MigrationCancelled, MigrationFailed, MigrationError},
	MigrationPreparing: {MigrationRunning, MigrationCancelled, MigrationFailed, MigrationError},
	MigrationRunning:   {MigrationPostCopy, MigrationCompleted, MigrationCancelled, MigrationFailed, MigrationError},
	MigrationPostCopy:  {MigrationCompleted, MigrationFailed, MigrationError},
	// With the power off. A confirmation or a revert that failed may be asked for again.
	MigrationPreMigrating:  {MigrationMigrating, MigrationCancelled, MigrationFailed, MigrationError},
	MigrationMigrating:     {MigrationPostMigrating, MigrationCancelled, MigrationFailed, MigrationError},
	MigrationPostMigrating: {MigrationFinished, MigrationError},
	MigrationFinished:      {MigrationConfirming, MigrationReverting, MigrationConfirmed, MigrationError},
	MigrationConfirming:    {MigrationConfirmed, MigrationFinished, MigrationError},
	MigrationReverting:     {MigrationReverted, MigrationFinished, MigrationError},
}

// CanBecome reports whether the move from s to next is legal. Staying is always legal.
func (s MigrationStatus) CanBecome(next MigrationStatus) bool {
	return s == next || slices.Contains(migrationMoves[s], next)
}

// Final reports whether no further move is possible.
func (s MigrationStatus) Final() bool { return len(migrationMoves[s]) == 0 }

// MigrationKind says what is copied.
type MigrationKind string

// The kinds of live migration. KindAuto is a request, never a result.
const (
	MigrateAuto   MigrationKind = "auto"   // found per disk
	MigrateBlock  MigrationKind = "block"  // disks are copied
	MigrateShared MigrationKind = "shared" // disks are on a directory both hosts share
	MigrateVolume MigrationKind = "volume" // disks are volumes
)

// The types of migrations, in Nova's words.
const (
	TypeLiveMigration = "live-migration"
	TypeEvacuation    = "evacuation"
)

// Migration is one move of one server. Created by the edge as queued; its status is moved on by the migrate flow only.
type Migration struct {
	ID            MigrationID     `json:"id"`
	Number        int             `json:"number"` // integer id that Nova shows
	Server        ServerID        `json:"server"`
	Project       ProjectID       `json:"project"`
	User          UserID          `json:"user"`
	Type          string          `json:"type"` // "live-migration", "evacuation", "migration", "resize"
	Asked         MigrationKind   `json:"asked"`
	Kind          MigrationKind   `json:"kind,omitempty"`
	Source        HostName        `json:"source"`
	Target        HostName        `json:"target,omitempty"` // empty until placement has chosen
	TargetAddress string          `json:"target_address,omitempty"`
	AskedTarget   HostName        `json:"asked_target,omitempty"` // the host the caller named, if any
	Force         bool            `json:"force"`                  // the named host was not to be checked by placement (before 2.68)
	Status        MigrationStatus `json:"status"`
	Error         string          `json:"error,omitempty"`
	Intent        IntentID        `json:"intent"`
	AbortAsked    bool            `json:"abort_asked"`          // DELETE /servers/{id}/migrations/{id}
	CompleteAsked bool            `json:"complete_asked"`       // force_complete
	Fence         string          `json:"fence,omitempty"`      // evacuation: what proves that the source runs nothing any more
	Lost          string          `json:"lost,omitempty"`       // evacuation: what it cost
	Phases        []Phase         `json:"phases,omitempty"`     // how long each step took
	Totals        *MigrationStats `json:"totals,omitempty"`     // QEMU's final figures
	OldFlavor     *Flavor         `json:"old_flavor,omitempty"` // with the power off: what the server was
	NewFlavor     *Flavor         `json:"new_flavor,omitempty"` // and what it becomes
	SameHost      bool            `json:"same_host,omitempty"`  // resize: the server's own host may be chosen
	Created       time.Time       `json:"created"`
	Updated       time.Time       `json:"updated"`
	Finished      time.Time       `json:"finished,omitzero"`
}

// Phase is a timed step of a run.
type Phase struct {
	Name  string        `json:"name"`
	Began time.Time     `json:"began"`
	Took  time.Duration `json:"took"`
	Error string        `json:"error,omitempty"`
}

// MigrationStats are QEMU's and libvirt's figures of a running or finished migration. All sizes are bytes.
type MigrationStats struct {
	MemoryTotal          int64         `json:"memory_total"`
	MemoryProcessed      int64         `json:"memory_processed"`
	MemoryRemaining      int64         `json:"memory_remaining"`
	MemoryPageSize       int64         `json:"memory_page_size"`
	DirtyBytesPerSecond  int64         `json:"dirty_bytes_per_second"`
	MemoryBytesPerSecond int64         `json:"memory_bytes_per_second"`
	MemoryIterations     int64         `json:"memory_iterations"`
	DiskTotal            int64         `json:"disk_total"`
	DiskProcessed        int64         `json:"disk_processed"`
	DiskRemaining        int64         `json:"disk_remaining"`
	DiskBytesPerSecond   int64         `json:"disk_bytes_per_second"`
	Downtime             time.Duration `json:"downtime"` // expected while running, measured when finished
	Setup                time.Duration `json:"setup"`
	Elapsed              time.Duration `json:"elapsed"` // QEMU's total time
}

// MigrationProgress is the latest figures of a running migration. Owned by the source host's agent.
type MigrationProgress struct {
	Migration MigrationID    `json:"migration"`
	Server    ServerID       `json:"server"`
	Stats     MigrationStats `json:"stats"`
	Seq       int64          `json:"seq"`
	PostCopy  bool           `json:"post_copy,omitempty"` // post-copy has begun: neither host alone has the guest
	At        time.Time      `json:"at"`
}
