package volume

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var volumeRoutes = []route{
	{pattern: "GET /volumes", handle: func(c *call) error { return c.listVolumes(false) }},
	{pattern: "GET /volumes/detail", handle: func(c *call) error { return c.listVolumes(true) }},
	{pattern: "GET /volumes/summary", from: 12, handle: (*call).summarise},
	{pattern: "POST /volumes", handle: (*call).createVolume},
	{pattern: "GET /volumes/{id}", handle: (*call).showVolume},
	{pattern: "PUT /volumes/{id}", handle: (*call).updateVolume},
	{pattern: "DELETE /volumes/{id}", handle: (*call).deleteVolume},
	{pattern: "POST /volumes/{id}/action", handle: (*call).volumeAction},
}

const textRunesMax = 255

// checkText refuses names and descriptions that Cinder's schema does: too long, or with characters no name has.
func checkText(what, text string) error {
	if utf8.RuneCountInString(text) > textRunesMax {
		return invalid("Invalid input for field/attribute %s. Value: %.60s. '%.60s' is too long", what, text, text)
	}
	return nil
}

func volumeMissing(id string) error { return notFound("Volume %s could not be found.", id) }

// volume returns the volume of the path if the caller may see it and has the role.
func (c *call) volume(role, rule string) (*cloud.Volume, error) {
	if err := c.may(role, rule); err != nil {
		return nil, err
	}
	v, ok := store.Lookup(c.view, tables.Volumes, c.path("id"))
	if !ok || !c.r.Caller.Sees(v.Project) {
		return nil, volumeMissing(c.path("id"))
	}
	return v, nil
}

// findVolume is volume for an id or a name given elsewhere than in the path; only ids are looked for, as in Cinder.
func (c *call) findVolume(id string) (*cloud.Volume, error) {
	v, ok := store.Lookup(c.view, tables.Volumes, id)
	if !ok || !c.r.Caller.Sees(v.Project) {
		return nil, volumeMissing(id)
	}
	return v, nil
}

// changeVolume applies change to the volume of the path, as the transaction sees it, after the caller's rights were checked. The volume it returns is
// as written, and empty when there is an error.
func (c *call) changeVolume(rule string, change func(tx *store.Tx, v *cloud.Volume) error) (*cloud.Volume, error) {
	seen, err := c.volume(member, rule)
	if err != nil {
		return &cloud.Volume{}, err
	}
	var v cloud.Volume
	err = c.update(func(tx *store.Tx) (err error) {
		if v, err = store.Get(tx, tables.Volumes, seen.ID); err != nil {
			if cloud.Is(err, cloud.KindNotFound) {
				return volumeMissing(string(seen.ID))
			}
			return err
		}
		if err := change(tx, &v); err != nil {
			return err
		}
		v.Updated = c.now()
		return store.Put(tx, tables.Volumes, v.ID, v)
	})
	return &v, err
}

func (c *call) showVolume() error {
	v, err := c.volume(reader, "volume:get")
	if err != nil {
		return err
	}
	return c.ok(object{"volume": c.volumeView(v)})
}

// volumeUpdate is the body of PUT /volumes/{id}.
type volumeUpdate struct {
	Volume struct {
		Name               *string           `json:"name" api:"null"`
		Description        *string           `json:"description" api:"null"`
		DisplayName        *string           `json:"display_name" api:"null"`
		DisplayDescription *string           `json:"display_description" api:"null"`
		Metadata           map[string]string `json:"metadata" api:"null"`
		Extra              map[string]any    `api:"extra"`
	} `json:"volume" api:"required"`
}

func (c *call) updateVolume() error {
	var body volumeUpdate
	if err := c.decode(&body); err != nil {
		return err
	}
	in := &body.Volume
	if in.Name == nil {
		in.Name = in.DisplayName
	}
	if in.Description == nil {
		in.Description = in.DisplayDescription
	}
	if c.since(53) {
		if err := refuseExtra(in.Extra); err != nil {
			return err
		}
		if in.Name == nil && in.Description == nil && in.Metadata == nil {
			return invalid("Invalid input for field/attribute volume. {} does not have enough properties")
		}
	}
	v, err := c.changeVolume("volume:update", func(_ *store.Tx, v *cloud.Volume) error {
		return setTexts(&v.Name, &v.Description, &v.Metadata, in.Name, in.Description, in.Metadata)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"volume": c.volumeView(v)})
}

// setTexts changes what was given of a name, a description and metadata.
func setTexts(name, description *string, metadata *map[string]string, newName, newDescription *string, newMetadata map[string]string) error {
	for _, set := range []struct {
		what     string
		to, from *string
	}{{"name", name, newName}, {"description", description, newDescription}} {
		if set.from == nil {
			continue
		}
		text := strings.TrimSpace(*set.from)
		if err := checkText(set.what, text); err != nil {
			return err
		}
		*set.to = text
	}
	if newMetadata == nil {
		return nil
	}
	if err := checkMetadata(newMetadata); err != nil {
		return err
	}
	*metadata = newMetadata
	return nil
}

// refuseExtra refuses properties that no schema has.
func refuseExtra(extra map[string]any) error {
	for name := range extra {
		return invalid("Additional properties are not allowed ('%s' was unexpected)", name)
	}
	return nil
}

// deletable are the statuses in which a volume may be deleted without force.
var deletable = []cloud.VolumeStatus{cloud.VolumeAvailable, cloud.VolumeError, cloud.VolumeErrorRestoring, cloud.VolumeErrorExtending}

// deleteVolume answers DELETE /volumes/{id}, with cascade and, from 3.23 on and for administrators, force.
func (c *call) deleteVolume() error {
	cascade, err := c.flag("cascade")
	if err != nil {
		return err
	}
	force := false
	if c.since(23) {
		if force, err = c.flag("force"); err != nil {
			return err
		}
	}
	if force {
		if err := c.mayAdmin("volume:force_delete"); err != nil {
			return err
		}
	}
	return c.removeVolume(force, cascade)
}

// removeVolume moves the volume to deleting, with its snapshots if cascade is set, and orders the deletion.
func (c *call) removeVolume(force, cascade bool) error {
	intent := c.newIntent(cloud.IntentVolumeDelete)
	intent.Cascade = cascade
	_, err := c.changeVolume("volume:delete", func(tx *store.Tx, v *cloud.Volume) error {
		if err := c.mayDelete(tx, v, force); err != nil {
			return err
		}
		if err := c.condemnSnapshots(tx, v, force, cascade); err != nil {
			return err
		}
		v.Status, v.Fault = cloud.VolumeDeleting, nil
		intent.Volume = v.ID
		return store.Create(tx, tables.Intents, intent.ID, intent)
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// mayDelete refuses a volume that is in use or busy; force is for what is busy, never for what a server uses.
func (c *call) mayDelete(tx *store.Tx, v *cloud.Volume, force bool) error {
	for _, id := range v.AttachmentIDs {
		a, err := store.Peek(tx, tables.Attachments, id)
		if err != nil {
			return err
		}
		if a != nil && (a.Status != cloud.AttachmentReserved || !force) {
			return cannotDelete(force)
		}
	}
	if copied := c.beingCopied(func(other *cloud.Volume) bool { return other.SourceVolume == v.ID }); copied != nil {
		return invalidVolume("Volume %s is being created from volume %s.", copied.ID, v.ID)
	}
	if force && v.Status != cloud.VolumeDeleting || slices.Contains(deletable, v.Status) {
		return nil
	}
	return cannotDelete(force)
}

// beingCopied returns a volume that is being made from what is to be deleted, whose data is read until the volume is whole; nil when there is none.
func (c *call) beingCopied(from func(*cloud.Volume) bool) *cloud.Volume {
	view := c.store.View()
	for _, i := range store.All(view, tables.Intents) {
		if i.Kind != cloud.IntentVolumeCreate {
			continue
		}
		if v, ok := store.Lookup(view, tables.Volumes, i.Volume); ok && from(v) {
			return v
		}
	}
	return nil
}

func cannotDelete(force bool) error {
	statuses := ""
	if !force {
		statuses = "status must be available or error or error_restoring or error_extending or error_managing and "
	}
	return invalidVolume("Volume %smust not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer.", statuses)
}

// condemnSnapshots marks the volume's snapshots as deleting, or refuses because there are some.
func (c *call) condemnSnapshots(tx *store.Tx, v *cloud.Volume, force, cascade bool) error {
	for _, id := range v.SnapshotIDs {
		current, err := store.Get(tx, tables.VolumeSnapshots, id)
		if cloud.Is(err, cloud.KindNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if !cascade {
			return cannotDelete(false)
		}
		if !force && !slices.Contains(snapshotDeletable, current.Status) {
			return invalidVolume("Snapshot %s must be available or error to be deleted with its volume, but is %s.", id, current.Status)
		}
		current.Status, current.Updated = cloud.SnapshotDeleting, c.now()
		if err := store.Put(tx, tables.VolumeSnapshots, id, current); err != nil {
			return err
		}
	}
	return nil
}

// summarise answers GET /volumes/summary.
func (c *call) summarise() error {
	if err := c.may(reader, "volume:get_all"); err != nil {
		return err
	}
	f, err := c.volumeFilter()
	if err != nil {
		return err
	}
	count, size := 0, 0
	metadata := map[string][]string{}
	for _, v := range c.matchingVolumes(f) {
		count++
		size += v.SizeGiB
		for k, value := range v.Metadata {
			if !slices.Contains(metadata[k], value) {
				metadata[k] = append(metadata[k], value)
			}
		}
	}
	out := object{"total_count": count, "total_size": size}
	if c.since(36) {
		for _, values := range metadata {
			slices.Sort(values)
		}
		out["metadata"] = metadata
	}
	return c.ok(object{"volume-summary": out})
}

// etagMatches refuses a change of what the client has not seen, when it says what it has seen.
func (c *call) etagMatches(current any) error {
	want := c.r.Header.Get("If-Match")
	if !c.since(15) || want == "" || want == "*" {
		return nil
	}
	if strings.Trim(want, `"`) != etag(current) {
		return openstack.Fail(http.StatusPreconditionFailed, "The ETag does not match the resource's.")
	}
	return nil
}
