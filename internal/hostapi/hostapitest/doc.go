// Package hostapitest gives tests a fleet without hypervisors, and the real wire without a network.
//
// A Fleet is a set of FakeHosts that enforce the protocol of host.proto: generations, idempotence, Discard's refusal to remove a
// running copy, migration that moves the copy from one fake host to another. What a caller must never do (start a second copy,
// migrate to a host that was not prepared, call without a generation) is done as a real host would, and recorded as a violation:
// a test ends with
//
//	if v := fleet.Violations(); len(v) > 0 { t.Error(v) }
//
// AddVolumes adds fake volume services, which enforce volume.proto the same way. Hosts and services know of each other: a host opens the
// volumes in a server's specification as QEMU would, a guest that begins to run writes to its disks, and so makes a standby the
// writer. Starting a guest with a volume that is not open for its host, and closing or cutting off a volume under a running guest,
// are violations.
//
// Faults are scripted per call: refuse it, carry it out and lose the reply, delay it, or run something at that moment
// (a crash). Fleet.Leftovers says what a host still keeps, so that "leaves nothing behind" can be tested.
//
// Fleet.On is the quick way to call a fake host (errors still cross the same translation as on the wire, messages are
// copied). StartWire runs a real hostapi.Server on an in-memory listener, for tests of what uses sessions and the pool.
//
// Fleets use no network and no real clock of their own: delays are timers, so tests may run them in a synctest bubble.
package hostapitest
