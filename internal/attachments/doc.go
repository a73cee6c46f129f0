// Package attachments keeps the books of who is joined to which volume: the rules that both edges (volume and compute) and the flows follow,
// each applied inside the caller's transaction. It calls nobody and keeps nothing.
//
//	Reserve ---> Connect ---> Complete ---> BeginDetach ---> Release
//	reserved     attaching    attached      detaching        (record removed)
//	   '------------'------------'-- Release ends it at any time    RollBackDetach: detaching -> attached
//
// # The volume's status follows its attachments
//
// A volume at rest is what the furthest of its attachments makes it: in-use when one is attached, else attaching, detaching or reserved, and
// available without any. Every function here that changes an attachment settles its volume in the same transaction, so the two never
// disagree. A volume that is busy otherwise (extending, uploading, retyping) keeps its status; the one it will return to is settled
// instead. A volume that is being created keeps its status too, and takes what Resting says when it is there.
//
// The target's attachment of a server on the move (Migration set) does not count: until the move is decided the volume is where it was.
//
// # Races
//
// Two reservations of one volume meet at its Volume record, which each reads and writes: the store lets one through and runs the other
// again, which then finds the volume reserved. That a volume has one writer at a time on the data path is not decided here but by the
// volume service's epochs.
package attachments
