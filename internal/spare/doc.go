// Package spare judges whether the fleet could start the servers of its largest hosts elsewhere, should those die now: N+k. It is pure: a snapshot and the
// server records go in, a judgement comes out.
//
//	snapshot, servers --Judge--> for the k largest hosts, of all and of each zone:
//	                                take them away --> place their servers one by one, as recovery would --> who finds no room?
//
// # What is asked
//
// Not whether some packing exists, but whether the recovery that would come finds one: the same servers (recovery.Unwanted), in the same order
// (recovery.Compare), by the same placement with its zones, groups, aggregates, reserved hosts and storage. A packing that nobody will look for starts no
// server. So the judgement errs to the safe side only: where it sees room there is room.
//
// A host's size is what its recoverable servers claim. The k largest of the whole fleet are taken away at once, then the k largest of each zone: a small zone
// may have no room for its own servers where the fleet as a whole has plenty. The worst of these losses is the judgement.
//
// # Before it happens
//
// With applies what is asked for, a boot, a resize or a move, to a snapshot, so that the edge can say what it would leave behind before it is accepted.
// It is a warning, unless the operator wants such requests refused (Worse): a fleet is often short for a while, and its owner knows.
package spare
