package cloud

import "time"

// Identifiers of Masakari's nouns.
type (
	SegmentID      string
	SegmentHostID  string
	NotificationID string
)

// Segment is a group of hosts whose servers are recovered in one manner: Masakari's failover segment.
type Segment struct {
	ID             SegmentID      `json:"id"`
	Number         int            `json:"number"`
	Name           string         `json:"name"`
	Description    string         `json:"description,omitempty"`
	ServiceType    string         `json:"service_type"`
	RecoveryMethod RecoveryMethod `json:"recovery_method"`
	Enabled        bool           `json:"enabled"` // 1.2: a segment that is not is left alone by recovery
	Created        time.Time      `json:"created"`
	Updated        time.Time      `json:"updated,omitzero"`
}

// RecoveryMethod says where a segment's servers may be recovered to.
type RecoveryMethod string

// Masakari's recovery methods.
const (
	RecoverAuto         RecoveryMethod = "auto"          // anywhere but on reserved hosts
	RecoverReserved     RecoveryMethod = "reserved_host" // on a reserved host of the segment
	RecoverAutoFirst    RecoveryMethod = "auto_priority" // anywhere, else on a reserved host
	RecoverReservedOnce RecoveryMethod = "rh_priority"   // on a reserved host, else anywhere
)

// SegmentHost is a compute host as a member of a segment. A host is in at most one.
type SegmentHost struct {
	ID                SegmentHostID `json:"id"`
	Number            int           `json:"number"`
	Name              HostName      `json:"name"`
	Segment           SegmentID     `json:"segment"`
	Type              string        `json:"type"`
	ControlAttributes string        `json:"control_attributes"`
	Reserved          bool          `json:"reserved"`       // takes no ordinary servers, and recovery's when needed
	Maintenance       bool          `json:"on_maintenance"` // somebody works on it: its failures are not recovered
	// Recovering is the recovery that has put the host on maintenance and takes it off when the host is back; empty: a person did, or nobody.
	Recovering RecoveryID `json:"recovering,omitempty"`
	Created    time.Time  `json:"created"`
	Updated    time.Time  `json:"updated,omitzero"`
}

// Notification is the news of a failure, from a monitor or from the cluster itself, with what was done about it.
type Notification struct {
	ID         NotificationID     `json:"id"`
	Number     int                `json:"number"`
	Type       string             `json:"type"` // COMPUTE_HOST, VM or PROCESS
	Host       HostName           `json:"host"`
	SourceHost SegmentHostID      `json:"source_host,omitempty"`
	Generated  time.Time          `json:"generated"`
	Payload    map[string]any     `json:"payload"`
	Status     NotificationStatus `json:"status"`
	Details    []ProgressDetail   `json:"details,omitempty"`  // newest last, at most ProgressDetailsMax
	Server     ServerID           `json:"server,omitempty"`   // VM: whom it is about
	Recovery   RecoveryID         `json:"recovery,omitempty"` // COMPUTE_HOST: what was done about it
	ByCluster  bool               `json:"by_cluster,omitempty"`
	Created    time.Time          `json:"created"`
	Updated    time.Time          `json:"updated,omitzero"`
}

// NotificationStatus is where a notification stands, by Masakari's words.
type NotificationStatus string

// Masakari's statuses.
const (
	NotificationNew      NotificationStatus = "new"
	NotificationRunning  NotificationStatus = "running"
	NotificationError    NotificationStatus = "error"
	NotificationFailed   NotificationStatus = "failed"
	NotificationIgnored  NotificationStatus = "ignored"
	NotificationFinished NotificationStatus = "finished"
)

// Final reports whether nothing is to be done about it any more.
func (s NotificationStatus) Final() bool { return s != NotificationNew && s != NotificationRunning }

// What the cluster's own notifications of failed guests say beyond Masakari's words, in their payload.
const (
	PayloadFailure = "failure" // a GuestFailure
	PayloadDetail  = "detail"  // a sentence
)

// The types of notifications.
const (
	NotifyHost    = "COMPUTE_HOST"
	NotifyVM      = "VM"
	NotifyProcess = "PROCESS"
)

// ProgressDetail is a line of a notification's recovery_workflow_details.
type ProgressDetail struct {
	At       time.Time `json:"at"`
	Message  string    `json:"message"`
	Progress float64   `json:"progress"` // 0..1
}

// ProgressDetailsMax bounds what a notification keeps.
const ProgressDetailsMax = 50

// Note appends a line, moves to the status, and forgets the oldest lines beyond ProgressDetailsMax.
func (n *Notification) Note(status NotificationStatus, message string, progress float64, now time.Time) {
	n.Status, n.Updated = status, now
	n.Details = append(n.Details, ProgressDetail{now, message, progress})
	if over := len(n.Details) - ProgressDetailsMax; over > 0 {
		n.Details = n.Details[over:]
	}
}
