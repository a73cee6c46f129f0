package fence

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Power is a confirmed power state.
type Power string

// The power states. Unknown is the zero value.
const (
	Unknown Power = ""
	On      Power = "on"
	Off     Power = "off"
)

// String returns the state, "unknown" for Unknown.
func (p Power) String() string {
	if p == Unknown {
		return "unknown"
	}
	return string(p)
}

// Driver speaks to one host's BMC. Its methods are safe for concurrent use.
type Driver interface {
	// State reads the power state. An error comes with Unknown.
	State(ctx context.Context) (Power, error)
	// PowerOff cuts the power at once; it does not ask the operating system. It returns when the BMC has accepted the command.
	PowerOff(ctx context.Context) error
	// PowerOn turns the power on. It returns when the BMC has accepted the command.
	PowerOn(ctx context.Context) error
	// String names the BMC without its password, for evidence and logs.
	String() string
}

// Settings say how a host's BMC is reached.
type Settings struct {
	Protocol string // "ipmi" or "redfish"
	Address  string // ipmi: IP[:port], 623 by default; redfish: https://host[:port]
	User     string
	Password string
	Cipher   int    // ipmi: cipher suite, 3 (the one that every BMC has) by default; 17 for a BMC whose owner has turned SHA-1 off
	System   string // redfish: id of the system ("1"); empty: the only one there is
	CA       string // redfish: PEM of the authority that signed the BMC's certificate; empty: the system's authorities
}

// New makes the driver that the settings name. It connects to nothing. A KindInvalid error says which setting is wrong.
func New(s Settings) (Driver, error) {
	switch s.Protocol {
	case "ipmi":
		return newIPMI(s)
	case "redfish":
		return newRedfish(s)
	default:
		return nil, cloud.Errorf(cloud.KindInvalid, "BMC protocol %q: it must be ipmi or redfish", s.Protocol)
	}
}

// ipmiPort is the port of RMCP (IPMI 2.0, section 13.1.2).
const ipmiPort = 623

// endpoint parses IP[:port].
func endpoint(address string) (netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return ap, nil
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.AddrPort{}, cloud.Errorf(cloud.KindInvalid, "BMC address %q: it must be an IP address, with :port when it is not %d", address, ipmiPort)
	}
	return netip.AddrPortFrom(ip, ipmiPort), nil
}

// Patience bounds Isolate and Wake. The zero value means the defaults.
type Patience struct {
	// Max is how long the wanted state is waited for.
	Max time.Duration
	// Every is the time between two readings. BMCs are slow and do not announce changes, so there is no event to wait for.
	Every time.Duration
}

const (
	// PatienceMax is enough for BMCs that hold a four-second "power button".
	PatienceMax = 20 * time.Second
	// PatienceEvery keeps the delay small beside what a BMC needs to answer (0.1 to 1 s).
	PatienceEvery = 200 * time.Millisecond
)

func (p Patience) withDefaults() Patience {
	if p.Max == 0 {
		p.Max = PatienceMax
	}
	if p.Every == 0 {
		p.Every = PatienceEvery
	}
	return p
}

// Evidence is what happened while a power state was sought, for the record.
type Evidence struct {
	BMC     string        `json:"bmc"`
	Power   Power         `json:"power"`             // last confirmed state
	Already bool          `json:"already,omitempty"` // it was so before anything was done
	Took    time.Duration `json:"took"`
	Steps   []string      `json:"steps"` // what was done and answered, in order
}

// Isolate turns the host off and returns nil only when the BMC says that it is off. Any error is KindUnavailable and means: not fenced.
func Isolate(ctx context.Context, d Driver, p Patience) (Evidence, error) {
	return reach(ctx, d, Off, d.PowerOff, p)
}

// Wake turns the host on and returns nil when the BMC says that it is on; the operating system has then only begun to start.
func Wake(ctx context.Context, d Driver, p Patience) (Evidence, error) {
	return reach(ctx, d, On, d.PowerOn, p)
}

// reach brings the host into the wanted state. The command is given again when the BMC forgot it or was too busy to hear it: it is idempotent.
func reach(ctx context.Context, d Driver, want Power, command func(context.Context) error, p Patience) (Evidence, error) {
	p = p.withDefaults()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.Max)
	defer cancel()
	e := Evidence{BMC: d.String()}
	var last error
	for tries := 0; ; tries++ {
		state, err := d.State(ctx)
		e.note("state: %s", state, err)
		if err == nil {
			e.Power = state
		} else {
			last = err
		}
		if err == nil && state == want {
			e.Already = tries == 0
			e.Took = time.Since(began)
			return e, nil
		}
		if tries%commandEvery == 0 { // also after an unanswered reading: the command may get through
			err := command(ctx)
			e.note("turn "+string(want)+": %s", "accepted", err)
			if err != nil {
				last = err
			}
		}
		select {
		case <-ctx.Done():
			e.Took = time.Since(began)
			if last == nil {
				last = ctx.Err()
			}
			return e, cloud.E(cloud.KindUnavailable, "turn "+string(want), d.String(), fmt.Errorf("the state is %s after %v: %w", e.Power, e.Took.Round(time.Millisecond), last))
		case <-time.After(p.Every):
		}
	}
}

const (
	// commandEvery is after how many readings without success the command is given again: two seconds with the defaults.
	commandEvery = 10
	// stepsMax bounds the evidence: its beginning says what matters.
	stepsMax = 40
)

func (e *Evidence) note(format string, what any, err error) {
	if err != nil {
		what = err
	}
	if step := fmt.Sprintf(format, what); len(e.Steps) < stepsMax && (len(e.Steps) == 0 || e.Steps[len(e.Steps)-1] != step) {
		e.Steps = append(e.Steps, step)
	}
}
