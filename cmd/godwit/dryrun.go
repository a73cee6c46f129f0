package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// plan prints what a move would do. A move that would be refused is a failure, as the move itself would be.
func (m *move) plan(ctx context.Context, c *client.Client, s client.Server) error {
	p, err := c.Plan(ctx, s.ID, m.host, m.block)
	if err != nil {
		return err
	}
	if m.access.out.json() {
		err = printJSON(m.w, p)
	} else {
		if _, err = fmt.Fprint(m.w, planText(p), "\n"); err == nil {
			err = m.access.out.print(m.w, nil, candidateTable(p.Candidates))
		}
	}
	if err == nil && !p.Possible {
		return &exitStatus{exitCodes[cloud.KindNoValidHost]}
	}
	return err
}

// planText says in lines what would happen and what it would cost.
func planText(p operator.Plan) string {
	if !p.Possible {
		return fmt.Sprintf("%s would not move: %s\n", p.Server.Name, p.Refusal)
	}
	chosen := "chosen by placement"
	if p.AskedTarget != "" {
		chosen = "as asked"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s would move from %s to %s (%s), kind %s\n", p.Server.Name, p.Server.Host, p.Target, chosen, p.Kind)
	if p.Estimate != nil {
		b.WriteString(estimateText(*p.Estimate))
	}
	return b.String()
}

func estimateText(e operator.Estimate) string {
	bound, about := "", "about"
	if e.AtMost {
		bound, about = " at most, plus what changes meanwhile", "up to about"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "to copy   RAM %s, disk %s%s\n", bytesText(e.MemoryBytes), bytesText(e.DiskBytes), bound)
	if e.Seconds == nil || e.DowntimeSeconds == nil || e.BytesPerSecond == nil {
		b.WriteString("time      unknown: nothing of this kind has been moved yet\ndowntime  unknown\n")
	} else {
		fmt.Fprintf(&b, "time      %s %.1f s, at %s/s (%s)\n", about, *e.Seconds, bytesText(*e.BytesPerSecond), basisText(e))
		fmt.Fprintf(&b, "downtime  about %.0f ms\n", *e.DowntimeSeconds*1000)
	}
	b.WriteString("dirtying  unknown: it is measured while the server moves")
	if rate := e.DirtyBytesPerSecond; rate != nil {
		fmt.Fprintf(&b, "; at its last move %s/s", bytesText(*rate))
		if e.BytesPerSecond != nil && *rate >= *e.BytesPerSecond {
			b.WriteString(", as fast as memory is copied: the move may take long")
		}
	}
	b.WriteString("\n")
	return b.String()
}

// basisText says what an estimate rests on.
func basisText(e operator.Estimate) string {
	whose := "of other servers"
	if e.Basis == operator.BasisServer {
		whose = "of this server"
	}
	plural := "s"
	if e.Moves == 1 {
		plural = ""
	}
	return fmt.Sprintf("from %d earlier move%s %s, the last at %s", e.Moves, plural, whose, e.Newest.Local().Format(time.DateTime))
}

// candidateTable has a line for each host that fits and one for each reason against the others.
func candidateTable(list []operator.Candidate) table {
	t := table{header: []string{"HOST", "VERDICT", "SCORE", "KIND", "WHY"}}
	for _, c := range list {
		if c.Fits {
			t.add(string(c.Host), "fits", fmt.Sprintf("%.3f", c.Score), string(c.Kind), "")
			continue
		}
		for _, reason := range c.Reasons {
			t.add(string(c.Host), "refused", "", string(c.Kind), reason)
		}
	}
	return t
}
