package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Checkups holds what was last found of each host's clock, certificates and ways to others, by host name. Written by control.
var Checkups = store.NewTable[cloud.Checkup]("checkups")
