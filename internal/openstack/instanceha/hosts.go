package instanceha

import (
	"cmp"
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var hostRoutes = []route{
	{pattern: "GET /segments/{segment}/hosts", rule: "os_masakari_api:os-hosts:index", handle: (*call).listHosts},
	{pattern: "POST /segments/{segment}/hosts", rule: "os_masakari_api:os-hosts:create", handle: (*call).createHost},
	{pattern: "GET /segments/{segment}/hosts/{host}", rule: "os_masakari_api:os-hosts:detail", handle: (*call).showHost},
	{pattern: "PUT /segments/{segment}/hosts/{host}", rule: "os_masakari_api:os-hosts:update", handle: (*call).updateHost},
	{pattern: "DELETE /segments/{segment}/hosts/{host}", rule: "os_masakari_api:os-hosts:delete", handle: (*call).deleteHost},
}

func (c *call) hostView(s *cloud.Segment, h *cloud.SegmentHost) object {
	return object{"id": h.Number, "uuid": h.ID, "name": h.Name, "type": h.Type, "control_attributes": h.ControlAttributes, "reserved": h.Reserved,
		"on_maintenance": h.Maintenance, "failover_segment_id": h.Segment, "failover_segment": c.segmentView(s), "created_at": timeText(h.Created), "updated_at": timeText(h.Updated)}
}

var hostListing = listing[*cloud.SegmentHost]{
	id:   func(h *cloud.SegmentHost) string { return string(h.ID) },
	made: func(h *cloud.SegmentHost) (time.Time, int) { return h.Created, h.Number }, changed: func(h *cloud.SegmentHost) time.Time { return h.Updated },
	keys: map[string]func(a, b *cloud.SegmentHost) int{
		"name": func(a, b *cloud.SegmentHost) int { return cmp.Compare(a.Name, b.Name) },
		"type": func(a, b *cloud.SegmentHost) int { return cmp.Compare(a.Type, b.Type) },
	},
}

func (c *call) listHosts() error {
	s, err := c.segment()
	if err != nil {
		return err
	}
	reserved, err := c.askedFlag("reserved")
	if err != nil {
		return err
	}
	maintenance, err := c.askedFlag("on_maintenance")
	if err != nil {
		return err
	}
	found, err := page(c, store.By(c.view, tables.SegmentHosts, tables.BySegment, s.ID), hostListing, func(h *cloud.SegmentHost) bool {
		return c.passes("type", h.Type) && (reserved == nil || *reserved == h.Reserved) && (maintenance == nil || *maintenance == h.Maintenance)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"hosts": views(found, func(h *cloud.SegmentHost) object { return c.hostView(s, h) })})
}

// member finds the segment and the host of the URL.
func (c *call) member() (*cloud.Segment, *cloud.SegmentHost, error) {
	s, err := c.segment()
	if err != nil {
		return nil, nil, err
	}
	id := cloud.SegmentHostID(c.r.PathValue("host"))
	for _, h := range store.By(c.view, tables.SegmentHosts, tables.BySegment, s.ID) {
		if h.ID == id {
			return s, h, nil
		}
	}
	for _, h := range store.All(c.view, tables.SegmentHosts) {
		if h.ID == id {
			return nil, nil, notFound("Host '%s' under failover_segment '%s' could not be found.", id, s.ID)
		}
	}
	return nil, nil, notFound("No host with id %s.", id)
}

func (c *call) showHost() error {
	s, h, err := c.member()
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"host": c.hostView(s, h)})
}

// known refuses the name of a host that compute does not have.
func (c *call) known(name string) error {
	if _, ok := store.Lookup(c.view, tables.Hosts, cloud.HostName(name)); !ok {
		return invalid("Host with name %s could not be found.", name)
	}
	return nil
}

func (c *call) createHost() error {
	s, err := c.segment()
	if err != nil {
		return err
	}
	var body struct {
		Host struct {
			Name        string `json:"name" api:"required;len=1..255"`
			Type        string `json:"type" api:"required;len=1..255"`
			Control     string `json:"control_attributes" api:"required;len=1..65535"`
			Reserved    flag   `json:"reserved"`
			Maintenance flag   `json:"on_maintenance"`
		} `json:"host" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	ask := &body.Host
	if err := c.known(ask.Name); err != nil {
		return err
	}
	h := cloud.SegmentHost{ID: cloud.SegmentHostID(newID()), Name: cloud.HostName(ask.Name), Segment: s.ID, Type: ask.Type, ControlAttributes: ask.Control,
		Reserved: bool(ask.Reserved), Maintenance: bool(ask.Maintenance), Created: c.now()}
	err = c.update(func(tx *store.Tx) error {
		if _, err := store.Get(tx, tables.Segments, s.ID); err != nil {
			return notFound("No failover segment with id %s.", s.ID)
		}
		if held, err := store.Peek(tx, tables.SegmentHosts, h.Name); err != nil || held != nil {
			if err == nil {
				err = conflict("Host with name %s already exists.", h.Name)
			}
			return err
		}
		number, err := tables.Next(tx, tables.CountSegmentHosts)
		if err != nil {
			return err
		}
		h.Number = number
		return store.Create(tx, tables.SegmentHosts, h.Name, h)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, object{"host": c.hostView(s, &h)})
}

func (c *call) updateHost() error {
	s, found, err := c.member()
	if err != nil {
		return err
	}
	var body struct {
		Host struct {
			Name        *string `json:"name" api:"len=1..255"`
			Type        *string `json:"type" api:"len=1..255"`
			Control     *string `json:"control_attributes" api:"len=1..65535"`
			Reserved    *flag   `json:"reserved"`
			Maintenance *flag   `json:"on_maintenance"`
		} `json:"host" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	ask := &body.Host
	if ask.Name != nil {
		if err := c.known(*ask.Name); err != nil {
			return err
		}
	}
	calledOff := ask.Maintenance != nil && bool(*ask.Maintenance) // maintenance is how a person calls recovery off
	if c.busy(found) && !calledOff {
		return conflict("Host %s can't be updated as it is in-use to process notifications.", found.ID)
	}
	var h cloud.SegmentHost
	err = c.update(func(tx *store.Tx) (err error) {
		if h, err = store.Get(tx, tables.SegmentHosts, found.Name); err != nil {
			return err
		}
		if ask.Name != nil && cloud.HostName(*ask.Name) != h.Name {
			if held, err := store.Peek(tx, tables.SegmentHosts, cloud.HostName(*ask.Name)); err != nil {
				return err
			} else if held != nil {
				return conflict("Host with name %s already exists.", *ask.Name)
			}
			if err := store.Delete(tx, tables.SegmentHosts, h.Name); err != nil {
				return err
			}
			h.Name = cloud.HostName(*ask.Name)
		}
		set(&h.Type, ask.Type)
		set(&h.ControlAttributes, ask.Control)
		if ask.Reserved != nil {
			h.Reserved = bool(*ask.Reserved)
		}
		if ask.Maintenance != nil {
			h.Maintenance, h.Recovering = bool(*ask.Maintenance), "" // a person's word from now on
		}
		h.Updated = c.now()
		return store.Put(tx, tables.SegmentHosts, h.Name, h)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"host": c.hostView(s, &h)})
}

func (c *call) deleteHost() error {
	_, h, err := c.member()
	if err != nil {
		return err
	}
	if c.busy(h) {
		return conflict("Host %s can't be deleted as it is in-use to process notifications.", h.ID)
	}
	if err := c.update(func(tx *store.Tx) error { return store.Delete(tx, tables.SegmentHosts, h.Name) }); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}
