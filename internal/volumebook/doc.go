// Package volumebook keeps the accounts of volumes: what a volume may be made of, what a project may have, which type it gets. Both edges
// that make volumes (volume, and compute for a server that boots from a new one) and the flows follow the same rules here.
//
//	Plan   (reads)        a wish -> the record, or the refusal in Cinder's words
//	Create (transaction)  quota, record, intent
//	Take, GiveBack        the project's usage, in the transaction that makes or removes the volume or snapshot
//
// It holds no state and calls nobody. Two requests that take the last of a quota meet at the project's VolumeUsage record: the store runs the
// second again, which then finds it taken.
package volumebook
