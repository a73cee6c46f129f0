// Package volumehost is the control side of a volume service (`godwit volumes`): it serves hostpb.VolumeHost on top of package volume, and reports
// what the service has.
//
//	server --VolumeHost calls--> Host --> gate --> job --> volume.Store (one for each back end)
//	                                                 |
//	                                                 +---> images (raw files, cloned where blocks can be shared)
//	Host.Run --facts every ten seconds--> the session's outbox
//
// The data path does not pass through here: package blockserve serves the same stores to QEMU. A process that joins the three is put
// together by cmd/godwit. So a lost connection to godwit's server, or a restart of it, touches no guest.
//
// # What is remembered
//
// Nothing. Every answer comes from the stores' files; this package keeps only what is under way. When the process starts again, its stores have
// their volumes, their open attachments and the greatest generations accepted, and QEMU finds its exports where they were.
//
// # Generations
//
// Each store refuses decisions older than the newest it has accepted for a volume. A service may have several stores, and a volume may have been decided
// onto another one meanwhile, so the gate (gate.go) compares a call with what all stores have accepted and with the calls under way
// before any store sees it.
//
// # Calls that take long
//
// A call that copies data is a job (jobs.go), which belongs to the Host and not to the caller: when the connection breaks the work goes on, and the
// same call again joins it or finds it done. A newer DeleteVolume ends a creation. How many jobs fill volumes at a time is bounded; the others wait
// their turn in the order of Go's channel queue.
//
// # Ownership
//
// The Host owns its jobs and probes and Close waits for them. It uses the stores but does not close them.
package volumehost
