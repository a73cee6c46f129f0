// Package metadata builds what a guest is told about itself, in the formats cloud-init reads: OpenStack's metadata tree and the
// EC2 one. The config drive (files on an ISO image) and the metadata service (HTTP on 169.254.169.254) serve the same bytes from
// here.
//
// The output is a function of the input alone: map keys are sorted, there is no clock and no chance. So a config drive that is built again
// on a migration's target equals the one on the source. For that reason Nova's optional random_seed is left out: a seed that
// everybody can derive is worse than none, and guests have virtio-rng or the CPU's.
//
// It is a leaf: it imports nothing of ours.
package metadata
