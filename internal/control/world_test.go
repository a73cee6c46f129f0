package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// waitMax bounds every wait of these tests; only a bug reaches it.
const waitMax = 2 * time.Minute

// world is a store, a fleet of fake hosts connected by the real wire, and the sessions that write what the hosts say.
type world struct {
	t     *testing.T
	store *store.Store
	fleet *hostapitest.Fleet
	wire  *hostapitest.Wire
	boxes map[cloud.HostName]*hostapi.Outbox
	log   *slog.Logger
	heard *Sessions
	mute  map[cloud.HostName]func() // ends a host's agent
}

func newWorld(t *testing.T, hosts ...cloud.HostName) *world {
	t.Helper()
	w := &world{t: t, fleet: hostapitest.NewFleet(hosts...), boxes: map[cloud.HostName]*hostapi.Outbox{}, mute: map[cloud.HostName]func(){}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	var err error
	w.store, err = store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	sessions := NewSessions(w.store, "test", w.log)
	w.wire = hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: sessions, Volumes: sessions})
	w.heard = sessions
	for _, h := range hosts {
		agent, stop := w.wire.StartFake(t, w.fleet.Host(h))
		w.mute[h] = stop
		w.boxes[h] = agent.Outbox()
	}
	w.until("every host is up", func(v store.View) bool {
		return store.Count(v, tables.HostSessions) == len(hosts) && len(w.wire.Server.Pool().Hosts()) == len(hosts)
	})
	w.write(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.Networks, "net", cloud.Network{ID: "net", VNI: 1, MTU: 1450, AdminUp: true}),
			store.Put(tx, tables.QuotaUsages, "p", cloud.QuotaUsage{Project: "p"}),
		)
	})
	return w
}

// until waits until the store's view satisfies ok. It is woken by the store, not by a clock; the pool changes together with it.
func (w *world) until(what string, ok func(v store.View) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	watch := w.store.Watch(ctx)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if ok(w.store.View()) {
			return
		}
		select {
		case <-watch:
		case <-again.C:
		case <-ctx.Done():
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (w *world) write(fn func(tx *store.Tx) error) {
	w.t.Helper()
	if _, err := w.store.UpdateVisible(context.Background(), fn); err != nil {
		w.t.Fatal(err)
	}
}

// control starts an instance that stands for election; stop waits for its end.
func (w *world) control(change func(*Options)) (c *Control, stop func()) {
	w.t.Helper()
	o := Options{Store: w.store, Hosts: w.wire.Server.Pool(), Volumes: w.wire.Server.Pool(), Name: "test", Policy: placement.DefaultPolicy(), Budget: Budget{Outbound: 2, Inbound: 2},
		GravesMax: 100, Logger: w.log}
	if change != nil {
		change(&o)
	}
	c = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	owned.Go(func() { _ = c.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); owned.Wait() })
	w.t.Cleanup(stop)
	return c, stop
}

// boot writes what the edge writes for a new server.
func (w *world) boot(id cloud.ServerID, ramMiB int) cloud.IntentID {
	w.t.Helper()
	s := cloud.Server{ID: id, Project: "p", Name: string(id), Flavor: cloud.Flavor{Name: "f", VCPUs: 1, RAMMiB: ramMiB, RootGiB: 1}, Image: "img",
		ImageFormat: "qcow2", VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Created: time.Now().UTC()}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, id, s) })
	return w.ask(cloud.Intent{ID: cloud.IntentID("boot-" + id), Kind: cloud.IntentBoot, Server: id})
}

// ask writes an intent with its action.
func (w *world) ask(i cloud.Intent) cloud.IntentID {
	w.t.Helper()
	i.RequestID, i.Project, i.Created = "req-"+string(i.ID), "p", time.Now().UTC()
	w.write(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.Intents, i.ID, i),
			store.Put(tx, tables.Actions, tables.ActionKey(i.Server, i.RequestID), cloud.Action{Server: i.Server, RequestID: i.RequestID, Name: string(i.Kind)}),
		)
	})
	return i.ID
}

// migrate writes what the edge writes for a live migration.
func (w *world) migrate(id cloud.ServerID, number int) cloud.MigrationID {
	w.t.Helper()
	m := cloud.MigrationID(fmt.Sprintf("m%d", number))
	s := w.server(id)
	s.Task = cloud.TaskMigrating
	w.write(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.Servers, id, s),
			store.Put(tx, tables.Migrations, m, cloud.Migration{ID: m, Number: number, Server: id, Source: s.Host, Asked: cloud.MigrateBlock,
				Status: cloud.MigrationQueued, Intent: cloud.IntentID("move-" + m)}),
		)
	})
	w.ask(cloud.Intent{ID: cloud.IntentID("move-" + m), Kind: cloud.IntentMigrate, Server: id, Migration: m})
	return m
}

func (w *world) server(id cloud.ServerID) cloud.Server {
	s, ok := store.Lookup(w.store, tables.Servers, id)
	if !ok {
		return cloud.Server{}
	}
	return *s
}

func (w *world) migration(id cloud.MigrationID) cloud.Migration {
	m, ok := store.Lookup(w.store, tables.Migrations, id)
	if !ok {
		return cloud.Migration{}
	}
	return *m
}

// idle waits until nothing is asked that is not done.
func (w *world) idle() {
	w.t.Helper()
	w.until("no intent is left", func(v store.View) bool {
		open := len(store.By(v, store.Runs, store.RunsByPhase, workflow.Doing)) + len(store.By(v, store.Runs, store.RunsByPhase, workflow.Undoing))
		return store.Count(v, tables.Intents) == 0 && open == 0
	})
}

// sound checks what must hold whatever happened.
func (w *world) sound() {
	w.t.Helper()
	if v := w.fleet.Violations(); len(v) > 0 {
		w.t.Errorf("violations: %v", v)
	}
	for _, r := range store.By(w.store, store.Runs, store.RunsByPhase, workflow.Stuck) {
		w.t.Errorf("run %s is stuck: %+v", r.ID, r.Last)
	}
	for _, u := range store.All(w.store, tables.Usages) {
		if total := u.Total(); total.RAMMiB > 65536-512 {
			w.t.Errorf("host %s is oversubscribed: %+v", u.Host, total)
		}
	}
}

// running returns where each server runs, checking that records and hosts agree.
func (w *world) running(id cloud.ServerID) cloud.HostName {
	w.t.Helper()
	s, on := w.server(id), w.fleet.Running(id)
	if len(on) != 1 || on[0] != s.Host {
		w.t.Errorf("server %s is on %q by its record and runs on %v", id, s.Host, on)
	}
	return s.Host
}

func gated(gate <-chan struct{}) func(*hostpb.MigrateRequest) hostapitest.Migration {
	return func(*hostpb.MigrateRequest) hostapitest.Migration { return hostapitest.Migration{Gate: gate} }
}
