package cloud

import "slices"

// Resize is what is remembered of a server from the moment somebody asks that it get another flavor, or another host with its power off, until that is
// confirmed, reverted or has failed. While the server's VMState is VMResized, its owner may still choose: Source keeps what a revert needs.
type Resize struct {
	Migration MigrationID `json:"migration"`
	Source    HostName    `json:"source"`    // where it was; the target's name when it stays on its host
	Old       Flavor      `json:"old"`       // before
	New       Flavor      `json:"new"`       // after; equal to Old in a cold migration
	OldState  VMState     `json:"old_state"` // active or stopped: what a revert goes back to
}

// Claim returns what the source keeps for a revert: what the old flavor takes there. On one host the greater of both is kept.
func (r *Resize) Claim(rootless bool) Resources {
	old := r.Old.Resources()
	if rootless {
		old.DiskGiB -= r.Old.RootGiB
	}
	return old
}

// Most returns the greater of two amounts, each kind of resource by itself.
func (r Resources) Most(o Resources) Resources {
	return Resources{max(r.VCPUs, o.VCPUs), max(r.RAMMiB, o.RAMMiB), max(r.DiskGiB, o.DiskGiB)}
}

// Charged returns the processors and the memory that the server's project pays for: while a resize is undecided, the greater of both flavors, so that a
// revert never fails for want of quota.
func (s *Server) Charged() Resources {
	charged := Resources{VCPUs: s.Flavor.VCPUs, RAMMiB: s.Flavor.RAMMiB}
	if r := s.Resize; r != nil {
		charged = Resources{VCPUs: r.Old.VCPUs, RAMMiB: r.Old.RAMMiB}.Most(Resources{VCPUs: r.New.VCPUs, RAMMiB: r.New.RAMMiB})
	}
	return charged
}

// Keeps reports whether the host has something of the server that is to stay although the server is elsewhere: the way back from a resize.
func (s *Server) Keeps(host HostName) bool { return s.Resize != nil && s.Resize.Source == host }

// ClaimOn returns what the server takes from a host at rest: from its own what it is, there and on the host it was resized away from also what a revert
// needs. ok is false for any other host.
func (s *Server) ClaimOn(host HostName) (claim Claim, ok bool) {
	rootless := s.RootDevice() != nil
	claim = Claim{Server: s.ID, Resources: s.Resources()}
	switch {
	case s.Keeps(host) && s.Host == host:
		claim.Resources = claim.Resources.Most(s.Resize.Claim(rootless))
	case s.Keeps(host):
		claim.Resources = s.Resize.Claim(rootless)
	case s.Host != host:
		return Claim{}, false
	}
	return claim, true
}

// The types of migrations of servers whose power is off, in Nova's words.
const (
	TypeColdMigration = "migration"
	TypeResize        = "resize"
)

// The statuses of such migrations. Finished waits for its owner's decision.
const (
	MigrationPreMigrating  MigrationStatus = "pre-migrating"
	MigrationMigrating     MigrationStatus = "migrating"
	MigrationPostMigrating MigrationStatus = "post-migrating"
	MigrationFinished      MigrationStatus = "finished"
	MigrationConfirming    MigrationStatus = "confirming"
	MigrationConfirmed     MigrationStatus = "confirmed"
	MigrationReverting     MigrationStatus = "reverting"
	MigrationReverted      MigrationStatus = "reverted"
)

// Resting reports whether nothing is under way: the migration has ended, or waits for its owner to confirm or revert it.
func (s MigrationStatus) Resting() bool { return s == MigrationFinished || s.Final() }

// Cold reports whether the migration is one of a server whose power is off.
func (m *Migration) Cold() bool {
	return slices.Contains([]string{TypeColdMigration, TypeResize}, m.Type)
}
