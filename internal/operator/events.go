package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// keepAliveEvery is how often an idle stream says that it lives: shorter than the idle time-out of common proxies.
const keepAliveEvery = 15 * time.Second

// events streams changes until the client goes away or the process stops.
func (s *Service) events(w http.ResponseWriter, r *openstack.Request) error {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return openstack.Fail(http.StatusServiceUnavailable, "%d streams are open already; close one first.", streamsMax)
	}
	var only cloud.ServerID
	if name := r.URL.Query().Get("server"); name != "" {
		found, err := server(s.Store.View(), name)
		if err != nil {
			return err
		}
		only = found.ID
	}
	st := &stream{service: s, w: w, flush: http.NewResponseController(w), only: only, sent: map[string][]byte{}}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	st.run(r.Context())
	return nil // whatever ended it, the answer has been written
}

// stream is one client's. It remembers what it has sent, so that a thing is sent when it has changed as the client sees it.
type stream struct {
	service *Service
	w       http.ResponseWriter
	flush   *http.ResponseController
	only    cloud.ServerID // empty: everything
	sent    map[string][]byte
	failed  error
}

func (st *stream) run(ctx context.Context) {
	watch := st.service.Store.Watch(ctx, tables.Servers, tables.Migrations, tables.Progress, tables.Hosts, tables.HostSessions, tables.Usages)
	alive := time.NewTicker(keepAliveEvery)
	defer alive.Stop()
	for st.failed == nil {
		select {
		case _, open := <-watch:
			if !open {
				return
			}
			st.look(st.service.Store.View())
		case <-alive.C:
			_, st.failed = fmt.Fprint(st.w, ": alive\n\n")
		case <-st.service.Done:
			return
		}
		if st.failed == nil {
			st.failed = st.flush.Flush()
		}
	}
}

// look sends what has changed. For one server it looks at that server's records only; for all, at all: operators who watch everything are few.
func (st *stream) look(v store.View) {
	seen := map[string]bool{}
	send := func(kind, id string, value any) {
		seen[kind+"/"+id] = true
		st.send(kind, id, value)
	}
	servers, migrations := store.All(v, tables.Servers), store.All(v, tables.Migrations)
	if st.only != "" {
		servers, migrations = nil, store.By(v, tables.Migrations, tables.ByServer, st.only)
		if s, ok := store.Lookup(v, tables.Servers, st.only); ok {
			servers = append(servers, s)
		}
	} else {
		snap := tables.Snapshot(v, time.Now())
		for i := range snap.Hosts {
			h := &snap.Hosts[i]
			send("host", string(h.Host.Name), hostView(h, st.service.Policy, len(store.By(v, tables.Servers, tables.ByHost, h.Host.Name))))
		}
	}
	for _, s := range servers {
		send("server", string(s.ID), serverView(s))
	}
	for _, m := range migrations {
		send("migration", string(m.ID), migrationView(v, m))
	}
	for key := range st.sent {
		if !seen[key] {
			st.gone(v, key)
		}
	}
}

// gone forgets a thing that is no more, and says so of a server.
func (st *stream) gone(v store.View, key string) {
	delete(st.sent, key)
	var id cloud.ServerID
	if n, _ := fmt.Sscanf(key, "server/%s", &id); n != 1 {
		return
	}
	last := cloud.Server{ID: id, VMState: cloud.VMDeleted}
	if grave, ok := store.Lookup(v, tables.Graves, id); ok {
		last = *grave
	}
	st.write("server", serverView(&last))
}

func (st *stream) send(kind, id string, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		st.failed = err
		return
	}
	key := kind + "/" + id
	if bytes.Equal(st.sent[key], data) {
		return
	}
	st.sent[key] = data
	st.writeData(kind, data)
}

func (st *stream) write(kind string, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		st.failed = err
		return
	}
	st.writeData(kind, data)
}

func (st *stream) writeData(kind string, data []byte) {
	if st.failed == nil {
		_, st.failed = fmt.Fprintf(st.w, "event: %s\ndata: %s\n\n", kind, data)
	}
}
