package volume

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// summaryView is a volume in a list without details.
func (c *call) summaryView(v *cloud.Volume) object {
	return object{"id": v.ID, "name": v.Name, "links": c.links("/volumes/" + string(v.ID))}
}

// volumeView is a volume as its microversion shows it.
func (c *call) volumeView(v *cloud.Volume) object {
	out := object{
		"id": v.ID, "status": v.Status, "size": v.SizeGiB, "availability_zone": v.Zone, "created_at": openstack.TimeMicros(v.Created),
		"updated_at": openstack.TimeMicros(v.Updated), "name": v.Name, "description": orNull(v.Description), "volume_type": c.typeName(v.Type),
		"snapshot_id": orNull(v.SourceSnapshot), "source_volid": orNull(v.SourceVolume), "metadata": texts(v.Metadata), "user_id": v.User,
		"bootable": strconv.FormatBool(v.Bootable), "encrypted": false, "replication_status": nil, "consistencygroup_id": nil,
		"multiattach": v.Multiattach, "migration_status": orNull(v.MigrationStatus), "attachments": c.attachmentsOf(v),
		"links": c.links("/volumes/" + string(v.ID)), "os-vol-tenant-attr:tenant_id": v.Project,
	}
	if v.ReadOnly {
		metadata := map[string]string{"readonly": "True"}
		for k, value := range v.Metadata {
			metadata[k] = value
		}
		out["metadata"] = metadata
	}
	if len(v.ImageMetadata) > 0 {
		out["volume_image_metadata"] = v.ImageMetadata
	}
	if c.admin() {
		out["os-vol-host-attr:host"] = hostOf(v)
		out["os-vol-mig-status-attr:migstat"] = orNull(v.MigrationStatus)
		out["os-vol-mig-status-attr:name_id"] = nil
	}
	c.laterParts(v, out)
	return out
}

// laterParts adds what microversions brought.
func (c *call) laterParts(v *cloud.Volume, out object) {
	if c.since(13) {
		out["group_id"] = nil
	}
	if c.since(21) && c.admin() {
		out["provider_id"] = nil
	}
	if c.since(48) {
		// NBD exports belong to one attachment: there is no target that clients would have to lock each other out of.
		out["shared_targets"], out["service_uuid"] = false, nil
		if v.Service != "" {
			out["service_uuid"] = serviceUUID(v.Service)
		}
	}
	if c.since(61) && c.admin() {
		out["cluster_name"] = nil
	}
	if c.since(63) {
		out["volume_type_id"] = v.Type
	}
	if c.since(65) {
		out["consumes_quota"] = true
	}
}

// serviceNamespace makes the ids of volume services, which have none of their own, from their names.
var serviceNamespace = uuid.MustParse("6f0b8f9c-52a5-4f7e-9a55-3a6d1f1c6f27")

func serviceUUID(name cloud.HostName) string {
	return uuid.NewSHA1(serviceNamespace, []byte(name)).String()
}

// hostOf is where a volume is, as Cinder writes it: host@backend#pool. The back end is its own only pool.
func hostOf(v *cloud.Volume) any {
	if v.Service == "" {
		return nil
	}
	return fmt.Sprintf("%s#%s", placement.BackendName(v.Service, v.Backend), v.Backend)
}

func (c *call) typeName(id cloud.VolumeTypeID) any {
	if t, ok := store.Lookup(c.view, tables.VolumeTypes, id); ok {
		return t.Name
	}
	return nil
}

// attachmentsOf shows which servers use the volume.
func (c *call) attachmentsOf(v *cloud.Volume) []object {
	out := []object{}
	for _, id := range v.AttachmentIDs {
		a, ok := store.Lookup(c.view, tables.Attachments, id)
		if !ok || a.Migration != "" || a.Status != cloud.AttachmentAttached && a.Status != cloud.AttachmentDetaching {
			continue
		}
		one := object{
			"id": v.ID, "attachment_id": a.ID, "volume_id": v.ID, "server_id": orNull(a.Server), "host_name": nil, "device": orNull(a.Device),
			"attached_at": openstack.OptionalTime(a.Attached, openstack.TimeMicros),
		}
		if c.admin() {
			one["host_name"] = orNull(a.Host)
		}
		out = append(out, one)
	}
	return out
}

// likeMatch reports whether text has the words, as a database's LIKE '%words%' would find; case does not count.
func likeMatch(text, words string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(words))
}
