package cloud

import (
	"fmt"
	"slices"
	"time"
)

// VMState is what a server is, by Nova's words; it changes only when work has finished.
type VMState string

// The vm_states godwit uses.
const (
	VMBuilding VMState = "building"
	VMActive   VMState = "active"
	VMStopped  VMState = "stopped"
	VMPaused   VMState = "paused"
	VMError    VMState = "error"
	VMDeleted  VMState = "deleted"
	// VMResized waits for its owner to confirm or revert; it runs, or is stopped, on its new host.
	VMResized VMState = "resized"
	// VMShelved is shut down and kept as an image; VMOffloaded is on no host any more.
	VMShelved   VMState = "shelved"
	VMOffloaded VMState = "shelved_offloaded"
)

// VMStates returns every state.
func VMStates() []VMState {
	return []VMState{VMBuilding, VMActive, VMStopped, VMPaused, VMError, VMDeleted, VMResized, VMShelved, VMOffloaded}
}

// vmMoves are the legal moves. VMDeleted is final.
var vmMoves = map[VMState][]VMState{
	VMBuilding:  {VMActive, VMError, VMDeleted},
	VMActive:    {VMStopped, VMPaused, VMError, VMDeleted, VMResized, VMShelved, VMOffloaded},
	VMStopped:   {VMActive, VMError, VMDeleted, VMResized, VMShelved, VMOffloaded},
	VMPaused:    {VMActive, VMStopped, VMError, VMDeleted, VMShelved, VMOffloaded},
	VMError:     {VMActive, VMStopped, VMDeleted},
	VMDeleted:   {},
	VMResized:   {VMActive, VMStopped, VMError, VMDeleted},
	VMShelved:   {VMActive, VMOffloaded, VMError, VMDeleted},
	VMOffloaded: {VMActive, VMError, VMDeleted},
}

// CanBecome reports whether the move from s to next is legal. Staying is always legal.
func (s VMState) CanBecome(next VMState) bool { return s == next || slices.Contains(vmMoves[s], next) }

// TaskState is the work in progress on a server, by Nova's words; TaskNone when there is none.
type TaskState string

// The task_states godwit uses.
const (
	TaskNone          TaskState = ""
	TaskScheduling    TaskState = "scheduling"
	TaskNetworking    TaskState = "networking"
	TaskSpawning      TaskState = "spawning"
	TaskDeleting      TaskState = "deleting"
	TaskPoweringOff   TaskState = "powering-off"
	TaskPoweringOn    TaskState = "powering-on"
	TaskRebooting     TaskState = "rebooting"
	TaskRebootingHard TaskState = "rebooting_hard"
	TaskMigrating     TaskState = "migrating"
	TaskRebuilding    TaskState = "rebuilding" // being evacuated, or rebuilt

	// Cold migration and resize.
	TaskResizePrep       TaskState = "resize_prep"
	TaskResizeMigrating  TaskState = "resize_migrating"
	TaskResizeMigrated   TaskState = "resize_migrated"
	TaskResizeFinish     TaskState = "resize_finish"
	TaskResizeConfirming TaskState = "resize_confirming"
	TaskResizeReverting  TaskState = "resize_reverting"
	// Rebuild.
	TaskRebuildDevices  TaskState = "rebuild_block_device_mapping"
	TaskRebuildSpawning TaskState = "rebuild_spawning"
	// Images of servers.
	TaskImageSnapshotPending TaskState = "image_snapshot_pending"
	TaskImageSnapshot        TaskState = "image_snapshot"
	TaskImagePendingUpload   TaskState = "image_pending_upload"
	TaskImageUploading       TaskState = "image_uploading"
	// Shelving.
	TaskShelving               TaskState = "shelving"
	TaskShelvingImagePending   TaskState = "shelving_image_pending_upload"
	TaskShelvingImageUploading TaskState = "shelving_image_uploading"
	TaskShelvingOffloading     TaskState = "shelving_offloading"
	TaskUnshelving             TaskState = "unshelving"
)

// PowerState is what the hypervisor says, with Nova's numbers.
type PowerState int

// Nova's power states.
const (
	PowerNone      PowerState = 0
	PowerRunning   PowerState = 1
	PowerPaused    PowerState = 3
	PowerShutdown  PowerState = 4
	PowerCrashed   PowerState = 6
	PowerSuspended PowerState = 7
)

// Server is a virtual machine: what its owner asked for and where it lives. Written by the edge at creation (VMBuilding with a
// boot intent) and for names and metadata; its state, host and generation are written by control's flows only.
type Server struct {
	ID                ServerID          `json:"id"`
	Project           ProjectID         `json:"project"`
	User              UserID            `json:"user"`
	Name              string            `json:"name"`
	Description       string            `json:"description,omitempty"` // microversion 2.19
	Hostname          string            `json:"hostname"`              // guest's host name, from Name unless set (2.90)
	Flavor            Flavor            `json:"flavor"`                // as it was at boot
	Image             ImageID           `json:"image"`
	ShownImage        ImageID           `json:"shown_image,omitempty"` // see OwnersImage
	ImageFormat       string            `json:"image_format"`
	ImageBytes        int64             `json:"image_bytes"`
	ImageVirtualBytes int64             `json:"image_virtual_bytes"`
	ImageHash         string            `json:"image_hash"` // sha512 of the image's data
	ImageProperties   map[string]string `json:"image_properties,omitempty"`
	CPUModel          string            `json:"cpu_model,omitempty"` // what the guest sees since it was first placed; a move keeps it
	KeyName           string            `json:"key_name,omitempty"`
	PublicKey         string            `json:"public_key,omitempty"`
	Metadata          map[string]string `json:"metadata"`
	Tags              []string          `json:"tags,omitempty"`      // microversion 2.26
	UserData          string            `json:"user_data,omitempty"` // base64, as given
	AdminPass         string            `json:"-"`                   // shown once, never stored
	ConfigDrive       bool              `json:"config_drive"`
	Ports             []PortID          `json:"ports"`
	// Devices are the server's disks that are or become volumes. When one has boot index 0 the server has no local root disk, and Image is
	// empty unless that volume was made from it.
	Devices       []BlockDevice     `json:"devices,omitempty"`
	Zone          string            `json:"zone,omitempty"` // requested availability zone
	Group         GroupID           `json:"group,omitempty"`
	ForcedHost    HostName          `json:"forced_host,omitempty"` // asked for at creation (az:host or 2.74 host)
	Locked        bool              `json:"locked"`
	LockedReason  string            `json:"locked_reason,omitempty"`   // 2.73
	LockedByAdmin bool              `json:"locked_by_admin,omitempty"` // locked by an administrator: its owner cannot unlock it
	AccessIPv4    string            `json:"access_ipv4,omitempty"`     // address the owner gives out; godwit only shows it
	AccessIPv6    string            `json:"access_ipv6,omitempty"`
	DiskConfig    string            `json:"disk_config,omitempty"` // OS-DCF:diskConfig as asked, AUTO or MANUAL; empty means MANUAL
	PortTags      map[PortID]string `json:"port_tags,omitempty"`   // device role tags of NICs (2.32, 2.42)
	VMState       VMState           `json:"vm_state"`
	Task          TaskState         `json:"task"`
	Power         PowerState        `json:"power"`
	Host          HostName          `json:"host,omitempty"` // where its domain and disks are; empty until placed
	Generation    int64             `json:"generation"`     // grows with each decision about where or whether it runs; host calls carry it
	Progress      int               `json:"progress"`       // 0..100
	Fault         *Fault            `json:"fault,omitempty"`
	Resize        *Resize           `json:"resize,omitempty"`  // while one is under way or undecided
	Shelved       *Shelved          `json:"shelved,omitempty"` // while it is shelved
	BootIndex     int               `json:"boot_index"`        // place among servers of one multi-create request
	Reservation   string            `json:"reservation"`
	Created       time.Time         `json:"created"`
	Updated       time.Time         `json:"updated"`
	Launched      time.Time         `json:"launched,omitzero"`
	Terminated    time.Time         `json:"terminated,omitzero"`
}

// Fault is the last error a server's owner should see.
type Fault struct {
	Code    int       `json:"code"`
	Message string    `json:"message"`
	Details string    `json:"details,omitempty"` // administrators only
	Created time.Time `json:"created"`
}

// OwnersImage is the image that the server shows: the one it was booted from, also after it came back from shelving with a root disk that is built on
// what it was kept as, which is Image then.
func (s *Server) OwnersImage() ImageID {
	if s.ShownImage != "" {
		return s.ShownImage
	}
	return s.Image
}

// RootBytes returns the size of the server's root disk: the flavor's, or the image's when the flavor says 0.
func (s *Server) RootBytes() int64 {
	if s.Flavor.RootGiB > 0 {
		return int64(s.Flavor.RootGiB) << 30
	}
	return s.ImageVirtualBytes
}

// Resources returns what the server takes from its host: its flavor, without the root disk when that is a volume.
func (s *Server) Resources() Resources {
	r := s.Flavor.Resources()
	if s.RootDevice() != nil {
		r.DiskGiB -= s.Flavor.RootGiB
	}
	return r
}

// Device returns the server's disk that is the volume, nil when it has no such disk.
func (s *Server) Device(volume VolumeID) *BlockDevice {
	for i := range s.Devices {
		if s.Devices[i].Volume == volume && volume != "" {
			return &s.Devices[i]
		}
	}
	return nil
}

// RootDevice returns the volume the server boots from, nil when it boots from a local disk.
func (s *Server) RootDevice() *BlockDevice {
	for i := range s.Devices {
		if s.Devices[i].BootIndex == 0 {
			return &s.Devices[i]
		}
	}
	return nil
}

// ServerObservation is what a host last saw of one of its servers. Owned by that host's agent.
type ServerObservation struct {
	Server     ServerID   `json:"server"`
	Host       HostName   `json:"host"`
	Generation int64      `json:"generation"` // generation of the last accepted call
	Epoch      int64      `json:"epoch"`      // the agent's HostReport.Generation
	Seq        int64      `json:"seq"`
	Power      PowerState `json:"power"`
	Reason     string     `json:"reason"` // libvirt's reason for the state: "booted", "migrated", "crashed", "shutdown" ...
	At         time.Time  `json:"at"`
	// The last failure of the guest on that host; Failure is empty once it is over, and Number tells failures apart.
	Failure       GuestFailure `json:"failure,omitempty"`
	FailureDetail string       `json:"failure_detail,omitempty"`
	FailureNumber int64        `json:"failure_number,omitempty"`
	FailureAt     time.Time    `json:"failure_at,omitzero"`
}

// Operation is something a user asks of a server.
type Operation string

// The operations, in the words Nova's error messages use.
const (
	OpDelete      Operation = "delete"
	OpStart       Operation = "start"
	OpStop        Operation = "stop"
	OpReboot      Operation = "reboot"
	OpRebootHard  Operation = "reboot_hard"
	OpLiveMigrate Operation = "os-migrateLive"
	OpEvacuate    Operation = "evacuate"
	OpConsole     Operation = "get_console_output"
	OpAttach      Operation = "attach_volume"
	OpDetach      Operation = "detach_volume"
	OpMigrate     Operation = "migrate"
	OpResize      Operation = "resize"
	OpConfirm     Operation = "confirmResize"
	OpRevert      Operation = "revertResize"
	OpRebuild     Operation = "rebuild"
	OpCreateImage Operation = "createImage"
	OpShelve      Operation = "shelve"
	OpOffload     Operation = "shelveOffload"
	OpUnshelve    Operation = "unshelve"
)

// Operations returns every operation.
func Operations() []Operation {
	return []Operation{OpDelete, OpStart, OpStop, OpReboot, OpRebootHard, OpLiveMigrate, OpEvacuate, OpConsole, OpAttach, OpDetach,
		OpMigrate, OpResize, OpConfirm, OpRevert, OpRebuild, OpCreateImage, OpShelve, OpOffload, OpUnshelve}
}

type opRule struct {
	states []VMState
	tasks  []TaskState // nil: any; else the server's task must be one of them
}

var idle = []TaskState{TaskNone}

// opRules follows Nova's check_instance_state decorators (nova/compute/api.py).
var opRules = map[Operation]opRule{
	OpDelete:      {VMStates(), nil},
	OpStart:       {[]VMState{VMStopped}, idle},
	OpStop:        {[]VMState{VMActive, VMError}, idle},
	OpReboot:      {[]VMState{VMActive}, idle},
	OpRebootHard:  {[]VMState{VMActive, VMStopped, VMPaused, VMError}, []TaskState{TaskNone, TaskRebooting, TaskRebootingHard}},
	OpLiveMigrate: {[]VMState{VMActive, VMPaused}, idle},
	OpEvacuate:    {[]VMState{VMActive, VMStopped, VMError}, idle},
	OpConsole:     {[]VMState{VMActive, VMStopped, VMPaused, VMError, VMBuilding, VMResized}, nil},
	OpAttach:      {[]VMState{VMActive, VMStopped, VMPaused}, idle},
	OpDetach:      {[]VMState{VMActive, VMStopped, VMPaused}, idle},
	OpMigrate:     {[]VMState{VMActive, VMStopped}, idle},
	OpResize:      {[]VMState{VMActive, VMStopped}, idle},
	OpConfirm:     {[]VMState{VMResized}, idle},
	OpRevert:      {[]VMState{VMResized}, idle},
	OpRebuild:     {[]VMState{VMActive, VMStopped, VMError}, idle},
	OpCreateImage: {[]VMState{VMActive, VMStopped, VMPaused}, idle},
	OpShelve:      {[]VMState{VMActive, VMStopped, VMPaused}, idle},
	OpOffload:     {[]VMState{VMShelved}, idle},
	OpUnshelve:    {[]VMState{VMShelved, VMOffloaded}, idle},
}

// Allow returns nil when op may be asked of s now, and otherwise a conflict with Nova's wording
// ("Cannot 'stop' instance ID while it is in vm_state stopped").
func (s *Server) Allow(op Operation) error {
	rule, ok := opRules[op]
	if !ok {
		return Errorf(KindInternal, "no rule for operation %q", op)
	}
	if s.Locked && op != OpConsole {
		return Errorf(KindConflict, "Instance %s is locked", s.ID)
	}
	if !slices.Contains(rule.states, s.VMState) {
		return Errorf(KindConflict, "Cannot '%s' instance %s while it is in vm_state %s", op, s.ID, s.VMState)
	}
	if rule.tasks != nil && !slices.Contains(rule.tasks, s.Task) {
		return Errorf(KindConflict, "Cannot '%s' instance %s while it is in task_state %s", op, s.ID, s.Task)
	}
	return nil
}

// AtRest reports whether the server is stopped and nothing is being done with it: its host may sleep, and is woken when something is wanted of it.
func (s *Server) AtRest() bool { return s.VMState == VMStopped && s.Task == TaskNone }

// Become moves the server to next and sets its task, or returns an internal error when the move is illegal.
func (s *Server) Become(next VMState, task TaskState) error {
	if !s.VMState.CanBecome(next) {
		return E(KindInternal, "", fmt.Sprintf("server %s", s.ID), fmt.Errorf("illegal move from %s to %s", s.VMState, next))
	}
	s.VMState, s.Task = next, task
	return nil
}
