package hostapi

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// PutTelemetry replaces the sample to be sent. One that was not sent in time is lost: its counters are in the next one, and what was used between
// is a gap in a history, no more.
func (o *Outbox) PutTelemetry(sample *hostpb.Telemetry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.telemetry = &hostpb.HostEvent{Event: &hostpb.HostEvent_Telemetry{Telemetry: proto.CloneOf(sample)}}
	o.wake()
}

// TelemetryEvery returns how often the server wants samples, 0 when it wants none or none has welcomed the agent yet.
func (o *Outbox) TelemetryEvery() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.every
}

func (o *Outbox) wantTelemetry(every time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.every = every
}
