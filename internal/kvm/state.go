package kvm

import (
	"context"
	"fmt"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Run says whether and how a domain runs on this host.
type Run uint8

// The values of Run.
const (
	Absent   Run = iota // libvirt knows no such domain
	Running             // its CPUs run here
	Paused              // it has a process whose CPUs stand still
	Shutoff             // defined, without a process
	Crashed             // it ended by a crash of the guest or of its process
	Incoming            // being received by migration: its CPUs do not run here yet
	Outgoing            // its CPUs belong here and a migration to elsewhere is in progress
)

var runNames = []string{"absent", "running", "paused", "shutoff", "crashed", "incoming", "outgoing"}

// String returns the value's name.
func (r Run) String() string {
	if int(r) < len(runNames) {
		return runNames[r]
	}
	return fmt.Sprintf("run %d", uint8(r))
}

// Reasons that callers decide by. Others are for people.
const (
	ReasonMigrated  = "migrated"  // Running: came from, Shutoff: left for another host
	ReasonMigration = "migration" // Paused: in the switch-over, or after one whose end libvirtd missed
	ReasonPostcopy  = "postcopy"  // Paused or Running with memory still on the other side
	// ReasonPostcopyFailed: Paused or Running with memory on the other side that will never come by itself.
	ReasonPostcopyFailed = "postcopy failed"
	// ReasonIOError: Paused because a volume could not be read or written. The requests that failed are kept and tried again by Resume.
	ReasonIOError = "io error"
	// ReasonWatchdog: Paused by its watchdog device.
	ReasonWatchdog = "watchdog"
	// ReasonShutdown: Shutoff by the guest itself. ReasonDestroyed: by whoever drives libvirt.
	ReasonShutdown  = "shutdown"
	ReasonDestroyed = "destroyed"
)

// State is the truth about a domain at the time it was asked.
type State struct {
	ID     cloud.ServerID
	Run    Run
	Reason string // libvirt's, in lower case: "booted", "migrated", "shutdown", "destroyed", "crashed" ...
}

// HasProcess reports whether a QEMU process of the domain exists here.
func (s State) HasProcess() bool {
	switch s.Run {
	case Running, Paused, Incoming, Outgoing:
		return true
	case Absent, Shutoff, Crashed:
	}
	return false
}

var reasons = map[libvirt.DomainState][]string{
	libvirt.DomainRunning: {"unknown", "booted", ReasonMigrated, "restored", "from snapshot", "unpaused", "migration cancelled",
		"save cancelled", "wakeup", "crashed", ReasonPostcopy, ReasonPostcopyFailed},
	libvirt.DomainPaused: {"unknown", "user", ReasonMigration, "save", "dump", ReasonIOError, ReasonWatchdog, "from snapshot", "shutting down",
		"snapshot", "crashed", "starting up", ReasonPostcopy, ReasonPostcopyFailed, "api error"},
	libvirt.DomainShutoff: {"unknown", ReasonShutdown, ReasonDestroyed, "crashed", ReasonMigrated, "saved", "failed", "from snapshot", "daemon"},
	libvirt.DomainCrashed: {"unknown", "panicked"},
}

func reasonOf(state libvirt.DomainState, reason int32) string {
	names := reasons[state]
	if reason >= 0 && int(reason) < len(names) {
		return names[reason]
	}
	return "unknown"
}

// job says what migration, if any, a domain with a process takes part in.
type job uint8

const (
	jobNone job = iota
	jobOut
	jobIn
)

// runOf folds libvirt's state and the domain's job into a Run.
func runOf(state libvirt.DomainState, reason string, j job) Run {
	switch state {
	case libvirt.DomainShutoff, libvirt.DomainShutdown:
		switch {
		case state == libvirt.DomainShutdown && j == jobNone:
			return Running // the guest is powering off; its process still exists
		case reason == "crashed" || reason == "failed":
			return Crashed
		}
		return Shutoff
	case libvirt.DomainCrashed:
		return Crashed
	case libvirt.DomainRunning, libvirt.DomainBlocked, libvirt.DomainPmsuspended:
		if j == jobOut {
			return Outgoing
		}
		return Running // even while the rest of its memory arrives by post-copy: its CPUs run here
	case libvirt.DomainPaused:
		switch {
		case reason == ReasonPostcopy || reason == ReasonPostcopyFailed:
			return Paused // its CPUs have run on the target, whatever the job says
		case j == jobIn:
			return Incoming
		case j == jobOut:
			return Outgoing
		}
		return Paused
	}
	return Shutoff
}

// State asks libvirt about one server's domain. A domain that does not exist is a State, not an error.
func (c *Conn) State(ctx context.Context, id cloud.ServerID) (State, error) {
	out := State{ID: id}
	err := c.quick(ctx, "state", id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err == nil {
			out, err = stateOf(l, d)
		}
		return err
	})
	if cloud.Is(err, cloud.KindNotFound) {
		return State{ID: id, Run: Absent}, nil
	}
	return out, err
}

// List returns the state of every domain of ours on this host.
func (c *Conn) List(ctx context.Context) ([]State, error) {
	var out []State
	err := c.quick(ctx, "list", "", func(l *libvirt.Libvirt) error {
		domains, _, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive|libvirt.ConnectListDomainsInactive)
		if err != nil {
			return err
		}
		for _, d := range domains {
			if !ours(d.Name) {
				continue
			}
			s, err := stateOf(l, d)
			if libvirt.IsNotFound(err) {
				continue // it went while we listed
			}
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return nil
	})
	return out, err
}

func lookup(l *libvirt.Libvirt, id cloud.ServerID) (libvirt.Domain, error) {
	u, err := uuid.Parse(string(id))
	if err != nil {
		return libvirt.Domain{}, cloud.Errorf(cloud.KindInvalid, "server id %q: %w", id, err)
	}
	return l.DomainLookupByUUID(libvirt.UUID(u))
}

// stateOf reads state, job and state again: a job that ends in between would pair an old state with a new job.
func stateOf(l *libvirt.Libvirt, d libvirt.Domain) (State, error) {
	const attemptsMax = 4 // a domain whose state flips faster than this is being migrated and cancelled in a loop
	var out State
	for range attemptsMax {
		before, reason, err := l.DomainGetState(d, 0)
		if err != nil {
			return State{}, err
		}
		j, err := jobOf(l, d, libvirt.DomainState(before))
		if err != nil {
			return State{}, err
		}
		text := reasonOf(libvirt.DomainState(before), reason)
		out = State{ID: idOf(d), Run: runOf(libvirt.DomainState(before), text, j), Reason: text}
		after, reasonAfter, err := l.DomainGetState(d, 0)
		if err != nil {
			return State{}, err
		}
		if before == after && reason == reasonAfter {
			return out, nil
		}
	}
	return out, nil
}

func jobOf(l *libvirt.Libvirt, d libvirt.Domain, state libvirt.DomainState) (job, error) {
	switch state {
	case libvirt.DomainShutoff, libvirt.DomainCrashed, libvirt.DomainNostate:
		return jobNone, nil
	}
	kind, params, err := l.DomainGetJobStats(d, 0)
	switch {
	case hasCode(err, libvirt.ErrOperationUnsupported):
		return jobIn, nil // "migration statistics are available only on the source host"
	case hasCode(err, libvirt.ErrOperationInvalid):
		return jobNone, nil // it stopped running while we asked
	case err != nil:
		return jobNone, err
	case libvirt.DomainJobType(kind) == libvirt.DomainJobNone:
		return jobNone, nil
	}
	switch libvirt.DomainJobOperation(decodeParams(params).integer(libvirt.DomainJobOperationStr)) {
	case libvirt.DomainJobOperationStrMigrationOut:
		return jobOut, nil
	case libvirt.DomainJobOperationStrMigrationIn:
		return jobIn, nil
	}
	return jobNone, nil
}
