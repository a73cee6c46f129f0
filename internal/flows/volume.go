package flows

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

const (
	// volumeCopyMax bounds one attempt at a call that copies data: a repeated call joins the copy that is under way, so a longer copy only takes more
	// attempts.
	volumeCopyMax = 30 * time.Minute
	// volumeCallMax bounds the other calls, which touch metadata and wait for a writer's requests in progress.
	volumeCallMax = 2 * time.Minute
	// volumeDeleteAttempts bounds the attempts at a deletion; then it is error_deleting and may be asked for again.
	volumeDeleteAttempts = 8
)

// The names under which volume runs remember.
const (
	stateBackend  = "backend"  // service@backend that the run chose
	stateStranded = "stranded" // the service did not answer when it was asked to forget the volume
)

// defineVolume makes a table keyed by volume.
//
// Unlike a server's, a volume's generation is taken anew for each attempt at a call: attach and detach runs are keyed by server and take
// generations of the same volume, so one that was taken at the begin of a long run would be old when it is used. A deposed leader still changes nothing,
// because it cannot take a generation.
func defineVolume(kind cloud.IntentKind, finish func(context.Context, *run, workflow.Outcome) error, steps ...workflow.StepOf[cloud.Intent]) *workflow.Definition[cloud.Intent] {
	return workflow.Define(string(kind), steps...).
		Keyed(func(i cloud.Intent) string { return string(i.Volume) }).
		Finish(finish)
}

// VolumeCreate makes a volume.
func (f *Flows) VolumeCreate() *workflow.Definition[cloud.Intent] {
	return defineVolume(cloud.IntentVolumeCreate, f.volumeCreated,
		// On paper first: from here on a delete knows where to look.
		workflow.Step("choose-backend", f.chooseBackend, f.leaveBackend),
		workflow.Step("create", f.createVolume, f.removeVolume, workflow.TimeLimit(volumeCopyMax)),
	)
}

// volume returns a volume as the newest view shows it, a copy.
func (f *Flows) volume(id cloud.VolumeID) (cloud.Volume, error) {
	v, ok := store.Lookup(f.Records.View(), tables.Volumes, id)
	if !ok {
		return cloud.Volume{}, cloud.E(cloud.KindNotFound, "", "volume "+string(id), nil)
	}
	return *v, nil
}

// updateVolume changes a volume in a transaction.
func (f *Flows) updateVolume(ctx context.Context, id cloud.VolumeID, change func(tx *store.Tx, v *cloud.Volume) error) error {
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, id)
		if err != nil {
			return err
		}
		if err := change(tx, &v); err != nil {
			return err
		}
		v.Updated = now()
		return store.Put(tx, tables.Volumes, id, v)
	})
	return err
}

// A volumeCall is all that a call about a volume needs.
type volumeCall struct {
	host   hostpb.VolumeHostClient
	call   *hostpb.VolumeCall
	volume cloud.Volume
}

// onVolume takes the volume's next generation and lets do call its service. Another run's generation that overtook this one in between is a
// reason to try again. A volume without a service, which was never placed, is cloud.KindNotFound.
func (f *Flows) onVolume(ctx context.Context, r *run, id cloud.VolumeID, do func(volumeCall) error) error {
	v, err := f.volume(id)
	if err != nil {
		return err
	}
	if v.Service == "" {
		return cloud.Errorf(cloud.KindNotFound, "volume %s is on no service", id)
	}
	host, err := f.volumeService(ctx, v.Service) // before the transaction: nothing is written for a service that is away
	if err != nil {
		return err
	}
	err = f.updateVolume(ctx, id, func(_ *store.Tx, current *cloud.Volume) error {
		current.Generation++
		v = *current
		return nil
	})
	if err != nil {
		return err
	}
	err = do(volumeCall{host, &hostpb.VolumeCall{VolumeId: string(id), Generation: v.Generation, RunId: string(r.ID)}, v})
	if cloud.Is(err, cloud.KindStale) {
		return workflow.Retry(err)
	}
	return err
}

// volumeWaitMax is how long an attempt waits for a volume service that is away: with a few attempts a service that is restarted or updated fails
// nothing that was asked meanwhile.
const volumeWaitMax = 15 * time.Second

// volumeService returns a volume service, waiting a little for one that is away.
func (f *Flows) volumeService(ctx context.Context, name cloud.HostName) (hostpb.VolumeHostClient, error) {
	ctx, cancel := context.WithTimeout(ctx, volumeWaitMax)
	defer cancel()
	return f.Volumes.WaitVolumes(ctx, name)
}

// chooseBackend decides where the volume goes and writes it down. What other volumes take meanwhile is not locked against: back ends promise more
// than they have anyway, and a full one refuses, whereupon the next is tried.
func (f *Flows) chooseBackend(ctx context.Context, r *run) error {
	v, err := f.volume(r.Args.Volume)
	if err != nil || v.Service != "" { // an earlier attempt of this run committed
		return err
	}
	best, err := f.bestBackend(&v, r.Args.Tried)
	if err != nil {
		return err
	}
	err = f.updateVolume(ctx, v.ID, func(_ *store.Tx, current *cloud.Volume) error {
		current.Service, current.Backend = best.Service.Name, best.Backend
		if current.Zone == "" {
			current.Zone = best.Service.Zone
		}
		if current.SourceImage != "" && current.Status == cloud.VolumeCreating {
			current.Status = cloud.VolumeDownloading
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.Set(stateBackend, placement.BackendName(best.Service.Name, best.Backend))
}

// A chosenBackend is where a volume goes.
type chosenBackend struct {
	Service cloud.VolumeService
	Backend string
}

func (f *Flows) bestBackend(v *cloud.Volume, tried []cloud.HostName) (chosenBackend, error) {
	view := f.Records.View()
	request := placement.VolumeRequest{Bytes: v.Bytes(), Zone: v.Zone, Exclude: tried}
	if t, ok := store.Lookup(view, tables.VolumeTypes, v.Type); ok {
		request.Type = *t
	}
	if i, ok := store.Lookup(view, tables.Images, v.SourceImage); ok {
		request.WriteBytes = max(i.VirtualBytes, i.SizeBytes)
	}
	if origin := originOf(view, v); origin != nil {
		request.NearService, request.NearBackend = origin.Service, origin.Backend
		if !reflinks(view, origin) {
			request.WriteBytes = origin.Bytes()
		}
	}
	return f.rankBackends(view, request)
}

func (f *Flows) rankBackends(view store.View, request placement.VolumeRequest) (chosenBackend, error) {
	services := volumebook.Services(view)
	verdicts := placement.RankVolumes(placement.DefaultVolumePolicy(), services, request)
	if len(verdicts) == 0 || !verdicts[0].Fits {
		return chosenBackend{}, placement.NoValidBackend(verdicts)
	}
	at := slices.IndexFunc(services, func(s placement.VolumeServiceView) bool { return s.Service.Name == verdicts[0].Service })
	return chosenBackend{services[at].Service, verdicts[0].Backend}, nil
}

// originOf returns the volume whose data, or whose snapshot's, v is made from; nil when there is none.
func originOf(view store.View, v *cloud.Volume) *cloud.Volume {
	id := v.SourceVolume
	if s, ok := store.Lookup(view, tables.VolumeSnapshots, v.SourceSnapshot); ok {
		id = s.Volume
	}
	origin, _ := store.Lookup(view, tables.Volumes, id)
	return origin
}

// reflinks reports whether copies on the volume's back end share their blocks.
func reflinks(view store.View, v *cloud.Volume) bool {
	r, ok := store.Lookup(view, tables.VolumeReports, v.Service)
	return ok && slices.ContainsFunc(r.Backends, func(b cloud.VolumeBackend) bool { return b.Name == v.Backend && b.Reflink })
}

// leaveBackend undoes chooseBackend, unless the service could not be asked to forget the volume: then a later delete must still find it.
func (f *Flows) leaveBackend(ctx context.Context, r *run) error {
	if stranded, err := f.stranded(r); err != nil || stranded {
		return err
	}
	return ignoreMissing(f.updateVolume(ctx, r.Args.Volume, func(_ *store.Tx, v *cloud.Volume) error {
		v.Service, v.Backend = "", ""
		return nil
	}))
}

func (f *Flows) stranded(r *run) (is bool, err error) {
	_, err = r.Get(stateStranded, &is)
	return is, err
}

func (f *Flows) createVolume(ctx context.Context, r *run) error {
	return f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		request, err := f.createRequest(&c.volume)
		if err != nil {
			return err
		}
		request.Call = c.call
		_, err = c.host.CreateVolume(ctx, request)
		return err
	})
}

func (f *Flows) createRequest(v *cloud.Volume) (*hostpb.CreateVolumeRequest, error) {
	view := f.Records.View()
	out := &hostpb.CreateVolumeRequest{Backend: v.Backend, Bytes: v.Bytes(), Limits: limitsOf(view, v.Type)}
	switch {
	case v.SourceImage != "":
		i, ok := store.Lookup(view, tables.Images, v.SourceImage)
		if !ok || i.Hash == "" {
			return nil, cloud.Errorf(cloud.KindInvalid, "image %s has no data", v.SourceImage)
		}
		out.Image = &hostpb.VolumeImage{ImageId: string(i.ID), Format: i.DiskFormat, Bytes: i.SizeBytes, Sha512: i.Hash}
	case v.SourceSnapshot != "":
		s, ok := store.Lookup(view, tables.VolumeSnapshots, v.SourceSnapshot)
		if !ok {
			return nil, cloud.Errorf(cloud.KindInvalid, "snapshot %s is gone", v.SourceSnapshot)
		}
		out.SnapshotId, out.SnapshotVolumeId = string(s.ID), string(s.Volume)
	case v.SourceVolume != "":
		out.SourceVolumeId = string(v.SourceVolume)
	}
	return out, nil
}

// limitsOf returns what a type lets the clients of its volumes use. Extra specs are checked when they are set.
func limitsOf(view store.View, id cloud.VolumeTypeID) *hostpb.VolumeLimits {
	out := &hostpb.VolumeLimits{}
	if t, ok := store.Lookup(view, tables.VolumeTypes, id); ok {
		out.Iops, _ = strconv.ParseInt(t.ExtraSpecs[cloud.SpecIOPSMax], 10, 64)
		out.BytesPerSecond, _ = strconv.ParseInt(t.ExtraSpecs[cloud.SpecBytesMax], 10, 64)
	}
	return out
}

// removeVolume undoes createVolume.
func (f *Flows) removeVolume(ctx context.Context, r *run) error {
	err := f.onVolume(ctx, r, r.Args.Volume, func(c volumeCall) error {
		_, err := c.host.DeleteVolume(ctx, &hostpb.DeleteVolumeRequest{Call: c.call})
		return err
	})
	if cloud.Is(err, cloud.KindUnavailable) && r.Attempt >= tidyAttemptsMax {
		logger(r).Warn("volume service does not answer; the volume keeps its place until it is deleted", "volume", r.Args.Volume, "error", err)
		return r.Set(stateStranded, true)
	}
	return ignoreMissing(err)
}

// volumeCreated makes the volume available, or reserved for whom it was made, or puts it into error with the reason.
func (f *Flows) volumeCreated(ctx context.Context, r *run, o workflow.Outcome) error {
	return f.concludeVolume(ctx, r, func(tx *store.Tx, v *cloud.Volume) error {
		if v == nil || v.Status != cloud.VolumeCreating && v.Status != cloud.VolumeDownloading {
			return nil // an administrator has decided otherwise
		}
		if o.Phase == workflow.Done {
			v.Launched, v.Progress, v.Fault = now(), 100, nil
			rest, err := attachments.Resting(tx, v)
			v.Status = rest
			return err
		}
		again, ok, err := f.anotherBackend(r, o)
		if err != nil {
			return err
		}
		if ok {
			v.Status = cloud.VolumeCreating
			return store.Put(tx, tables.Intents, again.ID, again)
		}
		v.Fault = volumeFault(o.Err)
		return v.Become(cloud.VolumeError)
	})
}

// anotherBackend returns the intent that makes the volume elsewhere, when it was a back end that failed and not the search for one.
func (f *Flows) anotherBackend(r *run, o workflow.Outcome) (again cloud.Intent, ok bool, err error) {
	var failed cloud.HostName
	found, err := r.Get(stateBackend, &failed)
	if err != nil || !found || len(r.Args.Tried)+1 >= bootHostsMax || cloud.Is(o.Err, cloud.KindCancelled) || cloud.Is(o.Err, cloud.KindInvalid) {
		return again, false, err
	}
	if stranded, err := f.stranded(r); err != nil || stranded {
		return again, false, err
	}
	v, err := f.volume(r.Args.Volume)
	if err != nil {
		return again, false, ignoreMissing(err)
	}
	again = nextTry(r.Args, failed)
	if _, err := f.bestBackend(&v, again.Tried); err != nil {
		return again, false, nil // there is none: the reason of the one that failed says more
	}
	return again, true, nil
}

// concludeVolume is the last write of a run on a volume: change writes the volume's state, and in the same transaction the intent goes. change gets
// nil for a volume that is gone.
func (f *Flows) concludeVolume(ctx context.Context, r *run, change func(tx *store.Tx, v *cloud.Volume) error) error {
	return f.closeVolumeIntent(ctx, r, func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, r.Args.Volume)
		if cloud.Is(err, cloud.KindNotFound) {
			return change(tx, nil)
		}
		if err != nil {
			return err
		}
		if err := change(tx, &v); err != nil {
			return err
		}
		v.Updated = now()
		return store.Put(tx, tables.Volumes, v.ID, v)
	})
}

// closeVolumeIntent removes the run's intent together with what last writes. Without the intent it has been done.
func (f *Flows) closeVolumeIntent(ctx context.Context, r *run, last func(tx *store.Tx) error) error {
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		intent, err := store.Peek(tx, tables.Intents, r.Args.ID)
		if err != nil || intent == nil {
			return err
		}
		if err := last(tx); err != nil {
			return err
		}
		return store.Delete(tx, tables.Intents, r.Args.ID)
	})
	return err
}

// returnToRest moves a volume that was busy back to what its attachments make it.
func returnToRest(tx *store.Tx, v *cloud.Volume) error {
	rest, err := attachments.Resting(tx, v)
	if err != nil {
		return err
	}
	v.Status, v.PreviousStatus = rest, ""
	return nil
}

// volumeFault returns what a volume's owner sees of an error.
func volumeFault(err error) *cloud.Fault {
	out := &cloud.Fault{Code: http.StatusInternalServerError, Created: now(), Message: "unknown error"}
	if err == nil {
		return out
	}
	out.Message = err.Error()
	if cloud.Is(err, cloud.KindInternal) {
		out.Message, out.Details = "The volume could not be brought into the wanted state.", err.Error()
	}
	return out
}
