// Package gluster says how a GlusterFS volume is, as seen by a host that has it mounted and nothing else of GlusterFS: no glusterd of its own, no login on a storage node.
//
//	MOUNT/.meta/graphs/active/volfile               the client's own graph: bricks, and which of them are replicas of each other
//	MOUNT/.meta/graphs/active/NAME/private          of a replica set: which of its bricks this client reaches, and whether that is its quorum
//	glfsheal VOLUME volfile-path FILE               what waits to be healed and what is split, asked of the bricks themselves
//	gluster system:: getspec VOLUME                 the settings that are in force, asked of glusterd on a node: .meta shows those of the mount
//	getxattr trusted.glusterfs.pathinfo             on which replica set a file lies
//
// The first two cost a file's reading. glfsheal, which comes with GlusterFS's client, is a client of its own: about a tenth of a second of work, so
// it is run when somebody wants to know and every now and then.
//
// # What the words mean
//
// With `replica 2` and quorum "auto", the first brick of a pair decides: with it alone the pair has quorum, with the second alone it has not. So of two bricks that do
// not see each other at most one takes writes, and no file can be split by an outage. A file waits for healing when a write reached one brick of its
// pair only. It is split when each brick accuses the other; then no reader gets anything from it until a person has decided.
//
// # Races
//
// A Health is a snapshot of something that changes by itself. Whoever decides by it (hostagent) must be safe when it is outdated: the file system itself refuses writes
// without quorum and reads of split files.
package gluster
