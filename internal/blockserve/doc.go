// Package blockserve serves volumes to QEMU over NBD. It is the data path: everything a guest reads or writes passes through here.
//
//	listener --accept--> lane (one for each core): uring.Stack        threads: nbd.Server
//	                       link -> nbd.Session -> gate -> the ring      goroutines -> gate -> nbd.Blocking
//	                                               |                                   |
//	                                               +------ Lease (package volume) -----+
//
// # Two engines
//
// On io_uring, a connection lives on one loop's thread from the first byte to the last: its requests come out of the ring's receive buffers,
// go to the ring as reads and writes of registered files, and their answers leave together at the end of the round. No goroutine is woken for a
// request. What the ring has no operation for (SEEK_DATA, advice, zeros written by hand) is done by a bounded number of
// goroutines that post their results back. Where the kernel refuses io_uring, or a setting says so, the engine is plain threads: package
// nbd's Server, a goroutine for each request. Both pass one suite of tests. Which one runs, and why, is said at start and in the metrics;
// nothing falls back in silence.
//
// # TLS
//
// A client that asks for TLS leaves its loop with the connection, shakes hands in a goroutine, and comes back: crypto/tls then runs over memory
// instead of a socket, on the loop's thread, like everything else (secure.go).
//
// # The gate
//
// Before a request reaches the file it passes the connection's gate (gate.go), in this order: the volume's limits, which delay it; the epoch, which
// lets a mutation pass, holds it while a standby is made the writer, or refuses it. A held or delayed request waits in a list; nothing blocks the
// loop. When the attachment is cut off, everything the client asks is answered ESHUTDOWN, and a moment later the connection closes. The count
// of mutations under way, which a cut-off waits for, is taken before a mutation is handed to the kernel and given back after the
// kernel has completed it, whether or not the client is still there.
//
// # Ownership
//
// everything of a lane (links, sessions, gates, tasks, file slots) belongs to the loop's thread. In the threads engine a gate is used by
// several goroutines and what they share has a lock. A gate holds its lease from Attach to Detach; Detach comes after the last request. The
// Server owns its goroutines: acceptors, handshakes, connections of the threads engine and off-loop work; Close waits for all of them.
//
// # What clients may cost
//
// A connection may have 256 requests and payloadMax bytes under way, or one larger request; a client that does not read its answers is
// asked nothing more when a megabyte waits for it. An idle connection costs its structures, some 3 KiB (16 KiB with TLS), and no buffers: receive
// buffers are the loop's. Negotiation has a time limit, connections have a total bound, and a listener that runs out of descriptors rests.
//
// # Restart
//
// Shutdown finishes what is under way and closes connections without refusing anything: QEMU reconnects and asks again for what went unanswered
// (reconnect-delay), so a restart of the service stalls guests and breaks nothing.
package blockserve
