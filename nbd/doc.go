// Package nbd speaks the Network Block Device protocol: the server's side for any transport, a server over net.Conn, and a client.
//
//	Negotiation   what client and server agree on before the first request: fixed newstyle, its options, TLS. Bytes in, bytes out
//	Conn          the transmission phase: requests come out of bytes, a Device carries them out, replies go to a Wire
//	Server        both over net.Conn, with TLS
//	Client        the other side: for copies and tests
//
// The protocol is that of https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, with structured replies and the metadata
// context base:allocation; without extended headers, and without the oldstyle handshake.
//
// # Ownership
//
// Negotiation and Conn do no I/O and start no goroutine. A Conn belongs to whoever feeds it: an event loop (package uring's Link satisfies
// Wire, and Conn satisfies its Session), or Server, whose connections have a lock each. Device.Start may finish a request before it
// returns, or later, in any order, from wherever the owner of the Conn allows: with a lock from any goroutine, without one only on the
// loop's own thread.
//
// # What a client may cost
//
// Every length a client sends is checked before anything is allocated for it. A connection has a bounded number of requests and of payload
// bytes under way; while it is at its bound nothing more is read from it. Negotiation has a bounded number of options of bounded size and,
// in Server, a time limit. A client that breaks the framing of the protocol is cut off; one that merely asks for what is not allowed gets
// an error.
//
// # Resizing
//
// The protocol has no message by which a server announces a new size (the RESIZE extension was never adopted). Requests are checked
// against Device.Size at the time they arrive, so a client that learns the new size by other means (QEMU's block_resize) may use it at
// once; NBD_OPT_INFO and new connections see it anyway.
package nbd
