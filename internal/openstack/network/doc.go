// Package network is Neutron's v2.0 API as far as servers need it: networks, subnets, ports, security groups with their rules, tags, and the small
// read-only resources that clients look at (extensions, agents, availability zones, quotas, IP availabilities).
//
//	request --decode--> input --authorise, validate--> transaction { ipam, records } --wait for the replica--> view --> answer
//	GET     ----------> records of one view --> views --> filter --> sort --> page --> fields
//
// # One pipeline for lists and single resources
//
// A resource is shown as a map from attribute names to values, built by one function per kind for the caller at hand: what an ordinary member
// may not see is not in the map, and so can be neither read, filtered by, nor sorted by. Filters, sorting, paging and field selection work on
// these maps and know no kind (list.go).
//
// # What is not offered is refused
//
// Routers, floating IPs, subnet pools, address scopes and the like have empty lists, so that clients that look for them find none, and refuse to
// be created with 501. An attribute whose meaning is not carried out is refused when set (IPv6 modes, QoS policies, DNS names), never
// stored and ignored.
//
// # Who may
//
// As Neutron's default policies: members see and change what their project owns, everyone sees and uses shared networks, a network's owner sees the
// ports on it and may choose MACs and addresses there, and the rest (other projects, sharing, provider attributes, bindings) is for
// administrators. What a caller may not see is not found.
//
// # Races
//
// Addresses, MACs, VXLAN identifiers and removal are ipam's; see its package comment. Updates read the record in the transaction that writes it, so
// two updates of one record never lose one another's attributes, and If-Match compares the revision there.
//
// Hosts learn of changes because control watches these tables; nothing here calls a host.
package network
