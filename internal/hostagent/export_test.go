package hostagent

import "github.com/godwit-cloud/godwit/internal/cloud"

// Claims returns the servers whose disks the agent would hold against other hosts of a shared directory, with the generations it would hold them by.
func Claims(a *Agent) map[cloud.ServerID]int64 { return (&guardian{Agent: a}).unguarded() }
