package volume

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var attachmentRoutes = []route{
	{pattern: "GET /attachments", from: 27, handle: func(c *call) error { return c.listAttachments(false) }},
	{pattern: "GET /attachments/detail", from: 27, handle: func(c *call) error { return c.listAttachments(true) }},
	{pattern: "POST /attachments", from: 27, handle: (*call).createAttachment},
	{pattern: "GET /attachments/{id}", from: 27, handle: (*call).showAttachment},
	{pattern: "PUT /attachments/{id}", from: 27, handle: (*call).updateAttachment},
	{pattern: "DELETE /attachments/{id}", from: 27, handle: (*call).deleteAttachment},
	{pattern: "POST /attachments/{id}/action", from: 44, handle: (*call).attachmentAction},
}

func attachmentMissing(id string) error {
	return notFound("Volume attachment could not be found with filter: attachment_id = %s.", id)
}

// attachment returns the attachment of the path if the caller may see it.
func (c *call) attachment(role, rule string) (*cloud.Attachment, error) {
	if err := c.may(role, rule); err != nil {
		return nil, err
	}
	a, ok := store.Lookup(c.view, tables.Attachments, c.path("id"))
	if !ok || !c.r.Caller.Sees(a.Project) {
		return nil, attachmentMissing(c.path("id"))
	}
	return a, nil
}

// attachmentView shows an attachment; connection_info is empty: it is good for the server's host only and nobody else is shown it.
func (c *call) attachmentView(a *cloud.Attachment) object {
	mode := "rw"
	if a.ReadOnly {
		mode = "ro"
	}
	return object{
		"id": a.ID, "status": a.Status, "instance": orNull(a.Server), "volume_id": a.Volume, "attach_mode": mode,
		"attached_at": openstack.OptionalTime(a.Attached, openstack.TimeMicros), "detached_at": nil, "connection_info": object{},
	}
}

func (c *call) listAttachments(detail bool) error {
	if err := c.may(reader, "volume:attachment_get_all"); err != nil {
		return err
	}
	f, err := c.attachmentFilter()
	if err != nil {
		return err
	}
	all := store.All(c.view, tables.Attachments)
	if f.project != "" {
		all = store.By(c.view, tables.Attachments, tables.ByProject, f.project)
	}
	all = slices.DeleteFunc(all, func(a *cloud.Attachment) bool { return !f.accepts(a) })
	if err := sortItems(c, all, attachmentOrders); err != nil {
		return err
	}
	found, more, err := page(c, all, func(a *cloud.Attachment) string { return string(a.ID) }, attachmentMissing)
	if err != nil {
		return err
	}
	views := make([]object, len(found))
	for i, a := range found {
		views[i] = object{"id": a.ID, "status": a.Status, "instance": orNull(a.Server), "volume_id": a.Volume}
		if detail {
			views[i] = c.attachmentView(a)
		}
	}
	return c.list("attachments", "/attachments", views, len(all), more)
}

var attachmentOrders = map[string]func(a, b *cloud.Attachment) int{
	"id":         func(a, b *cloud.Attachment) int { return cmp.Compare(a.ID, b.ID) },
	"created_at": func(a, b *cloud.Attachment) int { return a.Created.Compare(b.Created) },
}

func (c *call) attachmentFilter() (filter[cloud.Attachment], error) {
	var f filter[cloud.Attachment]
	var err error
	if f.project, err = c.scope(); err != nil {
		return f, err
	}
	fields := map[string]func(*cloud.Attachment) string{
		"volume_id": func(a *cloud.Attachment) string { return string(a.Volume) }, "status": func(a *cloud.Attachment) string { return string(a.Status) },
		"instance_id": func(a *cloud.Attachment) string { return string(a.Server) }, "attach_status": func(a *cloud.Attachment) string { return string(a.Status) },
	}
	for name, of := range fields {
		if value := c.query(name); value != "" {
			f.add(func(a *cloud.Attachment) bool { return textMatches(of(a), value) })
		}
	}
	return f, nil
}

func (c *call) showAttachment() error {
	a, err := c.attachment(reader, "volume:attachment_get")
	if err != nil {
		return err
	}
	return c.ok(object{"attachment": c.attachmentView(a)})
}

// createAttachment reserves a volume for a server that compute will then attach.
func (c *call) createAttachment() error {
	var body struct {
		Attachment struct {
			Volume    string            `json:"volume_uuid" api:"required"`
			Server    *string           `json:"instance_uuid" api:"null"`
			Connector *openstack.Object `json:"connector" api:"null"`
			Mode      *string           `json:"mode" api:"null;since=3.54;enum=rw|ro"`
		} `json:"attachment" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if err := c.may(member, "volume:attachment_create"); err != nil {
		return err
	}
	in := &body.Attachment
	if in.Connector != nil && len(in.Connector.Names) > 0 {
		return noConnector()
	}
	server := firstText(in.Server)
	if _, err := uuid.Parse(server); server != "" && err != nil {
		return invalid("Invalid input for field/attribute instance_uuid. Value: %.60s. '%.60s' is not a 'uuid'", server, server)
	}
	v, err := c.findVolume(in.Volume)
	if err != nil {
		return err
	}
	request := attachments.Reservation{
		ID: cloud.AttachmentID(newID()), Volume: v.ID, Server: cloud.ServerID(server), Project: v.Project, ReadOnly: firstText(in.Mode) == "ro", Now: c.now(),
	}
	var a cloud.Attachment
	err = c.update(func(tx *store.Tx) (err error) {
		a, err = attachments.Reserve(tx, request)
		return err
	})
	if err != nil {
		return err
	}
	return c.ok(object{"attachment": c.attachmentView(&a)})
}

func noConnector() error {
	return unsupported("Only hosts of the compute service are connected to volumes: create the attachment without a connector, or attach through compute.")
}

func (c *call) updateAttachment() error {
	if _, err := c.attachment(member, "volume:attachment_update"); err != nil {
		return err
	}
	return noConnector()
}

// inUseByServer refuses to take a volume from a server behind compute's back. A reservation is nobody's yet.
func (c *call) inUseByServer(a *cloud.Attachment) error {
	if a.Server == "" || a.Status == cloud.AttachmentReserved && !c.serverHas(a) {
		return nil
	}
	return conflict("Detach volume from instance %s using the Compute API", a.Server)
}

// serverHas reports whether the server exists and compute is at work with the attachment.
func (c *call) serverHas(a *cloud.Attachment) bool {
	_, ok := store.Lookup(c.view, tables.Servers, a.Server)
	return ok && len(store.By(c.view, tables.Intents, tables.ByServer, a.Server)) > 0
}

func (c *call) deleteAttachment() error {
	a, err := c.attachment(member, "volume:attachment_delete")
	if err != nil {
		return err
	}
	if err := c.release(a); err != nil {
		return err
	}
	rest := []object{}
	for _, other := range store.By(c.view, tables.Attachments, tables.ByVolume, a.Volume) {
		rest = append(rest, c.attachmentView(other))
	}
	return c.ok(object{"attachments": rest})
}

// release gives an attachment up, judged as the transaction sees it.
func (c *call) release(a *cloud.Attachment) error {
	return c.update(func(tx *store.Tx) error {
		current, err := store.Get(tx, tables.Attachments, a.ID)
		if cloud.Is(err, cloud.KindNotFound) {
			return attachmentMissing(string(a.ID))
		}
		if err != nil {
			return err
		}
		if err := c.inUseByServer(&current); err != nil {
			return err
		}
		return attachments.Release(tx, a.ID, c.now())
	})
}

// attachmentAction knows os-complete, which compute does by itself: for an attachment that is complete it is a success without effect.
func (c *call) attachmentAction() error {
	o, err := c.r.Object(c.w)
	if err != nil {
		return err
	}
	a, err := c.attachment(member, "volume:attachment_complete")
	if err != nil {
		return err
	}
	switch _, complete := o.Get("os-complete"); {
	case !complete || len(o.Names) != 1:
		return invalid("There is no such action: %v", o.Names)
	case a.Status != cloud.AttachmentAttached:
		return invalidVolume("Attachment %s is %s: only the compute service connects volumes and completes their attachments.", a.ID, a.Status)
	}
	return openstack.NoContent(c.w)
}

// reserve is os-reserve: the volume is held for somebody who will say later who they are.
func (c *call) reserve(*openstack.Object) error {
	v, err := c.volume(member, "volume_extension:volume_actions:reserve")
	if err != nil {
		return err
	}
	request := attachments.Reservation{ID: cloud.AttachmentID(newID()), Volume: v.ID, Project: v.Project, Now: c.now()}
	err = c.update(func(tx *store.Tx) error {
		_, err := attachments.Reserve(tx, request)
		return err
	})
	if err != nil {
		return err
	}
	return c.accepted()
}

// unreserve gives back what reserve held; the reservations of servers stay.
func (c *call) unreserve(*openstack.Object) error {
	v, err := c.volume(member, "volume_extension:volume_actions:unreserve")
	if err != nil {
		return err
	}
	for _, a := range store.By(c.view, tables.Attachments, tables.ByVolume, v.ID) {
		if a.Server == "" && a.Status == cloud.AttachmentReserved {
			if err := c.release(a); err != nil {
				return err
			}
		}
	}
	return c.accepted()
}

// beginDetaching is os-begin_detaching: it refuses what is compute's to begin.
func (c *call) beginDetaching(*openstack.Object) error {
	v, err := c.volume(member, "volume_extension:volume_actions:begin_detaching")
	if err != nil {
		return err
	}
	for _, a := range store.By(c.view, tables.Attachments, tables.ByVolume, v.ID) {
		if a.Server != "" {
			return c.inUseByServer(a)
		}
	}
	return invalidVolume("Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.")
}

// rollDetaching is os-roll_detaching; what compute detaches it rolls back itself.
func (c *call) rollDetaching(*openstack.Object) error {
	v, err := c.volume(member, "volume_extension:volume_actions:roll_detaching")
	if err != nil {
		return err
	}
	for _, a := range store.By(c.view, tables.Attachments, tables.ByVolume, v.ID) {
		if a.Status == cloud.AttachmentDetaching {
			return conflict("Volume %s is being detached from instance %s by the Compute API", v.ID, a.Server)
		}
	}
	return c.accepted()
}

// detach is os-detach: it ends an attachment that no server has.
func (c *call) detach(o *openstack.Object) error {
	var in struct {
		Attachment *string `json:"attachment_id" api:"null"`
	}
	if err := c.arguments(o, &in); err != nil {
		return err
	}
	v, err := c.volume(member, "volume_extension:volume_actions:detach")
	if err != nil {
		return err
	}
	all := store.By(c.view, tables.Attachments, tables.ByVolume, v.ID)
	if id := firstText(in.Attachment); id != "" {
		all = slices.DeleteFunc(all, func(a *cloud.Attachment) bool { return string(a.ID) != id })
	}
	switch {
	case len(all) > 1:
		return invalidVolume("Detach volume failed: More than one attachment, but no attachment_id provided.")
	case len(all) == 1:
		if err := c.release(all[0]); err != nil {
			return err
		}
	}
	return c.status(http.StatusAccepted) // nothing to detach is detached
}
