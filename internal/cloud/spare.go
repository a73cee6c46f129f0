package cloud

import (
	"fmt"
	"strings"
	"time"
)

// SpareRoom is whether the servers of the largest hosts could be started elsewhere, should those die now (N+k). The leader keeps one record of it.
type SpareRoom struct {
	Hosts    int           `json:"hosts"`           // how many were taken to die at once; 0: nothing is judged
	Lost     []HostName    `json:"lost"`            // the hosts whose loss is the worst
	Servers  int           `json:"servers"`         // that would have to start elsewhere
	Homeless int           `json:"homeless"`        // of those, the ones without room
	Missing  Resources     `json:"missing"`         // what these claim
	Named    []SpareServer `json:"named,omitempty"` // some of them
	Since    time.Time     `json:"since,omitzero"`  // when it last became, or ceased to be, short
}

// SpareServer is a server that would find no room.
type SpareServer struct {
	Server ServerID `json:"server"`
	Host   HostName `json:"host"`   // where it is
	Reason string   `json:"reason"` // of one host that refuses it
}

// Short reports whether servers would find no room.
func (r *SpareRoom) Short() bool { return r.Homeless > 0 }

// Describe says it in one sentence; empty when nothing is judged.
func (r *SpareRoom) Describe() string {
	if r.Hosts == 0 {
		return ""
	}
	lost := make([]string, len(r.Lost))
	for i, h := range r.Lost {
		lost[i] = string(h)
	}
	names := strings.Join(lost, ", ")
	if !r.Short() {
		return fmt.Sprintf("the %d servers of %s would find room elsewhere", r.Servers, names)
	}
	return fmt.Sprintf("%d of the %d servers of %s would find no room elsewhere (%d MiB, %d vCPUs, %d GiB)", r.Homeless, r.Servers, names,
		r.Missing.RAMMiB, r.Missing.VCPUs, r.Missing.DiskGiB)
}
