package operator

import (
	"net/http"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Dialect is how this API speaks: below /godwit, with faults {"error": {"code", "title", "message"}}.
var Dialect = &openstack.Dialect{
	Service:  "godwit",
	Shape:    openstack.Keystone.Shape,
	Denied:   func(rule string) string { return "This is for administrators: " + rule + "." },
	Invalid:  (*openstack.InputError).Error,
	NotFound: "There is nothing at this path. See internal/operator for what there is.",
}

// Options are what the service needs.
type Options struct {
	Store  *store.Store
	Policy placement.Policy // the one the flows use
	// Done is closed when the process is about to stop, so that streams end.
	Done <-chan struct{}
}

// Service is the operator API. Its only state is the number of open streams.
type Service struct {
	Options
	streams chan struct{} // a slot for each open stream
}

// streamsMax bounds the open streams: each holds a goroutine and a subscription; operators are few.
const streamsMax = 64

// New makes the service.
func New(o Options) *Service { return &Service{Options: o, streams: make(chan struct{}, streamsMax)} }

// Mount adds the routes below /godwit/v1.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(Dialect)
	rt.Handle("GET /v1/hosts", admin(s.hosts))
	rt.Handle("GET /v1/servers/{id}/decisions", admin(s.decisions))
	rt.Handle("GET /v1/servers/{id}/targets", admin(s.targets))
	rt.Handle("GET /v1/migrations/{id}", admin(s.migration))
	rt.Handle("GET /v1/events", admin(s.events))
}

func admin(h openstack.Handler) openstack.Handler {
	return func(w http.ResponseWriter, r *openstack.Request) error {
		if err := r.Caller.RequireAdmin("godwit"); err != nil {
			return err
		}
		return h(w, r)
	}
}

func (s *Service) hosts(w http.ResponseWriter, _ *openstack.Request) error {
	v := s.Store.View()
	snap := tables.Snapshot(v, time.Now())
	out := make([]Host, 0, len(snap.Hosts))
	for i := range snap.Hosts {
		h := &snap.Hosts[i]
		out = append(out, hostView(h, s.Policy, len(store.By(v, tables.Servers, tables.ByHost, h.Host.Name))))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"hosts": out})
}

// server finds a server by id or, when only one has it, by name.
func server(v store.View, idOrName string) (*cloud.Server, error) {
	if s, ok := store.Lookup(v, tables.Servers, idOrName); ok {
		return s, nil
	}
	named := store.By(v, tables.Servers, tables.ByName, idOrName)
	switch len(named) {
	case 0:
		return nil, cloud.Errorf(cloud.KindNotFound, "No server has the id or name %s.", idOrName)
	case 1:
		return named[0], nil
	}
	return nil, cloud.Errorf(cloud.KindConflict, "%d servers are named %s: use an id.", len(named), idOrName)
}

func (s *Service) decisions(w http.ResponseWriter, r *openstack.Request) error {
	v := s.Store.View()
	found, err := server(v, r.PathValue("id"))
	if err != nil {
		return err
	}
	var out []cloud.Decision
	for _, d := range store.Prefixed(v, tables.Decisions, tables.DecisionKey(found.ID, "")) {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b cloud.Decision) int { return b.At.Compare(a.At) })
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"server": serverView(found), "decisions": out})
}

// targets answers what placement would say of a migration asked for now.
func (s *Service) targets(w http.ResponseWriter, r *openstack.Request) error {
	v := s.Store.View()
	found, err := server(v, r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := found.Allow(cloud.OpLiveMigrate); err != nil {
		return err
	}
	m := cloud.Migration{Server: found.ID, Source: found.Host, AskedTarget: cloud.HostName(r.URL.Query().Get("host")), Asked: cloud.MigrateAuto}
	switch r.URL.Query().Get("block") {
	case "true":
		m.Asked = cloud.MigrateBlock
	case "false":
		m.Asked = cloud.MigrateShared
	}
	snap := tables.Snapshot(v, time.Now())
	verdicts := placement.Rank(s.Policy, &snap, placement.ForMigration(found, &m))
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"server": serverView(found), "verdicts": verdicts})
}

func (s *Service) migration(w http.ResponseWriter, r *openstack.Request) error {
	v := s.Store.View()
	m, ok := store.Lookup(v, tables.Migrations, r.PathValue("id"))
	if !ok {
		m, ok = store.One(v, tables.Migrations, tables.ByNumber, r.PathValue("id"))
	}
	if !ok {
		return cloud.Errorf(cloud.KindNotFound, "There is no migration %s.", r.PathValue("id"))
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"migration": migrationView(v, m)})
}
