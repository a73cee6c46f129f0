// Package gluster holds the tests of shared storage on a real GlusterFS: four nodes with a brick each, two pairs of replicas, mounted by the compute
// hosts as their directory of server disks, and by a volume service as a back end. The lab is this package's own, so that its faults disturb nobody else's guests; one guest serves several sentences,
// because a boot on an emulated processor is what takes the time.
package gluster
