package hostagent

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// A server's volumes are disks that QEMU reaches over NBD. The agent knows of them what its calls say and what libvirt says; it never speaks to the volume
// service but to see whether it is there. A volume is found in a running domain by its serial number, which is its id.
//
// Every volume's export is good for one attachment, and an attachment for one host, so the definition that arrives with a migration is wrong from the
// moment the source's attachment closes. Nothing trusts a definition: boot and adopt write it anew from the call's spec.

const (
	// rootTarget is libvirt's name of the local root disk, the only writable local one.
	rootTarget = "vda"
	// configTarget is its name of the config drive: last, so that whatever is attached before a boot stands before it.
	configTarget = "vdz"
	// reachMax bounds a look at whether a volume service listens. QEMU would hold up its guest and libvirt for as long as its kernel tries to connect.
	reachMax = 5 * time.Second
	// detachGraceDefault is what a guest gets to let go of a disk when the call does not say; Nova's guests get eight times 20 s, most of which a guest
	// that is alive does not need.
	detachGraceDefault = time.Minute
	// A guest that waits for a volume service is looked after at once and then every now and then; both ends listen to nothing, so this polls. It runs only
	// while such a guest stands still.
	goOnMin = 50 * time.Millisecond
	goOnMax = time.Second
)

func diskOf(d *hostpb.VolumeDisk) kvm.Disk {
	nbd := wayTo(d)
	return kvm.Disk{Target: d.GetDevice(), NBD: &nbd, Serial: d.GetVolumeId(), ReadOnly: d.GetReadOnly(), Shareable: d.GetShareable()}
}

func wayTo(d *hostpb.VolumeDisk) kvm.NBD {
	return kvm.NBD{Export: d.GetExport(), Address: d.GetAddress(), Port: int(d.GetPort()), TLS: d.GetTls(), TLSHostname: d.GetTlsHostname()}
}

func waysTo(disks []*hostpb.VolumeDisk) map[string]kvm.NBD {
	if len(disks) == 0 {
		return nil
	}
	out := map[string]kvm.NBD{}
	for _, d := range disks {
		out[d.GetDevice()] = wayTo(d)
	}
	return out
}

// volumesFirst returns the volumes as disks, the one to boot from before the others, those in the order of their devices.
func volumesFirst(volumes []*hostpb.VolumeDisk) []kvm.Disk {
	sorted := slices.SortedFunc(slices.Values(volumes), func(a, b *hostpb.VolumeDisk) int {
		return cmp.Or(cmp.Compare(bootRank(a), bootRank(b)), cmp.Compare(a.GetDevice(), b.GetDevice()))
	})
	var out []kvm.Disk
	for _, d := range sorted {
		out = append(out, diskOf(d))
	}
	return out
}

func bootRank(d *hostpb.VolumeDisk) int {
	if d.GetBootIndex() == 0 {
		return 0
	}
	return 1
}

// reach sees whether the services of the volumes listen.
func (v *vm) reach(ctx context.Context, volumes ...*hostpb.VolumeDisk) error {
	var addresses []string
	for _, d := range volumes {
		addresses = append(addresses, net.JoinHostPort(d.GetAddress(), strconv.FormatInt(d.GetPort(), 10)))
	}
	slices.Sort(addresses)
	for _, address := range slices.Compact(addresses) {
		if err := v.a.o.Reach(ctx, address); err != nil {
			return cloud.Errorf(cloud.KindUnavailable, "volume service at %s: %w", address, err)
		}
	}
	return nil
}

// dial is Options.Reach.
func dial(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: reachMax}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// attachVolume plugs a volume in, and into the definition.
func (v *vm) attachVolume(ctx context.Context, req *hostpb.AttachVolumeRequest) error {
	s, err := v.resident(ctx, "attach a volume")
	if err != nil {
		return err
	}
	if s.HasProcess() {
		if err := v.plug(ctx, req.GetVolume()); err != nil {
			return err
		}
	}
	return v.keepDisks(ctx, req.GetSpec())
}

// plug makes the running domain have the volume, through this very attachment.
func (v *vm) plug(ctx context.Context, volume *hostpb.VolumeDisk) error {
	disk := diskOf(volume)
	desc, err := v.a.hv.Describe(ctx, v.id)
	if err != nil {
		return err
	}
	switch there := desc.Disk(disk.Target); {
	case there != nil && there.Serial == disk.Serial && there.Export == disk.NBD.Export:
		return nil // a repeat
	case there != nil:
		return cloud.Errorf(cloud.KindConflict, "device %s is taken", disk.Target)
	}
	if err := v.reach(ctx, volume); err != nil {
		return err
	}
	return v.a.hv.AttachDisk(ctx, v.id, disk)
}

// resident returns the state of a server that lives here, and refuses for any other.
func (v *vm) resident(ctx context.Context, what string) (kvm.State, error) {
	s, err := v.state(ctx)
	switch {
	case err != nil:
		return s, err
	case v.rec.Role == RoleNone || v.rec.Role == RoleGone:
		return s, cloud.Errorf(cloud.KindNotFound, "it is not on this host")
	case v.rec.Role != RoleResident || s.Run == kvm.Incoming || s.Run == kvm.Outgoing:
		return s, cloud.Errorf(cloud.KindConflict, "cannot %s: it is %s and %s here", what, s.Run, v.rec.Role)
	}
	return s, nil
}

// keepDisks writes down what disks the server has from now on: in the journal and in libvirt's definition. A server that was never started has none.
func (v *vm) keepDisks(ctx context.Context, spec *hostpb.ServerSpec) error {
	if err := v.keep(spec, func(*record) {}); err != nil {
		return err
	}
	if s, err := v.state(ctx); err != nil || s.Run == kvm.Absent {
		return err
	}
	return v.redefine(ctx, spec)
}

// detachVolume asks the guest to let go of a volume until it has, and takes it out of the definition.
func (v *vm) detachVolume(ctx context.Context, req *hostpb.DetachVolumeRequest) error {
	s, err := v.resident(ctx, "detach a volume")
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.HasProcess() {
		grace := detachGraceDefault
		if req.GetGrace() != nil {
			grace = req.GetGrace().AsDuration()
		}
		if err := v.unplug(ctx, req.GetVolumeId(), grace); err != nil {
			return err
		}
	}
	return v.keepDisks(ctx, req.GetSpec())
}

func (v *vm) unplug(ctx context.Context, volume string, grace time.Duration) error {
	for deadline := time.Now().Add(grace); ; {
		target, err := v.targetOf(ctx, volume)
		if err != nil || target == "" {
			return err
		}
		if err := v.a.hv.DetachDisk(ctx, v.id, target); err != nil {
			return err
		}
		gone, err := v.until(ctx, min(pressPeriod, max(0, time.Until(deadline))), func(kvm.Notice) (bool, error) {
			target, err := v.targetOf(ctx, volume)
			return target == "", err
		})
		switch {
		case err != nil || gone:
			return err
		case time.Now().After(deadline):
			return cloud.Errorf(cloud.KindConflict, "the guest has not let go of volume %s within %s", volume, grace)
		}
	}
}

// targetOf returns libvirt's name of a volume in the domain as it runs, empty when it is not there. A domain that ended has none.
func (v *vm) targetOf(ctx context.Context, volume string) (string, error) {
	if s, err := v.state(ctx); err != nil || !s.HasProcess() {
		return "", err
	}
	desc, err := v.a.hv.Describe(ctx, v.id)
	if err != nil {
		return "", err
	}
	for _, d := range desc.Disks {
		if d.Serial == volume {
			return d.Target, nil
		}
	}
	return "", nil
}

// resizeVolume tells the guest. A server that does not run learns of it when it starts.
func (v *vm) resizeVolume(ctx context.Context, volume cloud.VolumeID, bytes int64) error {
	s, err := v.resident(ctx, "resize a volume")
	if err != nil || !s.HasProcess() {
		return err
	}
	target, err := v.targetOf(ctx, string(volume))
	if err != nil {
		return err
	}
	if target == "" {
		return cloud.Errorf(cloud.KindNotFound, "it has no volume %s", volume)
	}
	return v.a.hv.ResizeDisk(ctx, v.id, target, bytes)
}

// tellSizes tells an arrived guest how large its volumes are. Its new QEMU knows; the guest, if they have grown on the other host, does not yet. One that cannot
// be told works on as it is.
func (v *vm) tellSizes(ctx context.Context, volumes []*hostpb.VolumeDisk) {
	for _, d := range volumes {
		if d.GetBytes() == 0 {
			continue
		}
		if err := v.a.hv.ResizeDisk(ctx, v.id, d.GetDevice(), d.GetBytes()); err != nil {
			v.log.Warn("guest not told of its volume's size", "volume", d.GetVolumeId(), "bytes", d.GetBytes(), "error", err)
		}
	}
}

// stalled reports whether the guest stands still because a volume's service did not answer.
func stalled(s kvm.State) bool { return s.Run == kvm.Paused && s.Reason == kvm.ReasonIOError }

// goOnWhenReachable lets a stalled server go on as soon as its volume services listen. It runs beside the loop, once at a time, and only while the server is
// this host's: what arrives is left alone until it is adopted, and libvirt lets nobody resume what leaves.
func (v *vm) goOnWhenReachable() {
	v.mu.Lock()
	begin := !v.waiting && (v.rec.Role == RoleResident || v.rec.Role == RoleDeparting)
	v.waiting = v.waiting || begin
	v.mu.Unlock()
	if begin {
		v.signs.stood(v.a.o.Failures, time.Now())
		v.log.Warn("stands still until its disks answer")
		v.a.background(v.awaitVolumes)
	}
}

// awaitVolumes tries until the server runs, or does not wait for a volume any more.
func (v *vm) awaitVolumes(ctx context.Context) {
	defer func() {
		v.mu.Lock()
		v.waiting = false
		v.mu.Unlock()
		v.notify(kvm.Changed) // it may have stopped again after the last look
	}()
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	resumed := false // the services listened, and the server was told to go on
	for pause := goOnMin; ; pause = min(2*pause, goOnMax) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		over, listens := v.goOn(ctx)
		if over {
			v.log.Info("goes on", "stood", time.Since(began))
			v.lookAgain()
			return
		}
		if listens && !resumed { // QEMU makes the new connection beside the request that finds it missing: the next attempt will find it
			pause = goOnMin
		}
		if v.signs.still(listens, v.a.o.Failures, time.Now()) {
			v.notify(kvm.Changed)
		}
		resumed = listens
		timer.Reset(pause)
	}
}

// lookAgain has the server looked at when one that went on is believed to: only then is what kept it over.
func (v *vm) lookAgain() {
	v.a.background(func(ctx context.Context) {
		timer := time.NewTimer(v.a.o.Failures.SettledAfter + lookAgainSlack)
		defer timer.Stop()
		select {
		case <-timer.C:
			v.notify(kvm.Changed)
		case <-ctx.Done():
		}
	})
}

// lookAgainSlack makes a look come after a time rather than at it.
const lookAgainSlack = 100 * time.Millisecond

// goOn resumes a stalled server if its volume services listen. It reports whether there is nothing more to do, and whether they did.
func (v *vm) goOn(ctx context.Context) (over, listens bool) {
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	s, err := v.state(ctx)
	if err != nil {
		return false, false
	}
	r := v.snapshot()
	if !stalled(s) || r.Role != RoleResident && r.Role != RoleDeparting {
		return true, false
	}
	spec, err := r.spec()
	if err == nil {
		err = v.reach(ctx, spec.GetVolumes()...)
	}
	if err == nil {
		err = v.sharedAnswers(ctx)
	}
	if err == nil {
		err = v.a.hv.Resume(ctx, v.id)
	}
	return false, err == nil // the next look tells whether it met the same error again
}
