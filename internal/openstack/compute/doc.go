// Package compute speaks Nova v2.1 with microversions 2.1 to 2.95: flavors, keypairs, servers and what may be asked of them, live
// migrations, hypervisors, services, aggregates, quotas. Each microversion is honoured or refused, never half: Changes says which, and
// docs/microversions.md is made from it.
//
//	request --> Routes --> call --> handler --reads---> store.View (one snapshot per request)
//	                                        --writes--> one transaction: state check, quota, ports, record, Intent, Action
//	                                                    wait for the replica, answer 202
//
// # What it owns
//
// The edge creates servers (as VMBuilding with a boot intent), renames and locks them, and writes intents, migrations (as queued),
// actions, flavors, keypairs, groups, aggregates, quotas, and what operators say of hosts. It never calls a host, with one exception
// behind the interface ConsoleReader, and it never moves a server's state except to set the task that an intent stands for; flows do.
//
// # Races
//
// A handler judges by the snapshot it took (and answers most refusals from it), then judges again inside the transaction on what the
// transaction read: the store commits only if that is unchanged. Two boots of a project meet at its QuotaUsage, two live migrations
// of a server at its Server record. Placement's word in a handler is advice: the claim is made, and refused, by the flow.
//
// # Shape of the answers
//
// Views are written per microversion with plain conditions (c.since(47)). Servers are appended to a buffer directly, because a page
// has up to a thousand of them; everything else is a map. Messages are Nova's own, since clients and people match on them.
package compute
