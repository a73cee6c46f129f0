// Package instanceha is the edge that speaks Masakari's instance-ha API v1, microversions 1.0 to 1.3: failover segments, their hosts, notifications of
// failures, and the moves of servers that followed.
//
//	openstack segment ...       --> Segments, SegmentHosts   read by placement (reserved hosts), recovery and healing (maintenance, disabled segments)
//	openstack notification ...  --> Notifications (new)      read by control: a VM's leads to healing, a host's asks the judge of its life to look
//	                            <-- Notifications, Recoveries: what the cluster saw itself is there too, with its progress
//
// Masakari's engine acts on what monitors tell it. Here the cluster sees failures itself, and a notification is a hint: a host is fenced and recovered
// when its own judge finds it dead, whoever says so first. Everything is an administrator's, as Masakari's policies have it.
package instanceha
