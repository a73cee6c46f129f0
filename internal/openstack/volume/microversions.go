package volume

import (
	"fmt"
	"strings"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// Stance is how godwit meets what a microversion brought.
type Stance string

// The stances. There is no fourth: a microversion is never half there.
const (
	// Honoured means the change is in force from this microversion on and, where the change removes or renames something, not before.
	Honoured Stance = "honoured"
	// Refused means the change concerns a feature godwit does not have; a request for it gets the answer in Change.How.
	Refused Stance = "refused"
	// Shared means the change has an honoured part and a part that concerns a feature godwit does not have; How names both.
	Shared Stance = "honoured, and refused in part"
)

// Change is what one microversion brought.
type Change struct {
	Minor  int    // of 3.Minor
	What   string // what Cinder introduced
	Stance Stance
	How    string // how it is met: where it shows, or the answer that refuses it
}

// lacks is the answer of resources that stand for a feature godwit does not have.
const lacks = "the list is empty, one is 404, making or changing one 501; 404 before"

// Changes lists every microversion on offer, in order. docs/microversions-volume.md is made from it; see TestMicroversionDocument.
var Changes = []Change{
	{0, "first version, as v2 was", Honoured, "every body is checked; unknown properties of volumes are ignored until 3.53"},
	{1, "`protected` and `visibility` when a volume becomes an image", Honoured, "os-volume_upload_image; unknown properties before"},
	{2, "filter `bootable` is a boolean", Honoured, "400 for anything else; before, anything but false is true"},
	{3, "messages", Honoured, "/messages: why volumes and snapshots failed"},
	{4, "filter `glance_metadata`", Honoured, "GET /volumes"},
	{5, "paging of messages", Honoured, "GET /messages"},
	{6, "empty names of consistency groups", Refused, "consistencygroups: changing one is 501"},
	{7, "`cluster` of services; clusters", Shared, "os-services: null; clusters: " + lacks},
	{8, "manageable volumes and snapshots", Refused, "manageable_volumes, manageable_snapshots: " + lacks},
	{9, "backups can be renamed", Refused, "backups: changing one is 501"},
	{10, "filter `group_id`", Honoured, "GET /volumes; no volume is in a group"},
	{11, "group types", Refused, "group_types: " + lacks},
	{12, "volume summary", Honoured, "GET /volumes/summary"},
	{13, "groups; `group_id` of volumes", Shared, "null; a volume in a group is 400; groups: " + lacks},
	{14, "group snapshots; `group_snapshot_id` of snapshots", Shared, "null; group_snapshots: " + lacks},
	{15, "ETags of metadata", Honoured, "sent with metadata; `If-Match` is honoured with 412"},
	{16, "os-migrate_volume to a cluster", Refused, "os-migrate_volume: 501, volumes stay on their service"},
	{17, "`cluster` when listing manageable things", Refused, "manageable_volumes: the list is empty (200)"},
	{18, "project of backups", Refused, "backups: the list is empty (200)"},
	{19, "reset of group snapshots", Refused, "group_snapshots: 501"},
	{20, "reset of groups", Refused, "groups: 501"},
	{21, "`provider_id` for administrators", Honoured, "null: a volume is called the same everywhere"},
	{22, "filter snapshots by metadata", Honoured, "GET /snapshots; ignored before"},
	{23, "`force` when deleting a volume", Honoured, "for administrators; ignored before"},
	{24, "workers cleanup", Refused, "501: unfinished work goes on by itself; 404 before"},
	{25, "`volumes` of groups", Refused, "groups: the list is empty (200)"},
	{26, "failover and freeze of clusters", Refused, "os-services: 501, there is no replication"},
	{27, "attachments", Shared, "reserved, shown and given up; a connector is 501: only compute's hosts are connected"},
	{28, "filters of pools", Honoured, "get_pools: `name`; ignored before"},
	{29, "filters of group snapshots", Refused, "group_snapshots: the list is empty (200)"},
	{30, "snapshots sorted by name", Honoured, "GET /snapshots, at any microversion"},
	{31, "query filters can be configured", Honoured, "they are the ones of 3.33 and cannot be changed"},
	{32, "`set-log` and `get-log` of services", Refused, "501: the log level is configuration"},
	{33, "resource filters", Honoured, "GET /resource_filters; from here on unknown filters are 400 for non-administrators, before they are ignored"},
	{34, "filters that find a part of a text (`name~`)", Honoured, "volumes and snapshots"},
	{35, "filter pools by volume type", Honoured, "get_pools: `volume-type`"},
	{36, "metadata in the volume summary", Honoured, "GET /volumes/summary"},
	{37, "backups sorted by name", Refused, "backups: the list is empty (200)"},
	{38, "replication of groups", Refused, "groups: 501"},
	{39, "`project_id` of limits", Honoured, "GET /limits, for administrators"},
	{40, "revert to the latest snapshot", Honoured, "action `revert`; 400 before"},
	{41, "`user_id` of snapshots", Honoured, "GET /snapshots"},
	{42, "volumes in use are extended", Honoured, "os-extend; the guest sees the new size at once if its QEMU can learn of it (7.2 cannot), else when it starts again or has moved; 400 before"},
	{43, "metadata of backups", Refused, "backups: making one is 501"},
	{44, "completion of attachments", Shared, "os-complete of an attached one is 204; of another 400: compute completes what it connects; 404 before"},
	{45, "`count` of lists", Honoured, "`with_count`"},
	{46, "volumes from images of size 0", Honoured, "an image that is only a reference has no data: 400 with the reason"},
	{47, "volumes from backups", Refused, "`backup_id`: 400, there are no backups"},
	{48, "`shared_targets` and `service_uuid`", Honoured, "false, and an id made from the service's name"},
	{49, "`backend_state` of services", Honoured, "os-services"},
	{50, "multiattach", Honoured, "by volume type, at any microversion"},
	{51, "backups into other zones", Refused, "backups: making one is 501"},
	{52, "zones of volume types; filter types by `extra_specs`", Shared, "the filter is honoured; `RESKEY:availability_zones` is kept and shown, a volume's zone is the one asked for"},
	{53, "strict bodies when making and changing volumes", Honoured, "unknown properties are 400; ignored before"},
	{54, "`mode` of attachments", Honoured, "POST /attachments; an unknown property before"},
	{55, "transfers with snapshots", Refused, "volume-transfers: " + lacks},
	{56, "`user_id` of backups", Refused, "backups: the list is empty (200)"},
	{57, "details of transfers", Refused, "volume-transfers: the list is empty (200)"},
	{58, "`project_id` of groups", Refused, "groups: the list is empty (200)"},
	{59, "paging of transfers", Refused, "volume-transfers: the list is empty (200)"},
	{60, "filters `created_at` and `updated_at` with comparisons", Honoured, "GET /volumes, /volumes/summary"},
	{61, "`cluster_name` for administrators", Honoured, "null"},
	{62, "default types of projects", Refused, "default-types: " + lacks},
	{63, "`volume_type_id` of volumes", Honoured, "GET /volumes"},
	{64, "`encryption_key_id` of encrypted volumes", Honoured, "no volume is encrypted, so none has it"},
	{65, "`consumes_quota`", Honoured, "true; filter of volumes and snapshots"},
	{66, "snapshots of volumes in use without `force`", Honoured, "`force` may only be true"},
	{67, "URLs without the project", Honoured, "served with and without it at any microversion"},
	{68, "os-reimage", Refused, "501: a volume keeps its data; 400 before"},
	{69, "`shared_targets` may be null", Honoured, "it is false"},
	{70, "transfers of encrypted volumes", Refused, "volume-transfers: making one is 501"},
}

// MicroversionDocument returns docs/microversions-volume.md.
func MicroversionDocument() string {
	var b strings.Builder
	b.WriteString("# Microversions of the volume API\n\n")
	b.WriteString("Made from the table `Changes` in `internal/openstack/volume`; do not edit. `go test ./internal/openstack/volume -run TestMicroversionDocument -update` writes it anew.\n\n")
	fmt.Fprintf(&b, "godwit offers %s to %s. Each microversion is honoured or refused, never half: what it brought is in force from it on and unknown before it, or a request for it gets the answer named here.\n\n",
		openstack.Cinder.Versions.Min, openstack.Cinder.Versions.Max)
	b.WriteString("| version | brought | stance | how |\n|---|---|---|---|\n")
	for _, c := range Changes {
		fmt.Fprintf(&b, "| 3.%d | %s | %s | %s |\n", c.Minor, escapeCell(c.What), c.Stance, escapeCell(c.How))
	}
	return b.String()
}

func escapeCell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
