package compute

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var serverMigrationRoutes = []route{
	{pattern: "GET /servers/{server_id}/migrations", from: 23, handle: (*call).listServerMigrations},
	{pattern: "GET /servers/{server_id}/migrations/{id}", from: 23, handle: (*call).showServerMigration},
	{pattern: "DELETE /servers/{server_id}/migrations/{id}", from: 24, handle: (*call).abortMigration},
	{pattern: "POST /servers/{server_id}/migrations/{id}/action", from: 22, handle: (*call).serverMigrationAction},
}

var migrationRoutes = []route{
	{pattern: "GET /os-migrations", query: migrationQuery, handle: (*call).listMigrations},
}

var migrationQuery = querySchema{strict: 59, parameters: slices.Concat(
	plain("hidden", "host", "instance_uuid", "source_compute", "status", "migration_type"),
	paging(59, true),
	[]parameter{
		{name: "changes-since", since: 59, once: true, check: checkTime}, {name: "changes-before", since: 66, once: true, check: checkTime},
		{name: "user_id", since: 80, once: true}, {name: "project_id", since: 80, once: true},
	},
)}

// inProgress reports whether a migration is under way.
func inProgress(m *cloud.Migration) bool { return !m.Status.Final() }

// migrationsOf returns a server's migrations, oldest first.
func (c *call) migrationsOf(id cloud.ServerID) []*cloud.Migration {
	out := store.By(c.view, tables.Migrations, tables.ByServer, id)
	slices.SortFunc(out, func(a, b *cloud.Migration) int { return a.Number - b.Number })
	return out
}

// findMigration returns a migration of the server by its number.
func (c *call) findMigration(s *cloud.Server, id string) (*cloud.Migration, bool) {
	if !decimal.MatchString(id) {
		return nil, false
	}
	m, ok := store.One(c.view, tables.Migrations, tables.ByNumber, id)
	if !ok || m.Server != s.ID {
		return nil, false
	}
	return m, true
}

func (c *call) listServerMigrations() error {
	s, err := c.adminServer("servers:migrations:index", c.path("server_id"))
	if err != nil {
		return err
	}
	out := []object{}
	for _, m := range c.migrationsOf(s.ID) {
		if inProgress(m) && m.Type == cloud.TypeLiveMigration {
			out = append(out, c.serverMigrationView(m))
		}
	}
	return c.ok(object{"migrations": out})
}

func (c *call) showServerMigration() error {
	s, err := c.adminServer("servers:migrations:show", c.path("server_id"))
	if err != nil {
		return err
	}
	m, ok := c.findMigration(s, c.path("id"))
	switch {
	case !ok:
		return notFound("In-progress live migration %s is not found for server %s.", c.path("id"), s.ID)
	case m.Type != cloud.TypeLiveMigration:
		return notFound("Migration %s for server %s is not live-migration.", c.path("id"), s.ID)
	case !inProgress(m):
		return notFound("Live migration %s for server %s is not in progress.", c.path("id"), s.ID)
	}
	return c.ok(object{"migration": c.serverMigrationView(m)})
}

// serverMigrationView shows a migration with its progress. The figures are null until the source host has reported some.
func (c *call) serverMigrationView(m *cloud.Migration) object {
	out := c.migrationBasics(m)
	out["server_uuid"] = m.Server
	for _, name := range []string{"memory", "disk"} {
		for _, part := range []string{"total", "processed", "remaining"} {
			out[name+"_"+part+"_bytes"] = nil
		}
	}
	stats := m.Totals
	if p, ok := store.Lookup(c.view, tables.Progress, m.ID); ok {
		stats = &p.Stats
	}
	if stats != nil {
		out["memory_total_bytes"], out["memory_processed_bytes"], out["memory_remaining_bytes"] = stats.MemoryTotal, stats.MemoryProcessed, stats.MemoryRemaining
		out["disk_total_bytes"], out["disk_processed_bytes"], out["disk_remaining_bytes"] = stats.DiskTotal, stats.DiskProcessed, stats.DiskRemaining
	}
	return out
}

// migrationBasics is what both views of a migration show.
func (c *call) migrationBasics(m *cloud.Migration) object {
	out := object{
		"id": m.Number, "status": m.Status, "created_at": openstack.TimeMicros(m.Created), "updated_at": openstack.OptionalTime(m.Updated, openstack.TimeMicros),
		"source_compute": m.Source, "source_node": m.Source,
		"dest_compute": textOrNull(string(m.Target)), "dest_node": textOrNull(string(m.Target)), "dest_host": textOrNull(m.TargetAddress),
	}
	if c.since(59) {
		out["uuid"] = m.ID
	}
	if c.since(80) {
		out["user_id"], out["project_id"] = m.User, m.Project
	}
	return out
}

// textOrNull makes JSON null of the empty text.
func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func textf(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// abortMigration asks a live migration to stop.
func (c *call) abortMigration() error {
	s, err := c.adminServer("servers:migrations:delete", c.path("server_id"))
	if err != nil {
		return err
	}
	if err := c.migrating(s, "abort live migration"); err != nil {
		return err
	}
	m, ok := c.findMigration(s, c.path("id"))
	if !ok {
		return notFound("Migration %s not found for instance %s", c.path("id"), s.ID)
	}
	allowed := []cloud.MigrationStatus{cloud.MigrationRunning}
	if c.since(65) {
		allowed = append(allowed, cloud.MigrationQueued, cloud.MigrationAccepted, cloud.MigrationPreparing)
	}
	return c.steer(s, m, "live_migration_cancel", "abort live migration", func(m *cloud.Migration) bool {
		m.AbortAsked = true
		return slices.Contains(allowed, m.Status)
	})
}

// forceBody is the body of the migration action force_complete.
type forceBody struct {
	Force onlyNull `json:"force_complete" api:"required"`
}

// onlyNull is a property that carries nothing.
type onlyNull struct{}

// BindJSON accepts null only.
func (onlyNull) BindJSON(v any) error {
	if v != nil {
		return openstack.Mismatch(v, "null")
	}
	return nil
}

// serverMigrationAction lets a live migration end although the guest dirties memory faster than it is copied.
func (c *call) serverMigrationAction() error {
	o, name, err := c.actionBody()
	if err != nil {
		return err
	}
	if name != "force_complete" {
		return invalid("There is no such action: %s", name)
	}
	var body forceBody
	if err := openstack.Bind(o, &body, c.r.Version); err != nil {
		return err
	}
	s, err := c.adminServer("servers:migrations:force_complete", c.path("server_id"))
	if err != nil {
		return err
	}
	if s.VMState != cloud.VMActive {
		return conflict("Cannot 'force_complete' instance %s while it is in vm_state %s", s.ID, s.VMState)
	}
	if err := c.migrating(s, "force_complete"); err != nil {
		return err
	}
	m, ok := c.findMigration(s, c.path("id"))
	if !ok {
		return invalid("Migration %s not found for instance %s", c.path("id"), s.ID)
	}
	return c.steer(s, m, "live_migration_force_complete", "force complete", func(m *cloud.Migration) bool {
		m.CompleteAsked = true
		return m.Status == cloud.MigrationRunning
	})
}

// migrating refuses unless the server is being moved.
func (c *call) migrating(s *cloud.Server, what string) error {
	if s.Task == cloud.TaskMigrating {
		return nil
	}
	task := string(s.Task)
	if task == "" {
		task = "None"
	}
	return conflict("Cannot '%s' instance %s while it is in task_state %s", what, s.ID, task)
}

// steer changes a migration's wishes in a transaction and records the action. mark sets the wish and reports whether the status allows it.
func (c *call) steer(s *cloud.Server, found *cloud.Migration, action, what string, mark func(*cloud.Migration) bool) error {
	record := c.newAction(action, c.now())
	err := c.update(func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, found.ID)
		if err != nil {
			return err
		}
		if !mark(&m) {
			return invalid("Migration %d state of instance %s is %s. Cannot %s while the migration is in this state.", m.Number, s.ID, m.Status, what)
		}
		if err := store.Put(tx, tables.Migrations, m.ID, m); err != nil {
			return err
		}
		return recordAction(tx, s.ID, record)
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

// listMigrations answers GET /os-migrations.
func (c *call) listMigrations() error {
	if err := c.mayAdmin("os-migrations:index"); err != nil {
		return err
	}
	if err := checkChanges(c.query); err != nil {
		return err
	}
	all := []*cloud.Migration{}
	for _, m := range store.All(c.view, tables.Migrations) {
		if c.wantsMigration(m) {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b *cloud.Migration) int { return a.Number - b.Number })
	if !c.since(59) {
		return c.ok(object{"migrations": c.migrationViews(all)})
	}
	slices.Reverse(all)
	page, err := c.page()
	if err != nil {
		return err
	}
	some, more, err := openstack.Slice(all, page, func(m *cloud.Migration) string { return string(m.ID) })
	if err != nil {
		return invalid("Marker %s could not be found.", page.Marker)
	}
	out := object{"migrations": c.migrationViews(some)}
	if more {
		out["migrations_links"] = c.nextLinks("/os-migrations", string(some[len(some)-1].ID))
	}
	return c.ok(out)
}

// wantsMigration applies the query's filters.
func (c *call) wantsMigration(m *cloud.Migration) bool {
	q := c.query
	if hidden, _ := queryBoolean(q.get("hidden")); hidden {
		return false // none is
	}
	for name, value := range map[string]string{
		"instance_uuid": string(m.Server), "source_compute": string(m.Source), "migration_type": m.Type, "user_id": string(m.User), "project_id": string(m.Project),
	} {
		if q.has(name) && q.get(name) != value {
			return false
		}
	}
	switch {
	case q.has("host") && q.get("host") != string(m.Source) && q.get("host") != string(m.Target):
		return false
	case q.has("status") && !slices.Contains(strings.Split(q.get("status"), ","), string(m.Status)):
		return false
	case q.has("changes-since") && m.Updated.Before(q.time("changes-since")):
		return false
	case q.has("changes-before") && m.Updated.After(q.time("changes-before")):
		return false
	}
	return true
}

// flavorNumber is what Nova shows of a migration's flavor, its row in a table: the flavor's id where that is a number, else null.
func flavorNumber(f *cloud.Flavor) any {
	if f == nil {
		return nil
	}
	n, err := strconv.Atoi(string(f.ID))
	if err != nil {
		return nil
	}
	return n
}

func (c *call) migrationViews(migrations []*cloud.Migration) []object {
	out := make([]object, len(migrations))
	for i, m := range migrations {
		view := c.migrationBasics(m)
		view["instance_uuid"] = m.Server
		view["old_instance_type_id"], view["new_instance_type_id"] = flavorNumber(m.OldFlavor), flavorNumber(m.NewFlavor)
		if c.since(23) {
			view["migration_type"] = m.Type
			if m.Type == cloud.TypeLiveMigration && inProgress(m) {
				view["links"] = c.r.SelfLinks(apiRoot, "/servers/"+string(m.Server)+"/migrations/"+strconv.Itoa(m.Number))
			}
		}
		out[i] = view
	}
	return out
}
