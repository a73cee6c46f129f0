// Package instanceha is the edge that speaks Masakari's instance-ha API v1, microversions 1.0 to 1.3: failover segments, their hosts, notifications of
// failures, and the moves of servers that followed.
//
//	openstack segment ...       --> Segments, SegmentHosts   read by placement (reserved hosts), recovery and healing (maintenance, disabled segments)
//	openstack notification ...  --> Notifications (new)      read by control: a VM's leads to healing, a host's is evidence for the judge of its life
//	                            <-- Notifications, Recoveries: what the cluster saw itself is there too, with its progress
//
// Masakari's engine acts on what monitors tell it. Here the cluster sees failures itself, and a notification is evidence: a host that is said to
// have stopped and is silent is turned off, and recovered when it is off; one that is heard is left alone, whoever says what. Everything is an administrator's, as Masakari's policies have it.
package instanceha
