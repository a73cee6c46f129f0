package flows

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// callMargin is what a host may take beyond the guest's own grace.
const callMargin = time.Minute

// Stop shuts a server down.
func (f *Flows) Stop() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentStop, f.stopFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("stop", f.stop, nil, workflow.NoUndo("a guest that was shut down in part is not made whole by starting it"),
			workflow.TimeLimit(f.StopGrace+callMargin)),
	)
}

// Start starts a stopped server.
func (f *Flows) Start() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentStart, f.startFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		// Again, though they are open: the service may have moved to another address while the server was off.
		workflow.Step("open-volumes", f.openVolumes, nil, workflow.NoUndo("a stopped server keeps its volumes"), workflow.TimeLimit(volumeCallMax)),
		// Undone, so that a start that was reported as failed does not leave the guest running after all.
		workflow.Step("start", f.start, f.powerOff, workflow.TimeLimit(startMax)),
	)
}

// Reboot restarts a server, soft or hard. A hard reboot also brings a stopped or failed server back.
func (f *Flows) Reboot() *workflow.Definition[cloud.Intent] {
	return define(cloud.IntentReboot, f.rebootFinished,
		workflow.Step("begin", f.begin, nil, workflow.NoUndo("a generation that is not used costs nothing")),
		workflow.Step("open-volumes", f.openVolumesOfHard, nil, workflow.NoUndo("the server keeps its volumes"), workflow.TimeLimit(volumeCallMax)),
		workflow.Step("reboot", f.reboot, nil, workflow.NoUndo("a guest cannot be un-reset"), workflow.TimeLimit(rebootGrace+startMax)),
	)
}

func (f *Flows) stop(ctx context.Context, r *run) error {
	host, call, _, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	_, err = host.Stop(ctx, &hostpb.StopRequest{Call: call, Grace: durationpb.New(f.StopGrace)})
	return err
}

func (f *Flows) reboot(ctx context.Context, r *run) error {
	host, call, spec, err := f.onHost(r, itsHost)
	if err != nil {
		return err
	}
	_, err = host.Reboot(ctx, &hostpb.RebootRequest{Call: call, Spec: spec, Hard: r.Args.Hard, Grace: durationpb.New(rebootGrace)})
	return err
}

func (f *Flows) stopFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.powerFinished(ctx, r, o, cloud.VMStopped, cloud.PowerShutdown)
}

func (f *Flows) startFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.powerFinished(ctx, r, o, cloud.VMActive, cloud.PowerRunning)
}

func (f *Flows) rebootFinished(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.powerFinished(ctx, r, o, cloud.VMActive, cloud.PowerRunning)
}

// powerFinished writes the wanted state after success. After a failure the server keeps its state, with the task gone and the fault noted: what it
// really is, its host will say, and reconcile acts on that.
func (f *Flows) powerFinished(ctx context.Context, r *run, o workflow.Outcome, state cloud.VMState, power cloud.PowerState) error {
	return f.conclude(ctx, r, o, func(tx *store.Tx, s *cloud.Server) error {
		if s == nil {
			return nil
		}
		if o.Phase != workflow.Done {
			s.Fault = faultOf(o.Err)
			return become(s, s.VMState)
		}
		s.Power, s.Fault = power, nil
		if state == cloud.VMActive {
			s.Launched = now()
			if err := bindPorts(tx, s, s.Host, portActive); err != nil {
				return err
			}
		}
		return become(s, state)
	})
}
