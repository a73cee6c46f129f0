package lab

import (
	"context"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// call sends one operation to a node's supervisor.
func (l *Lab) call(ctx context.Context, node string, op nodeinit.Op, unit string) (nodeinit.Reply, error) {
	if _, on := readPID(l.Name, node); !on {
		return nodeinit.Reply{}, fmt.Errorf("node %s: %w", node, ErrPoweredOff)
	}
	reply, err := nodeinit.Call(ctx, controlSocket(l.Name, node), nodeinit.Request{Op: op, Unit: unit})
	if err != nil {
		return reply, fmt.Errorf("node %s: %w", node, err)
	}
	return reply, nil
}

func (l *Lab) unitOp(ctx context.Context, node, unit string, op nodeinit.Op) error {
	if err := l.checkNode(node); err != nil {
		return err
	}
	_, err := l.call(ctx, node, op, unit)
	return err
}

// KillUnit ends a unit with SIGKILL and returns when it is dead; the node's supervisor starts it again after a short back-off.
func (l *Lab) KillUnit(ctx context.Context, node, unit string) error {
	return l.unitOp(ctx, node, unit, nodeinit.OpKill)
}

// CrashUnit ends a unit with SIGKILL and returns when it is dead; it stays down until StartUnit.
func (l *Lab) CrashUnit(ctx context.Context, node, unit string) error {
	return l.unitOp(ctx, node, unit, nodeinit.OpCrash)
}

// StopUnit ends a unit in order and returns when it is dead; it stays down until StartUnit.
func (l *Lab) StopUnit(ctx context.Context, node, unit string) error {
	return l.unitOp(ctx, node, unit, nodeinit.OpStop)
}

// StartUnit wants a unit up. It does not wait for the unit to be of use.
func (l *Lab) StartUnit(ctx context.Context, node, unit string) error {
	return l.unitOp(ctx, node, unit, nodeinit.OpStart)
}

// RestartUnit ends a unit in order, and starts it again.
func (l *Lab) RestartUnit(ctx context.Context, node, unit string) error {
	return l.unitOp(ctx, node, unit, nodeinit.OpRestart)
}

// Units reports the state of a node's units.
func (l *Lab) Units(ctx context.Context, node string) ([]nodeinit.UnitStatus, error) {
	if err := l.checkNode(node); err != nil {
		return nil, err
	}
	reply, err := l.call(ctx, node, nodeinit.OpStatus, "")
	return reply.Units, err
}

// Unit reports the state of one unit.
func (l *Lab) Unit(ctx context.Context, node, unit string) (nodeinit.UnitStatus, error) {
	units, err := l.Units(ctx, node)
	if err != nil {
		return nodeinit.UnitStatus{}, err
	}
	for _, u := range units {
		if u.Name == unit {
			return u, nil
		}
	}
	return nodeinit.UnitStatus{}, fmt.Errorf("node %s: no unit %q", node, unit)
}

// UnitPID is the unit's process id as seen inside its node, 0 if it is not running.
func (l *Lab) UnitPID(ctx context.Context, node, unit string) (int, error) {
	u, err := l.Unit(ctx, node, unit)
	return u.PID, err
}
