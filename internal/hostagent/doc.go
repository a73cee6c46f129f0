// Package hostagent is godwit on a compute host: it does what the server's flows ask of this host and reports what it sees.
//
//	hostpb.Host calls                 libvirt's events
//	      |                                 |
//	      v                                 v
//	   Gate (pure: queue, ignore, deny)   notices, merged per server
//	      |                                 |
//	      '-------->  one loop per server <-'        the only one that changes anything of that server
//	                     |        |      \
//	                     v        v       '--> journal: SERVER.json, written before acting
//	                    kvm   disk, networks
//
// # Theory
//
// All that happens to one server happens in its loop, one thing at a time, libvirt's events before requests. A live migration is the exception in
// time, not in ownership: it runs in a goroutine of its own (move.go) while the loop goes on answering, and hands its end back to the loop.
// Reading (Inspect, Console, Facts) does not queue: it asks libvirt and the file system, never memory, except for what only the journal can know
// (generation, role, the outcome of a migration).
//
// # Generations
//
// A call carries the generation of the decision behind it. The gate refuses one that is older than the newest accepted for that server, and
// the journal remembers that number longer than the server itself, so a delayed Prepare cannot bring a deleted server back. A call of the
// same generation is a repeat; every call is written to be repeated.
//
// # Where a server is
//
// Its role (journal.go) says what it is to this host. The dangerous moments are those in which a server is known to two hosts:
//
//   - The target holds it as incoming from Prepare on. libvirt alone lets its CPUs run there. The event of that announces the server on the network at once, before
//     anybody was told; Adopt, which comes later, makes it resident.
//   - The source holds it as departing. When libvirt says that it left (the shut-off domain says "migrated", which is why the source keeps the
//     definition until Discard), it is departed, and Start refuses it here.
//   - Discard never ends running CPUs, unless the server is being deleted. What is left of a failed migration on a target (a half-received domain) is
//     not running and is removed.
//
// # Post-copy
//
// When post-copy begins, the guest's CPUs run on the target and its memory is on both hosts. libvirt's event says so; the source notes it (Split)
// before anything else and reports it at once, because from then on an abort is refused and a failure is no return: whatever ends the copy, the
// source's half must never run. If it breaks off, the outcome is "broken": the guest's memory is whole nowhere, and its newest disk is on the target, which
// adopts it so that a hard reboot can begin from there.
//
// # Crashes
//
// The agent may be killed at any time. Migrations are libvirtd's, peer to peer, and go on. A new agent finds the role departing in the
// journal and attaches: it watches the job until it is gone and then judges by what is there, exactly as it judges after a call to libvirt that
// failed (settle). Three answers are possible, and the third, unknown, is an honest one: both hosts must be asked then.
//
// libvirt itself can let a guest run twice: when the target's libvirtd dies after it let the CPUs run and before the source has heard so, the source
// resumes. So when libvirtd comes back under an agent to which a server was arriving, and the server runs, it is paused until Adopt says that
// this is the one; Discard removes a paused arrival.
//
// If the agent dies between an effect and its record, the repeat of the call finds the effect and records it. Records are written before
// effects that would be dangerous to forget: the generation before anything, the role incoming before there is a disk that libvirt may
// fill, the role departing before the migration begins.
//
// # Volumes
//
// Disks that are volumes come with the call, as address and export; see volumes.go. While a volume service is away libvirt stops its guests on the first request
// that fails (package kvm), and the agent lets them go on as soon as the service listens: nothing else in this package resumes a guest without being told. It
// does so only for servers that are this host's and do not migrate; a migration that meets such a stop is called off by libvirt, because a guest that is being
// moved cannot be resumed.
//
// # What is copied
//
// A block migration copies only the overlay of the root disk (VIR_MIGRATE_NON_SHARED_INC). That is right because a base is named by the hash of its
// data, so both hosts have the very same one, and because the target's overlay is always made anew: whatever an earlier attempt left
// in it would show where the source's overlay has nothing. It also copies less. Measured between two hosts of one busy machine, four rounds each, a
// guest of 128 MiB on an image of 19 MB with a disk of 1 GiB: the incremental copy read 64 KiB of disk, left 0.3 MB on the target and took 2.7 s (median);
// the full copy went through the whole GiB, left 19 MB, the image once more, and took 3.4 s.
package hostagent
