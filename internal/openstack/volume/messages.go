package volume

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// messageRoutes show why volumes and snapshots failed. Cinder's volumes have no fault to show, so clients look here. A message is made from the fault
// in the record: it is there as long as the fault is, and deleting it forgets the fault.
var messageRoutes = []route{
	{pattern: "GET /messages", from: 3, handle: (*call).listMessages},
	{pattern: "GET /messages/{id}", from: 3, handle: (*call).showMessage},
	{pattern: "DELETE /messages/{id}", from: 3, handle: (*call).deleteMessage},
}

// messageLifetime is what Cinder promises for a message.
const messageLifetime = 30 * 24 * time.Hour

// A message is one fault of one thing.
type message struct {
	id       string
	kind     string // VOLUME or VOLUME_SNAPSHOT
	resource string
	fault    *cloud.Fault
}

func newMessage(kind, resource string, f *cloud.Fault) message {
	id := uuid.NewSHA1(serviceNamespace, []byte(kind+resource+f.Created.String())).String()
	return message{id: id, kind: kind, resource: resource, fault: f}
}

func (c *call) messages() []message {
	var out []message
	for _, v := range store.By(c.view, tables.Volumes, tables.ByProject, c.r.Caller.Project) {
		if v.Fault != nil {
			out = append(out, newMessage("VOLUME", string(v.ID), v.Fault))
		}
	}
	for _, s := range store.By(c.view, tables.VolumeSnapshots, tables.ByProject, c.r.Caller.Project) {
		if s.Fault != nil {
			out = append(out, newMessage("VOLUME_SNAPSHOT", string(s.ID), s.Fault))
		}
	}
	slices.SortFunc(out, func(a, b message) int {
		if n := b.fault.Created.Compare(a.fault.Created); n != 0 {
			return n
		}
		return strings.Compare(b.id, a.id)
	})
	return out
}

func (c *call) messageView(m message) object {
	return object{
		"id": m.id, "event_id": m.kind + "_000001", "message_level": "ERROR", "user_message": m.fault.Message, "resource_type": m.kind,
		"resource_uuid": m.resource, "request_id": nil, "created_at": openstack.TimeMicros(m.fault.Created),
		"guaranteed_until": openstack.TimeMicros(m.fault.Created.Add(messageLifetime)), "links": c.links("/messages/" + m.id),
	}
}

func (c *call) listMessages() error {
	if err := c.may(reader, "message:get_all"); err != nil {
		return err
	}
	all := c.messages()
	for name, of := range map[string]func(message) string{
		"resource_uuid": func(m message) string { return m.resource }, "resource_type": func(m message) string { return m.kind },
	} {
		if value := c.query(name); value != "" {
			all = slices.DeleteFunc(all, func(m message) bool { return of(m) != value })
		}
	}
	found, more := all, false
	if c.since(5) {
		pointers := make([]*message, len(all))
		for i := range all {
			pointers[i] = &all[i]
		}
		cut, rest, err := page(c, pointers, func(m *message) string { return m.id }, messageMissing)
		if err != nil {
			return err
		}
		found, more = nil, rest
		for _, m := range cut {
			found = append(found, *m)
		}
	}
	views := make([]object, len(found))
	for i, m := range found {
		views[i] = c.messageView(m)
	}
	return c.list("messages", "/messages", views, len(all), more)
}

func messageMissing(id string) error { return notFound("Message %s could not be found.", id) }

func (c *call) message() (message, error) {
	for _, m := range c.messages() {
		if m.id == c.path("id") {
			return m, nil
		}
	}
	return message{}, messageMissing(c.path("id"))
}

func (c *call) showMessage() error {
	if err := c.may(reader, "message:get"); err != nil {
		return err
	}
	m, err := c.message()
	if err != nil {
		return err
	}
	return c.ok(object{"message": c.messageView(m)})
}

func (c *call) deleteMessage() error {
	if err := c.may(member, "message:delete"); err != nil {
		return err
	}
	m, err := c.message()
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		if m.kind == "VOLUME" {
			return forgetFault(tx, tables.Volumes, m.resource, func(v *cloud.Volume) **cloud.Fault { return &v.Fault })
		}
		return forgetFault(tx, tables.VolumeSnapshots, m.resource, func(s *cloud.VolumeSnapshot) **cloud.Fault { return &s.Fault })
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

func forgetFault[T any](tx *store.Tx, t store.Table[T], id string, fault func(*T) **cloud.Fault) error {
	v, err := store.Get(tx, t, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	*fault(&v) = nil
	return store.Put(tx, t, id, v)
}
