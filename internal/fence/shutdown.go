package fence

import (
	"context"

	"github.com/bougou/go-ipmi/pkg/command/chassis"
)

// Shutdowner asks a host's operating system to end itself in order, as its power button does. The drivers of this package are. That the BMC has accepted
// it proves nothing, and an operating system may not listen: whoever wants to know reads the state, and whoever must be sure calls Isolate.
type Shutdowner interface {
	ShutDown(ctx context.Context) error
}

// ShutDown is chassis control "initiate a soft-shutdown of OS via ACPI" (IPMI 2.0, section 28.3).
func (d *ipmi) ShutDown(ctx context.Context) error {
	return d.control(ctx, chassis.ChassisControlSoftShutdown)
}

// ShutDown resets with GracefulShutdown.
func (d *redfish) ShutDown(ctx context.Context) error { return d.reset(ctx, "GracefulShutdown") }
