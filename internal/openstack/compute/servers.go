package compute

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var serverRoutes = []route{
	{pattern: "GET /servers", query: serverQuery, handle: func(c *call) error { return c.listServers(false) }},
	{pattern: "GET /servers/detail", query: serverQuery, handle: func(c *call) error { return c.listServers(true) }},
	{pattern: "POST /servers", handle: (*call).createServer},
	{pattern: "GET /servers/{id}", handle: (*call).showServer},
	{pattern: "PUT /servers/{id}", handle: (*call).updateServer},
	{pattern: "DELETE /servers/{id}", handle: (*call).deleteServer},
	{pattern: "POST /servers/{id}/action", handle: (*call).serverAction},
	// The same under the name that clients of old boot from volumes by: those that know --block_device_mapping with underscores.
	{pattern: "GET /os-volumes_boot", query: serverQuery, handle: func(c *call) error { return c.listServers(false) }},
	{pattern: "GET /os-volumes_boot/detail", query: serverQuery, handle: func(c *call) error { return c.listServers(true) }},
	{pattern: "POST /os-volumes_boot", handle: (*call).createServer},
	{pattern: "GET /os-volumes_boot/{id}", handle: (*call).showServer},
	{pattern: "PUT /os-volumes_boot/{id}", handle: (*call).updateServer},
	{pattern: "DELETE /os-volumes_boot/{id}", handle: (*call).deleteServer},
	{pattern: "POST /os-volumes_boot/{id}/action", handle: (*call).serverAction},
}

// findServer returns a server the caller may know of. A foreign one does not exist for it.
func (c *call) findServer(id string) (*cloud.Server, error) {
	s, ok := store.Lookup(c.view, tables.Servers, id)
	if !ok || !c.r.Caller.Sees(s.Project) {
		return nil, noServer(id)
	}
	return s, nil
}

func noServer(id string) error { return notFound("Instance %s could not be found.", id) }

// serverFor returns a server for a caller with the role in its project.
func (c *call) serverFor(role, rule, id string) (*cloud.Server, error) {
	s, err := c.findServer(id)
	if err != nil {
		return nil, err
	}
	return s, c.may(role, rule)
}

// adminServer returns a server for an administrator. Others learn that they may not before they learn whether it exists, as in Nova.
func (c *call) adminServer(rule, id string) (*cloud.Server, error) {
	if err := c.mayAdmin(rule); err != nil {
		if _, missing := c.findServer(id); missing != nil {
			return nil, missing
		}
		return nil, err
	}
	return c.findServer(id)
}

func (c *call) showServer() error {
	s, err := c.serverFor(reader, "servers:show", c.path("id"))
	if err != nil {
		return err
	}
	return c.ok(c.oneServer(s, parts{extended: true, groups: true}))
}

// oneServer writes the envelope of a single server.
func (c *call) oneServer(s *cloud.Server, p parts) openstack.Appender {
	v := c.serverViews(1)
	v.begin()
	v.key("server")
	v.full(s, p)
	v.close('}')
	return &v.document
}

// changeServer changes a server in a transaction: fn gets a copy that was read there, after the caller's right to see it was checked
// anew. Updated is set here.
func (c *call) changeServer(id cloud.ServerID, fn func(tx *store.Tx, s *cloud.Server) error) error {
	now := c.now()
	return c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, id)
		if err != nil {
			return err
		}
		if err := fn(tx, &s); err != nil {
			return err
		}
		s.Updated = now
		return store.Put(tx, tables.Servers, s.ID, s)
	})
}

// serverIn reads a server in a transaction.
func (c *call) serverIn(tx *store.Tx, id cloud.ServerID) (cloud.Server, error) {
	s, err := store.Get(tx, tables.Servers, id)
	if cloud.Is(err, cloud.KindNotFound) || err == nil && !c.r.Caller.Sees(s.Project) {
		return s, noServer(string(id))
	}
	return s, err
}

// serverRename is the body of PUT /servers/{id}.
type serverRename struct {
	Server struct {
		Name        *displayName `json:"name"`
		Description description  `json:"description" api:"since=2.19"`
		Hostname    *guestName   `json:"hostname" api:"since=2.90"`
		AccessIPv4  *accessIPv4  `json:"accessIPv4"`
		AccessIPv6  *accessIPv6  `json:"accessIPv6"`
		DiskConfig  string       `json:"OS-DCF:diskConfig" api:"enum=AUTO|MANUAL"`
	} `json:"server" api:"required"`
}

func (c *call) updateServer() error {
	var body serverRename
	if err := c.decode(&body); err != nil {
		return err
	}
	asked := &body.Server
	if err := asked.Hostname.check(c.minor); err != nil {
		return err
	}
	found, err := c.serverFor(member, "servers:update", c.path("id"))
	if err != nil {
		return err
	}
	err = c.changeServer(found.ID, func(_ *store.Tx, s *cloud.Server) error {
		setIf(&s.Name, asked.Name)
		setIf(&s.Hostname, asked.Hostname)
		setIf(&s.AccessIPv4, asked.AccessIPv4)
		setIf(&s.AccessIPv6, asked.AccessIPv6)
		if asked.Description.set {
			s.Description = asked.Description.text
		}
		if asked.DiskConfig != "" {
			s.DiskConfig = asked.DiskConfig
		}
		return nil
	})
	if err != nil {
		return err
	}
	s, err := c.findServer(string(found.ID))
	if err != nil {
		return err
	}
	return c.ok(c.oneServer(s, parts{extended: c.since(75), groups: true}))
}

// setIf stores an optional text.
func setIf[S ~string](into *string, value *S) {
	if value != nil {
		*into = string(*value)
	}
}

// deleteServer asks for a server's end. Asking again while it ends is no error, as in Nova.
func (c *call) deleteServer() error {
	s, err := c.serverFor(member, "servers:delete", c.path("id"))
	if err != nil {
		return err
	}
	if err := c.askDelete(s.ID); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

// forceDelete is deleteServer's action form; without soft delete the two are the same.
func (c *call) forceDelete(s *cloud.Server, _ *openstack.Object) error {
	if err := c.askDelete(s.ID); err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// askDelete writes the delete intent. A live migration in progress is asked to stop, so that the intent, which waits its turn behind
// the migration's, need not wait long.
func (c *call) askDelete(id cloud.ServerID) error {
	order := c.newOrder(cloud.IntentDelete, "delete")
	return c.update(func(tx *store.Tx) error {
		s, err := c.serverIn(tx, id)
		if err != nil {
			return err
		}
		if s.Task == cloud.TaskDeleting {
			return nil
		}
		if err := c.allow(&s, cloud.OpDelete); err != nil {
			return err
		}
		if err := c.abortMove(tx, &s); err != nil {
			return err
		}
		s.Task = cloud.TaskDeleting
		return order.place(tx, &s)
	})
}

// abortMove asks a running migration of the server to stop.
func (c *call) abortMove(tx *store.Tx, s *cloud.Server) error {
	if s.Task != cloud.TaskMigrating {
		return nil
	}
	for _, m := range store.By(c.store, tables.Migrations, tables.ByServer, s.ID) {
		if m.Status.Final() {
			continue
		}
		now, err := store.Get(tx, tables.Migrations, m.ID)
		if err != nil {
			return err
		}
		if now.Status.Final() || now.AbortAsked {
			continue
		}
		now.AbortAsked = true
		if err := store.Put(tx, tables.Migrations, m.ID, now); err != nil {
			return err
		}
	}
	return nil
}
