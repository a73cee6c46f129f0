package operator

import (
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Migration is a migration as the operator API shows it: the record itself, with what belongs to it.
type Migration struct {
	cloud.Migration
	// ServerName is the server's name; empty when the server is no more.
	ServerName string `json:"server_name,omitempty"`
	// Progress are the latest figures; absent before the source has reported any and after the end.
	Progress *cloud.MigrationProgress `json:"progress,omitempty"`
}

func migrationView(v store.View, m *cloud.Migration) Migration {
	out := Migration{Migration: *m}
	if s, ok := store.Lookup(v, tables.Servers, m.Server); ok {
		out.ServerName = s.Name
	}
	if p, ok := store.Lookup(v, tables.Progress, m.ID); ok {
		out.Progress = p
	}
	return out
}

// StatusUnfinished as a filter means every status that is not final.
const StatusUnfinished = "unfinished"

// listMigrations answers with migrations, newest first: ?server=ID, ?host=NAME (either end), ?status=, ?limit= and ?marker=.
func (s *Service) listMigrations(w http.ResponseWriter, r *openstack.Request) error {
	q, err := parameters(r, "server", "host", "status", "limit", "marker")
	if err != nil {
		return err
	}
	page, err := r.Page(openstack.PageMax)
	if err != nil {
		return err
	}
	if err := checkStatus(q.Get("status")); err != nil {
		return err
	}
	v := s.store.View()
	found := candidates(v, q.Get("server"), q.Get("host"))
	found = slices.DeleteFunc(found, func(m *cloud.Migration) bool {
		return q.Get("server") != "" && string(m.Server) != q.Get("server") ||
			q.Get("host") != "" && !touches(m, cloud.HostName(q.Get("host"))) || !statusMatches(m.Status, q.Get("status"))
	})
	slices.SortFunc(found, func(a, b *cloud.Migration) int { return b.Number - a.Number })
	found, more, err := openstack.Slice(found, page, func(m *cloud.Migration) string { return string(m.ID) })
	if err != nil {
		return err
	}
	out := struct {
		Migrations []Migration `json:"migrations"`
		More       bool        `json:"more"` // ask again with marker = the last id
	}{[]Migration{}, more}
	for _, m := range found {
		out.Migrations = append(out.Migrations, migrationView(v, m))
	}
	return openstack.WriteJSON(w, http.StatusOK, out)
}

// candidates returns a superset of what a filter lets through, by the narrowest index.
func candidates(v store.View, server, host string) []*cloud.Migration {
	switch {
	case server != "":
		return store.By(v, tables.Migrations, tables.ByServer, server)
	case host != "":
		return store.By(v, tables.Migrations, tables.ByHost, host)
	}
	return store.All(v, tables.Migrations)
}

func touches(m *cloud.Migration, host cloud.HostName) bool {
	return m.Source == host || m.Target == host
}

func statusMatches(s cloud.MigrationStatus, filter string) bool {
	switch filter {
	case "":
		return true
	case StatusUnfinished:
		return !s.Resting()
	}
	return string(s) == filter
}

func checkStatus(filter string) error {
	known := []string{StatusUnfinished}
	for _, s := range cloud.MigrationStatuses() {
		known = append(known, string(s))
	}
	if filter != "" && !slices.Contains(known, filter) {
		return cloud.Errorf(cloud.KindInvalid, "status %q is none of %s", filter, strings.Join(known, ", "))
	}
	return nil
}

// showMigration answers with one migration, by its UUID or by the number that Nova shows.
func (s *Service) showMigration(w http.ResponseWriter, r *openstack.Request) error {
	v, id := s.store.View(), r.PathValue("id")
	m, ok := store.Lookup(v, tables.Migrations, id)
	if !ok {
		m, ok = store.One(v, tables.Migrations, tables.ByNumber, id)
	}
	if !ok {
		return cloud.Errorf(cloud.KindNotFound, "migration %s does not exist", id)
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]Migration{"migration": migrationView(v, m)})
}

// server finds a server by id.
func server(v store.View, id string) (*cloud.Server, error) {
	found, ok := store.Lookup(v, tables.Servers, id)
	if !ok {
		return nil, cloud.Errorf(cloud.KindNotFound, "server %s does not exist", id)
	}
	return found, nil
}

// listDecisions answers why a server went where it went, newest first. A deleted server's decisions are shown as long as they are kept.
func (s *Service) listDecisions(w http.ResponseWriter, r *openstack.Request) error {
	if _, err := parameters(r, "limit"); err != nil {
		return err
	}
	page, err := r.Page(openstack.PageMax)
	if err != nil {
		return err
	}
	v, id := s.store.View(), r.PathValue("id")
	found := store.Prefixed(v, tables.Decisions, tables.DecisionKey(cloud.ServerID(id), ""))
	if len(found) == 0 {
		_, buried := store.Lookup(v, tables.Graves, id)
		if _, err := server(v, id); err != nil && !buried {
			return err
		}
	}
	slices.SortStableFunc(found, func(a, b *cloud.Decision) int { return b.At.Compare(a.At) })
	out := append([]*cloud.Decision{}, found[:min(page.Limit, len(found))]...)
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"decisions": out})
}
