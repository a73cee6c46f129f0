package volume

import (
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack/image"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

// volumeCreate is the body of POST /volumes.
type volumeCreate struct {
	Volume volumeWish     `json:"volume" api:"required"`
	Hints  map[string]any `json:"OS-SCH-HNT:scheduler_hints" api:"null"`
	Extra  map[string]any `api:"extra"`
}

type volumeWish struct {
	Size               *int              `json:"size" api:"null;loose;range=0.."`
	Zone               *string           `json:"availability_zone" api:"null"`
	SourceVolume       *string           `json:"source_volid" api:"null"`
	Snapshot           *string           `json:"snapshot_id" api:"null"`
	Image              *string           `json:"imageRef" api:"null"`
	ImageID            *string           `json:"image_id" api:"null"`
	Backup             *string           `json:"backup_id" api:"null;since=3.47"`
	Group              *string           `json:"group_id" api:"null;since=3.13"`
	ConsistencyGroup   *string           `json:"consistencygroup_id" api:"null"`
	SourceReplica      *string           `json:"source_replica" api:"null"`
	Name               *string           `json:"name" api:"null"`
	Description        *string           `json:"description" api:"null"`
	DisplayName        *string           `json:"display_name" api:"null"`
	DisplayDescription *string           `json:"display_description" api:"null"`
	Type               *string           `json:"volume_type" api:"null"`
	Metadata           map[string]string `json:"metadata" api:"null"`
	Multiattach        *bool             `json:"multiattach" api:"null;loose"`
	Extra              map[string]any    `api:"extra"`
}

// createVolume answers POST /volumes.
func (c *call) createVolume() error {
	if err := c.r.Caller.RequireProject(member, "volume:create"); err != nil {
		return err
	}
	var body volumeCreate
	if err := c.decode(&body); err != nil {
		return err
	}
	if c.since(53) {
		if err := refuseExtra(body.Volume.Extra); err != nil {
			return err
		}
		if err := refuseExtra(body.Extra); err != nil {
			return err
		}
	}
	if len(body.Hints) > 0 {
		return invalid("Scheduler hints are not supported: a volume goes to the back end that its type, zone and source allow and that has most room.")
	}
	wish, err := c.wish(&body.Volume)
	if err != nil {
		return err
	}
	v, err := volumebook.Plan(c.view, wish)
	if err != nil {
		return err
	}
	if m := body.Volume.Multiattach; m != nil && *m && !v.Multiattach {
		return invalidInput("multiattach is not a property of one volume: choose a volume type with the extra spec multiattach=\"<is> True\".")
	}
	intent := c.newIntent(cloud.IntentVolumeCreate)
	if err := c.update(func(tx *store.Tx) error { return volumebook.Create(tx, v, intent) }); err != nil {
		return err
	}
	return c.reply(http.StatusAccepted, object{"volume": c.volumeView(&v)})
}

// wish looks up everything the body names.
func (c *call) wish(in *volumeWish) (volumebook.Wish, error) {
	w := volumebook.Wish{
		ID: cloud.VolumeID(newID()), Project: c.r.Caller.Project, User: c.r.Caller.User, Name: firstText(in.Name, in.DisplayName),
		Description: firstText(in.Description, in.DisplayDescription), Zone: firstText(in.Zone), Metadata: in.Metadata, Now: c.now(),
	}
	if in.Size != nil {
		w.SizeGiB = *in.Size
		if w.SizeGiB == 0 {
			return w, invalidInput("Volume size '0' must be an integer and greater than 0")
		}
	}
	for what, text := range map[string]string{"name": w.Name, "description": w.Description} {
		if err := checkText(what, text); err != nil {
			return w, err
		}
	}
	if err := checkMetadata(in.Metadata); err != nil {
		return w, err
	}
	if w.Zone != "" && !slices.Contains(c.zones(), w.Zone) {
		return w, invalidInput("Availability zone '%s' is invalid.", w.Zone)
	}
	if name := firstText(in.Type); name != "" {
		t, err := volumebook.FindType(c.view, name, w.Project, c.admin())
		if err != nil {
			return w, err
		}
		w.Type = t
	}
	return w, c.sources(in, &w)
}

// sources looks up what the volume is to be made from. More than one source is Cinder's refusal; those godwit has not are refused by name.
func (c *call) sources(in *volumeWish, w *volumebook.Wish) error {
	for name, text := range map[string]*string{"backup_id": in.Backup, "group_id": in.Group, "consistencygroup_id": in.ConsistencyGroup, "source_replica": in.SourceReplica} {
		if firstText(text) != "" {
			return invalidInput("%s: there are no backups, groups and replicas.", name)
		}
	}
	imageID := firstText(in.Image, in.ImageID)
	imageID = imageID[strings.LastIndexByte(imageID, '/')+1:] // older clients send a URL
	snapshotID, sourceID := firstText(in.Snapshot), firstText(in.SourceVolume)
	given := 0
	for _, id := range []string{imageID, snapshotID, sourceID} {
		if id != "" {
			given++
		}
	}
	if given > 1 {
		return invalidInput("source volume, source snapshot, source image and source backup are mutually exclusive.")
	}
	var err error
	switch {
	case imageID != "":
		w.Image, err = c.findImage(imageID)
	case snapshotID != "":
		w.Snapshot, err = c.findSnapshot(snapshotID)
	case sourceID != "":
		w.Source, err = c.findVolume(sourceID)
	}
	return err
}

// findImage returns an image by id, else by its name if only one that the caller sees has it, as Cinder does.
func (c *call) findImage(ref string) (*cloud.Image, error) {
	if i, ok := store.Lookup(c.view, tables.Images, ref); ok && image.Visible(c.r.Caller, i) {
		return i, nil
	}
	var found []*cloud.Image
	for _, i := range store.All(c.view, tables.Images) {
		if i.Name == ref && image.Visible(c.r.Caller, i) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, invalid("Invalid image identifier or unable to access requested image.")
	}
	return nil, conflict("Multiple matches found for '%s', use an ID to be more specific.", ref)
}

// firstText returns the first text that was given and is not empty, without the space around it.
func firstText(texts ...*string) string {
	for _, t := range texts {
		if t != nil && strings.TrimSpace(*t) != "" {
			return strings.TrimSpace(*t)
		}
	}
	return ""
}

// zones returns the availability zones of the volume services, sorted; the default one when there is none.
func (c *call) zones() []string {
	var out []string
	for _, s := range store.All(c.view, tables.VolumeServices) {
		out = append(out, s.Zone)
	}
	if len(out) == 0 {
		out = []string{cloud.DefaultZone}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
