package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// ByVolume finds snapshots, attachments and intents by volume.
const ByVolume = "volume"

// Volumes holds volumes. Created by the edge; see cloud.Volume for who writes what.
var Volumes = store.NewTable("volumes",
	store.Index(ByProject, func(v *cloud.Volume) []string { return one(v.Project) }),
	store.Index(ByName, func(v *cloud.Volume) []string { return one(v.Name) }),
	store.Index(ByHost, func(v *cloud.Volume) []string { return one(v.Service) }),
	store.Index(ByStatus, func(v *cloud.Volume) []string { return one(v.Status) }),
)

// VolumeSnapshots holds snapshots of volumes. Created by the edge, moved on by the snapshot flows.
var VolumeSnapshots = store.NewTable("volume-snapshots",
	store.Index(ByProject, func(s *cloud.VolumeSnapshot) []string { return one(s.Project) }),
	store.Index(ByVolume, func(s *cloud.VolumeSnapshot) []string { return one(s.Volume) }),
)

// VolumeTypes holds volume types. Written by the edge.
var VolumeTypes = store.NewTable("volume-types",
	store.Unique(ByName, func(t *cloud.VolumeType) []string { return one(t.Name) }),
)

// Attachments holds which volume is joined to which server on which host. Created as reserved by the edge (or, for the target of a move, by the
// migrate flow), moved on by flows.
var Attachments = store.NewTable("attachments",
	store.Index(ByVolume, func(a *cloud.Attachment) []string { return one(a.Volume) }),
	store.Index(ByServer, func(a *cloud.Attachment) []string { return one(a.Server) }),
	store.Index(ByHost, func(a *cloud.Attachment) []string { return one(a.Host) }),
	store.Index(ByProject, func(a *cloud.Attachment) []string { return one(a.Project) }),
)

// VolumeQuotas holds the limits on volumes that operators set, by project; a project without a record has cloud.DefaultVolumeQuota. Written by the
// edge. Compute's limits are in Quotas: each service forgets its own without touching the other's.
var VolumeQuotas = store.NewTable[cloud.VolumeQuota]("volume-quotas")

// VolumeUsages counts the volumes and snapshots that projects have, by project, in the same transaction as these. Written by the edge and the flows.
var VolumeUsages = store.NewTable[cloud.VolumeUsage]("volume-usages")

// VolumeServices holds what operators say of volume services, by name.
var VolumeServices = store.NewTable[cloud.VolumeService]("volume-services")

// VolumeReports holds what volume services say of themselves, by name. Written by session.
var VolumeReports = store.NewTable[cloud.VolumeReport]("volume-reports")

// VolumeSessions holds which volume services are connected, by name; bound to the server's lease like HostSessions.
var VolumeSessions = store.NewTable[cloud.HostSession]("volume-sessions")
