// Package cloud is godwit's vocabulary: the nouns an operator knows (host, server, flavor, image, port, migration ...),
// the states they can be in with their legal moves, and the kinds of error that may befall them.
//
// It imports nothing of ours, does no I/O, reads no clock and starts no goroutine. Every record is a plain value that
// encodes to JSON; the encoding is the on-disk form in etcd, so a field is never renamed or given another meaning, only added.
//
// # Ownership
//
// Each record has one writer. The edge (openstack/...) creates records and writes intents; control and its flows write what a
// server is and where it runs; a host's agent owns HostReport and, by way of ServerObservation, what it has seen of its servers.
// Reports carry a generation and a sequence number that only their owner increments: a stale or repeated report is harmless.
//
//	edge ---writes---> Intent, Migration(queued) ---control---> run ---flows---> Server.{VMState,Host,Generation}, Usage
//	agent --reports--> HostReport, ServerObservation, MigrationProgress
package cloud
