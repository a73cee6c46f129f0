// Package ipam gives ports their addresses, MACs and network identifiers, and takes them back. Its functions run inside a caller's
// transaction, so a port, its addresses, and whatever else the caller writes (a server, an intent) appear together or not at all. The network
// API, the compute API and the flows share it.
//
// # What makes an address unique
//
// An address is taken by creating the AddressClaim whose key is "subnet/address". Two transactions that want the same address both read the
// key as absent and both write it; the store lets one commit and runs the other again, which then sees the claim.
//
// Choosing must not make everybody collide. Reading all claims of a subnet would: every allocation changes what every other one has read.
// So a few random addresses are tried first, each by a read of its own key; concurrent allocations rarely meet. Only when the subnet is so full
// that all tries hit taken addresses is the whole list read: then the answer "no more addresses" is exact, and contention is what a
// nearly full subnet deserves.
//
// # What makes removal safe
//
// A port is created from records that it reads: network, subnets, security groups. Removing one of these concurrently changes what the creation
// has read, and the creation runs again to find it gone. The reverse order is guarded by claims: whoever removes a subnet or a network reads
// the range of its claims, and a port that slipped in shows there. A port without addresses therefore leaves a claim on the network itself.
//
// # Errors
//
// A refusal is a cloud.Error whose cause is a *Refusal: the kind says what to do, the Refusal has Neutron's name for the same. Times come from
// the caller.
package ipam
