package cloud

// VolumeQuota is a project's limits on volumes; -1 means unlimited.
type VolumeQuota struct {
	Project      ProjectID `json:"project"`
	Volumes      int       `json:"volumes"`
	Snapshots    int       `json:"snapshots"`
	GiB          int       `json:"gib"`            // of all volumes and snapshots together
	PerVolumeGiB int       `json:"per_volume_gib"` // of one volume
}

// DefaultVolumeQuota is Cinder's default quota.
func DefaultVolumeQuota(p ProjectID) VolumeQuota {
	return VolumeQuota{Project: p, Volumes: 10, Snapshots: 10, GiB: 1000, PerVolumeGiB: -1}
}

// VolumeUsage counts what a project has, in one record so that two requests cannot both take the last of it.
type VolumeUsage struct {
	Project   ProjectID `json:"project"`
	Volumes   int       `json:"volumes"`
	Snapshots int       `json:"snapshots"`
	GiB       int       `json:"gib"` // volumes and snapshots
}
