// Package recovery decides what to do about a dead host: whose servers may be started elsewhere now, which must wait for what, and when a host that
// returns takes servers again. It is pure: records, what a BMC said and the time are arguments; it starts nothing.
//
//	verdict dead --> fencing --+--> running --> done --> returned
//	                  |   ^    |       ^ |
//	                  v   |    v       | v
//	                called-off  blocked
//
// # A verdict is not a licence
//
// A host that nobody hears may run its guests. Each server is started elsewhere only when something keeps the old copy from harm. In order of strength:
//
//   - the host is off: its BMC says so, or an operator does (forced down). It holds for all servers of the host;
//   - the storage refuses the old copy: every disk of the server is a volume with one writer, and opening it for the new host raises its epoch, which
//     cuts off all older writers before the call returns. It holds for that server alone;
//   - the host stops the server itself: its agent fences itself, and at least Policy.SelfFenceAfter + Policy.Margin have gone by since it was last heard
//     and since its lease on shared storage was last seen to be renewed. It holds for servers that the agent stops: those with a disk of their own.
//
// A server with none of these waits, and the recovery is blocked and says for what. Nothing is ever started on the strength of time alone.
//
// # Order
//
// Servers go by priority, larger first; running ones before stopped ones; older ones first. A server waits for those it names until they have an
// outcome, whatever it is, and not for one that waits for it in turn. No more than Policy.ConcurrencyMax servers of all dead hosts are being moved at a time.
// Where each goes is placement's business, which keeps affinity and anti-affinity.
//
// # The return
//
// A host that is heard before anything was started elsewhere is left alone (called off). Later it stays disabled until it has nothing left of the servers
// that now live elsewhere (the reconciler removes them, running copies too) and is then enabled, if it was this recovery that disabled it.
package recovery
