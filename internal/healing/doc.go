// Package healing decides what is done about a server whose guest fails: it is restarted where it is, again and again with growing pauses, then started
// elsewhere as far as its disks allow, then a person is asked. It is pure: everything it may know, the time included, is in its argument.
//
//	observation (host) --+
//	server record -------+--Next--> Step { record as it is to be, what to do, when to ask again }
//	healing record ------+
//
// # What is a failure
//
// A host counts the failures of each guest, and a failure is known by its host and number; news of a failure from outside (a VM notification of
// Masakari's API) is known by its notification. A guest that shut itself down has not failed, and whatever anybody decides about a server (start, stop,
// reboot) ends its failure: the host then tells none, and what waited here is called off.
//
// # What is never done
//
//   - Nothing while somebody works on the server: an intent, an unfinished migration or a task.
//   - Nothing for a server whose owner or flavor says no, whose host is on maintenance, or whose segment is disabled.
//   - Nothing about a host that is not connected: its guests are the liveness judge's and recovery's.
//   - No restart for want of room: it makes none, and would lose what the guest holds. A person is told, and the guest goes on when there is room.
//   - No copy is started elsewhere while the first may run: the step says that the host must be told to end it, and control must have its answer.
//
// # Attempts
//
// Attempts are counted in a sliding window, over all failures of the server: a guest that dies every ten minutes is not restarted for ever. A guest that
// came back stays healed; its attempts are forgotten when the window has passed.
//
// The figures and their reasons are decision 18.
package healing
