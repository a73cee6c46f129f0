// Package volume keeps volumes: block devices that outlive servers, as plain files, and decides who may write them.
//
//	DIR/lock                    held by the process that serves DIR
//	DIR/probe.1, probe.2        empty files with which Open asks what the file system can do
//	DIR/images/...              images that volumes are made of; whose uses the Store keeps them
//	DIR/volumes/ID/meta         what is true of the volume: checksummed, replaced whole (meta.go)
//	DIR/volumes/ID/meta.next    space for the next meta; worth nothing
//	DIR/volumes/ID/data         its content: a raw sparse file, readable without godwit
//	DIR/volumes/ID/snapshots/S  its content as it was when snapshot S was made
//
// A Store is one such directory (a back end). Store's methods that change a volume block and are called from anywhere; what the data path asks
// (Find, Admit and all of Lease) does not block and may be called on an event loop's thread.
//
// # What is true
//
// The meta file is the truth and every operation is one change of it, made durable (written beside, synced, put in its place, directory synced)
// before the caller hears of success. What the change speaks of is made durable before it: data before "ready", a snapshot's file before its entry, a
// longer file before a greater size. What the change forgets is removed after it. So whatever the moment of a crash, the meta file
// names nothing that is not there, and what it does not name is litter that Open sweeps away. A volume has three phases:
//
//	making   a directory whose data nobody may use yet; Open removes it (its maker got no answer)
//	ready    a volume
//	gone     no data, only the memory of its generation, so that a late request cannot bring it back; forgotten after a week
//
// A meta file that does not match its checksum is reported with every request for its volume and neither used, replaced nor removed: an
// older copy could let a writer back in that was cut off.
//
// # Generations
//
// Every change carries the generation it was decided on. A volume keeps the greatest it has accepted and refuses older ones with
// cloud.KindStale. Calls may be repeated: what is already so is success.
//
// # Who may write: epochs
//
// Each attachment gets the volume's next epoch, a number that never comes again. The volume remembers the greatest epoch that became the
// writer, and that alone decides the roles (ledger.go):
//
//	epoch == writer   WRITER
//	epoch >  writer   STANDBY  may read; becomes the writer with its first mutation or by Promote
//	epoch <  writer   CUT OFF  for good
//
// Attachments that are read-only are readers whatever their epoch; shared ones (multiattach) write beside others and cut nobody off. Both the
// order of writers and the fact that there is one at a time follow from one number that only grows.
//
// A change of the writer has four steps, in this order: the older writer's gate shuts, so that new mutations are held; the mutations under way
// are waited for; the new ledger becomes durable; then roles change, held mutations of the older writer are refused and its connections told to end.
// Until the third step is done nothing has happened: if it fails or its caller gives up, the older writer's gate opens again.
//
// # The data path
//
// A Lease is one connection's right to use an attachment. Its gate is one word: the number of mutations under way, and a bit that says "not now".
// Begin adds one and looks at the bit, EndAt takes one away; no lock, no allocation. Only when the bit is set does anybody take
// the volume's lock to find out why. Reads are not counted: a read that overtakes a cut-off sees the file as it is.
//
// A snapshot of a volume that is being written needs nobody's help where the file system shares blocks: the kernel clones between two writes. Elsewhere the
// data is copied while writers go on, then what they wrote meanwhile, and they are held only for what is left at last (track.go).
//
// # Locks
//
// An operation on a volume has its turn (volume.turn), one at a time, over all its I/O. volume.mu guards what the data path sees and is
// never held over I/O or a callback. meta is written with both and may be read with either. Store.mu guards the map of volumes. Order: turn,
// Store.mu or volume.mu; the two are never held together.
//
// All effects on files go through fileSystem (fsys.go). The tests replace it with one that records them, cut the record at every point, lose what
// was not synced, and compare what Open makes of the rest with what callers had been told.
package volume
