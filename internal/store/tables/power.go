package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// HostPowers holds which hosts sleep on purpose, by host name; a host without a record is awake. Written by control; the edge and flows
// set what is asked.
var HostPowers = store.NewTable[cloud.HostPower]("host-powers")
