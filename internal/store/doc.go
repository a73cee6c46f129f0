// Package store keeps godwit's truth: etcd for every write, a replica in memory for every read.
//
//	Update(fn) ---- one etcd transaction: compare all that was read, then write ----> etcd (embedded or a cluster)
//	   ^                                                                                |
//	   | first attempt reads                                                            | one watch over the whole prefix
//	   |                                                                                v
//	View, Lookup, By, Ascend  <---- newest snapshot (atomic pointer) <---- feeder: the one goroutine that changes the trees
//	                                                                         |
//	Watch (kicks), WatchRecords (changes) <---- bounded, merging mailboxes --+
//
// # Tables
//
// A Table[T] is a name for JSON records of type T with optional indexes. Keys and ids come from the caller; the store invents none. Indexes are
// computed in memory by the replica; only unique indexes leave a mark in etcd, a guard key per value, because only a key can be compared.
//
// # Transactions
//
// Update is optimistic: fn reads one consistent revision, its writes are buffered, and the commit is a single etcd transaction that compares
// everything fn has read. The first attempt reads the replica, which costs nothing; the replica may be some milliseconds behind, and that is
// harmless, because the compares are what decides. Attempts after a lost race read etcd itself. Even an error of fn is confirmed against etcd
// before it is returned, so that "not found" and "no room" are never an artefact of the lag.
//
// Reads of a range are protected against phantoms: inserts and changes show in the range's modification revisions; deletes do not, so each
// delete also writes a tombstone key that range readers compare. Leased records vanish without a tombstone and are compared one by one.
// All of this assumes that nobody else writes below the prefix.
//
// # Replica
//
// The feeder decodes each record once and keeps ordered trees with O(1) copy-on-write clones. For each batch of events it publishes a new
// snapshot; etcd never splits a revision over two batches, so every snapshot shows whole transactions. Readers take the newest snapshot by an
// atomic load and hold it as long as they like: a View never changes, blocks nobody and needs no closing. The values in it are shared by
// everybody; whoever wants to change one takes a copy through Get.
//
// When the watch fails (compaction overtook it, the member lost its leader), the feeder reads everything again and publishes the difference,
// so that consumers see one continuous history with a gap, not a restart. Reads go on meanwhile, from an older snapshot; Health says how old.
// Read-your-writes is by revision: UpdateVisible, or Update and WaitRevision.
//
// # Leadership
//
// Campaign elects one process. A leadership has a fencing revision, and Tx.Require makes a transaction depend on it: however long a deposed
// leader was asleep, its writes fail. Records of presence hang on a Lease and vanish with it.
//
// # Embedded and external
//
// Without endpoints the store runs a single-member etcd inside the process. It listens nowhere; the client calls it by function. A lock file
// gives the data directory one user. With endpoints it is a plain client, over mutual TLS. Everything above is the same code for both, and the
// limits (128 operations a transaction) are those of an etcd with default settings.
//
// # Crashes
//
// etcd acknowledges a write after it is in the synced log, so a killed process loses nothing that Update has returned.
package store
