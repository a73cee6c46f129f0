package compute

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
)

// volumeRoutes attach volumes to servers and take them away again.
var volumeRoutes = []route{
	{pattern: "GET /servers/{server_id}/os-volume_attachments", handle: (*call).listVolumes},
	{pattern: "POST /servers/{server_id}/os-volume_attachments", handle: (*call).attachVolume},
	{pattern: "GET /servers/{server_id}/os-volume_attachments/{id}", handle: (*call).showVolume},
	{pattern: "PUT /servers/{server_id}/os-volume_attachments/{id}", handle: (*call).updateVolume},
	{pattern: "DELETE /servers/{server_id}/os-volume_attachments/{id}", handle: (*call).detachVolume},
}

// volumeView is one of a server's volumes. An answer to an attachment keeps the volume's id at any microversion, as Nova's does.
func (c *call) volumeView(s *cloud.Server, d *cloud.BlockDevice, fresh bool) object {
	out := object{"serverId": s.ID, "volumeId": d.Volume, "device": d.Device}
	if fresh || !c.since(89) {
		out["id"] = d.Volume
	}
	if c.since(89) && !fresh {
		out["attachment_id"], out["bdm_uuid"] = d.Attachment, d.Attachment // one record is both to us
	}
	if c.since(70) {
		out["tag"] = textOrNull(d.Tag)
	}
	if c.since(79) {
		out["delete_on_termination"] = d.DeleteOnTermination
	}
	return out
}

func (c *call) listVolumes() error {
	s, err := c.serverFor(reader, "os-volumes-attachments:index", c.path("server_id"))
	if err != nil {
		return err
	}
	limit, offset, err := c.window()
	if err != nil {
		return err
	}
	devices := s.Devices[min(offset, len(s.Devices)):]
	if limit >= 0 {
		devices = devices[:min(limit, len(devices))]
	}
	out := []object{}
	for i := range devices {
		if devices[i].Attachment != "" {
			out = append(out, c.volumeView(s, &devices[i], false))
		}
	}
	return c.ok(object{"volumeAttachments": out})
}

// window reads limit and offset of the list; a negative limit is none.
func (c *call) window() (limit, offset int, err error) {
	limit = -1
	query := c.r.URL.Query()
	for name, into := range map[string]*int{"limit": &limit, "offset": &offset} {
		text := query.Get(name)
		if text == "" {
			continue
		}
		n, bad := integerIn(text, 0)
		if bad != nil {
			return 0, 0, invalid("%s must be a non-negative integer", name)
		}
		*into = int(n)
	}
	return limit, offset, nil
}

// deviceOf finds one of a server's volumes.
func deviceOf(s *cloud.Server, id string) (*cloud.BlockDevice, error) {
	d := s.Device(cloud.VolumeID(id))
	if d == nil || d.Attachment == "" {
		return nil, notFound("Instance %s is not attached to volume %s", s.ID, id)
	}
	return d, nil
}

func (c *call) showVolume() error {
	s, err := c.serverFor(reader, "os-volumes-attachments:show", c.path("server_id"))
	if err != nil {
		return err
	}
	d, err := deviceOf(s, c.path("id"))
	if err != nil {
		return err
	}
	return c.ok(object{"volumeAttachment": c.volumeView(s, d, false)})
}

// attachBody is the body of POST os-volume_attachments.
type attachBody struct {
	Attachment struct {
		Volume     uuidText `json:"volumeId" api:"required"`
		Device     *string  `json:"device" api:"null"`
		Tag        *tag     `json:"tag" api:"since=2.49"`
		DeleteWith boolean  `json:"delete_on_termination" api:"since=2.79"`
	} `json:"volumeAttachment" api:"required"`
}

func (c *call) attachVolume() error {
	found, err := c.serverFor(member, "os-volumes-attachments:create", c.path("server_id"))
	if err != nil {
		return err
	}
	var body attachBody
	if err := c.decode(&body); err != nil {
		return err
	}
	asked := &body.Attachment
	v, err := c.findVolume(string(asked.Volume))
	switch {
	case err != nil:
		return err
	case asked.Tag != nil:
		return invalid("Tags of attached volumes are not supported.")
	case v.Multiattach && !c.since(60):
		return tooOldForShared()
	}
	device := cloud.BlockDevice{BootIndex: -1, Source: "volume", SourceID: string(v.ID), Volume: v.ID, Attachment: cloud.AttachmentID(newID()), SizeGiB: v.SizeGiB,
		DeleteOnTermination: bool(asked.DeleteWith), ReadOnly: v.ReadOnly}
	if asked.Device != nil && *asked.Device != "" {
		device.Device = deviceName(*asked.Device)
		if !devicePattern.MatchString(device.Device) {
			return invalid("The supplied device path (%s) is invalid.", *asked.Device)
		}
	}
	order := c.newOrder(cloud.IntentAttach, "attach_volume")
	order.intent.Volume, order.intent.Attachment = v.ID, device.Attachment
	var attached cloud.BlockDevice
	err = c.update(func(tx *store.Tx) error {
		attached = device
		return c.attachIn(tx, found.ID, &attached, order)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"volumeAttachment": c.volumeView(found, &attached, true)})
}

// attachIn reserves the volume and lists it among the server's disks.
func (c *call) attachIn(tx *store.Tx, id cloud.ServerID, d *cloud.BlockDevice, o order) error {
	s, err := c.serverIn(tx, id)
	if err != nil {
		return err
	}
	if err := c.allow(&s, cloud.OpAttach); err != nil {
		return err
	}
	if s.Device(d.Volume) != nil {
		return invalid("Invalid volume: volume %s already attached", d.Volume)
	}
	if d.Device == "" {
		if d.Device = nextDevice(&s); d.Device == "" {
			return tooManyDisks()
		}
	}
	taken := slices.ContainsFunc(s.Devices, func(o cloud.BlockDevice) bool { return o.Device == d.Device })
	if taken || d.Device == rootDevice || d.Device == configDevice {
		return conflict("The supplied device path (%s) is in use.", d.Device)
	}
	_, err = attachments.Reserve(tx, attachments.Reservation{
		ID: d.Attachment, Volume: d.Volume, Server: s.ID, Project: s.Project, Device: d.Device, ReadOnly: d.ReadOnly, Now: o.intent.Created,
	})
	if err != nil {
		return err
	}
	s.Devices = append(slices.Clone(s.Devices), *d)
	return o.place(tx, &s)
}

func (c *call) detachVolume() error {
	found, err := c.serverFor(member, "os-volumes-attachments:delete", c.path("server_id"))
	if err != nil {
		return err
	}
	if _, err := c.findVolume(c.path("id")); err != nil {
		return err
	}
	order := c.newOrder(cloud.IntentDetach, "detach_volume")
	err = c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, found.ID)
		if err != nil {
			return err
		}
		d, err := deviceOf(&s, c.path("id"))
		if err != nil {
			return err
		}
		if d.BootIndex == 0 {
			return cloud.Errorf(cloud.KindForbidden, "Cannot detach a root device volume")
		}
		if err := c.allow(&s, cloud.OpDetach); err != nil {
			return err
		}
		if err := attachments.BeginDetach(tx, d.Attachment, order.intent.Created); err != nil {
			return err
		}
		o := order
		o.intent.Volume, o.intent.Attachment = d.Volume, d.Attachment
		return o.place(tx, &s)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// updateBody is the body of PUT os-volume_attachments: another volume to swap to, or from 2.85 on what becomes of this one.
type updateBody struct {
	Attachment struct {
		Volume     uuidText `json:"volumeId" api:"required"`
		Device     *string  `json:"device" api:"null;since=2.85"`
		Tag        *tag     `json:"tag" api:"since=2.85"`
		DeleteWith *boolean `json:"delete_on_termination" api:"since=2.85"`
		Server     *string  `json:"serverId" api:"since=2.85"`
		ID         *string  `json:"id" api:"since=2.85"`
	} `json:"volumeAttachment" api:"required"`
}

func (c *call) updateVolume() error {
	found, err := c.serverFor(member, "os-volumes-attachments:update", c.path("server_id"))
	if err != nil {
		return err
	}
	var body updateBody
	if err := c.decode(&body); err != nil {
		return err
	}
	asked := &body.Attachment
	if string(asked.Volume) != c.path("id") {
		if err := c.mayAdmin("os-volumes-attachments:swap"); err != nil {
			return err
		}
		return openstack.Fail(http.StatusNotImplemented, "Swapping a volume for another is not supported. Retype the volume, or detach it and attach the other.")
	}
	if !c.since(85) {
		return invalid("The volume a server has cannot be swapped for itself.")
	}
	err = c.changeServer(found.ID, func(_ *store.Tx, s *cloud.Server) error {
		s.Devices = slices.Clone(s.Devices)
		d, err := deviceOf(s, c.path("id"))
		switch {
		case err != nil:
			return err
		case asked.Device != nil && *asked.Device != d.Device:
			return invalid("The device of an attached volume cannot be changed.")
		case asked.Tag != nil:
			return invalid("The tag of an attached volume cannot be changed.")
		case asked.Server != nil && *asked.Server != string(s.ID):
			return invalid("The server of an attached volume cannot be changed.")
		case asked.ID != nil && *asked.ID != string(d.Volume):
			return invalid("The id of an attached volume cannot be changed.")
		}
		if err := c.checkLock(s); err != nil {
			return err
		}
		if asked.DeleteWith != nil {
			d.DeleteOnTermination = bool(*asked.DeleteWith)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// volumes writes which volumes a server has, as lists and details of servers show them.
func (v *serverViews) volumes(s *cloud.Server) {
	v.array("os-extended-volumes:volumes_attached")
	for i := range s.Devices {
		d := &s.Devices[i]
		if d.Attachment == "" {
			continue
		}
		v.begin()
		v.text("id", string(d.Volume))
		if v.since(3) {
			v.boolean("delete_on_termination", d.DeleteOnTermination)
		}
		v.close('}')
	}
	v.close(']')
}
