package nodeinit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Op is what a control request asks of a node's process 1.
type Op string

// The operations. Boot is sent once, when the node's links are up.
const (
	OpBoot    Op = "boot"    // start supervising the units
	OpStatus  Op = "status"  // report the units
	OpStart   Op = "start"   // want the unit up; returns at once
	OpStop    Op = "stop"    // SIGTERM, SIGKILL after a grace; returns when it is dead, and it stays down
	OpRestart Op = "restart" // stop, then start; returns when the old process is dead; the new one follows at once
	OpKill    Op = "kill"    // SIGKILL; returns when it is dead; restarted after the back-off
	OpCrash   Op = "crash"   // SIGKILL; returns when it is dead, and it stays down until start
)

// Request is one line sent to the control socket.
type Request struct {
	Op   Op     `json:"op"`
	Unit string `json:"unit,omitempty"`
}

// Reply is the one line that answers a Request. Err is empty on success.
type Reply struct {
	Err   string       `json:"err,omitempty"`
	Units []UnitStatus `json:"units,omitempty"`
}

// UnitState is the supervisor's view of a unit.
type UnitState string

// Unit states.
const (
	UnitStopped  UnitState = "stopped"  // not wanted
	UnitWaiting  UnitState = "waiting"  // wanted, its WaitFor file is missing
	UnitBackoff  UnitState = "backoff"  // wanted, died, will be restarted
	UnitRunning  UnitState = "running"  // a process exists
	UnitStopping UnitState = "stopping" // asked to end, still there
)

// UnitStatus is a report on one unit.
type UnitStatus struct {
	Name  string    `json:"name"`
	State UnitState `json:"state"`
	// PID is the process id inside the node, 0 when there is no process.
	PID int `json:"pid,omitempty"`
	// Starts counts processes started for the unit since power on.
	Starts int `json:"starts"`
	// Since is when the present state began.
	Since time.Time `json:"since"`
	// LastExit describes how the previous process ended.
	LastExit string `json:"last_exit,omitempty"`
}

// Call sends one request to the control socket at path and waits for the answer, as long as ctx allows.
func Call(ctx context.Context, path string, req Request) (Reply, error) {
	var reply Reply
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return reply, fmt.Errorf("node control: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return reply, fmt.Errorf("node control: send %s: %w", req.Op, err)
	}
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return reply, fmt.Errorf("node control: %s %s: %w", req.Op, req.Unit, err)
	}
	if reply.Err != "" {
		return reply, fmt.Errorf("node control: %s %s: %w", req.Op, req.Unit, errors.New(reply.Err))
	}
	return reply, nil
}
