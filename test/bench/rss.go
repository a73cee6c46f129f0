package main

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/bench/proc"
)

// idleFor lets the Go runtime return what start-up used.
const idleFor = 30 * time.Second

// measureRSS reads the resident memory of server and agents of a lab that does nothing.
func measureRSS(ctx context.Context, b *bench) (string, error) {
	s, err := b.lab(ctx)
	if err != nil {
		return "", err
	}
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	t := table{head: []string{"process", "resident memory, MB", "aim"}}
	server, err := s.unitRSS(ctx, lab.Controller, lab.UnitServer)
	if err != nil {
		return "", err
	}
	t.add("server, embedded etcd, three hosts", fmt.Sprintf("%.0f", server), "at most 120")
	var agents sample
	for _, node := range s.Lab.ComputeNodes() {
		v, err := s.unitRSS(ctx, node, lab.UnitAgent)
		if err != nil {
			return "", err
		}
		agents = append(agents, v)
	}
	t.add("agent", agents.spread("%.0f"), "at most 40")
	for _, node := range s.Lab.StorageNodes() {
		v, err := s.unitRSS(ctx, node, lab.UnitVolumes)
		if err != nil {
			return "", err
		}
		t.add("volume service", fmt.Sprintf("%.0f", v), "")
	}
	return t.String(), nil
}

func (s *stage) unitRSS(ctx context.Context, node, unit string) (float64, error) {
	pid, err := s.Lab.UnitPID(ctx, node, unit)
	if err != nil {
		return 0, err
	}
	status, err := s.Lab.Output(ctx, node, "cat", fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return proc.ParseRSS(status)
}
