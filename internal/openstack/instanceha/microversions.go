package instanceha

import "github.com/godwit-cloud/godwit/internal/openstack"

// Changes lists every microversion on offer, in order. docs/microversions-ha.md is made from it; see TestMicroversionDocument.
var Changes = []openstack.Change{
	openstack.ChangeHonoured(0, "first version: segments, hosts, notifications", "every body is checked; a notification about a host is evidence for its judge: fenced, then recovered"),
	openstack.ChangeHonoured(1, "`recovery_workflow_details` of a notification", "GET /notifications/{id}: one line for each step of healing or recovery"),
	openstack.ChangeHonoured(2, "`enabled` of segments", "nothing in a disabled segment is healed or recovered; an unknown property before"),
	openstack.ChangeHonoured(3, "VM moves of a notification", "GET /notifications/{id}/vmoves: the servers of the recovery; 404 before"),
}
