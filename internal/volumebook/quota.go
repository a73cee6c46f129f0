package volumebook

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// ClassKey is where the limits of projects without limits of their own are kept, if an operator changed them; no project has a colon in its
// id.
const ClassKey = cloud.ProjectID("class:default")

// Limits returns a project's limits: its own, else the default class's.
func Limits(r store.Reader, p cloud.ProjectID) cloud.VolumeQuota {
	if q, ok := store.Lookup(r, tables.VolumeQuotas, p); ok {
		return *q
	}
	return ClassLimits(r, p)
}

// ClassLimits returns the limits of projects without limits of their own.
func ClassLimits(r store.Reader, p cloud.ProjectID) cloud.VolumeQuota {
	q := cloud.DefaultVolumeQuota(p)
	if class, ok := store.Lookup(r, tables.VolumeQuotas, ClassKey); ok {
		q = *class
		q.Project = p
	}
	return q
}

// Usage returns what a project has.
func Usage(r store.Reader, p cloud.ProjectID) cloud.VolumeUsage {
	if u, ok := store.Lookup(r, tables.VolumeUsages, p); ok {
		return *u
	}
	return cloud.VolumeUsage{Project: p}
}

// limitsIn is Limits as a transaction sees them.
func limitsIn(tx *store.Tx, p cloud.ProjectID) (cloud.VolumeQuota, error) {
	for _, key := range []cloud.ProjectID{p, ClassKey} {
		q, err := store.Peek(tx, tables.VolumeQuotas, key)
		if err != nil || q != nil {
			if q == nil {
				return cloud.VolumeQuota{}, err
			}
			return *q, nil
		}
	}
	return cloud.DefaultVolumeQuota(p), nil
}

// Take counts d more against the project, or refuses with cloud.KindQuota in Cinder's words.
func Take(tx *store.Tx, p cloud.ProjectID, d cloud.VolumeUsage) error {
	limits, err := limitsIn(tx, p)
	if err != nil {
		return err
	}
	used, err := store.Get(tx, tables.VolumeUsages, p)
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	if err := afford(limits, used, d); err != nil {
		return err
	}
	return store.Put(tx, tables.VolumeUsages, p, sum(p, used, d))
}

// Force counts d more against the project without asking whether it may: for what exists already.
func Force(tx *store.Tx, p cloud.ProjectID, d cloud.VolumeUsage) error {
	used, err := store.Get(tx, tables.VolumeUsages, p)
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	return store.Put(tx, tables.VolumeUsages, p, sum(p, used, d))
}

// GiveBack counts d less.
func GiveBack(tx *store.Tx, p cloud.ProjectID, d cloud.VolumeUsage) error {
	return Force(tx, p, cloud.VolumeUsage{Volumes: -d.Volumes, Snapshots: -d.Snapshots, GiB: -d.GiB})
}

func sum(p cloud.ProjectID, used, d cloud.VolumeUsage) cloud.VolumeUsage {
	return cloud.VolumeUsage{
		Project: p, Volumes: max(0, used.Volumes+d.Volumes), Snapshots: max(0, used.Snapshots+d.Snapshots), GiB: max(0, used.GiB+d.GiB),
	}
}

// afford refuses what would exceed a limit. -1 allows all.
func afford(limits cloud.VolumeQuota, used, d cloud.VolumeUsage) error {
	over := func(used, more, limit int) bool { return more > 0 && limit >= 0 && used+more > limit }
	switch {
	case over(used.GiB, d.GiB, limits.GiB):
		return cloud.Errorf(cloud.KindQuota, "Requested volume or snapshot exceeds allowed gigabytes quota. Requested %dG, quota is %dG and %dG has been consumed.",
			d.GiB, limits.GiB, used.GiB)
	case over(used.Volumes, d.Volumes, limits.Volumes):
		return cloud.Errorf(cloud.KindQuota, "Maximum number of volumes allowed (%d) exceeded for quota 'volumes'.", limits.Volumes)
	case over(used.Snapshots, d.Snapshots, limits.Snapshots):
		return cloud.Errorf(cloud.KindQuota, "Maximum number of snapshots allowed (%d) exceeded for quota 'snapshots'.", limits.Snapshots)
	}
	return nil
}

// AffordSize refuses a volume that is larger than one volume of the project may be.
func AffordSize(tx *store.Tx, p cloud.ProjectID, sizeGiB int) error {
	limits, err := limitsIn(tx, p)
	if err != nil {
		return err
	}
	if limits.PerVolumeGiB >= 0 && sizeGiB > limits.PerVolumeGiB {
		return cloud.Errorf(cloud.KindQuota, "Requested volume size %dG is larger than maximum allowed limit %dG.", sizeGiB, limits.PerVolumeGiB)
	}
	return nil
}
