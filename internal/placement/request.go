package placement

import "github.com/godwit-cloud/godwit/internal/cloud"

// Purpose is what a host is looked for.
type Purpose string

// The purposes; they are also the words in cloud.Decision.Purpose.
const (
	PurposeBoot    Purpose = "boot"
	PurposeMigrate Purpose = "migrate"
)

// Request is everything placement may know about one server to be placed.
type Request struct {
	Server    cloud.ServerID
	Project   cloud.ProjectID
	Purpose   Purpose
	Resources cloud.Resources
	// Zone is the availability zone asked for; empty: any.
	Zone string
	// ForcedHost is the only host acceptable; empty: any. Every other rule still applies to it.
	ForcedHost cloud.HostName
	// Exclude are hosts not to be used, for instance those that have just failed this server.
	Exclude []cloud.HostName
	// Group is the server group whose policy applies; empty: none.
	Group cloud.GroupID
	// ExtraSpecs are the flavor's. Those under "aggregate_instance_extra_specs:" must be met by the host's aggregates.
	ExtraSpecs map[string]string
	// CPUModel is the model the guest sees, by libvirt's name; empty: the model every host can give.
	CPUModel string
	// Arch is the guest's architecture ("x86_64"); empty: any.
	Arch string
	// Virtualization is "kvm" or "tcg" when the guest needs exactly that; empty: any. A live migration always stays with its source's.
	Virtualization string
	// SourceHost is where the server runs. Only for PurposeMigrate, where it is required.
	SourceHost cloud.HostName
	// Kind is what the live migration copies. MigrateAuto (or empty) accepts both block and shared targets.
	Kind cloud.MigrationKind
	// OnVolumes: nothing that the server writes to is in a host's disk directory, so whether two hosts share theirs says nothing.
	OnVolumes bool
	// Recovery: the server's host is dead, or its guest fails there: hosts that are reserved for this may take it.
	Recovery bool
	// SourceDead: nothing runs on SourceHost any more. Members of the group that are recorded there alone have yet to follow and bind nobody.
	SourceDead bool
}

// ForServer returns the request that boots s.
func ForServer(s *cloud.Server) Request {
	return Request{
		Server: s.ID, Project: s.Project, Purpose: PurposeBoot, Resources: s.Resources(), Zone: s.Zone,
		ForcedHost: s.ForcedHost, Group: s.Group, ExtraSpecs: s.Flavor.ExtraSpecs,
		CPUModel: s.Flavor.CPUModel(), Arch: s.ImageProperties["hw_architecture"],
	}
}

// ForMigration returns the request that finds s a target for m. The host forced at creation does not bind a later move; m.AskedTarget does.
func ForMigration(s *cloud.Server, m *cloud.Migration) Request {
	r := ForServer(s)
	r.CPUModel = s.CPUModel // what it was booted with, asked for or not
	r.Purpose, r.SourceHost, r.ForcedHost, r.Kind = PurposeMigrate, s.Host, m.AskedTarget, m.Asked
	r.OnVolumes, r.Recovery = s.RootDevice() != nil, m.Type == cloud.TypeEvacuation
	return r
}

// ResolvedKind returns what a live migration between the two hosts copies: MigrateShared when both see the same disk directory,
// MigrateBlock otherwise.
func ResolvedKind(source, target cloud.HostReport) cloud.MigrationKind {
	if source.SharedDiskID != "" && source.SharedDiskID == target.SharedDiskID {
		return cloud.MigrateShared
	}
	return cloud.MigrateBlock
}

// KindOf returns what a live migration of s between the two hosts copies: MigrateVolume when it boots from a volume, for then it has no local disk
// that it writes to, else what ResolvedKind says.
func KindOf(s *cloud.Server, source, target cloud.HostReport) cloud.MigrationKind {
	if s.RootDevice() != nil {
		return cloud.MigrateVolume
	}
	return ResolvedKind(source, target)
}
