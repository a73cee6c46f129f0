package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// A finding is one thing that the doctor looked at.
type finding struct {
	Level   string `json:"level"` // "ok", "pending", "warning" or "problem"
	Subject string `json:"subject"`
	Text    string `json:"text"`
}

const (
	levelOK      = "ok"
	levelPending = "pending" // not known yet, and known soon
	levelWarning = "warning"
	levelProblem = "problem"
)

func newDoctorCommand(a *access) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check that hosts suit each other, and prove that they share what they say they share", Args: cobra.NoArgs,
		Long: "Check that hosts suit each other: connected, versions, CPU model, migration addresses, clocks, libvirt's certificates,\n" +
			"the ways between every two (libvirt with TLS, QEMU's migration ports, the agents' port for disks and images), health of shared storage.\n\n" +
			"Clocks, certificates and ways are looked at once a minute, and when a host connects.\n\n" +
			"That hosts share a directory is proved: each agent keeps writing a word and a growing number into a file of its own there, and every other has to have read\n" +
			"that word with about that number. Until a minute after an agent's start what is not proven of it is pending.\n\n" +
			"It ends with status 0 when nothing is wrong and nothing is pending, with 5 when there is a problem, and with 7 when there is none and something is pending.",
		Example: "  godwit doctor\n  until godwit doctor || [ $? -ne 7 ]; do sleep 5; done   # after agents were started\n  godwit doctor -o json | jq '.[] | select(.level != \"ok\")'",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			hosts, err := c.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			all := diagnose(hosts, time.Now())
			t := table{header: []string{"LEVEL", "SUBJECT", "FINDING"}}
			for _, f := range all {
				t.add(f.Level, f.Subject, f.Text)
			}
			if err := a.out.print(cmd.OutOrStdout(), all, t); err != nil {
				return err
			}
			return verdict(all)
		}),
	}
}

// verdict is what the findings come to, as the command's error.
func verdict(all []finding) error {
	count := map[string]int{}
	for _, f := range all {
		count[f.Level]++
	}
	switch {
	case count[levelProblem] > 0:
		return cloud.Errorf(cloud.KindConflict, "%d problems", count[levelProblem])
	case count[levelPending] > 0:
		return cloud.Errorf(cloud.KindUnavailable, "%d findings are pending: ask again in a minute", count[levelPending])
	}
	return nil
}

// diagnose looks at what hosts report, and at what was found of them. Pure.
func diagnose(hosts []operator.Host, now time.Time) []finding {
	d := &diagnosis{now: now}
	if len(hosts) == 0 {
		d.note(levelWarning, "hosts", "there is none")
	}
	var up []operator.Host
	for _, h := range hosts {
		if h.State != operator.HostUp || h.Report == nil {
			d.note(levelWarning, string(h.Name), "is %s and was not looked at", h.State)
			continue
		}
		up = append(up, h)
	}
	d.likeness(up)
	d.addresses(up)
	d.clocks(up)
	d.certificates(up)
	d.ways(up)
	d.directories(up)
	for _, s := range sharesOf(d.looked(up)) {
		d.health(s)
	}
	return d.findings
}

type diagnosis struct {
	findings []finding
	now      time.Time
}

func (d *diagnosis) note(level, subject, format string, args ...any) {
	d.findings = append(d.findings, finding{level, subject, fmt.Sprintf(format, args...)})
}

// likeness compares what a guest takes along: a host that differs can be moved to in one direction only, or not at all.
func (d *diagnosis) likeness(up []operator.Host) {
	for i := range up[:max(0, len(up)-1)] {
		one, two := up[i].Report, up[i+1].Report
		pair := string(up[i].Name) + ", " + string(up[i+1].Name)
		switch {
		case one.Arch != two.Arch:
			d.note(levelProblem, pair, "architectures %s and %s: nothing moves between them", one.Arch, two.Arch)
		case one.Virtualization != two.Virtualization:
			d.note(levelProblem, pair, "virtualization %s and %s: nothing that runs moves between them", one.Virtualization, two.Virtualization)
		case one.CPUModel != two.CPUModel:
			d.note(levelWarning, pair, "guests get CPU model %s and %s: set agent.cpu_model to one that both can give", one.CPUModel, two.CPUModel)
		case placement.CompareVersions(one.QEMUVersion, two.QEMUVersion) != 0 || placement.CompareVersions(one.LibvirtVersion, two.LibvirtVersion) != 0:
			d.note(levelWarning, pair, "QEMU %s and %s, libvirt %s and %s: guests move to the newer only", one.QEMUVersion, two.QEMUVersion, one.LibvirtVersion, two.LibvirtVersion)
		default:
			d.note(levelOK, pair, "guests of one run on the other: %s, %s, QEMU %s", one.Virtualization, one.CPUModel, one.QEMUVersion)
		}
	}
}

func (d *diagnosis) addresses(up []operator.Host) {
	used := map[string]cloud.HostName{}
	for _, h := range up {
		address := h.Report.MigrationAddress
		switch other, taken := used[address]; {
		case address == "":
			d.note(levelProblem, string(h.Name), "has no migration address: nothing moves there")
		case taken:
			d.note(levelProblem, string(h.Name), "has the migration address %s of %s", address, other)
		}
		used[address] = h.Name
	}
}

// directories proves that hosts with one identity have one directory.
func (d *diagnosis) directories(up []operator.Host) {
	byID := map[string][]operator.Host{}
	var ids []string
	for _, h := range up {
		id := h.Report.SharedDiskID
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		byID[id] = append(byID[id], h)
	}
	for _, id := range ids {
		group := byID[id]
		if len(group) == 1 {
			if s := group[0].Report.Shared; s != nil {
				d.note(levelWarning, string(group[0].Name), "keeps disks on %s, and no other host that is up does", s.Source)
			}
			continue
		}
		d.proven(group)
	}
}

func (d *diagnosis) proven(group []operator.Host) {
	before := len(d.findings)
	pairs := 0
	for _, writer := range group {
		if writer.Report.Shared == nil {
			d.note(levelProblem, string(writer.Name), "its local directory has the identity of another host's: it was copied. Remove instances/shared-id in one of them and restart that agent")
			continue
		}
		for _, reader := range group {
			if reader.Name == writer.Name {
				continue
			}
			pairs++
			wrote, read := writer.Report.Shared, reader.Report.Shared
			switch {
			case cloud.Shares(writer.Name, wrote, read):
			case wrote.Young() || read.Young():
				d.note(levelPending, string(reader.Name), "has not read yet what %s writes on %s, %s after the younger agent's start: to be proven within %s",
					writer.Name, wrote.Source, younger(wrote, read).Round(time.Second), cloud.ProofDue)
			default:
				d.note(levelProblem, string(reader.Name), "does not read what %s writes on %s: they do not share the directory, or it does not answer", writer.Name, writer.Report.Shared.Source)
			}
		}
	}
	if len(d.findings) == before {
		hosts := make([]cloud.HostName, len(group))
		for i, h := range group {
			hosts[i] = h.Name
		}
		d.note(levelOK, group[0].Report.Shared.Source, "shared by %s: each reads what each other writes (%d pairs)", names(hosts), pairs)
	}
}

// younger is for how long the agent that began later has been there.
func younger(one, two *cloud.SharedStorage) time.Duration {
	switch {
	case two == nil || !two.Young():
		return one.KeptFor
	case !one.Young():
		return two.KeptFor
	}
	return min(one.KeptFor, two.KeptFor)
}

// looked are the hosts whose word about their directory's health counts: not of one whose agent has just begun and has not looked yet, which is noted.
func (d *diagnosis) looked(up []operator.Host) []operator.Host {
	return slices.DeleteFunc(slices.Clone(up), func(h operator.Host) bool {
		s := h.Report.Shared
		unlooked := s.Young() && s.Error == cloud.NotLookedYet
		if unlooked {
			d.note(levelPending, string(h.Name), "has not looked at %s yet, %s after its agent's start: due within %s", s.Source, s.KeptFor.Round(time.Second), cloud.ProofDue)
		}
		return unlooked
	})
}

func (d *diagnosis) health(s share) {
	before := len(d.findings)
	if !s.Writable {
		d.note(levelProblem, s.Source, "cannot be written to by every host")
	}
	if !s.Quorum {
		d.note(levelProblem, s.Source, "a replica set has no quorum")
	}
	if s.SplitBrain > 0 {
		d.note(levelProblem, s.Source, "%d entries in split-brain", s.SplitBrain)
	}
	if s.online() < len(s.Bricks) {
		d.note(levelWarning, s.Source, "%d of %d bricks are reached by every host", s.online(), len(s.Bricks))
	}
	if s.HealPending > 0 {
		d.note(levelWarning, s.Source, "%d entries wait to be healed", s.HealPending)
	}
	for _, p := range s.Problems {
		d.note(levelWarning, s.Source, "%s", p)
	}
	for _, danger := range s.Dangers {
		d.note(levelProblem, s.Source, "%s", danger)
	}
	if len(d.findings) == before {
		d.note(levelOK, s.Source, "healthy")
	}
}
