// Package netspec says what a host must build for a server's ports: it resolves the records that users edit (networks, subnets, ports,
// security groups) into the flat cloud.NIC that a host can carry out without asking back.
//
//	Port -> Network (MTU, VNI)
//	     -> FixedIPs -> Subnet (prefix, gateway, DNS, routes) -> its DHCP port (the address hosts answer from)
//	     -> SecurityGroups -> rules; "remote group" becomes the addresses of that group's ports
//
// Everything is a pure function of Records, a read-only picture; Read makes one of a store's view. Equal records give equal NICs to the
// byte (rules and addresses are sorted), so a host can tell by comparison that nothing changed.
//
// Because a rule may name a group, one port's change can reach servers elsewhere: Affected answers whose NICs a change may have altered. It
// may name too many servers, never too few; a host that is told what it has does nothing.
//
// A dangling reference is possible for a moment, when a view is read between two transactions. It is resolved towards safety: a missing
// security group or an empty remote group allows nothing; a missing network or subnet is an error, since no NIC can be built.
package netspec
