package cloud

import "time"

// IntentKind names the flow that carries an intent out.
type IntentKind string

// The kinds of intent.
const (
	IntentBoot    IntentKind = "boot"
	IntentDelete  IntentKind = "delete"
	IntentStop    IntentKind = "stop"
	IntentStart   IntentKind = "start"
	IntentReboot  IntentKind = "reboot"
	IntentMigrate IntentKind = "migrate"
	// IntentEvacuate starts a server elsewhere whose host is dead.
	IntentEvacuate IntentKind = "evacuate"
	// IntentColdMove moves a server to another host, or gives it another flavor, with its power off; then it is confirmed or reverted.
	IntentColdMove IntentKind = "cold-move"
	IntentConfirm  IntentKind = "confirm-resize"
	IntentRevert   IntentKind = "revert-resize"
	// IntentRebuild makes a server anew from an image, IntentCapture an image from a server.
	IntentRebuild  IntentKind = "rebuild"
	IntentCapture  IntentKind = "create-image"
	IntentShelve   IntentKind = "shelve"
	IntentOffload  IntentKind = "shelve-offload"
	IntentUnshelve IntentKind = "unshelve"
	// Of a server and a volume.
	IntentAttach IntentKind = "attach"
	IntentDetach IntentKind = "detach"
	// Of a volume; keyed by it.
	IntentVolumeCreate   IntentKind = "volume-create"
	IntentVolumeDelete   IntentKind = "volume-delete"
	IntentVolumeExtend   IntentKind = "volume-extend"
	IntentVolumeUpload   IntentKind = "volume-upload"
	IntentVolumeRetype   IntentKind = "volume-retype"
	IntentVolumeRevert   IntentKind = "volume-revert"
	IntentVolumeReimage  IntentKind = "volume-reimage"
	IntentSnapshotCreate IntentKind = "snapshot-create"
	IntentSnapshotDelete IntentKind = "snapshot-delete"
)

// Intent is what somebody asked to be done to a server or a volume: the edge writes it in the transaction that checks the server's state and
// sets its task, then answers 202. Control starts one run with the intent's ID and removes the intent with the run's last write.
type Intent struct {
	ID         IntentID     `json:"id"`
	Kind       IntentKind   `json:"kind"`
	Server     ServerID     `json:"server"`
	Migration  MigrationID  `json:"migration,omitempty"`   // migrate, evacuate
	Volume     VolumeID     `json:"volume,omitempty"`      // attach, detach, volume-..., snapshot-...
	Snapshot   SnapshotID   `json:"snapshot,omitempty"`    // snapshot-...
	Attachment AttachmentID `json:"attachment,omitempty"`  // attach, detach
	Image      ImageID      `json:"image,omitempty"`       // volume-upload: the image to fill; snapshot-create: the image that is to have the snapshot
	VolumeType VolumeTypeID `json:"volume_type,omitempty"` // volume-retype: the new type
	SizeGiB    int          `json:"size_gib,omitempty"`    // volume-extend: the new size
	Cascade    bool         `json:"cascade,omitempty"`     // volume-delete: its snapshots too
	Hard       bool         `json:"hard,omitempty"`        // reboot
	Rebuild    bool         `json:"rebuild,omitempty"`     // evacuate: a root disk that is lost with its host is made anew from its image
	Stopped    bool         `json:"stopped,omitempty"`     // evacuate: the server is left stopped
	Reimage    *Reimage     `json:"reimage,omitempty"`     // rebuild: what the server becomes; volume-reimage: what the volume becomes
	Proof      string       `json:"proof,omitempty"`       // evacuate: what the leader found to keep the dead host from harm; empty: the run fences it
	Tried      []HostName   `json:"tried,omitempty"`       // boot, migrate: hosts that failed this request; placement leaves them out
	RequestID  string       `json:"request_id"`            // "req-<uuid>" of the API call; the instance action's key
	Project    ProjectID    `json:"project"`
	User       UserID       `json:"user"`
	Created    time.Time    `json:"created"`
}

// Action is what Nova calls an instance action: one request on one server with the events that carried it out.
type Action struct {
	Server    ServerID      `json:"server"`
	RequestID string        `json:"request_id"`
	Name      string        `json:"name"` // create, delete, stop, start, reboot, live-migration ...
	Project   ProjectID     `json:"project"`
	User      UserID        `json:"user"`
	Message   string        `json:"message,omitempty"` // "Error" when it failed
	Events    []ActionEvent `json:"events"`
	Started   time.Time     `json:"started"`
	Updated   time.Time     `json:"updated"`
}

// ActionEvent is one step of an action; Name is "flow_step" in Nova's manner, e.g. "migrate_prepare_target".
type ActionEvent struct {
	Name     string    `json:"name"`
	Host     HostName  `json:"host,omitempty"`
	Result   string    `json:"result,omitempty"` // "", "Success", "Error"
	Details  string    `json:"details,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
}
