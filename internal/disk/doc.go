// Package disk keeps servers' disks on a host's file system.
//
//	DIR/images/SHA512              base images, verified, read-only, shared by every server booted from them
//	DIR/images/SHA512.part         one being fetched; a later attempt goes on where it ends
//	DIR/instances/ID/disk          a server's root disk: a qcow2 overlay on its base
//	DIR/instances/ID/disk.config   its config drive: an ISO 9660 volume labelled config-2
//	DIR/instances/ID/console.log   what its serial console prints, appended by QEMU
//	DIR/instances/ID/console.past  the end of what it printed on earlier hosts
//	DIR/instances/ID/owner         which host may remove the directory (its host-id), and whether it took it over
//	DIR/instances/shared-id        identity of instances/, random; two hosts that read the same one share the directory
//	DIR/host-id                    identity of this host's store, random
//
// # Base images
//
// A base is named by the SHA-512 of its data, fetched at most once at a time however many servers wait for it, checked, made durable and only then given
// its name: a name in images/ is a proof. Because equal names mean equal bytes on every host, a block migration copies only an
// overlay's own clusters and the target puts them on its own copy of the base.
//
// An image comes from a user, and QEMU would follow what it says: a qcow2 file can name any file of the host as its backing or data file. Such
// images are refused by reading their header here, before any other program opens them, and formats are always stated, never probed.
//
// # Ownership
//
// Everything below DIR/instances/ID belongs to one server; the caller (hostagent) serialises calls for the same server. Calls for different
// servers and for bases may run at once. Files appear under their names whole or not at all (written beside, synced, renamed).
//
// When instances/ is a file system that several hosts share, a server's directory is there on each of them. The owner file says which
// host may remove it or make its disks anew: written first when the directory is made, rewritten by Claim when a server has moved
// in. A host that finds another's directory uses it and leaves it. One that took a directory over, as an evacuation does, says so in it: what fails
// afterwards must not undo what was there before. Temporary files are swept in a host's own directories only.
//
// A base is removed when no overlay names it (the overlays are read to find out; there is no list that could be wrong) and nobody
// asked for it for some time. Between fetching a base and making the overlay, the age protects it.
//
// # The config drive
//
// An ISO 9660 volume with Rock Ridge and Joliet names, written by this package in one pass with fixed dates: the same files always give the
// same bytes, so a drive regenerated on another host is the drive the guest has mounted. ISO 9660 rather than FAT because it cannot be written to
// by the guest in the first place, is Nova's default, and needs no allocation tables.
package disk
