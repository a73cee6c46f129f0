package compute

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// createBody is the body of POST /servers.
type createBody struct {
	Server   createRequest `json:"server" api:"required"`
	Hints    hints         `json:"os:scheduler_hints"`
	OldHints hints         `json:"OS-SCH-HNT:scheduler_hints"`
}

type createRequest struct {
	Name          displayName      `json:"name" api:"required"`
	ImageRef      imageRef         `json:"imageRef"`
	FlavorRef     flavorRef        `json:"flavorRef" api:"required"`
	AdminPass     *string          `json:"adminPass"`
	Metadata      metadata         `json:"metadata"`
	Networks      networksAsked    `json:"networks"`
	DiskConfig    string           `json:"OS-DCF:diskConfig" api:"enum=AUTO|MANUAL"`
	AccessIPv4    accessIPv4       `json:"accessIPv4"`
	AccessIPv6    accessIPv6       `json:"accessIPv6"`
	Personality   []personality    `json:"personality" api:"until=2.56"`
	Zone          displayName      `json:"availability_zone"`
	OldDevices    []oldBlockDevice `json:"block_device_mapping"`
	Devices       []blockDevice    `json:"block_device_mapping_v2"`
	ConfigDrive   boolean          `json:"config_drive"`
	KeyName       *displayName     `json:"key_name"`
	CountMin      *positive        `json:"min_count"`
	CountMax      *positive        `json:"max_count"`
	ReservationID boolean          `json:"return_reservation_id"`
	Groups        []groupName      `json:"security_groups"`
	UserData      userData         `json:"user_data"`
	Description   description      `json:"description" api:"since=2.19"`
	Tags          []tag            `json:"tags" api:"since=2.52;len=..50"`
	Certificates  *[]string        `json:"trusted_image_certificates" api:"since=2.63;null;len=1..50;unique"`
	Host          *hostName        `json:"host" api:"since=2.74"`
	Hypervisor    *hostName        `json:"hypervisor_hostname" api:"since=2.74"`
	Hostname      *guestName       `json:"hostname" api:"since=2.90"`
}

type personality struct {
	Path     string   `json:"path"`
	Contents userData `json:"contents"`
}

type groupName struct {
	Name displayName `json:"name"`
}

// readCreate reads and checks the body of POST /servers as far as it can be judged alone.
func (c *call) readCreate() (*createBody, error) {
	o, err := c.r.Object(c.w)
	if err != nil {
		return nil, err
	}
	body := &createBody{}
	if err := openstack.Bind(o, body, c.r.Version); err != nil {
		return nil, err
	}
	asked := &body.Server
	if c.since(37) && !asked.Networks.set {
		server, _ := o.Get("server")
		return nil, &openstack.InputError{Path: []string{"server"}, Value: server, Reason: "'networks' is a required property"}
	}
	if err := asked.Networks.parse(c.r.Version); err != nil {
		return nil, err
	}
	if err := asked.Hostname.check(c.minor); err != nil {
		return nil, err
	}
	if err := asked.refuseUnsupported(c.minor); err != nil {
		return nil, err
	}
	if len(body.Hints) == 0 {
		body.Hints = body.OldHints
	}
	return body, body.Hints.refuseUnsupported()
}

// refuseUnsupported refuses what would need features godwit does not have.
func (r *createRequest) refuseUnsupported(minor int) error {
	switch {
	case len(r.Personality) > 0:
		return invalid("File injection (personality) is not supported. Use user_data.")
	case r.AdminPass != nil:
		return invalid("Setting an administrator password (adminPass) is not supported. Use a keypair or user_data.")
	case r.Certificates != nil:
		return invalid("Image certificate validation is not supported.")
	case len(r.OldDevices) > 0 && len(r.Devices) > 0:
		return invalid("Using different block_device_mapping syntaxes is not allowed in the same request.")
	}
	return r.checkDevices(minor)
}

// blockDevice is an item of block_device_mapping_v2.
type blockDevice struct {
	SourceType      string         `json:"source_type" api:"enum=volume|image|snapshot|blank"`
	UUID            string         `json:"uuid"`
	ImageID         string         `json:"image_id"`
	DestinationType string         `json:"destination_type" api:"enum=local|volume"`
	BootIndex       *looseText     `json:"boot_index"`
	VolumeSize      *natural       `json:"volume_size" api:"null"`
	DeleteWith      *boolean       `json:"delete_on_termination"`
	Tag             *tag           `json:"tag" api:"since=2.32"`
	VolumeType      *string        `json:"volume_type" api:"since=2.67;null"`
	Rest            map[string]any `json:"-" api:"extra"`
}

// blockDeviceNames are the further properties Nova knows; of them only device_name has an effect.
var blockDeviceNames = []string{"virtual_name", "volume_id", "snapshot_id", "device_name", "no_device", "connection_info", "guest_format", "device_type", "disk_bus"}

// checkDevices judges the newer block devices as far as it can be done without looking anything up.
func (r *createRequest) checkDevices(minor int) error {
	for _, d := range r.Devices {
		for _, name := range sortedKeys(d.Rest) {
			if !contains(blockDeviceNames, name) {
				return invalid("Additional properties are not allowed (%s was unexpected)", quote(name))
			}
		}
		switch {
		case d.Tag != nil && minor > 32 && minor < 42:
			return invalid("Additional properties are not allowed ('tag' was unexpected)")
		case d.Tag != nil:
			return badMapping("tags of block devices are not supported.")
		case d.SourceType == "":
			return badMapping("a block device has no source_type.")
		case d.SourceType != "blank" && d.UUID == "" && d.ImageID == "":
			return badMapping("Missing device UUID.")
		}
	}
	return nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// looseText is a number, a text or null.
type looseText string

// BindJSON implements openstack.Binder.
func (t *looseText) BindJSON(v any) error {
	switch v := v.(type) {
	case nil:
	case string:
		*t = looseText(v)
	case json.Number:
		*t = looseText(v.String())
	default:
		return openstack.Mismatch(v, "integer", "string", "null")
	}
	return nil
}

// imageRef is an image's id, or empty.
type imageRef string

// BindJSON implements openstack.Binder.
func (r *imageRef) BindJSON(v any) error {
	s, ok := v.(string)
	if !ok || s != "" && !isUUID(s) {
		return openstack.Refuse(v, "is not valid under any of the given schemas")
	}
	*r = imageRef(s)
	return nil
}

// flavorRef is a flavor's id, as text or number, or a URL that ends with it.
type flavorRef string

// BindJSON implements openstack.Binder.
func (r *flavorRef) BindJSON(v any) error {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case json.Number:
		s = v.String()
	default:
		return openstack.Mismatch(v, "string", "integer")
	}
	if s == "" {
		return openstack.Refuse(v, "is too short")
	}
	*r = flavorRef(s[strings.LastIndexByte(s, '/')+1:])
	return nil
}

// guestName is a guest's host name (2.90); from 2.94 on it may be fully qualified.
type guestName string

// BindJSON implements openstack.Binder.
func (h *guestName) BindJSON(v any) error {
	s, ok := v.(string)
	if !ok {
		return openstack.Mismatch(v, "string")
	}
	*h = guestName(s)
	return nil
}

const (
	hostnameLengthMin, hostnameLengthMax = 2, 63
	hostnameExpression                   = `^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$`
	fqdnExpression                       = `^[a-zA-Z0-9]+[a-zA-Z0-9-.]*[a-zA-Z0-9]+$`
)

var (
	hostnamePattern = regexp.MustCompile(hostnameExpression)
	fqdnPattern     = regexp.MustCompile(fqdnExpression)
)

// check judges the name by the rule of the microversion.
func (h *guestName) check(minor int) error {
	if h == nil {
		return nil
	}
	s, pattern, lengthMax := string(*h), hostnamePattern, hostnameLengthMax
	if minor >= 94 {
		pattern, lengthMax = fqdnPattern, nameLengthMax
	}
	reason := ""
	switch {
	case len(s) < hostnameLengthMin:
		reason = "is too short"
	case len(s) > lengthMax:
		reason = "is too long"
	case !pattern.MatchString(s):
		reason = fmt.Sprintf("does not match '%s'", pattern)
	default:
		return nil
	}
	return &openstack.InputError{Path: []string{"server", "hostname"}, Value: s, Reason: quote(s) + " " + reason}
}

// hints are scheduler hints.
type hints map[string]any

// BindJSON implements openstack.Binder.
func (h *hints) BindJSON(v any) error {
	o, ok := v.(*openstack.Object)
	if !ok {
		return openstack.Mismatch(v, "object")
	}
	*h = o.Plain()
	return nil
}

// refuseUnsupported refuses hints that would silently have no effect. "group" is honoured.
func (h hints) refuseUnsupported() error {
	for _, name := range sortedKeys(h) {
		if name == "group" {
			group, ok := h[name].(string)
			if !ok || !isUUID(group) {
				return &openstack.InputError{Path: []string{"os:scheduler_hints", "group"}, Value: fmt.Sprint(h[name]), Reason: quote(fmt.Sprint(h[name])) + " is not a 'uuid'"}
			}
			continue
		}
		if !strings.HasPrefix(name, "_nova") {
			return invalid("Scheduler hint %s is not supported.", quote(name))
		}
	}
	return nil
}

// group returns the server group asked for, if any.
func (h hints) group() cloud.GroupID {
	group, _ := h["group"].(string)
	return cloud.GroupID(group)
}

// networksAsked is the property networks: a list, or from 2.37 on "auto" or "none".
type networksAsked struct {
	set  bool
	word string // "auto" or "none"
	nics []nicAsked
	raw  any
}

// nicAsked is an item of the list: a network or a port.
type nicAsked struct {
	FixedIP *address  `json:"fixed_ip"`
	Port    *uuidText `json:"port" api:"null"`
	Network *string   `json:"uuid"`
	Tag     *tag      `json:"tag" api:"since=2.32"`
}

// BindJSON keeps the value; parse judges it when the microversion is known.
func (n *networksAsked) BindJSON(v any) error {
	n.set, n.raw = true, v
	return nil
}

func (n *networksAsked) parse(version openstack.Microversion) error {
	if !n.set {
		return nil
	}
	if word, ok := n.raw.(string); ok && version.AtLeast(2, 37) && (word == "auto" || word == "none") {
		n.word = word
		return nil
	}
	list, ok := n.raw.([]any)
	switch {
	case !ok && version.AtLeast(2, 37):
		return inside(openstack.Refuse(n.raw, "is not valid under any of the given schemas"), "networks", n.raw)
	case !ok:
		return inside(openstack.Mismatch(n.raw, "array"), "networks", n.raw)
	}
	for _, item := range list {
		nic, err := parseNIC(item, version)
		if err != nil {
			return err
		}
		n.nics = append(n.nics, nic)
	}
	return n.checkNICs()
}

func parseNIC(item any, version openstack.Microversion) (nicAsked, error) {
	var nic nicAsked
	o, ok := item.(*openstack.Object)
	if !ok {
		return nic, inside(openstack.Mismatch(item, "object"), "networks", item)
	}
	if err := openstack.Bind(o, &nic, version); err != nil {
		return nic, err
	}
	if nic.Tag != nil && version.AtLeast(2, 37) && !version.AtLeast(2, 42) {
		return nic, &openstack.InputError{Path: []string{"networks"}, Value: o, Reason: "Additional properties are not allowed ('tag' was unexpected)"}
	}
	if nic.Network != nil && !isUUID(*nic.Network) {
		if version.AtLeast(2, 37) {
			return nic, &openstack.InputError{Path: []string{"uuid"}, Value: *nic.Network, Reason: quote(*nic.Network) + " is not a 'uuid'"}
		}
		return nic, invalid("Bad networks format: network uuid is not in proper format (%s)", *nic.Network)
	}
	return nic, nil
}

// checkNICs judges the list as a whole.
func (n *networksAsked) checkNICs() error {
	seen := map[uuidText]bool{}
	for _, nic := range n.nics {
		switch {
		case nic.Port == nil && nic.Network == nil:
			return invalid("Bad network format: missing 'uuid'")
		case nic.Port == nil:
		case seen[*nic.Port]:
			return invalid("Port ID '%s' was specified twice: you cannot attach a port multiple times.", *nic.Port)
		case nic.FixedIP != nil:
			return invalid("Specified Fixed IP '%s' cannot be used with port '%s': the two cannot be specified together.", *nic.FixedIP, *nic.Port)
		default:
			seen[*nic.Port] = true
		}
	}
	return nil
}
