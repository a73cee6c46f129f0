// Package placement decides which host may take a server, which of those is best, and why each other was refused. Boot, live
// migration and every later mover (evacuation, consolidation) ask the same code, so a host refused by one is refused by all.
//
// It is a pure decider: no I/O, no clock, no goroutine. A snapshot and a request go in, verdicts come out; equal input gives equal
// output, to the byte. Nothing reachable from the snapshot is modified.
//
//	snapshot, request --Rank--> verdicts, best first          (optimistic: on a snapshot that may be milliseconds old)
//	    for each that fits:
//	        transaction { read Host, Usage, ServerGroup afresh; Recheck; Claim; write Usage and ServerGroup }
//	        conflict or refusal -> the next verdict
//
// # What keeps two boots from taking the last room
//
// The amount taken on a host is the sum of the claims in its one Usage record, and claims are only made by the transaction above:
// whoever commits second has read a Usage that changed and is run again, on the new figures. The same holds for server groups: their
// members' hosts are in the one ServerGroup record that the transaction reads and writes. What a host reports of itself (free memory,
// running guests) is never subtracted, because it lags behind the claims.
//
// # A moving server has two claims
//
// One on each host, until the move has ended. Capacity and group rules count both, so whichever way the move ends no rule is broken.
// For affinity this means that a group with a moving member takes no further member: nobody knows yet where it must go.
package placement
