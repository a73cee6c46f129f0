package flows

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Records is the store as flows need it. The writes of a deposed leader must fail; a *store.Store alone does not see to that.
type Records interface {
	// View returns the newest state of the replica.
	View() store.View
	// Watch tells of changes of tables. See store.Store.
	Watch(ctx context.Context, of ...store.AnyTable) <-chan store.Batch
	// UpdateVisible commits a transaction and returns when View shows it. See store.Store.
	UpdateVisible(ctx context.Context, fn func(tx *store.Tx) error) (rev int64, err error)
}

// Hosts gives the hosts that can be called now.
type Hosts interface {
	// Host returns the client of a connected host, cloud.KindUnavailable when it is not connected.
	Host(name cloud.HostName) (hostpb.HostClient, error)
	// WaitHost returns it as soon as it is connected, cloud.KindUnavailable when ctx ends first.
	WaitHost(ctx context.Context, name cloud.HostName) (hostpb.HostClient, error)
}

// Moves are the settings of live migrations.
type Moves struct {
	DowntimeMax         time.Duration // longest pause at the switch that QEMU may aim for
	BandwidthBytes      int64         // per second; 0: unlimited
	AutoConverge        bool
	PostCopy            bool
	ParallelConnections int
}

// Options are what New needs; Records, Hosts and Volumes are required.
type Options struct {
	Records Records
	Hosts   Hosts
	Volumes Volumes
	Images  Images // what volumes are read into; nil: nothing
	Policy  placement.Policy
	Moves   Moves
	// Fence turns dead hosts off before their servers start elsewhere; nil when no host has a BMC.
	Fence Fencer
	// StopGrace is how long a guest may take to shut down before its power is cut. Zero means StopGraceDefault.
	StopGrace time.Duration
	// Doubt bounds how long an unreachable source is waited for; zero means DoubtDefault.
	Doubt time.Duration
}

const (
	// StopGraceDefault is Nova's shutdown_timeout.
	StopGraceDefault = 60 * time.Second
	// rebootGrace: a guest that has not answered a soft reboot within it is reset.
	rebootGrace = 60 * time.Second
)

// Flows are the tables, bound to the records and hosts they work on. They are immutable and safe for concurrent use.
type Flows struct {
	Options
}

// New binds the tables.
func New(o Options) *Flows {
	if o.StopGrace == 0 {
		o.StopGrace = StopGraceDefault
	}
	if o.Doubt == 0 {
		o.Doubt = DoubtDefault
	}
	return &Flows{Options: o}
}

// run is a run of any of the flows: the intent is all the arguments there are.
type run = workflow.Run[cloud.Intent]

// Definitions returns the tables, for workflow.NewEngine. Their names are the kinds of intent.
func (f *Flows) Definitions() []workflow.AnyDefinition {
	return []workflow.AnyDefinition{
		f.Boot(), f.Delete(), f.Stop(), f.Start(), f.Reboot(), f.Migrate(), f.Evacuate(), f.ColdMove(), f.Confirm(), f.Revert(), f.Capture(), f.Rebuild(), f.Shelve(), f.Unshelve(), f.Attach(), f.Detach(),
		f.VolumeCreate(), f.VolumeDelete(), f.VolumeExtend(), f.VolumeUpload(), f.VolumeRetype(), f.VolumeRevert(), f.VolumeReimage(), f.SnapshotCreate(), f.SnapshotDelete(),
	}
}

// define makes a table keyed by server.
func define(kind cloud.IntentKind, finish func(context.Context, *run, workflow.Outcome) error, steps ...workflow.StepOf[cloud.Intent]) *workflow.Definition[cloud.Intent] {
	return workflow.Define(string(kind), steps...).
		Keyed(func(i cloud.Intent) string { return string(i.Server) }).
		Finish(finish)
}

// stateGeneration is the name under which a run remembers the generation its host calls carry.
const stateGeneration = "generation"

// bump takes the server's next generation inside tx. The caller remembers it with r.Set after the commit. A step that runs again bumps again, which costs
// a number and nothing else: no host call is made before the step's end is in the journal.
func bump(s *cloud.Server) int64 {
	s.Generation++
	return s.Generation
}

// call returns the part that every changing host call carries.
func (f *Flows) call(r *run) (*hostpb.Call, error) {
	var generation int64
	found, err := r.Get(stateGeneration, &generation)
	if err == nil && !found {
		err = workflow.Abort(cloud.E(cloud.KindInternal, "call host", string(r.ID), fmt.Errorf("the run has taken no generation")))
	}
	return &hostpb.Call{ServerId: string(r.Args.Server), Generation: generation, RunId: string(r.ID)}, err
}

// server returns the run's server as the newest view shows it, a copy.
func (f *Flows) server(r *run) (cloud.Server, error) {
	s, ok := store.Lookup(f.Records.View(), tables.Servers, r.Args.Server)
	if !ok {
		return cloud.Server{}, missingServer(r.Args.Server)
	}
	return *s, nil
}

func missingServer(id cloud.ServerID) error {
	return cloud.E(cloud.KindNotFound, "", "server "+string(id), nil)
}

// update changes the run's server in a transaction.
func (f *Flows) update(ctx context.Context, r *run, change func(tx *store.Tx, s *cloud.Server) error) error {
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		s, err := store.Get(tx, tables.Servers, r.Args.Server)
		if err != nil {
			return err
		}
		if err := change(tx, &s); err != nil {
			return err
		}
		s.Updated = now()
		return store.Put(tx, tables.Servers, s.ID, s)
	})
	return err
}

// begin is the first step of flows that need nothing but a generation.
func (f *Flows) begin(ctx context.Context, r *run) error {
	var generation int64
	err := f.update(ctx, r, func(_ *store.Tx, s *cloud.Server) error {
		if s.Host == "" {
			return workflow.Abort(cloud.Errorf(cloud.KindConflict, "server %s is on no host", s.ID))
		}
		generation = bump(s)
		return nil
	})
	if err != nil {
		return err
	}
	return r.Set(stateGeneration, generation)
}

// onHost calls one host about the run's server, with the specification the host needs to act.
func (f *Flows) onHost(r *run, host func(cloud.Server) cloud.HostName) (hostpb.HostClient, *hostpb.Call, *hostpb.ServerSpec, error) {
	s, err := f.server(r)
	if err != nil {
		return nil, nil, nil, err
	}
	call, err := f.call(r)
	if err != nil {
		return nil, nil, nil, err
	}
	spec, err := Spec(f.Records.View(), &s)
	if err != nil {
		return nil, nil, nil, err
	}
	if to := host(s); to != s.Host { // it is moving there
		if spec.Volumes, err = volumesOn(f.Records.View(), &s, to); err != nil {
			return nil, nil, nil, err
		}
	}
	client, err := f.Hosts.Host(host(s))
	return client, call, spec, err
}

func itsHost(s cloud.Server) cloud.HostName { return s.Host }

// now returns the time for records: without the monotonic reading, which JSON would lose anyhow.
func now() time.Time { return time.Now().UTC() }

// logger returns the run's logger, never nil.
func logger(r *run) *slog.Logger {
	if r.Logger == nil {
		return slog.Default()
	}
	return r.Logger
}
