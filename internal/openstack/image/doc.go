// Package image is godwit's Glance v2: images as records in the store and data as plain files in one directory.
//
//	POST /v2/images           queued
//	PUT  /v2/images/ID/file   queued --> saving --> active           <dir>/.uploads/ID --fsync, rename--> <dir>/ID
//	                            ^----------'   any failure; the partial file is removed
//	DELETE /v2/images/ID      deleted (invisible) --> record and file removed when no server was booted from it
//
// # Data
//
// Data is streamed in both directions through a fixed buffer, with a deadline that moves on with each piece: a client may be slow, not
// silent. While it is written its MD5 and SHA-512 are computed; the header is inspected before the image becomes active, so that what is
// called qcow2 is one, whole and without a backing or data file (which would let an image name files of the host that runs it). A full
// download is hashed again, and its last piece is held back until the hash is right: a damaged file ends in a cut connection, never in a
// complete-looking answer.
//
// # Who owns what
//
// The process that uploads holds a lock (flock) on the data file from before the record says saving until after it says something else. So
// a record that says saving whose file nobody has locked belongs to a dead upload, and Maintain puts it back to queued, on any server.
//
// A deleted image whose servers still exist keeps its data, unseen by the API: hosts fetch it as the base of those servers' disks when they
// move. Maintain removes it after the last of them.
//
// A download holds the file open, so deleting under it is safe. All servers that share a store must share the image directory.
package image
