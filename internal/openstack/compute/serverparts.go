package compute

import (
	"maps"
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// serverPartRoutes are the resources below a server.
var serverPartRoutes = []route{
	{pattern: "GET /servers/{server_id}/metadata", handle: (*call).listMetadata},
	{pattern: "POST /servers/{server_id}/metadata", handle: func(c *call) error { return c.putMetadata(false) }},
	{pattern: "PUT /servers/{server_id}/metadata", handle: func(c *call) error { return c.putMetadata(true) }},
	{pattern: "GET /servers/{server_id}/metadata/{key}", handle: (*call).showMetadataItem},
	{pattern: "PUT /servers/{server_id}/metadata/{key}", handle: (*call).putMetadataItem},
	{pattern: "DELETE /servers/{server_id}/metadata/{key}", handle: (*call).deleteMetadataItem},
	{pattern: "GET /servers/{server_id}/tags", from: 26, handle: (*call).listTags},
	{pattern: "PUT /servers/{server_id}/tags", from: 26, handle: (*call).replaceTags},
	{pattern: "DELETE /servers/{server_id}/tags", from: 26, handle: (*call).deleteTags},
	{pattern: "GET /servers/{server_id}/tags/{tag}", from: 26, handle: (*call).showTag},
	{pattern: "PUT /servers/{server_id}/tags/{tag}", from: 26, handle: (*call).addTag},
	{pattern: "DELETE /servers/{server_id}/tags/{tag}", from: 26, handle: (*call).deleteTag},
	{pattern: "GET /servers/{server_id}/ips", handle: (*call).listAddresses},
	{pattern: "GET /servers/{server_id}/ips/{network}", handle: (*call).showAddresses},
	{pattern: "GET /servers/{server_id}/os-interface", handle: (*call).listInterfaces},
	{pattern: "GET /servers/{server_id}/os-interface/{id}", handle: (*call).showInterface},
	{pattern: "GET /servers/{server_id}/os-security-groups", handle: (*call).listServerGroups},
	{pattern: "GET /servers/{server_id}/topology", from: 78, handle: (*call).showTopology},
}

// settledStates are those in which a server's metadata and tags may change.
var settledStates = []cloud.VMState{cloud.VMActive, cloud.VMPaused, cloud.VMStopped}

func (c *call) listMetadata() error {
	s, err := c.serverFor(reader, "server-metadata:index", c.path("server_id"))
	if err != nil {
		return err
	}
	return c.ok(object{"metadata": metadataOf(s)})
}

func metadataOf(s *cloud.Server) map[string]string {
	if s.Metadata == nil {
		return map[string]string{}
	}
	return s.Metadata
}

// changeMetadata replaces a server's metadata by what change makes of a copy, and returns it.
func (c *call) changeMetadata(rule, what string, change func(map[string]string) (map[string]string, error)) (map[string]string, error) {
	found, err := c.serverFor(member, "server-metadata:"+rule, c.path("server_id"))
	if err != nil {
		return nil, err
	}
	var out map[string]string
	err = c.changeServer(found.ID, func(_ *store.Tx, s *cloud.Server) error {
		if err := c.checkLock(s); err != nil {
			return err
		}
		if err := settled(s, what, true, settledStates...); err != nil {
			return err
		}
		copied := maps.Clone(metadataOf(s))
		var err error
		if out, err = change(copied); err != nil {
			return err
		}
		if allowed := c.quota(s.Project).MetadataItems; len(out) > len(s.Metadata) && exceeds(len(out), allowed) {
			return overQuota("Maximum number of metadata items exceeds %d", allowed)
		}
		s.Metadata = out
		return nil
	})
	return out, err
}

func (c *call) putMetadata(replace bool) error {
	var body struct {
		Metadata metadata `json:"metadata" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	out, err := c.changeMetadata(pick(replace, "update_all", "create"), "update metadata", func(now map[string]string) (map[string]string, error) {
		if replace {
			return body.Metadata, nil
		}
		maps.Copy(now, body.Metadata)
		return now, nil
	})
	if err != nil {
		return err
	}
	return c.ok(object{"metadata": out})
}

func (c *call) showMetadataItem() error {
	s, err := c.serverFor(reader, "server-metadata:show", c.path("server_id"))
	if err != nil {
		return err
	}
	value, ok := s.Metadata[c.path("key")]
	if !ok {
		return notFound("Metadata item was not found")
	}
	return c.ok(object{"meta": object{c.path("key"): value}})
}

func (c *call) putMetadataItem() error {
	var body struct {
		Meta metadata `json:"meta" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if len(body.Meta) != 1 {
		return invalid("Invalid input for field/attribute meta. It %s", pick(len(body.Meta) == 0, "does not have enough properties", "has too many properties"))
	}
	if _, ok := body.Meta[c.path("key")]; !ok {
		return invalid("Request body and URI mismatch")
	}
	_, err := c.changeMetadata("update", "update metadata", func(now map[string]string) (map[string]string, error) {
		maps.Copy(now, body.Meta)
		return now, nil
	})
	if err != nil {
		return err
	}
	return c.ok(object{"meta": body.Meta})
}

func (c *call) deleteMetadataItem() error {
	_, err := c.changeMetadata("delete", "delete metadata", func(now map[string]string) (map[string]string, error) {
		if _, ok := now[c.path("key")]; !ok {
			return nil, notFound("Metadata item was not found")
		}
		delete(now, c.path("key"))
		return now, nil
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

// tagsMax bounds a server's tags.
const tagsMax = 50

func (c *call) listTags() error {
	s, err := c.serverFor(reader, "os-server-tags:index", c.path("server_id"))
	if err != nil {
		return err
	}
	return c.ok(object{"tags": tagsOf(s)})
}

func tagsOf(s *cloud.Server) []string {
	if s.Tags == nil {
		return []string{}
	}
	return s.Tags
}

func (c *call) showTag() error {
	s, err := c.serverFor(reader, "os-server-tags:show", c.path("server_id"))
	if err != nil {
		return err
	}
	if !slices.Contains(s.Tags, c.path("tag")) {
		return notFound("Server %s has no tag '%s'", s.ID, c.path("tag"))
	}
	return openstack.NoContent(c.w)
}

// changeTags replaces a server's tags by what change makes of them.
func (c *call) changeTags(rule, what string, change func(s *cloud.Server) ([]string, error)) error {
	found, err := c.serverFor(member, "os-server-tags:"+rule, c.path("server_id"))
	if err != nil {
		return err
	}
	return c.changeServer(found.ID, func(_ *store.Tx, s *cloud.Server) error {
		if err := settled(s, what, false, settledStates...); err != nil {
			return err
		}
		tags, err := change(s)
		s.Tags = tags
		return err
	})
}

func (c *call) replaceTags() error {
	var body struct {
		Tags []tag `json:"tags" api:"required;len=..50"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	tags := []string{}
	for _, t := range body.Tags {
		tags = append(tags, string(t))
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	if err := c.changeTags("update_all", "update tags", func(*cloud.Server) ([]string, error) { return tags, nil }); err != nil {
		return err
	}
	return c.ok(object{"tags": tags})
}

func (c *call) addTag() error {
	var t tag
	if err := t.BindJSON(c.path("tag")); err != nil {
		return invalid("Tag '%s' is invalid. It must be a non empty string without characters '/' and ','. Validation error message: %s", c.path("tag"), err)
	}
	added := false
	err := c.changeTags("update", "update tag", func(s *cloud.Server) ([]string, error) {
		switch {
		case slices.Contains(s.Tags, string(t)):
			added = false
			return s.Tags, nil
		case len(s.Tags) >= tagsMax:
			return nil, invalid("The number of tags exceeded the per-server limit %d", tagsMax)
		}
		added = true
		return append(slices.Clone(s.Tags), string(t)), nil
	})
	if err != nil {
		return err
	}
	if !added {
		return openstack.NoContent(c.w)
	}
	c.w.Header().Set("Location", c.r.PublicURL(apiRoot, "/servers/", c.path("server_id"), "/tags/", string(t)))
	return c.status(http.StatusCreated)
}

func (c *call) deleteTag() error {
	err := c.changeTags("delete", "delete tag", func(s *cloud.Server) ([]string, error) {
		if !slices.Contains(s.Tags, c.path("tag")) {
			return nil, notFound("Server instance %s has no tag '%s'", s.ID, c.path("tag"))
		}
		return slices.DeleteFunc(slices.Clone(s.Tags), func(t string) bool { return t == c.path("tag") }), nil
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

func (c *call) deleteTags() error {
	if err := c.changeTags("delete_all", "delete tags", func(*cloud.Server) ([]string, error) { return nil, nil }); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

func (c *call) listAddresses() error {
	s, err := c.serverFor(reader, "ips:index", c.path("server_id"))
	if err != nil {
		return err
	}
	v := c.serverViews(1)
	v.begin()
	v.object("addresses")
	v.networkAddresses(v.ports(s), false)
	v.close('}')
	v.close('}')
	return c.ok(&v.document)
}

func (c *call) showAddresses() error {
	s, err := c.serverFor(reader, "ips:show", c.path("server_id"))
	if err != nil {
		return err
	}
	v := c.serverViews(1)
	ports := slices.DeleteFunc(v.ports(s), func(p *cloud.Port) bool { return v.networkName(p.Network) != c.path("network") })
	if len(ports) == 0 {
		return notFound("Instance is not a member of specified network")
	}
	v.begin()
	v.networkAddresses(ports, false)
	v.close('}')
	return c.ok(&v.document)
}

func (c *call) interfaceView(s *cloud.Server, p *cloud.Port) object {
	ips := make([]object, len(p.FixedIPs))
	for i, ip := range p.FixedIPs {
		ips[i] = object{"subnet_id": ip.Subnet, "ip_address": ip.Address}
	}
	out := object{"port_id": p.ID, "net_id": p.Network, "mac_addr": p.MAC, "port_state": p.Status, "fixed_ips": ips}
	if c.since(70) {
		out["tag"] = textOrNull(s.PortTags[p.ID])
	}
	return out
}

func (c *call) listInterfaces() error {
	s, err := c.serverFor(reader, "os-attach-interfaces:list", c.path("server_id"))
	if err != nil {
		return err
	}
	out := []object{}
	for _, p := range c.serverViews(0).ports(s) {
		out = append(out, c.interfaceView(s, p))
	}
	return c.ok(object{"interfaceAttachments": out})
}

func (c *call) showInterface() error {
	s, err := c.serverFor(reader, "os-attach-interfaces:show", c.path("server_id"))
	if err != nil {
		return err
	}
	id := cloud.PortID(c.path("id"))
	p, ok := store.Lookup(c.view, tables.Ports, id)
	switch {
	case !ok || !c.r.Caller.Sees(p.Project):
		return notFound("Port id %s could not be found.", id)
	case !slices.Contains(s.Ports, id):
		return notFound("Instance %s does not have a port with id %s", s.ID, id)
	}
	return c.ok(object{"interfaceAttachment": c.interfaceView(s, p)})
}

// showTopology answers for guests without NUMA nodes, which all are.
func (c *call) showTopology() error {
	if _, err := c.serverFor(reader, "server:topology:index", c.path("server_id")); err != nil {
		return err
	}
	return c.ok(object{"nodes": []any{}, "pagesize_kb": nil})
}
