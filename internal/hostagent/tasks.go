package hostagent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
	"github.com/godwit-cloud/godwit/internal/metadata"
)

// The functions in this file run in a server's loop, one at a time.

// prepare makes what the server needs here.
func (v *vm) prepare(ctx context.Context, req *hostpb.PrepareRequest) error {
	spec, incoming := req.GetSpec(), req.GetIncoming()
	s, err := v.state(ctx)
	if err != nil {
		return err
	}
	switch {
	case incoming && s.Run == kvm.Incoming && v.rec.Role == RoleIncoming:
		return nil // a repeat, and libvirt is filling the disks already
	case !incoming && s.Run == kvm.Running && v.rec.Role == RoleResident:
		return nil
	case s.HasProcess():
		return cloud.Errorf(cloud.KindConflict, "it is %s (%s) here already", s.Run, s.Reason)
	}
	role := RoleResident
	if incoming {
		role = RoleIncoming
	}
	if err := v.checkShared(ctx, incoming); err != nil {
		return err
	}
	// Before there is anything that a crash could leave behind.
	if err := v.keep(spec, func(r *record) { r.Role, r.Started = role, notStarted }); err != nil {
		return err
	}
	v.announced = false
	v.takeDoubt()
	v.unexport()
	if err := v.prepareDisks(ctx, req); err != nil {
		return err
	}
	if err := v.reach(ctx, spec.GetVolumes()...); err != nil {
		return err
	}
	_, err = v.a.o.Networks.Ensure(ctx, guestOf(spec), nicsOf(spec.GetNics()), incoming)
	return err
}

func (v *vm) prepareDisks(ctx context.Context, req *hostpb.PrepareRequest) error {
	spec, incoming := req.GetSpec(), req.GetIncoming()
	if incoming {
		// A definition of an earlier stay would be mistaken for evidence that it left.
		if err := v.a.hv.Undefine(ctx, v.id); err != nil {
			return err
		}
	}
	if err := v.prepareRoot(ctx, req); err != nil {
		return err
	}
	if !spec.GetConfigDrive() {
		return nil
	}
	guest := guestOf(spec)
	guest.AdminPass = spec.GetAdminPass()
	return v.a.o.Disk.WriteConfig(v.id, metadata.Files(&guest))
}

// prepareRoot makes the local root disk, or the place for what else is kept of a server that boots from a volume.
func (v *vm) prepareRoot(ctx context.Context, req *hostpb.PrepareRequest) error {
	spec := req.GetSpec()
	switch {
	case req.GetDiskSource() != nil || req.GetKeepDisk():
		return v.prepareCold(ctx, req)
	case spec.GetRoot() == nil:
		return v.a.o.Disk.EnsureRootless(v.id)
	case req.GetIncoming():
		return v.a.o.Disk.RemakeRoot(ctx, v.id, v.rootOf(spec))
	}
	_, err := v.a.o.Disk.EnsureRoot(ctx, v.id, v.rootOf(spec))
	return err
}

func rootOf(spec *hostpb.ServerSpec) disk.Root {
	root := spec.GetRoot()
	return disk.Root{Bytes: root.GetBytes(), Base: disk.Base{
		Image: cloud.ImageID(root.GetImageId()), Format: root.GetImageFormat(), Bytes: root.GetImageBytes(), SHA512: root.GetImageSha512(),
	}}
}

// keep stores a spec, if there is one, with a change of the record.
func (v *vm) keep(spec *hostpb.ServerSpec, change func(*record)) error {
	var problem error
	err := v.save(func(r *record) {
		problem = r.setSpec(spec)
		change(r)
	})
	return errors.Join(problem, err)
}

// start makes the server's CPUs run.
func (v *vm) start(ctx context.Context, spec *hostpb.ServerSpec) error {
	if v.rec.Role == RoleDeparted || v.rec.Role == RoleIncoming {
		return cloud.Errorf(cloud.KindConflict, "cannot start a server that is %s here", v.rec.Role)
	}
	s, err := v.state(ctx)
	if err != nil {
		return err
	}
	switch s.Run {
	case kvm.Running:
		return nil
	case kvm.Paused:
		if err := v.a.hv.Resume(ctx, v.id); err != nil {
			return err
		}
		return v.keep(spec, (*record).settle)
	case kvm.Incoming, kvm.Outgoing:
		return cloud.Errorf(cloud.KindConflict, "cannot start: it is %s", s.Run)
	case kvm.Absent, kvm.Shutoff, kvm.Crashed: // without a process
	}
	return v.boot(ctx, spec)
}

// boot defines the domain anew and starts it.
func (v *vm) boot(ctx context.Context, spec *hostpb.ServerSpec) error {
	v.unexport()
	if !v.a.o.Disk.Present(v.id) {
		return cloud.Errorf(cloud.KindNotFound, "it has no disk on this host")
	}
	if err := v.reach(ctx, spec.GetVolumes()...); err != nil {
		return err
	}
	if err := v.checkShared(ctx, false); err != nil {
		return err
	}
	if err := v.keep(spec, (*record).settle); err != nil {
		return err
	}
	domain, err := v.domain(ctx, spec, kvm.MachineDefault)
	if err != nil {
		return err
	}
	if err := v.a.hv.Define(ctx, domain); err != nil {
		return err
	}
	if err := v.a.hv.Start(ctx, v.id); err != nil {
		return err
	}
	v.announce() // it may have run elsewhere before, on a host that died: its peers would look for it there until their ARP entries age
	return nil
}

// domain is what libvirt is told of the server on this host.
func (v *vm) domain(ctx context.Context, spec *hostpb.ServerSpec, machine string) (kvm.Domain, error) {
	plugs, err := v.a.o.Networks.Ensure(ctx, guestOf(spec), nicsOf(spec.GetNics()), false)
	if err != nil {
		return kvm.Domain{}, err
	}
	if len(plugs) != len(spec.GetNics()) {
		return kvm.Domain{}, cloud.Errorf(cloud.KindInternal, "%d plugs for %d nics", len(plugs), len(spec.GetNics()))
	}
	files, err := v.a.o.Disk.Files(v.id)
	if err != nil {
		return kvm.Domain{}, err
	}
	engine := v.a.o.Disk.Engine()
	d := kvm.Domain{
		ID: v.id, Emulation: v.a.emulation, VCPUs: int(spec.GetVcpus()), RAMMiB: spec.GetRamMib(),
		CPUModel: or(spec.GetCpuModel(), v.a.o.CPUModel), Machine: machine, ConsoleLog: files.Console,
		Disks: volumesFirst(spec.GetVolumes()),
		Meta: kvm.Meta{Name: spec.GetName(), Project: spec.GetProjectId(), User: spec.GetUserId(), Flavor: spec.GetFlavorName(),
			Image: spec.GetImageId(), Generation: v.rec.Generation},
		Watchdog: spec.GetWatchdogAction(), GuestAgent: spec.GetGuestAgent(),
	}
	if spec.GetRoot() != nil {
		d.Disks = slices.Insert(d.Disks, 0, kvm.Disk{Target: rootTarget, Path: files.Root, Format: disk.FormatQCOW2, Cache: engine.Cache, IO: engine.IO, Waits: v.a.shared != nil})
	}
	if spec.GetConfigDrive() {
		d.Disks = append(d.Disks, kvm.Disk{Target: configTarget, Path: files.Config, Format: disk.FormatRaw, Cache: engine.Cache, IO: engine.IO, ReadOnly: true, Waits: v.a.shared != nil})
	}
	for i, n := range spec.GetNics() {
		d.NICs = append(d.NICs, kvm.NIC{MAC: n.GetMac(), Bridge: plugs[i].Bridge, Tap: plugs[i].Tap, MTU: plugs[i].MTU})
	}
	return d, nil
}

const (
	// pressPeriod is how often a guest that is to shut down is asked again: one that is still booting misses the first time.
	pressPeriod = 10 * time.Second
	// stopGraceDefault is what a guest gets when neither call nor configuration says.
	stopGraceDefault = time.Minute
)

// shutDown asks the guest to end, for as long as grace, and then ends it.
func (v *vm) shutDown(ctx context.Context, grace time.Duration) error {
	s, err := v.state(ctx)
	if err != nil {
		return err
	}
	if v.rec.Role == RoleIncoming || s.Run == kvm.Incoming {
		return cloud.Errorf(cloud.KindConflict, "cannot stop: it is being received")
	}
	if !s.HasProcess() {
		return nil
	}
	for deadline := time.Now().Add(grace); s.Run == kvm.Running && time.Now().Before(deadline); {
		if err := v.a.hv.PressPower(ctx, v.id); err != nil && !cloud.Is(err, cloud.KindConflict) {
			return err
		}
		ended, err := v.until(ctx, min(pressPeriod, time.Until(deadline)), func(kvm.Notice) (bool, error) {
			s, err := v.state(ctx)
			return !s.HasProcess(), err
		})
		if err != nil || ended {
			return err
		}
	}
	return v.a.hv.Destroy(ctx, v.id)
}

// reboot restarts the server: softly by its guest, else from scratch.
func (v *vm) reboot(ctx context.Context, req *hostpb.RebootRequest, grace time.Duration) error {
	if v.rec.Role == RoleDeparted || v.rec.Role == RoleIncoming {
		return cloud.Errorf(cloud.KindConflict, "cannot reboot a server that is %s here", v.rec.Role)
	}
	s, err := v.state(ctx)
	if err != nil {
		return err
	}
	if !req.GetHard() {
		if s.Run != kvm.Running {
			return cloud.Errorf(cloud.KindConflict, "cannot reboot: it is %s", s.Run)
		}
		v.digest() // what happened before we asked is no answer
		if err := v.a.hv.PressReboot(ctx, v.id); err != nil {
			return err
		}
		rebooted, err := v.until(ctx, grace, func(n kvm.Notice) (bool, error) { return n.Has(kvm.Rebooted), nil })
		if err != nil || rebooted {
			return err
		}
		v.log.Info("guest did not reboot by itself", "grace", grace)
	}
	if err := v.a.hv.Destroy(ctx, v.id); err != nil {
		return err
	}
	return v.boot(ctx, req.GetSpec())
}

// adopt makes an arrived server this host's own.
func (v *vm) adopt(ctx context.Context, req *hostpb.AdoptRequest) error {
	s, err := v.state(ctx)
	if err != nil {
		return err
	}
	if s.Run == kvm.Incoming || s.Run == kvm.Outgoing || v.rec.Role == RoleDeparted {
		return cloud.Errorf(cloud.KindConflict, "cannot adopt: it is %s and %s here", s.Run, or(string(v.rec.Role), "unknown"))
	}
	if !v.a.o.Disk.Present(v.id) {
		return cloud.Errorf(cloud.KindNotFound, "it has no disk on this host")
	}
	arrived := v.rec.Role != RoleResident
	if len(req.GetConsole()) > 0 && arrived { // a repeat's history would hold what has been printed here
		if err := v.a.o.Disk.SetPast(v.id, req.GetConsole()); err != nil {
			return err
		}
	}
	if err := v.a.o.Disk.Claim(v.id); err != nil {
		return err
	}
	if err := v.a.o.Disk.DropRevert(v.id); err != nil { // it stays as it is
		return err
	}
	if err := v.keep(req.GetSpec(), (*record).settle); err != nil {
		return err
	}
	if s.Run == kvm.Paused && v.takeDoubt() {
		if err := v.a.hv.Resume(ctx, v.id); err != nil {
			return err
		}
		s.Run = kvm.Running
	}
	if err := v.redefine(ctx, req.GetSpec()); err != nil {
		return err
	}
	if arrived && s.HasProcess() {
		v.tellSizes(ctx, req.GetSpec().GetVolumes())
	}
	if s.Run == kvm.Running {
		v.announce()
	}
	return nil
}

// redefine writes the persistent definition of a server that keeps running as it is, on the board that it has.
func (v *vm) redefine(ctx context.Context, spec *hostpb.ServerSpec) error {
	machine := kvm.MachineDefault
	if desc, err := v.a.hv.Describe(ctx, v.id); err == nil && desc.Machine != "" {
		machine = desc.Machine
	} else if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	domain, err := v.domain(ctx, spec, machine)
	if err != nil {
		return err
	}
	return v.a.hv.Define(ctx, domain)
}

// takeDoubt reports whether arrive stopped the server, and forgets it.
func (v *vm) takeDoubt() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	doubted := v.doubted
	v.doubted = false
	return doubted
}

// discard removes all there is of the server, except CPUs that run unless destroyRunning.
func (v *vm) discard(ctx context.Context, destroyRunning, keepDisks bool) (console []byte, err error) {
	if v.move != nil && destroyRunning {
		if err := v.a.hv.AbortJob(ctx, v.id); err != nil && !cloud.Is(err, cloud.KindConflict) && !cloud.Is(err, cloud.KindNotFound) {
			return nil, err
		}
	}
	s, err := v.state(ctx)
	if err != nil {
		return nil, err
	}
	if !destroyRunning {
		if err := v.mayDiscard(s); err != nil {
			return nil, err
		}
	}
	if v.move != nil {
		ended, err := v.until(ctx, settleMax, func(kvm.Notice) (bool, error) { return v.move == nil, nil })
		if err != nil || !ended {
			return nil, errors.Join(cloud.Errorf(cloud.KindConflict, "its migration has not ended"), err)
		}
	}
	if console, err = v.a.o.Disk.Console(v.id, 0); err != nil {
		v.log.Warn("console not kept", "error", err)
	}
	if err := v.a.hv.Destroy(ctx, v.id); err != nil {
		return nil, err
	}
	if err := v.undefine(ctx); err != nil {
		return nil, err
	}
	if err := v.a.o.Networks.Release(ctx, v.id); err != nil {
		return nil, err
	}
	v.unexport()
	if err := v.removeDisks(keepDisks, destroyRunning); err != nil {
		return nil, err
	}
	if err := v.save(func(r *record) { r.Role, r.Spec = RoleGone, nil }); err != nil {
		return nil, err
	}
	v.observe()
	return console, nil
}

// undefine removes the definition. When the source's process dies in post-copy, libvirt 9.0 may forget to end the job, which then holds the dead domain until
// libvirtd restarts: its definition stays behind, for a later Discard to find, and everything else goes.
func (v *vm) undefine(ctx context.Context) error {
	err := v.a.hv.Undefine(ctx, v.id)
	if !cloud.Is(err, cloud.KindUnavailable) || !v.rec.Move.broke() {
		return err
	}
	if s, lookErr := v.state(ctx); lookErr != nil || s.HasProcess() {
		return err
	}
	v.log.Error("libvirt cannot let go of a domain that died in post-copy: restart libvirtd", "error", err)
	return nil
}

// mayDiscard refuses while the CPUs run here, or stand still in a way that says that this is the only copy.
func (v *vm) mayDiscard(s kvm.State) error {
	switch s.Run {
	case kvm.Running, kvm.Outgoing:
		return cloud.Errorf(cloud.KindConflict, "its CPUs run on this host (%s)", s.Run)
	case kvm.Paused:
		if v.rec.Move.broke() {
			return nil // half of a guest, and libvirt may not have noticed yet that its process is dead
		}
		if postCopyOf(s) == hostpb.PostCopy_POST_COPY_ACTIVE {
			return cloud.Errorf(cloud.KindConflict, "the host it moved to still fetches its memory from here")
		}
		if v.rec.Role == RoleResident {
			return cloud.Errorf(cloud.KindConflict, "it is paused (%s) on the host it lives on", s.Reason)
		}
	case kvm.Absent, kvm.Shutoff, kvm.Crashed, kvm.Incoming: // no CPUs to lose
	}
	return nil
}

// removeDisks removes the server's directory if it is this host's and no other host uses it. What this host took over from another is only removed
// together with the server: an evacuation that is undone must leave what it found.
func (v *vm) removeDisks(keep, deleting bool) error {
	owned, err := v.a.o.Disk.Owned(v.id)
	if err != nil {
		return err
	}
	taken, err := v.a.o.Disk.Taken(v.id)
	if err != nil {
		return err
	}
	usedElsewhere := v.rec.Move != nil && v.rec.Move.SharedDir && !v.rec.Move.stayed() && v.rec.Role != RoleResident
	if keep || !owned || usedElsewhere || taken && !deleting {
		v.log.Info("disks left to the host that uses them")
		return nil
	}
	return v.a.o.Disk.Remove(v.id)
}

// update hands changed names, metadata or addresses to who serves them.
func (v *vm) update(ctx context.Context, spec *hostpb.ServerSpec) error {
	switch v.rec.Role {
	case RoleNone, RoleGone:
		return cloud.Errorf(cloud.KindNotFound, "it is not on this host")
	case RoleDeparted:
		return nil // its new host serves it
	case RoleResident, RoleIncoming, RoleDeparting:
	}
	if err := v.keep(spec, func(*record) {}); err != nil {
		return err
	}
	return v.a.o.Networks.Update(ctx, guestOf(spec), nicsOf(spec.GetNics()))
}
