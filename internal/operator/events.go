package operator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// The events of a stream, by name.
const (
	EventServer        = "server"         // a server appeared or its state changed: ServerState
	EventServerGone    = "server-gone"    // it is no more: Gone
	EventMigration     = "migration"      // a migration appeared or changed: Migration, without Progress
	EventMigrationGone = "migration-gone" // its record was pruned: Gone
	EventProgress      = "progress"       // figures of a running migration: cloud.MigrationProgress
	EventVerdict       = "verdict"        // what is believed of a host's life changed: cloud.HostVerdict
	EventRecovery      = "recovery"       // the recovery of a dead host went a step further: cloud.Recovery
	EventSpareRoom     = "spare-room"     // whether the largest hosts' servers would find room elsewhere changed: cloud.SpareRoom
	EventVolumeTrouble = "volume-trouble" // the servers of a volume stand still, or go on: VolumeTrouble
	EventHealing       = "healing"        // what is done about a guest that failed went a step further: cloud.Healing
	EventReady         = "ready"          // what is now has been sent, changes follow: Ready
)

// ServerState is what EventServer says of a server.
type ServerState struct {
	ID       cloud.ServerID   `json:"id"`
	Name     string           `json:"name"`
	Project  cloud.ProjectID  `json:"project"`
	VMState  cloud.VMState    `json:"vm_state"`
	Task     cloud.TaskState  `json:"task"`
	Power    cloud.PowerState `json:"power"`
	Host     cloud.HostName   `json:"host,omitempty"`
	Progress int              `json:"progress"`
	Fault    string           `json:"fault,omitempty"` // the last fault's message
}

func stateOf(s *cloud.Server) ServerState {
	out := ServerState{ID: s.ID, Name: s.Name, Project: s.Project, VMState: s.VMState, Task: s.Task, Power: s.Power, Host: s.Host, Progress: s.Progress}
	if s.Fault != nil {
		out.Fault = s.Fault.Message
	}
	return out
}

// Gone names a record that is no more.
type Gone struct {
	ID string `json:"id"`
}

// Ready ends the first part of a stream.
type Ready struct {
	Revision int64 `json:"revision"` // of the store
}

// eventFilter says which records a stream is about; empty fields let everything through.
type eventFilter struct {
	server    cloud.ServerID
	migration cloud.MigrationID
}

// filterOf reads the filter. What it names must exist: a stream that never says anything helps nobody. A migration brings its server along.
func filterOf(v store.View, r *openstack.Request) (eventFilter, error) {
	q, err := parameters(r, "server", "migration")
	if err != nil {
		return eventFilter{}, err
	}
	f := eventFilter{server: cloud.ServerID(q.Get("server")), migration: cloud.MigrationID(q.Get("migration"))}
	if f.migration != "" {
		m, ok := store.Lookup(v, tables.Migrations, f.migration)
		if !ok || f.server != "" && m.Server != f.server {
			return f, cloud.Errorf(cloud.KindNotFound, "migration %s does not exist", f.migration)
		}
		f.server = m.Server
		return f, nil
	}
	if f.server != "" {
		_, err = server(v, string(f.server))
	}
	return f, err
}

func (f eventFilter) wantsServer(id string) bool { return f.server == "" || string(f.server) == id }

func (f eventFilter) wantsMigration(id string, server cloud.ServerID) bool {
	return (f.migration == "" || string(f.migration) == id) && (f.server == "" || f.server == server)
}

// watchEvents streams events until the client leaves, its token expires, or the service stops.
func (s *Service) watchEvents(w http.ResponseWriter, r *openstack.Request) error {
	filter, err := filterOf(s.store.View(), r)
	if err != nil {
		return err
	}
	leave, err := s.streams.enter()
	if err != nil {
		return err
	}
	defer leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	if r.Method == http.MethodHead {
		return nil
	}
	ctx, cancel := s.streamContext(r)
	defer cancel()
	rc := http.NewResponseController(w)
	// A write that waits for a slow client must not hold up a shutdown.
	unblock := context.AfterFunc(s.streams.ended, func() { _ = rc.SetWriteDeadline(time.Now()) })
	defer unblock()
	out := &eventWriter{w: w, rc: rc, patience: s.pace.write, ended: s.streams.ended}
	out.buf = bufio.NewWriter(out)
	st := &stream{
		filter: filter, out: out,
		servers:    store.WatchRecords(ctx, s.store, tables.Servers),
		migrations: store.WatchRecords(ctx, s.store, tables.Migrations),
		progress:   store.WatchRecords(ctx, s.store, tables.Progress),
		verdicts:   store.WatchRecords(ctx, s.store, tables.HostVerdicts),
		recoveries: store.WatchRecords(ctx, s.store, tables.Recoveries), spare: store.WatchRecords(ctx, s.store, tables.SpareRooms),
		storage: store.WatchRecords(ctx, s.store, tables.VolumeReports), healings: store.WatchRecords(ctx, s.store, tables.Healings),
	}
	if err := st.run(ctx, s.pace.keepAlive); err != nil && !errors.Is(err, errClientGone) {
		return err
	}
	_ = rc.SetWriteDeadline(time.Time{}) // the connection may serve other requests
	return nil
}

// streamContext ends with the request, the service's streams, or the caller's token: what the token may see, it may see while it is valid.
func (s *Service) streamContext(r *openstack.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	leave := context.AfterFunc(s.streams.ended, cancel)
	expire := func() bool { return true }
	if expires := r.Caller.Expires; !expires.IsZero() {
		expire = time.AfterFunc(expires.Sub(s.now()), cancel).Stop
	}
	return ctx, func() { leave(); expire(); cancel() }
}

// A stream is one client's view of the changes. One goroutine uses it.
type stream struct {
	filter     eventFilter
	out        *eventWriter
	servers    *store.Feed[cloud.Server]
	migrations *store.Feed[cloud.Migration]
	progress   *store.Feed[cloud.MigrationProgress]
	verdicts   *store.Feed[cloud.HostVerdict]
	recoveries *store.Feed[cloud.Recovery]
	healings   *store.Feed[cloud.Healing]
	spare      *store.Feed[cloud.SpareRoom]
	storage    *store.Feed[cloud.VolumeReport]
	started    bool // the first part has been sent
}

// run sends what is, then what changes, until ctx ends or the store closes (nil) or the client cannot be written to.
func (st *stream) run(ctx context.Context, keepAlive time.Duration) error {
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	if err := st.begin(); err != nil {
		return err
	}
	for {
		open, err := true, error(nil)
		select {
		case <-ctx.Done():
			return nil
		case _, open = <-st.servers.Ready():
			err = st.sendServers()
		case _, open = <-st.migrations.Ready():
			err = st.sendMigrations()
		case _, open = <-st.progress.Ready():
			err = st.sendProgress()
		case _, open = <-st.verdicts.Ready():
			err = st.sendVerdicts()
		case _, open = <-st.recoveries.Ready():
			err = st.sendRecoveries()
		case _, open = <-st.healings.Ready():
			err = st.sendHealings()
		case _, open = <-st.spare.Ready():
			err = st.sendSpareRoom()
		case _, open = <-st.storage.Ready():
			err = st.sendTroubles()
		case <-quiet.C:
			err = st.out.comment("keep-alive")
		}
		if err == nil {
			err = st.out.flush()
		}
		if err != nil || !open {
			return err
		}
	}
}

// begin sends what is now.
func (st *stream) begin() error {
	for _, send := range []func() error{st.sendServers, st.sendMigrations, st.sendVerdicts, st.sendRecoveries, st.sendHealings, st.sendSpareRoom, st.sendTroubles} {
		if err := send(); err != nil {
			return err
		}
	}
	view, changes := st.progress.Take()
	if err := st.progressEvents(view, changes); err != nil {
		return err
	}
	st.started = true
	if err := st.out.event(view.Revision(), EventReady, Ready{view.Revision()}); err != nil {
		return err
	}
	return st.out.flush()
}

func (st *stream) sendServers() error {
	view, changes := st.servers.Take()
	for _, c := range changes {
		if !st.filter.wantsServer(c.Key) {
			continue
		}
		if c.New == nil {
			if err := st.out.event(view.Revision(), EventServerGone, Gone{c.Key}); err != nil {
				return err
			}
			continue
		}
		now := stateOf(c.New)
		if c.Old != nil && stateOf(c.Old) == now {
			continue // something changed that is no state
		}
		if err := st.out.event(view.Revision(), EventServer, now); err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) sendMigrations() error {
	view, changes := st.migrations.Take()
	for _, c := range changes {
		known := c.New
		if known == nil {
			known = c.Old
		}
		if known == nil || !st.filter.wantsMigration(c.Key, known.Server) {
			continue
		}
		var err error
		switch {
		case c.New == nil:
			err = st.out.event(view.Revision(), EventMigrationGone, Gone{c.Key})
		case !st.started && c.New.Status.Final() && st.filter.migration == "":
			// What is now does not include what is over, unless it was named.
		default:
			m := migrationView(view, c.New)
			m.Progress = nil // has its own event
			err = st.out.event(view.Revision(), EventMigration, m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) sendProgress() error {
	view, changes := st.progress.Take()
	return st.progressEvents(view, changes)
}

func (st *stream) progressEvents(view store.View, changes []store.Change[cloud.MigrationProgress]) error {
	for _, c := range changes {
		if c.New == nil || !st.filter.wantsMigration(c.Key, c.New.Server) {
			continue // figures go when their migration ends, of which its own event tells
		}
		if err := st.out.event(view.Revision(), EventProgress, c.New); err != nil {
			return err
		}
	}
	return nil
}

// sendVerdicts sends what is believed of hosts; at first, of those that are not alive. A stream about one server is not about hosts.
func (st *stream) sendVerdicts() error {
	view, changes := st.verdicts.Take()
	for _, c := range changes {
		if c.New == nil || st.filter != (eventFilter{}) || !st.started && c.New.Verdict == "alive" {
			continue
		}
		if err := st.out.event(view.Revision(), EventVerdict, c.New); err != nil {
			return err
		}
	}
	return nil
}

// sendRecoveries sends the steps of recoveries; at first, those that are not over.
func (st *stream) sendRecoveries() error {
	view, changes := st.recoveries.Take()
	for _, c := range changes {
		if c.New == nil || st.filter != (eventFilter{}) || !st.started && c.New.Status.Final() {
			continue
		}
		if err := st.out.event(view.Revision(), EventRecovery, c.New); err != nil {
			return err
		}
	}
	return nil
}

// sendSpareRoom sends whether the fleet could lose its largest hosts; at first, when it could not.
func (st *stream) sendSpareRoom() error {
	view, changes := st.spare.Take()
	for _, c := range changes {
		if c.New == nil || st.filter != (eventFilter{}) || !st.started && !c.New.Short() {
			continue
		}
		if err := st.out.event(view.Revision(), EventSpareRoom, c.New); err != nil {
			return err
		}
	}
	return nil
}

// sendHealings sends the steps of healing guests; at first, of those that are not settled.
func (st *stream) sendHealings() error {
	view, changes := st.healings.Take()
	for _, c := range changes {
		if c.New == nil || st.filter.migration != "" || !st.filter.wantsServer(c.Key) || !st.started && c.New.Status.Settled() {
			continue
		}
		if err := st.out.event(view.Revision(), EventHealing, c.New); err != nil {
			return err
		}
	}
	return nil
}

// errClientGone says that a client left, or read too slowly.
var errClientGone = errors.New("client is gone")

// eventWriter writes server-sent events. Each write to the connection has its own deadline, so a long list may take long, and a stuck client may not.
type eventWriter struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	buf      *bufio.Writer // writes to this eventWriter
	patience time.Duration
	ended    context.Context // when over, nothing is written any more
}

// Write implements io.Writer for buf.
func (e *eventWriter) Write(p []byte) (int, error) {
	if err := e.rc.SetWriteDeadline(time.Now().Add(e.patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	if e.ended.Err() != nil { // asked after the deadline is set: whoever ends the streams sets an earlier one
		return 0, errClientGone
	}
	return e.w.Write(p)
}

// event buffers one event. Its id is the store's revision.
func (e *eventWriter) event(revision int64, name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", name, err)
	}
	_, _ = e.buf.WriteString("id: " + strconv.FormatInt(revision, 10) + "\nevent: " + name + "\ndata: ")
	_, _ = e.buf.Write(text) // encoding/json writes no line breaks, which would end the event
	if _, err := e.buf.WriteString("\n\n"); err != nil {
		return errClientGone
	}
	return nil
}

func (e *eventWriter) comment(text string) error {
	if _, err := e.buf.WriteString(": " + text + "\n\n"); err != nil {
		return errClientGone
	}
	return nil
}

// flush sends what is buffered to the client.
func (e *eventWriter) flush() error {
	if err := e.buf.Flush(); err != nil {
		return errClientGone
	}
	if err := e.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errClientGone
	}
	return nil
}
