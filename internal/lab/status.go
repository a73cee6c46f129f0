package lab

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// Status is what `godwit lab status` shows.
type Status struct {
	State
	// API is the server's URL on loopback, "" in a bare lab.
	API string `json:"api,omitempty"`
	// Switched reports whether the switch, without which no node reaches another, is there.
	Switched bool         `json:"switched"`
	Nodes    []NodeStatus `json:"nodes"`
}

// NodeStatus is one node's part of a Status.
type NodeStatus struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	// PID is process 1 of the node as the root pid namespace numbers it, 0 when off.
	PID  int    `json:"pid,omitempty"`
	Mgmt string `json:"mgmt"`
	Data string `json:"data,omitempty"`
	// Units is empty when the node is off or its supervisor does not answer; Problem then says why.
	Units   []nodeinit.UnitStatus `json:"units,omitempty"`
	Problem string                `json:"problem,omitempty"`
}

// Status asks every node. It fails only if ctx ends.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	_, switched := readPID(l.Name, Switch)
	st := Status{State: l.State, API: l.APIURL(), Switched: switched}
	for _, node := range l.Nodes() {
		n := NodeStatus{Name: node, Mgmt: l.MgmtAddr(node).String()}
		if node != Controller {
			n.Data = l.DataAddr(node).String()
		}
		if p, on := readPID(l.Name, node); on {
			n.On, n.PID = true, p.PID
			units, err := l.Units(ctx, node)
			if err != nil {
				n.Problem = err.Error()
			}
			n.Units = units
		}
		st.Nodes = append(st.Nodes, n)
	}
	return st, ctx.Err()
}

// NodePID is process 1 of a node as the caller's pid namespace numbers it: the way into its namespaces.
func (l *Lab) NodePID(node string) (int, error) {
	if err := l.checkNode(node); err != nil {
		return 0, err
	}
	p, on := readPID(l.Name, node)
	if !on {
		return 0, ErrPoweredOff
	}
	return p.PID, nil
}
