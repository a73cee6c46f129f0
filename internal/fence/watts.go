package fence

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/dcmi"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Meter reads what a host draws. The drivers of this package are meters, but many a BMC has none: that is cloud.KindUnsupported, and will be so tomorrow.
type Meter interface {
	// Watts is what the whole host draws from its supply, now or over the last moments.
	Watts(ctx context.Context) (float64, error)
}

// meanMax is the longest sampling period whose mean says what a host draws now. Some BMCs take the mean since they started.
const meanMax = time.Minute

// Watts is DCMI's "get power reading" (DCMI 1.5, section 6.6.1): the mean over the BMC's own sampling period if that is short.
func (d *ipmi) Watts(ctx context.Context) (float64, error) {
	var watts float64
	var unsupported error
	err := d.session(ctx, func(c *client.Client) error {
		reading, err := c.GetDCMIPowerReading(ctx)
		if refused, ok := types.IsResponseError(err); ok && lacksMeter(refused.CompletionCode()) {
			unsupported = err
			return nil
		}
		if err != nil {
			return err
		}
		watts, unsupported = wattsOf(reading)
		return nil
	})
	if err == nil && unsupported != nil {
		err = cloud.E(cloud.KindUnsupported, "read power", d.String(), unsupported)
	}
	return watts, err
}

// lacksMeter reports whether a completion code (IPMI 2.0, table 5-2) says that there is no such command, for good.
func lacksMeter(code types.CompletionCode) bool {
	const insufficientPrivilege = 0xd4
	switch uint8(code) {
	case 0xc1, 0xc2, 0xcc, 0xcd, 0xd5, 0xd6, insufficientPrivilege: // invalid command (on this LUN), data, disabled for this target, state, subsystem
		return true
	}
	return false
}

// wattsOf takes the mean where there is one of the last moments. A meter that is not active answers with zeros.
func wattsOf(r *dcmi.GetDCMIPowerReadingResponse) (float64, error) {
	switch {
	case !r.PowerMeasurementActive:
		return 0, errors.New("its power measurement is not active")
	case r.AveragePower > 0 && (r.CurrentPower == 0 || time.Duration(r.ReportingPeriod)*time.Millisecond <= meanMax):
		return float64(r.AveragePower), nil
	case r.CurrentPower > 0:
		return float64(r.CurrentPower), nil
	}
	return 0, errors.New("its power reading is 0 W although it answers")
}

// chassisResource is the part of a Chassis resource (DSP0268) that leads to its power, in the newer way and in the older one.
type chassisResource struct {
	EnvironmentMetrics link `json:"EnvironmentMetrics"`
	Power              link `json:"Power"`
}

type link struct {
	ID string `json:"@odata.id"`
}

// Watts reads EnvironmentMetrics.PowerWatts of the system's chassis, or the first PowerControl of its Power, which older services have.
func (d *redfish) Watts(ctx context.Context) (float64, error) {
	s, err := d.find(ctx)
	if err != nil {
		return 0, err
	}
	if len(s.Links.Chassis) == 0 {
		return 0, d.lacks("the system names no chassis")
	}
	var c chassisResource
	if err := d.do(ctx, http.MethodGet, s.Links.Chassis[0].ID, nil, &c); err != nil {
		return 0, err
	}
	if c.EnvironmentMetrics.ID != "" {
		var m struct {
			PowerWatts struct {
				Reading *float64 `json:"Reading"`
			} `json:"PowerWatts"`
		}
		if err := d.do(ctx, http.MethodGet, c.EnvironmentMetrics.ID, nil, &m); err != nil {
			return 0, err
		}
		if r := m.PowerWatts.Reading; r != nil && *r > 0 {
			return *r, nil
		}
	}
	if c.Power.ID == "" {
		return 0, d.lacks("the chassis has no reading of its power")
	}
	var p struct {
		PowerControl []struct {
			Consumed *float64 `json:"PowerConsumedWatts"`
		} `json:"PowerControl"`
	}
	if err := d.do(ctx, http.MethodGet, c.Power.ID, nil, &p); err != nil {
		return 0, err
	}
	if len(p.PowerControl) == 0 || p.PowerControl[0].Consumed == nil || *p.PowerControl[0].Consumed <= 0 {
		return 0, d.lacks("its power control has no reading")
	}
	return *p.PowerControl[0].Consumed, nil
}

func (d *redfish) lacks(what string) error {
	return cloud.E(cloud.KindUnsupported, "read power", d.String(), errors.New(what))
}
