// Package peerdisk is how compute hosts hand each other files: the disk of a server that moves with its power off, and base images.
//
//	source agent                                   target agent
//	Offer(name, path, host) --> NBD, mutual TLS --> Pull(name) --> uring --> file, with its holes
//	Base(sha512) ------------'
//
// # Who may read what
//
// Every connection is TLS 1.3 with certificates of the cloud's authority on both ends. An offered disk may be read by the one host it is offered to, under a
// name that only the two agents know; a base image by every host of the cloud, because its name is the hash of its content. Nothing can be written.
//
// # Ownership
//
// A Server owns its listener, its connections and the files it has open. Withdraw ends an offer: it waits until the requests under way are done, and clients
// that are still connected get errors from then on, never bytes of a file that somebody else has begun to write.
//
// # The copy
//
// Pull asks for the file's extents first and reads only what is data, several requests at a time. Blocks of zeros become holes too. The file is written through
// a ring of package uring where the kernel has one. A copy that fails leaves a file that the caller must not use: callers pull into a temporary name.
package peerdisk
