package compute

import (
	"fmt"
	"strings"
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
	Minor  int    // of 2.Minor
	What   string // what Nova introduced
	Stance Stance
	How    string // how it is met: where it shows, or the answer that refuses it
}

// gone is the answer of API parts that Nova itself no longer has, at any microversion.
const gone = "410 at any microversion, as in Nova since the release that removed it"

// noAction is the answer to server actions that the hosts do not offer.
const noAction = "501: the action is known and not supported"

// Changes lists every microversion on offer, in order. docs/microversions.md is made from it; see TestMicroversionDocument.
var Changes = []Change{
	{1, "first version; strict input", Honoured, "every body is checked against its schema"},
	{2, "keypair `type`; create answers 201, delete 204", Honoured, "`ssh`; `x509` is imported, never generated"},
	{3, "`OS-EXT-SRV-ATTR:` reservation_id, launch_index, ramdisk_id, kernel_id, hostname, root_device_name, user_data; `delete_on_termination` of volumes", Honoured, "kernel and ramdisk ids are empty"},
	{4, "`reserved` of fixed IPs", Refused, "os-fixed-ips: " + gone},
	{5, "filter `ip6` for everybody", Honoured, "GET /servers"},
	{6, "`remote-consoles` replaces four console actions", Refused, "501: no remote consoles; the old actions are 404 from here on"},
	{7, "access to a public flavor cannot be granted", Honoured, "409 from here on"},
	{8, "console protocol `mks`", Refused, "501: no remote consoles"},
	{9, "`locked` of servers", Honoured, "GET, PUT /servers"},
	{10, "administrators manage keypairs of other users", Honoured, "`user_id` in body and query"},
	{11, "`forced_down` of services, `force-down`", Honoured, "os-services"},
	{12, "`net_id` of virtual interfaces", Refused, "os-virtual-interfaces: " + gone},
	{13, "`project_id` and `user_id` of server groups", Honoured, "os-server-groups"},
	{14, "evacuate without `onSharedStorage` and `adminPass` in the answer", Honoured, "per disk: shared directories and volumes are kept, a root disk of the dead host alone is made anew from its image. `adminPass` is refused in any version"},
	{15, "`soft-affinity` and `soft-anti-affinity`", Honoured, "os-server-groups; unknown policies before"},
	{16, "`host_status` of servers", Honoured, "administrators see UP, DOWN, MAINTENANCE, UNKNOWN or empty"},
	{17, "`trigger_crash_dump`", Refused, noAction + "; 404 before"},
	{18, "URLs without the project", Honoured, "URLs with and without it are served at any microversion, as in Nova"},
	{19, "`description` of servers", Honoured, "POST, PUT, GET /servers; before it an unknown property, and the name serves"},
	{20, "volumes of shelved servers", Refused, "shelve: " + noAction},
	{21, "instance actions of deleted servers", Honoured, "os-instance-actions, as long as the grave is kept"},
	{22, "`force_complete` of a live migration", Honoured, "POST /servers/{id}/migrations/{id}/action"},
	{23, "GET server migrations; `migration_type` and links in os-migrations", Honoured, "true progress of memory and disk"},
	{24, "DELETE server migration: abort", Honoured, "status `running`; see 2.65"},
	{25, "`block_migration: auto`; `disk_over_commit` is gone", Honoured, "os-migrateLive"},
	{26, "server tags", Honoured, "/servers/{id}/tags and the four filters"},
	{27, "the header `OpenStack-API-Version`", Honoured, "both headers are read and written at any microversion"},
	{28, "`cpu_info` of hypervisors is an object", Honoured, "os-hypervisors, text before"},
	{29, "evacuate `force`", Honoured, "a named host is judged by placement unless forced; earlier it is taken at the caller's word"},
	{30, "live migration `force`; a named host is checked by the scheduler", Honoured, "without force every rule of placement applies to the host; with it only those that keep the guest safe"},
	{31, "console auth tokens of all kinds", Refused, "404: there are no tokens"},
	{32, "device `tag` in networks and block devices at boot", Honoured, "tags of networks are kept and shown (2.70); of block devices 400"},
	{33, "paging of hypervisors; block device tags vanish until 2.42", Honoured, "os-hypervisors"},
	{34, "checks of a live migration run in the background", Honoured, "202, and a refusal by placement shows as a failed instance action; naming an unknown host stays 400"},
	{35, "paging of keypairs", Honoured, "os-keypairs"},
	{36, "proxies to other services are 404; network quotas and limits vanish", Honoured, "before it security groups can be read and all other proxies answer 410: use the network, image and volume services"},
	{37, "`networks: auto | none`; `networks` is required; network ids are UUIDs; network tags vanish until 2.42", Honoured, "POST /servers"},
	{38, "an unknown `status` filter is an error", Honoured, "400; an empty list before"},
	{39, "image metadata proxy is gone; no `maxImageMeta`", Honoured, "/limits"},
	{40, "paging of simple tenant usage", Honoured, "os-simple-tenant-usage"},
	{41, "`uuid` of aggregates", Honoured, "os-aggregates"},
	{42, "device `tag` is back", Honoured, "networks; of block devices 400"},
	{43, "os-hosts is gone", Honoured, "404 from here on"},
	{44, "fixed and floating IP actions are gone", Honoured, "404 from here on; before it " + noAction},
	{45, "createImage and createBackup answer with a body", Refused, noAction},
	{46, "`X-OpenStack-Request-ID`", Honoured, "at any microversion"},
	{47, "the embedded flavor replaces the flavor's link", Honoured, "GET /servers/detail, GET and PUT /servers/{id}"},
	{48, "standard diagnostics", Refused, "diagnostics: 501"},
	{49, "tagged attachment of interfaces and volumes", Shared, "volumes are attached without a tag, with one 400; os-interface: attaching is refused"},
	{50, "server group quotas in quota classes; network quotas vanish there", Honoured, "os-quota-class-sets"},
	{51, "instance action events for everybody; `volume-extended`", Shared, "events are shown without traceback; external events are 403"},
	{52, "`tags` when a server is created", Honoured, "POST /servers"},
	{53, "UUIDs of services and hypervisors; new PUT /os-services/{id}; queries replace sub-resources", Honoured, "os-services, os-hypervisors"},
	{54, "`key_name` in rebuild", Refused, "rebuild: " + noAction},
	{55, "`description` of flavors, PUT /flavors/{id}", Honoured, "flavors"},
	{56, "`host` in cold migrate", Refused, "migrate: " + noAction},
	{57, "no `personality`, no limits of it; `user_data` in rebuild", Shared, "an unknown property from here on; before it a non-empty personality is 400. rebuild: " + noAction},
	{58, "paging and `changes-since` of instance actions; `updated_at`", Honoured, "os-instance-actions"},
	{59, "paging, `changes-since` and `uuid` of migrations", Honoured, "os-migrations, server migrations"},
	{60, "multi-attach volumes", Honoured, "os-volume_attachments and block devices, when the volume's type allows it; 400 before"},
	{61, "`extra_specs` of flavors", Honoured, "flavors"},
	{62, "`host` and `hostId` of instance action events", Honoured, "`host` for administrators"},
	{63, "`trusted_image_certificates`", Shared, "shown as null; asking for certificates is 400"},
	{64, "`policy` and `rules` of server groups", Honoured, "os-server-groups, `max_server_per_host`"},
	{65, "abort of queued and preparing live migrations", Honoured, "DELETE server migration"},
	{66, "`changes-before`", Honoured, "servers, instance actions, migrations"},
	{67, "`volume_type` of block devices", Honoured, "volumes that are made for the server; an unknown property before"},
	{68, "no forced live migration and evacuation", Honoured, "`force` is an unknown property from here on"},
	{69, "partial answers when a cell is down", Honoured, "there is one cell and it is up, so answers are whole"},
	{70, "`tag` of interfaces and attached volumes", Honoured, "os-interface, os-volume_attachments"},
	{71, "`server_groups` of servers", Honoured, "GET and PUT /servers/{id}"},
	{72, "ports with resource requests", Refused, "the network service has no such ports"},
	{73, "`locked_reason`; `locked` as filter and sort key", Honoured, "servers, action lock"},
	{74, "`host` and `hypervisor_hostname` when a server is created", Honoured, "administrators; placement checks the host"},
	{75, "unknown query parameters are errors; PUT shows all; `swap` 0; `servers` always", Honoured, "servers, flavors, hypervisors and all lists"},
	{76, "event `power-update`", Refused, "external events are 403"},
	{77, "`availability_zone` in unshelve", Refused, "unshelve: " + noAction},
	{78, "server topology", Honoured, "GET /servers/{id}/topology: no NUMA nodes; 404 before"},
	{79, "`delete_on_termination` when attaching volumes", Honoured, "os-volume_attachments; an unknown property before"},
	{80, "`user_id` and `project_id` of migrations", Honoured, "os-migrations (filters too), server migrations"},
	{81, "image cache by aggregate", Refused, "501: hosts fetch an image when they first need it; 404 before"},
	{82, "event `accelerator-request-bound`", Refused, "external events are 403"},
	{83, "more filters for everybody", Honoured, "GET /servers"},
	{84, "`details` of failed events", Honoured, "os-instance-actions"},
	{85, "PUT volume attachment changes `delete_on_termination`", Honoured, "os-volume_attachments; swapping volumes, all that PUT did before, is 501"},
	{86, "known extra specs are checked", Honoured, "names in Nova's namespaces must be known, and their values of the known type"},
	{87, "rescue of volume-backed servers", Refused, "rescue: " + noAction},
	{88, "hypervisors lose their figures and gain `uptime`; no statistics, no uptime resource", Honoured, "os-hypervisors"},
	{89, "`attachment_id` and `bdm_uuid` of volumes", Honoured, "os-volume_attachments, in place of `id`"},
	{90, "`hostname` of servers, visible to everybody", Honoured, "POST, PUT, GET /servers; filter"},
	{91, "`host` in unshelve", Refused, "unshelve: " + noAction},
	{92, "keypairs are not generated; `@` and `.` in their names", Honoured, "os-keypairs"},
	{93, "rebuild of volume-backed servers", Refused, "rebuild: " + noAction},
	{94, "`hostname` may be a fully qualified name", Honoured, "POST, PUT /servers"},
	{95, "evacuated servers stay stopped", Honoured, "earlier they are started unless they were stopped"},
}

// MicroversionDocument returns docs/microversions.md.
func MicroversionDocument() string {
	var b strings.Builder
	b.WriteString("# Microversions of the compute API\n\n")
	b.WriteString("Made from the table `Changes` in `internal/openstack/compute`; do not edit. `go test ./internal/openstack/compute -run TestMicroversionDocument -update` writes it anew.\n\n")
	fmt.Fprintf(&b, "godwit offers 2.1 to 2.%d. Each microversion is honoured or refused, never half: what it brought is in force from it on and unknown before it, or a request for it gets the answer named here.\n\n", len(Changes))
	b.WriteString("| version | brought | stance | how |\n|---|---|---|---|\n")
	for _, c := range Changes {
		fmt.Fprintf(&b, "| 2.%d | %s | %s | %s |\n", c.Minor, escapeCell(c.What), c.Stance, escapeCell(c.How))
	}
	return b.String()
}

func escapeCell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
