package compute

import (
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// What Nova has and godwit does not offer, each with an answer that no client can take for success.

// goneResources are those Nova itself removed: 410 at any microversion.
var goneResources = []string{
	"/os-agents", "/os-agents/{id}", "/os-cells", "/os-cells/{id}", "/os-cells/{id}/{rest...}", "/os-certificates", "/os-certificates/{id}",
	"/os-cloudpipe", "/os-cloudpipe/{id}", "/os-fixed-ips/{id}", "/os-fixed-ips/{id}/action", "/os-floating-ip-dns", "/os-floating-ip-dns/{id}",
	"/os-floating-ip-dns/{id}/{rest...}", "/os-floating-ips-bulk", "/os-floating-ips-bulk/{id}", "/os-fping", "/os-fping/{id}",
	"/os-security-group-default-rules", "/os-security-group-default-rules/{id}", "/servers/{server_id}/consoles",
	"/servers/{server_id}/consoles/{id}", "/servers/{server_id}/os-virtual-interfaces", "/os-networks/add", "/os-networks/{id}/action",
}

// proxyResources stood for other services until 2.35. From 2.36 on they are 404 in Nova too; before, they are 410 here.
var proxyResources = map[string]string{
	"/images": "image", "/images/detail": "image", "/images/{id}": "image", "/images/{id}/metadata": "image", "/images/{id}/metadata/{key}": "image",
	"/os-networks": "network", "/os-networks/{id}": "network", "/os-tenant-networks": "network", "/os-tenant-networks/{id}": "network",
	"/os-floating-ips": "network", "/os-floating-ips/{id}": "network", "/os-floating-ip-pools": "network",
	"/os-security-groups": "network", "/os-security-groups/{id}": "network", "/os-security-group-rules": "network", "/os-security-group-rules/{id}": "network",
	"/os-volumes": "volume", "/os-volumes/{id}": "volume", "/os-snapshots": "volume", "/os-snapshots/{id}": "volume",
	"/os-baremetal-nodes": "bare-metal", "/os-baremetal-nodes/{id}": "bare-metal", "/os-baremetal-nodes/{id}/action": "bare-metal",
}

var allMethods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}

func refusedRoutes() []route {
	var out []route
	for _, path := range goneResources {
		for _, method := range allMethods {
			out = append(out, route{pattern: method + " " + path, handle: answerGone})
		}
	}
	for _, path := range sortedKeys(proxyResources) {
		for _, method := range allMethods {
			if method == http.MethodGet && strings.HasPrefix(path, "/os-security-groups") {
				continue // read-only, for the stock client's "server add security group"
			}
			out = append(out, route{pattern: method + " " + path, to: 35, handle: answerProxy(proxyResources[path])})
		}
	}
	return append(out,
		route{pattern: "GET /os-security-groups", to: 35, handle: (*call).listSecurityGroups},
		route{pattern: "GET /os-security-groups/{id}", to: 35, handle: (*call).showSecurityGroup},
		route{pattern: "POST /servers/{server_id}/remote-consoles", from: 6, handle: serverRefusal(unsupported)},
		route{pattern: "GET /servers/{server_id}/diagnostics", handle: serverRefusal(unsupported)},
		route{pattern: "GET /servers/{server_id}/os-server-password", handle: (*call).showServerPassword},
		route{pattern: "DELETE /servers/{server_id}/os-server-password", handle: (*call).clearServerPassword},
		route{pattern: "POST /servers/{server_id}/os-interface", handle: serverRefusal(noAttach)},
		route{pattern: "DELETE /servers/{server_id}/os-interface/{id}", handle: serverRefusal(noDetach)},
		route{pattern: "GET /os-console-auth-tokens/{id}", handle: (*call).consoleTokenMissing},
		route{pattern: "POST /os-server-external-events", handle: (*call).refuseExternalEvents},
		route{pattern: "POST /os-assisted-volume-snapshots", handle: adminRefusal("os-assisted-volume-snapshots:create", noAssistedSnapshots)},
		route{pattern: "DELETE /os-assisted-volume-snapshots/{id}", handle: adminRefusal("os-assisted-volume-snapshots:delete", noAssistedSnapshots)},
		route{pattern: "GET /os-instance_usage_audit_log", handle: adminRefusal("os-instance-usage-audit-log:list", unsupported)},
		route{pattern: "GET /os-instance_usage_audit_log/{id}", handle: adminRefusal("os-instance-usage-audit-log:show", unsupported)},
	)
}

func answerGone(*call) error {
	return openstack.Fail(http.StatusGone, "This resource is no longer available. No forwarding address is given.")
}

func answerProxy(service string) func(*call) error {
	return func(*call) error {
		return openstack.Fail(http.StatusGone, "This resource stood for the %s service. Ask that service instead.", service)
	}
}

func unsupported() error {
	return openstack.Fail(http.StatusNotImplemented, "The requested functionality is not supported.")
}

func noAssistedSnapshots() error {
	return invalid("Snapshots are the volume service's own work: it needs no help of the hosts.")
}

func noAttach() error {
	return invalid("Attaching network interfaces to an existing server is not supported. Create the server with the networks it needs.")
}

func noDetach() error {
	return openstack.Fail(http.StatusNotImplemented, "Detaching network interfaces is not supported.")
}

// serverRefusal refuses after the server was found, so that a foreign server stays a 404.
func serverRefusal(refuse func() error) func(*call) error {
	return func(c *call) error {
		if _, err := c.serverFor(member, "servers:show", c.path("server_id")); err != nil {
			return err
		}
		return refuse()
	}
}

func adminRefusal(rule string, refuse func() error) func(*call) error {
	return func(c *call) error {
		if err := c.mayAdmin(rule); err != nil {
			return err
		}
		return refuse()
	}
}

// showServerPassword answers with no password: guests have no way to hand one back.
func (c *call) showServerPassword() error {
	if _, err := c.serverFor(reader, "os-server-password:show", c.path("server_id")); err != nil {
		return err
	}
	return c.ok(object{"password": ""})
}

// clearServerPassword succeeds truthfully: there is no password to keep.
func (c *call) clearServerPassword() error {
	if _, err := c.serverFor(member, "os-server-password:clear", c.path("server_id")); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

func (c *call) consoleTokenMissing() error {
	if err := c.mayAdmin("os-console-auth-tokens"); err != nil {
		return err
	}
	return notFound("Token not found")
}

func (c *call) refuseExternalEvents() error {
	return openstack.Forbid("os_compute_api:os-server-external-events:create")
}

// An actionRefusal is a server action Nova has and the hosts do not offer.
type actionRefusal struct {
	from, to int  // microversions that know it
	admin    bool // for administrators by default
	refuse   func() error
}

// refusedActions are refused whatever the server's state, once the server was found and the caller's role checked.
var refusedActions = map[string]actionRefusal{
	"addFixedIp": {to: 43, refuse: unsupported}, "removeFixedIp": {to: 43, refuse: unsupported},
	"addFloatingIp": {to: 43, refuse: unsupported}, "removeFloatingIp": {to: 43, refuse: unsupported},
	"changePassword": {refuse: passwordRefusal}, "createBackup": {refuse: unsupported},
	"restore":           {refuse: unsupported},
	"injectNetworkInfo": {admin: true, refuse: unsupported}, "resetNetwork": {admin: true, refuse: func() error { return answerGone(nil) }},
	"pause": {refuse: unsupported}, "unpause": {refuse: unsupported}, "suspend": {refuse: unsupported},
	"resume": {refuse: unsupported}, "rescue": {refuse: unsupported}, "unrescue": {refuse: unsupported},
	"trigger_crash_dump": {from: 17, refuse: unsupported}, "os-getVNCConsole": {to: 5, refuse: unsupported},
	"os-getSPICEConsole": {to: 5, refuse: unsupported}, "os-getRDPConsole": {to: 5, refuse: unsupported}, "os-getSerialConsole": {to: 5, refuse: unsupported},
}

func passwordRefusal() error {
	return openstack.Fail(http.StatusNotImplemented, "Unable to set password on instance")
}

// knownAction reports whether Nova has the action at this microversion.
func (a actionRefusal) known(minor int) bool { return minor >= a.from && (a.to == 0 || minor <= a.to) }

// RefusedActions returns the names of the server actions that are known and not offered.
func RefusedActions() []string { return slices.Clone(sortedKeys(refusedActions)) }
