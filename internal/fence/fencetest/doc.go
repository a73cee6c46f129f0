// Package fencetest is a BMC for tests: it speaks IPMI 2.0 over RMCP+ on a real UDP socket of loopback, and DCMI's power reading, which the common
// simulator (OpenIPMI's ipmi_sim) lacks.
//
//	client ----- Get Channel Authentication Capabilities (IPMI 1.5 header) ------> BMC
//	       ----- Open Session, RAKP 1, RAKP 3 (cipher suite 3) ------------------>
//	       ===== AES-CBC-128, HMAC-SHA1-96, session sequence numbers ============>   commands; Close Session
//
// It is written after the standards alone (IPMI 2.0, sections 13 and 22; DCMI 1.5, section 6.6.1) and shares no code with the client under test, so a
// mistake made twice is needed to hide one; its own test has stock ipmitool talk to it. It is strict: where a real BMC would drop a packet without a
// word, it drops it too, and notes what was wrong with it. What was noted fails the test at its end.
//
// One goroutine reads the socket and answers; everything it knows is guarded by one mutex.
package fencetest
