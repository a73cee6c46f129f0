// Package control joins deciding and doing. It has two halves.
//
// Sessions writes what the hosts and volume services connected to this instance say. The session record is bound to this
// instance's lease, so a host is "up" exactly while somebody holds its stream; reports and observations carry numbers that only the host
// increments, and an older one never replaces a newer one.
//
//	agent --stream--> Sessions --> Host (first contact), HostSession, HostReport, ServerObservation, MigrationProgress
//	volume service --stream--> Sessions --> VolumeService (first contact), VolumeSession, VolumeReport
//
// Hosts connect to the leader only (Options.While), because its runs call them: an instance that is not the leader refuses their connections, and
// they find the leader behind the same name or address.
//
// Control runs on every instance too, but acts only while it leads. A leader finishes what its predecessor left, then runs these loops
// until it is deposed or told to stop:
//
//	intents     new intents become runs; a delete cancels what else is under way; migrations wait for room (budget.go)
//	steering    what was asked of a running migration (abort, complete) and what its time limit asks
//	reconcile   what hosts see against what records say (package reconcile decides)
//	networks    tunnels and ports: each host is told its peers; a server's host is told what changed for its NICs
//	pruning     graves, journal, decisions
//
// Every loop is level-triggered: it is woken by a watch, looks at the newest view, and does what that view asks for, so a missed or doubled
// wake-up changes nothing and a new leader needs no hand-over. All writes of a leader require its leadership, so a deposed one fails harmlessly.
//
// When the leadership ends, runs are not undone: their steps are interrupted as they are, hosts go on with what they do, and the next leader
// attaches to it.
package control
