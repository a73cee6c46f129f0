package compute

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// defaultTask stands for every task without an entry of its own.
const defaultTask cloud.TaskState = "default"

// statuses is Nova's table from vm_state and task_state to the status users see. It has Nova's states that godwit does not use too, so
// that filters by status answer as in Nova.
var statuses = map[cloud.VMState]map[cloud.TaskState]string{
	cloud.VMActive: {
		defaultTask: "ACTIVE", cloud.TaskRebooting: "REBOOT", "reboot_pending": "REBOOT", "reboot_started": "REBOOT",
		cloud.TaskRebootingHard: "HARD_REBOOT", "reboot_pending_hard": "HARD_REBOOT", "reboot_started_hard": "HARD_REBOOT",
		"updating_password": "PASSWORD", cloud.TaskRebuilding: "REBUILD", cloud.TaskRebuildDevices: "REBUILD", cloud.TaskRebuildSpawning: "REBUILD",
		cloud.TaskMigrating: "MIGRATING", cloud.TaskResizePrep: "RESIZE", cloud.TaskResizeMigrating: "RESIZE", cloud.TaskResizeMigrated: "RESIZE", cloud.TaskResizeFinish: "RESIZE",
	},
	cloud.VMBuilding: {defaultTask: "BUILD"},
	cloud.VMStopped: {
		defaultTask: "SHUTOFF", cloud.TaskResizePrep: "RESIZE", cloud.TaskResizeMigrating: "RESIZE", cloud.TaskResizeMigrated: "RESIZE", cloud.TaskResizeFinish: "RESIZE",
		cloud.TaskRebuilding: "REBUILD", cloud.TaskRebuildDevices: "REBUILD", cloud.TaskRebuildSpawning: "REBUILD",
	},
	cloud.VMResized:   {defaultTask: "VERIFY_RESIZE", cloud.TaskResizeReverting: "REVERT_RESIZE"},
	cloud.VMPaused:    {defaultTask: "PAUSED", cloud.TaskMigrating: "MIGRATING"},
	"suspended":       {defaultTask: "SUSPENDED"},
	"rescued":         {defaultTask: "RESCUE"},
	cloud.VMError:     {defaultTask: "ERROR", cloud.TaskRebuilding: "REBUILD", cloud.TaskRebuildDevices: "REBUILD", cloud.TaskRebuildSpawning: "REBUILD"},
	cloud.VMDeleted:   {defaultTask: "DELETED"},
	"soft-delete":     {defaultTask: "SOFT_DELETED"},
	cloud.VMShelved:   {defaultTask: "SHELVED"},
	cloud.VMOffloaded: {defaultTask: "SHELVED_OFFLOADED"},
}

// statusOf returns the status users see.
func statusOf(s *cloud.Server) string {
	tasks, ok := statuses[s.VMState]
	if !ok {
		return "UNKNOWN"
	}
	if status, ok := tasks[s.Task]; ok {
		return status
	}
	return tasks[defaultTask]
}

// knownStatus reports whether some server could have the status; case does not matter.
func knownStatus(status string) bool {
	for _, tasks := range statuses {
		for _, s := range tasks {
			if strings.EqualFold(s, status) {
				return true
			}
		}
	}
	return false
}

// hostID returns the digest by which users tell hosts apart without learning their names.
func hostID(project cloud.ProjectID, host cloud.HostName) string {
	if host == "" {
		return ""
	}
	sum := sha256.Sum224([]byte(string(project) + string(host)))
	return hex.EncodeToString(sum[:])
}

// showsProgress are the statuses with a progress.
var showsProgress = []string{"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"}

func hasProgress(status string) bool { return slices.Contains(showsProgress, status) }
