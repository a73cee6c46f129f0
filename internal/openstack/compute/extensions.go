package compute

var extensionRoutes = []route{
	{pattern: "GET /extensions", handle: (*call).listExtensions},
	{pattern: "GET /extensions/{alias}", handle: (*call).showExtension},
}

// extensions are what was once optional and is on offer here. Clients that predate microversions look for some of the aliases.
var extensions = []struct{ alias, name string }{
	{"NMN", "Multinic"}, {"OS-DCF", "DiskConfig"}, {"OS-EXT-AZ", "ExtendedAvailabilityZone"}, {"OS-EXT-IPS", "ExtendedIps"},
	{"OS-EXT-IPS-MAC", "ExtendedIpsMac"}, {"OS-EXT-SRV-ATTR", "ExtendedServerAttributes"}, {"OS-EXT-STS", "ExtendedStatus"},
	{"OS-FLV-DISABLED", "FlavorDisabled"}, {"OS-FLV-EXT-DATA", "FlavorExtraData"}, {"OS-SCH-HNT", "SchedulerHints"}, {"OS-SRV-USG", "ServerUsage"},
	{"os-access-ips", "AccessIPs"}, {"os-admin-actions", "AdminActions"}, {"os-aggregates", "Aggregates"}, {"os-attach-interfaces", "AttachInterfaces"},
	{"os-availability-zone", "AvailabilityZone"}, {"os-block-device-mapping-v2-boot", "BlockDeviceMappingV2Boot"}, {"os-config-drive", "ConfigDrive"},
	{"os-console-output", "ConsoleOutput"}, {"os-create-server-ext", "Createserverext"}, {"os-deferred-delete", "DeferredDelete"},
	{"os-extended-hypervisors", "ExtendedHypervisors"}, {"os-extended-quotas", "ExtendedQuotas"}, {"os-extended-services", "ExtendedServices"},
	{"os-extended-services-delete", "ExtendedServicesDelete"}, {"os-extended-status", "ExtendedStatus"}, {"os-extended-volumes", "ExtendedVolumes"},
	{"os-flavor-access", "FlavorAccess"}, {"os-flavor-extra-specs", "FlavorExtraSpecs"}, {"os-flavor-manage", "FlavorManage"},
	{"os-flavor-rxtx", "FlavorRxtx"}, {"os-flavor-swap", "FlavorSwap"}, {"os-hide-server-addresses", "HideServerAddresses"}, {"os-hosts", "Hosts"},
	{"os-hypervisor-status", "HypervisorStatus"}, {"os-hypervisors", "Hypervisors"}, {"os-instance-actions", "InstanceActions"},
	{"os-keypairs", "Keypairs"}, {"os-lock-server", "LockServer"}, {"os-migrate-server", "MigrateServer"}, {"os-migrations", "Migrations"},
	{"os-multiple-create", "MultipleCreate"}, {"os-quota-class-sets", "QuotaClasses"}, {"os-quota-sets", "Quotas"},
	{"os-server-group-quotas", "ServerGroupQuotas"}, {"os-server-groups", "ServerGroups"}, {"os-server-list-multi-status", "ServerListMultiStatus"},
	{"os-server-password", "ServerPassword"}, {"os-server-sort-keys", "ServerSortKeys"}, {"os-server-start-stop", "ServerStartStop"},
	{"os-services", "Services"}, {"os-simple-tenant-usage", "SimpleTenantUsage"}, {"os-used-limits", "UsedLimits"},
	{"os-used-limits-for-admin", "UsedLimitsForAdmin"}, {"os-user-data", "UserData"},
}

func extensionView(alias, name string) object {
	return object{
		"alias": alias, "name": name, "description": name + ".", "links": []any{},
		"namespace": "http://docs.openstack.org/compute/ext/fake_xml", "updated": "2014-12-03T00:00:00Z",
	}
}

func (c *call) listExtensions() error {
	out := make([]object, len(extensions))
	for i, e := range extensions {
		out[i] = extensionView(e.alias, e.name)
	}
	return c.ok(object{"extensions": out})
}

func (c *call) showExtension() error {
	for _, e := range extensions {
		if e.alias == c.path("alias") {
			return c.ok(object{"extension": extensionView(e.alias, e.name)})
		}
	}
	return notFound("The resource could not be found.")
}
