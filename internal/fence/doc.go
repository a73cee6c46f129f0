// Package fence makes sure that a host is off, and can turn it on again.
//
// A host that is believed dead may be alive: it must not run a server that is started elsewhere. What counts is a confirmed power state: the
// value Off, read from the host's baseboard management controller (BMC) after whatever was done. That a command was accepted, or that a
// program ended with status 0, confirms nothing.
//
//	Isolate: read the state --Off--> fenced ("already off" is success: the host that lost its power is the usual case)
//	              |On
//	              v
//	         power off, at once  --> read the state until it is Off --> fenced
//	              |                        |
//	              no answer ---------------+--> not fenced: Unknown, an error, and nobody may start anything
//
// A BMC that shares the host's power supply answers nothing after a power cut. That is Unknown, not Off, and blocks: another proof is needed
// then (storage fencing, or an operator's word).
//
// Where it can, a driver is also a Meter: it reads what the host draws.
//
// Two protocols: IPMI 2.0 over LAN (RMCP+), with a library, and Redfish (DSP0266), which is JSON over HTTPS. Drivers hold no connection
// between calls: a BMC has few sessions, and many forget them.
//
// The package is a leaf: it knows neither hosts nor servers. Calls take as long as the BMC does, bounded by Options and ctx.
package fence
