// Package volume speaks Cinder v3 with microversions 3.0 to 3.70: volumes and what may be asked of them, snapshots, types, attachments,
// quotas, services and pools. Each microversion is honoured or refused, never half: Changes says which, and
// docs/microversions-volume.md is made from it.
//
//	request --> Routes --> call --> handler --reads---> store.View (one snapshot per request)
//	                                        --writes--> one transaction: state check, quota, record, Intent
//	                                                    wait for the replica, answer 202
//
// # What it owns
//
// The edge creates volumes and snapshots (as creating, with an intent), moves them into the status that an intent stands for
// (deleting, extending, uploading ...), renames them, changes metadata, types, quotas and what operators say of volume services. It never
// calls a volume service. The rules that compute follows too are not here but in the packages volumebook (what a volume may be made of,
// quotas) and attachments (who has which volume).
//
// # Who connects
//
// Servers reach volumes over NBD, and only compute's hosts are let in. So an attachment can be reserved, shown and given up here, as
// clients and operators need it, but not connected: os-initialize_connection and a connector in an attachment are answered with 501,
// and what belongs to a server is detached through compute, a 409 here, as in Cinder since CVE-2023-2088.
//
// # Races
//
// A handler judges again inside its transaction on what the transaction read. Two deletes, or a delete and an attach, of one volume meet at its
// record: the second finds the status the first one left.
package volume
