package volume

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

var snapshotRoutes = []route{
	{pattern: "GET /snapshots", handle: func(c *call) error { return c.listSnapshots(false) }},
	{pattern: "GET /snapshots/detail", handle: func(c *call) error { return c.listSnapshots(true) }},
	{pattern: "POST /snapshots", handle: (*call).createSnapshot},
	{pattern: "GET /snapshots/{id}", handle: (*call).showSnapshot},
	{pattern: "PUT /snapshots/{id}", handle: (*call).updateSnapshot},
	{pattern: "DELETE /snapshots/{id}", handle: func(c *call) error { return c.deleteSnapshot(false) }},
	{pattern: "POST /snapshots/{id}/action", handle: (*call).snapshotAction},
}

var snapshotDeletable = []cloud.SnapshotStatus{cloud.SnapshotAvailable, cloud.SnapshotError}

func snapshotMissing(id string) error { return notFound("Snapshot %s could not be found.", id) }

// snapshot returns the snapshot of the path if the caller may see it and has the role.
func (c *call) snapshot(role, rule string) (*cloud.VolumeSnapshot, error) {
	if err := c.may(role, rule); err != nil {
		return nil, err
	}
	return c.findSnapshot(c.path("id"))
}

func (c *call) findSnapshot(id string) (*cloud.VolumeSnapshot, error) {
	s, ok := store.Lookup(c.view, tables.VolumeSnapshots, id)
	if !ok || !c.r.Caller.Sees(s.Project) {
		return nil, snapshotMissing(id)
	}
	return s, nil
}

// changeSnapshot applies change to the snapshot of the path, as the transaction sees it, after the caller's rights were checked.
func (c *call) changeSnapshot(rule string, change func(tx *store.Tx, s *cloud.VolumeSnapshot) error) (*cloud.VolumeSnapshot, error) {
	seen, err := c.snapshot(member, rule)
	if err != nil {
		return &cloud.VolumeSnapshot{}, err
	}
	var s cloud.VolumeSnapshot
	err = c.update(func(tx *store.Tx) (err error) {
		if s, err = store.Get(tx, tables.VolumeSnapshots, seen.ID); err != nil {
			if cloud.Is(err, cloud.KindNotFound) {
				return snapshotMissing(string(seen.ID))
			}
			return err
		}
		if err := change(tx, &s); err != nil {
			return err
		}
		s.Updated = c.now()
		return store.Put(tx, tables.VolumeSnapshots, s.ID, s)
	})
	return &s, err
}

// snapshotView is a snapshot as its microversion shows it; the plain list has no extended attributes.
func (c *call) snapshotView(s *cloud.VolumeSnapshot, detail bool) object {
	out := object{
		"id": s.ID, "name": s.Name, "description": orNull(s.Description), "volume_id": s.Volume, "status": s.Status, "size": s.SizeGiB,
		"created_at": openstack.TimeMicros(s.Created), "updated_at": openstack.TimeMicros(s.Updated), "metadata": texts(s.Metadata),
	}
	if detail {
		progress := "0%"
		if s.Status == cloud.SnapshotAvailable || s.Status == cloud.SnapshotRestoring {
			progress = "100%"
		}
		out["os-extended-snapshot-attributes:project_id"], out["os-extended-snapshot-attributes:progress"] = s.Project, progress
	}
	if detail && c.since(14) {
		out["group_snapshot_id"] = nil
	}
	if c.since(41) {
		out["user_id"] = s.User
	}
	if detail && c.since(65) {
		out["consumes_quota"] = true
	}
	return out
}

func (c *call) showSnapshot() error {
	s, err := c.snapshot(reader, "volume:get_snapshot")
	if err != nil {
		return err
	}
	return c.ok(object{"snapshot": c.snapshotView(s, true)})
}

// createSnapshot answers POST /snapshots.
func (c *call) createSnapshot() error {
	var body struct {
		Snapshot struct {
			Volume             string            `json:"volume_id" api:"required"`
			Name               *string           `json:"name" api:"null"`
			Description        *string           `json:"description" api:"null"`
			DisplayName        *string           `json:"display_name" api:"null"`
			DisplayDescription *string           `json:"display_description" api:"null"`
			Force              *bool             `json:"force" api:"null;loose"`
			Metadata           map[string]string `json:"metadata" api:"null"`
			Extra              map[string]any    `api:"extra"`
		} `json:"snapshot" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := c.r.Caller.RequireProject(member, "volume:create_snapshot"); err != nil {
		return err
	}
	in := &body.Snapshot
	force, err := c.snapshotForce(in.Force)
	if err != nil {
		return err
	}
	if err := checkMetadata(in.Metadata); err != nil {
		return err
	}
	seen, err := c.findVolume(in.Volume)
	if err != nil {
		return err
	}
	s := cloud.VolumeSnapshot{
		ID: cloud.SnapshotID(newID()), Volume: seen.ID, Project: seen.Project, User: c.r.Caller.User, Name: firstText(in.Name, in.DisplayName),
		Description: firstText(in.Description, in.DisplayDescription), Metadata: in.Metadata, Status: cloud.SnapshotCreating, Created: c.now(), Updated: c.now(),
	}
	for what, text := range map[string]string{"name": s.Name, "description": s.Description} {
		if err := checkText(what, text); err != nil {
			return err
		}
	}
	intent := c.newIntent(cloud.IntentSnapshotCreate)
	err = c.update(func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, seen.ID)
		if cloud.Is(err, cloud.KindNotFound) {
			return volumeMissing(string(seen.ID))
		}
		if err != nil {
			return err
		}
		if v.Status != cloud.VolumeAvailable && (!force || v.Status != cloud.VolumeInUse) {
			return invalidVolume("Volume %s status must be available, but current status is: %s.", v.ID, v.Status)
		}
		s.SizeGiB = v.SizeGiB
		if err := volumebook.AddSnapshot(tx, &v, s, intent); err != nil {
			return err
		}
		v.Updated = c.now()
		return store.Put(tx, tables.Volumes, v.ID, v)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusAccepted, object{"snapshot": c.snapshotView(&s, false)})
}

// snapshotForce says whether a volume in use may be kept: before 3.66 when force says so, from then on always, and force may only say yes.
func (c *call) snapshotForce(given *bool) (bool, error) {
	if !c.since(66) {
		return given != nil && *given, nil
	}
	if given != nil && !*given {
		return false, invalid("Invalid value 'False' for 'force'. The 'force' parameter is invalid when supplied with microversion 3.66 and above.")
	}
	return true, nil
}

func (c *call) updateSnapshot() error {
	var body struct {
		Snapshot struct {
			Name               *string        `json:"name" api:"null"`
			Description        *string        `json:"description" api:"null"`
			DisplayName        *string        `json:"display_name" api:"null"`
			DisplayDescription *string        `json:"display_description" api:"null"`
			Extra              map[string]any `api:"extra"`
		} `json:"snapshot" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	in := &body.Snapshot
	if in.Name == nil {
		in.Name = in.DisplayName
	}
	if in.Description == nil {
		in.Description = in.DisplayDescription
	}
	s, err := c.changeSnapshot("volume:update_snapshot", func(_ *store.Tx, s *cloud.VolumeSnapshot) error {
		return setTexts(&s.Name, &s.Description, &s.Metadata, in.Name, in.Description, nil)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"snapshot": c.snapshotView(s, true)})
}

// deleteSnapshot orders a snapshot's removal; force is an administrator's.
func (c *call) deleteSnapshot(force bool) error {
	intent := c.newIntent(cloud.IntentSnapshotDelete)
	_, err := c.changeSnapshot("volume:delete_snapshot", func(tx *store.Tx, s *cloud.VolumeSnapshot) error {
		if !slices.Contains(snapshotDeletable, s.Status) && (!force || s.Status == cloud.SnapshotDeleting) {
			return invalid("Invalid snapshot: Snapshot status must be one of available or error, and it must not be part of a group.")
		}
		if copied := c.beingCopied(func(v *cloud.Volume) bool { return v.SourceSnapshot == s.ID }); copied != nil {
			return invalid("Invalid snapshot: volume %s is being created from snapshot %s.", copied.ID, s.ID)
		}
		s.Status = cloud.SnapshotDeleting
		intent.Volume, intent.Snapshot = s.Volume, s.ID
		return store.Create(tx, tables.Intents, intent.ID, intent)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

var snapshotActions map[string]action

func init() {
	snapshotActions = map[string]action{
		"os-reset_status":           {do: (*call).resetSnapshot},
		"os-force_delete":           {do: (*call).forceDeleteSnapshot},
		"os-update_snapshot_status": {do: refuseSnapshotAction("Snapshots are taken by the volume service, which says itself how it went.")},
		"os-unmanage":               {do: refuseSnapshotAction("Snapshots cannot be taken out of godwit's care.")},
	}
}

func refuseSnapshotAction(why string) func(*call, *openstack.Object) error {
	return func(c *call, _ *openstack.Object) error {
		if _, err := c.snapshot(member, "volume_extension:snapshot_actions"); err != nil {
			return err
		}
		return unsupported("%s", why)
	}
}

func (c *call) snapshotAction() error { return c.act(snapshotActions) }

func (c *call) resetSnapshot(o *openstack.Object) error {
	var in struct {
		Status string `json:"status" api:"required;enum=available|error|creating|deleting|error_deleting"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	if err := c.mayAdmin("volume_extension:snapshot_admin_actions:reset_status"); err != nil {
		return err
	}
	_, err := c.changeSnapshot("volume_extension:snapshot_admin_actions:reset_status", func(_ *store.Tx, s *cloud.VolumeSnapshot) error {
		s.Status = cloud.SnapshotStatus(in.Status)
		return nil
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

func (c *call) forceDeleteSnapshot(*openstack.Object) error {
	if err := c.mayAdmin("volume_extension:snapshot_admin_actions:force_delete"); err != nil {
		return err
	}
	return c.deleteSnapshot(true)
}

var snapshotFilters = []string{"name", "status", "volume_id", "metadata", "availability_zone", "consumes_quota", "display_name", "id"}

func (c *call) snapshotFilter() (filter[cloud.VolumeSnapshot], error) {
	var f filter[cloud.VolumeSnapshot]
	var err error
	if f.project, err = c.scope(); err != nil {
		return f, err
	}
	if err := c.refuseUnknownFilters(snapshotFilters); err != nil {
		return f, err
	}
	fields := map[string]func(*cloud.VolumeSnapshot) string{
		"name": func(s *cloud.VolumeSnapshot) string { return s.Name }, "display_name": func(s *cloud.VolumeSnapshot) string { return s.Name },
		"status": func(s *cloud.VolumeSnapshot) string { return string(s.Status) }, "volume_id": func(s *cloud.VolumeSnapshot) string { return string(s.Volume) },
		"id": func(s *cloud.VolumeSnapshot) string { return string(s.ID) }, "availability_zone": c.snapshotZone,
	}
	query := c.r.URL.Query()
	for name := range query {
		value := query.Get(name)
		if of := fields[name]; of != nil {
			f.add(func(s *cloud.VolumeSnapshot) bool { return textMatches(of(s), value) })
		} else if of := fields[strings.TrimSuffix(name, "~")]; of != nil && c.since(34) {
			f.add(func(s *cloud.VolumeSnapshot) bool { return likeMatch(of(s), value) })
		}
	}
	if value := query.Get("metadata"); value != "" && c.since(22) {
		if err := filterMap(&f, "metadata", value, func(s *cloud.VolumeSnapshot) map[string]string { return s.Metadata }); err != nil {
			return f, err
		}
	}
	if value := query.Get("consumes_quota"); value != "" && c.since(65) {
		want, ok := parseBoolean(value)
		if !ok {
			return f, invalidInput("consumes_quota=%s", value)
		}
		f.add(func(*cloud.VolumeSnapshot) bool { return want })
	}
	return f, nil
}

func (c *call) snapshotZone(s *cloud.VolumeSnapshot) string {
	if v, ok := store.Lookup(c.view, tables.Volumes, s.Volume); ok {
		return v.Zone
	}
	return ""
}

var snapshotOrders = map[string]func(a, b *cloud.VolumeSnapshot) int{
	"id":   func(a, b *cloud.VolumeSnapshot) int { return cmp.Compare(a.ID, b.ID) },
	"name": func(a, b *cloud.VolumeSnapshot) int { return cmp.Compare(a.Name, b.Name) }, "display_name": func(a, b *cloud.VolumeSnapshot) int { return cmp.Compare(a.Name, b.Name) },
	"status": func(a, b *cloud.VolumeSnapshot) int { return cmp.Compare(a.Status, b.Status) }, "volume_id": func(a, b *cloud.VolumeSnapshot) int { return cmp.Compare(a.Volume, b.Volume) },
	"created_at": func(a, b *cloud.VolumeSnapshot) int { return a.Created.Compare(b.Created) }, "size": func(a, b *cloud.VolumeSnapshot) int { return cmp.Compare(a.SizeGiB, b.SizeGiB) },
}

func (c *call) listSnapshots(detail bool) error {
	if err := c.may(reader, "volume:get_all_snapshots"); err != nil {
		return err
	}
	f, err := c.snapshotFilter()
	if err != nil {
		return err
	}
	all := store.All(c.view, tables.VolumeSnapshots)
	if f.project != "" {
		all = store.By(c.view, tables.VolumeSnapshots, tables.ByProject, f.project)
	}
	all = slices.DeleteFunc(all, func(s *cloud.VolumeSnapshot) bool { return !f.accepts(s) })
	if err := sortItems(c, all, snapshotOrders); err != nil {
		return err
	}
	found, more, err := page(c, all, func(s *cloud.VolumeSnapshot) string { return string(s.ID) }, snapshotMissing)
	if err != nil {
		return err
	}
	views := make([]object, len(found))
	for i, s := range found {
		views[i] = c.snapshotView(s, detail)
	}
	path := "/snapshots"
	if detail {
		path += "/detail"
	}
	return c.list("snapshots", path, views, len(all), more)
}
