package compute

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// serversPerRequestMax bounds one create request: each server is a transaction of its own, and a client should not wait for
// more than about a second of them.
const serversPerRequestMax = 100

// A bootPlan is a create request after everything that is the same for all its servers was looked up and judged.
type bootPlan struct {
	template    cloud.Server
	nics        []nic
	groups      []cloud.SecurityGroupID // nil: the project's default
	groupNames  []string
	disks       []bootDisk // as template.Devices
	group       cloud.GroupID
	countMin    int
	countMax    int
	reservation bool
}

// createServer answers POST /servers.
func (c *call) createServer() error {
	if err := c.r.Caller.RequireProject(member, "os_compute_api:servers:create"); err != nil {
		return err
	}
	body, err := c.readCreate()
	if err != nil {
		return err
	}
	plan, err := c.planBoot(body)
	if err != nil {
		return err
	}
	made, err := c.boot(plan)
	if err != nil {
		return err
	}
	if plan.reservation {
		return c.reply(http.StatusAccepted, object{"reservation_id": plan.template.Reservation})
	}
	id := string(made[0])
	links := c.r.SelfLinks(apiRoot, "/servers/"+id)
	groups := []object{{"name": "default"}}
	if plan.groupNames != nil {
		groups = make([]object, len(plan.groupNames))
		for i, name := range plan.groupNames {
			groups[i] = object{"name": name}
		}
	}
	c.w.Header().Set("Location", links[0].Href)
	return c.reply(http.StatusAccepted, object{"server": object{
		"id": id, "links": links, "OS-DCF:diskConfig": diskConfig(&plan.template), "security_groups": groups,
	}})
}

// planBoot judges a request against the snapshot: every name must mean something, every size must fit.
func (c *call) planBoot(body *createBody) (*bootPlan, error) {
	asked := &body.Server
	plan := &bootPlan{countMin: 1, group: body.Hints.group(), reservation: bool(asked.ReservationID)}
	plan.template = cloud.Server{
		Project: c.r.Caller.Project, User: c.r.Caller.User, Name: strings.TrimSpace(string(asked.Name)), Description: asked.Description.text,
		Metadata: asked.Metadata, UserData: string(asked.UserData), ConfigDrive: bool(asked.ConfigDrive),
		AccessIPv4: string(asked.AccessIPv4), AccessIPv6: string(asked.AccessIPv6), DiskConfig: asked.DiskConfig,
		VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Reservation: newReservation(), Group: plan.group,
	}
	if plan.template.Metadata == nil {
		plan.template.Metadata = map[string]string{}
	}
	if !c.since(19) {
		plan.template.Description = plan.template.Name
	}
	setIf(&plan.template.Hostname, asked.Hostname)
	for _, t := range asked.Tags {
		if !slices.Contains(plan.template.Tags, string(t)) {
			plan.template.Tags = append(plan.template.Tags, string(t))
		}
	}
	for _, step := range []func(*bootPlan, *createRequest) error{c.planCount, c.planHost, c.planDevices, c.planFlavorAndImage, c.planKey, c.planGroup, c.planNetworks} {
		if err := step(plan, asked); err != nil {
			return nil, err
		}
	}
	return plan, nil
}

func (c *call) planCount(plan *bootPlan, asked *createRequest) error {
	if asked.CountMin != nil {
		plan.countMin = int(*asked.CountMin)
	}
	plan.countMax = plan.countMin
	if asked.CountMax != nil {
		plan.countMax = int(*asked.CountMax)
	}
	switch {
	case plan.countMin > plan.countMax:
		return invalid("min_count must be <= max_count")
	case plan.countMax > 1 && asked.Hostname != nil:
		return invalid("Unable to allocate a single hostname to multiple instances")
	case plan.countMin > serversPerRequestMax:
		return invalid("min_count must be at most %d in one request", serversPerRequestMax)
	}
	plan.countMax = min(plan.countMax, serversPerRequestMax)
	if len(asked.Metadata) > 0 {
		return c.checkMetadataQuota(len(asked.Metadata))
	}
	return nil
}

// planHost reads the availability zone, also in its form ZONE:HOST[:NODE], and the host of 2.74.
func (c *call) planHost(plan *bootPlan, asked *createRequest) error {
	zone, forced, err := parseZone(string(asked.Zone))
	if err != nil {
		return err
	}
	if forced != "" {
		if err := c.mayAdmin("servers:create:forced_host"); err != nil {
			return err
		}
	}
	for _, wanted := range []*hostName{asked.Host, asked.Hypervisor} {
		if wanted == nil {
			continue
		}
		if err := c.mayAdmin("servers:create:requested_destination"); err != nil {
			return err
		}
		if asked.Zone != "" && strings.Contains(string(asked.Zone), ":") {
			return invalid("One mechanism with host and/or hypervisor_hostname and another mechanism with zone:host:node are mutually exclusive.")
		}
		if forced != "" && forced != string(*wanted) {
			return invalid("Compute host %s could not be found.", *wanted)
		}
		forced = string(*wanted)
	}
	if forced != "" {
		hosts := &fleet{view: c.view}
		if _, ok := hosts.host(cloud.HostName(forced)); !ok {
			return invalid("Compute host %s could not be found.", forced)
		}
		plan.template.ForcedHost = cloud.HostName(forced)
		if zone != hosts.zone(plan.template.ForcedHost) {
			zone = "" // as Nova: the host's own zone is what counts
		}
	}
	if zone != "" && forced == "" && !slices.Contains(c.openZones(), zone) {
		return invalid("The requested availability zone is not available")
	}
	plan.template.Zone = zone
	return nil
}

func parseZone(text string) (zone, host string, err error) {
	fields := strings.Split(text, ":")
	switch len(fields) {
	case 1:
		return text, "", nil
	case 2:
		return fields[0], fields[1], nil
	case 3:
		if fields[1] == "" {
			return fields[0], fields[2], nil
		}
		if fields[2] == "" || fields[1] == fields[2] {
			return fields[0], fields[1], nil
		}
		return "", "", invalid("Compute host %s could not be found.", fields[2])
	}
	return "", "", invalid("Invalid input received: Unable to parse availability_zone")
}

func (c *call) planFlavorAndImage(plan *bootPlan, asked *createRequest) error {
	flavor, err := c.findFlavor(string(asked.FlavorRef))
	if err != nil || flavor.Disabled {
		return invalid("Flavor %s could not be found.", asked.FlavorRef)
	}
	if plan.template.RootDevice() != nil {
		return c.planRootVolume(plan, flavor, asked)
	}
	if asked.ImageRef == "" {
		return invalid("Missing imageRef attribute")
	}
	image, ok := store.Lookup(c.view, tables.Images, cloud.ImageID(asked.ImageRef))
	if !ok || !c.seesImage(image) {
		return invalid("Can not find requested image")
	}
	if err := c.fits(flavor, image); err != nil {
		return err
	}
	if err := offered(flavor, image); err != nil {
		return err
	}
	s := &plan.template
	s.Flavor, s.Image, s.ImageFormat, s.ImageProperties = *flavor, image.ID, image.DiskFormat, image.Properties
	s.ImageBytes, s.ImageVirtualBytes, s.ImageHash = image.SizeBytes, image.VirtualBytes, image.Hash
	return nil
}

// seesImage reports whether the caller may boot from the image.
func (c *call) seesImage(i *cloud.Image) bool {
	_, shared := i.Members[c.r.Caller.Project]
	return i.Visibility == "public" || i.Visibility == "community" || c.r.Caller.Sees(i.Owner) || i.Visibility == "shared" && shared
}

// fits judges whether an image can be booted with a flavor, in Nova's order.
func (c *call) fits(flavor *cloud.Flavor, image *cloud.Image) error {
	disk := int64(flavor.RootGiB) << 30
	size := max(image.VirtualBytes, image.SizeBytes)
	switch {
	case image.Status != cloud.ImageActive:
		return invalid("Image %s is not active.", image.ID)
	case image.MinRAMMiB > flavor.RAMMiB:
		return invalid("Flavor's memory is too small for requested image.")
	case disk == 0 && !c.admin():
		return cloud.Errorf(cloud.KindForbidden, "Only volume-backed servers are allowed for flavors with zero disk.")
	case disk == 0:
		return nil
	case size > disk:
		return invalid("Flavor's disk is too small for requested image. Flavor disk is %d bytes, image is %d bytes.", disk, size)
	case image.MinDiskGiB > flavor.RootGiB:
		return invalid("Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is %d bytes, minimum size is %d bytes.",
			disk, int64(image.MinDiskGiB)<<30)
	}
	return nil
}

func (c *call) planKey(plan *bootPlan, asked *createRequest) error {
	if asked.KeyName == nil {
		return nil
	}
	key, ok := store.Lookup(c.view, tables.Keypairs, tables.KeypairKey(c.r.Caller.User, string(*asked.KeyName)))
	if !ok {
		return invalid("Invalid key_name provided.")
	}
	plan.template.KeyName, plan.template.PublicKey = key.Name, key.PublicKey
	return nil
}

func (c *call) planGroup(plan *bootPlan, _ *createRequest) error {
	if plan.group == "" {
		return nil
	}
	g, ok := store.Lookup(c.view, tables.ServerGroups, plan.group)
	if !ok || g.Project != c.r.Caller.Project {
		return invalid("Instance group %s could not be found.", plan.group)
	}
	return nil
}

// boot creates the servers, each in a transaction of its own. When the quota runs out between the least and the most asked for, what
// was created stands; below the least, what was created is deleted again.
func (c *call) boot(plan *bootPlan) ([]cloud.ServerID, error) {
	count, err := c.affordable(plan)
	if err != nil {
		return nil, err
	}
	if err := c.warnSpareOfBoot(plan, count); err != nil {
		return nil, err
	}
	var made []cloud.ServerID
	for i := range count {
		s := plan.server(i, count)
		if err = c.bootOne(plan, s); err != nil {
			break
		}
		made = append(made, s.ID)
	}
	if err == nil || len(made) >= plan.countMin && cloud.Is(err, cloud.KindQuota) {
		return made, nil
	}
	for _, id := range made {
		if undo := c.askDelete(id); undo != nil {
			c.logger.Error("server of a failed request was left behind", "server", id, "error", undo)
		}
	}
	return nil, err
}

// server returns the i-th of count servers of a plan.
func (p *bootPlan) server(i, count int) *cloud.Server {
	s := p.template
	s.ID, s.BootIndex = cloud.ServerID(newID()), i
	if s.Hostname == "" {
		s.Hostname = sanitizeHostname(s.Name)
		switch {
		case s.Hostname == "":
			s.Hostname = "Server-" + string(s.ID)
		case count > 1:
			s.Hostname = fmt.Sprintf("%s-%d", s.Hostname, i+1)
		}
	}
	if count > 1 {
		s.Name = fmt.Sprintf("%s-%d", s.Name, i+1)
	}
	return &s
}

// bootOne writes one server with its ports, its place in the group, its quota and its boot intent.
func (c *call) bootOne(plan *bootPlan, template *cloud.Server) error {
	order, disks := c.newOrder(cloud.IntentBoot, "create"), c.newDisks(plan)
	return c.update(func(tx *store.Tx) error {
		s := *template
		s.Created = order.intent.Created
		if err := c.takeQuota(tx, &s); err != nil {
			return err
		}
		if err := c.joinGroup(tx, plan.group, s.ID); err != nil {
			return err
		}
		if err := c.makePorts(tx, plan, &s); err != nil {
			return err
		}
		if err := c.makeDisks(tx, plan, disks, &s); err != nil {
			return err
		}
		return order.place(tx, &s)
	})
}

// joinGroup adds the server to its group's members.
func (c *call) joinGroup(tx *store.Tx, group cloud.GroupID, id cloud.ServerID) error {
	if group == "" {
		return nil
	}
	g, err := store.Get(tx, tables.ServerGroups, group)
	if cloud.Is(err, cloud.KindNotFound) {
		return invalid("Instance group %s could not be found.", group)
	}
	if err != nil {
		return err
	}
	quota := c.quota(g.Project)
	if exceeds(len(g.Members)+1, quota.ServerGroupMembers) {
		return overQuota("Quota exceeded, too many servers in group")
	}
	g.Members = append(slices.Clone(g.Members), id)
	return store.Put(tx, tables.ServerGroups, group, g)
}

var (
	hostnameSeparators = regexp.MustCompile(`[ _.]`)
	hostnameStrangers  = regexp.MustCompile(`[^a-zA-Z0-9-]+`)
)

// sanitizeHostname makes a host name of a display name, by Nova's rules; it may come out empty.
func sanitizeHostname(name string) string {
	runes := []rune(name)
	name = string(runes[:min(len(runes), hostnameLengthMax)])
	name = hostnameSeparators.ReplaceAllString(name, "-")
	name = hostnameStrangers.ReplaceAllString(name, "")
	return strings.ToLower(strings.Trim(name, ".-"))
}

// newReservation returns the id that servers of one request share: "r-" and eight letters or digits.
func newReservation() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails
	for i := range random {
		random[i] = alphabet[int(random[i])%len(alphabet)]
	}
	return "r-" + string(random)
}

// checkMetadataQuota refuses more metadata items than the caller's project may have on a server.
func (c *call) checkMetadataQuota(items int) error {
	if allowed := c.quota(c.r.Caller.Project).MetadataItems; exceeds(items, allowed) {
		return overQuota("Maximum number of metadata items exceeds %d", allowed)
	}
	return nil
}

var _ openstack.Appender = (*document)(nil)
