// Package reconcile compares what records say with what hosts see and says what to do about the difference. One file per noun; every function is
// pure: everything it may know, the time included, is in its argument, and equal arguments give equal answers.
//
//	record, observations, now --Server--> Outcome { Actions, Again }
//	host, usage, servers      --Host----> Outcome
//
// Control gathers a case for each noun from one view, asks, carries the actions out, and asks again when a watch fires or at Outcome.Again. Actions
// are idempotent: carried out twice, or found carried out already, they change nothing, because the next case shows no difference.
//
// # What is never done
//
//   - Nothing at all while somebody works on the server: an intent, an unfinished migration or a task means that a flow owns the difference.
//   - Nothing that destroys on the host that owns the server. The record follows the guest, not the other way round: a guest found running
//     though its record says stopped makes the record say active (Nova would stop it).
//   - No leftover is discarded unless the owner, connected now, has said that it has the server. A copy whose CPUs run, or whose memory may be the
//     only one, is reported to the operator and left alone.
//   - Nothing on the word of a host that is not connected: its last observations are history.
//
// # Lag
//
// Observations and records travel on different roads, so for a moment they contradict one another though both are right: a flow has written
// "active" and the host's "running" is still on its way. An observation received after the record was last written is believed at once; an older
// one only when the record has been left alone for SettleDefault. Likewise for what a host said before it connected last: it repeats everything,
// and forgetting what it does not repeat takes a moment. Outcome.Again says when that will be.
//
// # Races with the act
//
// Between the question and the act the server may change hands. Record changes therefore carry the generation and state they were decided on,
// and Action.Apply refuses when they are no longer so; host calls carry the generation, and the host refuses an older one than it knows.
package reconcile
