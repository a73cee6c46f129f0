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

var segmentRoutes = []route{
	{pattern: "GET /segments", rule: "os_masakari_api:segments:index", handle: (*call).listSegments},
	{pattern: "POST /segments", rule: "os_masakari_api:segments:create", handle: (*call).createSegment},
	{pattern: "GET /segments/{segment}", rule: "os_masakari_api:segments:detail", handle: (*call).showSegment},
	{pattern: "PUT /segments/{segment}", rule: "os_masakari_api:segments:update", handle: (*call).updateSegment},
	{pattern: "DELETE /segments/{segment}", rule: "os_masakari_api:segments:delete", handle: (*call).deleteSegment},
}

func (c *call) segmentView(s *cloud.Segment) object {
	out := object{"id": s.Number, "uuid": s.ID, "name": s.Name, "description": orNull(s.Description), "service_type": s.ServiceType,
		"recovery_method": s.RecoveryMethod, "created_at": timeText(s.Created), "updated_at": timeText(s.Updated)}
	if c.minor >= 2 {
		out["enabled"] = s.Enabled
	}
	return out
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

var segmentListing = listing[*cloud.Segment]{
	id:   func(s *cloud.Segment) string { return string(s.ID) },
	made: func(s *cloud.Segment) (time.Time, int) { return s.Created, s.Number }, changed: func(s *cloud.Segment) time.Time { return s.Updated },
	keys: map[string]func(a, b *cloud.Segment) int{
		"name":            func(a, b *cloud.Segment) int { return cmp.Compare(a.Name, b.Name) },
		"service_type":    func(a, b *cloud.Segment) int { return cmp.Compare(a.ServiceType, b.ServiceType) },
		"recovery_method": func(a, b *cloud.Segment) int { return cmp.Compare(a.RecoveryMethod, b.RecoveryMethod) },
	},
}

func (c *call) listSegments() error {
	enabled, err := c.askedFlag("enabled")
	if err != nil {
		return err
	}
	found, err := page(c, store.All(c.view, tables.Segments), segmentListing, func(s *cloud.Segment) bool {
		return c.passes("recovery_method", string(s.RecoveryMethod)) && c.passes("service_type", s.ServiceType) && (enabled == nil || c.minor < 2 || *enabled == s.Enabled)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"segments": views(found, c.segmentView)})
}

// segment finds the segment of the URL.
func (c *call) segment() (*cloud.Segment, error) {
	id := c.r.PathValue("segment")
	s, ok := store.Lookup(c.view, tables.Segments, cloud.SegmentID(id))
	if !ok {
		return nil, notFound("No failover segment with id %s.", id)
	}
	return s, nil
}

func (c *call) showSegment() error {
	s, err := c.segment()
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"segment": c.segmentView(s)})
}

func (c *call) createSegment() error {
	var body struct {
		Segment struct {
			Name    string  `json:"name" api:"required;len=1..255"`
			Text    *string `json:"description" api:"null;len=..65535"`
			Service string  `json:"service_type" api:"required;len=1..255"`
			Method  string  `json:"recovery_method" api:"required;enum=auto|reserved_host|auto_priority|rh_priority"`
			Enabled *flag   `json:"enabled" api:"since=1.2"`
		} `json:"segment" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	ask := &body.Segment
	s := cloud.Segment{ID: cloud.SegmentID(newID()), Name: ask.Name, ServiceType: ask.Service, RecoveryMethod: cloud.RecoveryMethod(ask.Method),
		Enabled: ask.Enabled == nil || bool(*ask.Enabled), Created: c.now()}
	if ask.Text != nil {
		s.Description = *ask.Text
	}
	err := c.update(func(tx *store.Tx) error {
		if err := nameFree(tx, s.Name, s.ID); err != nil {
			return err
		}
		number, err := tables.Next(tx, tables.CountSegments)
		if err != nil {
			return err
		}
		s.Number = number
		return store.Create(tx, tables.Segments, s.ID, s)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, object{"segment": c.segmentView(&s)})
}

// nameFree refuses a name that another segment has. Segments are few.
func nameFree(tx *store.Tx, name string, except cloud.SegmentID) error {
	all, err := store.List(tx, tables.Segments, "")
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Name == name && s.ID != except {
			return conflict("Failover segment with name %s already exists.", name)
		}
	}
	return nil
}

// busy returns why the hosts cannot be changed now: recovery looks at them.
func (c *call) busy(hosts ...*cloud.SegmentHost) bool {
	concerned := map[cloud.HostName]bool{}
	for _, h := range hosts {
		concerned[h.Name] = true
	}
	for _, n := range store.All(c.view, tables.Notifications) {
		if concerned[n.Host] && (!n.Status.Final() || n.Status == cloud.NotificationError) {
			return true
		}
	}
	return false
}

func (c *call) updateSegment() error {
	found, err := c.segment()
	if err != nil {
		return err
	}
	var body struct {
		Segment struct {
			Name    *string `json:"name" api:"len=1..255"`
			Text    *string `json:"description" api:"null;len=..65535"`
			Service *string `json:"service_type" api:"len=1..255"`
			Method  *string `json:"recovery_method" api:"enum=auto|reserved_host|auto_priority|rh_priority"`
			Enabled *flag   `json:"enabled" api:"since=1.2"`
		} `json:"segment" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	ask := &body.Segment
	if c.busy(store.By(c.view, tables.SegmentHosts, tables.BySegment, found.ID)...) {
		return conflict("Failover segment %s can't be updated as it is in-use to process notifications.", found.ID)
	}
	var s cloud.Segment
	err = c.update(func(tx *store.Tx) (err error) {
		if s, err = store.Get(tx, tables.Segments, found.ID); err != nil {
			return err
		}
		set(&s.Name, ask.Name)
		set(&s.Description, ask.Text)
		set(&s.ServiceType, ask.Service)
		if ask.Method != nil {
			s.RecoveryMethod = cloud.RecoveryMethod(*ask.Method)
		}
		if ask.Enabled != nil {
			s.Enabled = bool(*ask.Enabled)
		}
		if err := nameFree(tx, s.Name, s.ID); err != nil {
			return err
		}
		s.Updated = c.now()
		return store.Put(tx, tables.Segments, s.ID, s)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, object{"segment": c.segmentView(&s)})
}

func set(to *string, from *string) {
	if from != nil {
		*to = *from
	}
}

// deleteSegment also takes its hosts out of it.
func (c *call) deleteSegment() error {
	s, err := c.segment()
	if err != nil {
		return err
	}
	members := store.By(c.view, tables.SegmentHosts, tables.BySegment, s.ID)
	if c.busy(members...) {
		return conflict("Failover segment (%s) can't be deleted as it is in-use to process notifications.", s.ID)
	}
	err = c.update(func(tx *store.Tx) error {
		for _, h := range members {
			if err := store.Delete(tx, tables.SegmentHosts, h.Name); err != nil {
				return err
			}
		}
		return store.Delete(tx, tables.Segments, s.ID)
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}
