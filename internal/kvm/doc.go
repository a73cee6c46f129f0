// Package kvm runs guests: it is the only part of godwit that speaks to libvirt, and the only importer of its client.
//
//	hostagent ----> Conn ====== shared connection: quick calls, event stream =====> libvirtd ---> QEMU
//	                  \==== one connection per slow call: start, destroy, migrate ==>   |
//	                                                                                    '== p2p TLS ==> the other host's libvirtd
//
// # Theory
//
// A Conn outlives libvirtd: when the daemon restarts, guests go on and so does the Conn, which dials again, subscribes again and then tells its
// reader that everything may have changed (Batch.Resync). Events are never a history. A Notice says "look at this domain again, this is
// what seems to have happened", and notices of the same domain that nobody has read yet merge into one; so the mailbox is bounded by the number
// of domains, nobody can be overrun, and a lost event costs nothing once the domain is looked at. State is the truth and is always asked
// of libvirt.
//
// # Two kinds of connection
//
// libvirtd serves five requests of one client at a time (max_client_requests) and then stops reading from it. A migration occupies one for
// minutes; five migrations on one connection would make the sixth request, perhaps the one that cancels them, wait for the first to end.
// Hence quick calls share a connection, at most quickCallsMax at a time, and every slow call dials its own. Closing that connection early
// ends our wait, never the work: a peer-to-peer migration belongs to libvirtd.
//
// # Races and why they are harmless
//
// An event may arrive between the reply to the subscription and the registration of its stream, where the client drops it: the resync that
// ends every (re)connection reads the state after all subscriptions stand. libvirt's job-completed event carries values the client cannot decode, so it is
// not subscribed: the end of a migration is known by the return of Migrate, or, for one begun by a process that is gone, by the lifecycle event
// of success or by the job's absence.
//
// A domain received by migration and one that is about to leave both look "paused (migration)". They are told apart by their job:
// libvirt refuses migration statistics on the receiving side. State folds this into Incoming and Outgoing.
package kvm
