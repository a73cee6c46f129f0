package fence

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// ipmiAnswerMax is how long one request waits for its answer; RMCP is UDP, so a lost packet costs this much.
	ipmiAnswerMax = time.Second
	// ipmiTries is how often a request is sent; BMCs drop packets while they are busy.
	ipmiTries = 2
)

type ipmi struct {
	at    netip.AddrPort
	user  string
	pass  string
	suite types.CipherSuiteID
}

// ipmiSuite is RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128 (IPMI 2.0, table 22-20). To try one after the other would cost a time-out each, because BMCs
// drop what they do not support.
const ipmiSuite = 3

func newIPMI(s Settings) (Driver, error) {
	at, err := endpoint(s.Address)
	if err != nil {
		return nil, err
	}
	if s.User == "" || s.Password == "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "BMC %s: user and password are required", s.Address)
	}
	if s.Cipher == 0 {
		s.Cipher = ipmiSuite
	}
	if s.Cipher < 1 || s.Cipher > 17 {
		return nil, cloud.Errorf(cloud.KindInvalid, "BMC %s: cipher suite %d: it must be 1 to 17; 3 and 17 are the usual ones", s.Address, s.Cipher)
	}
	return &ipmi{at: at, user: s.User, pass: s.Password, suite: types.CipherSuiteID(s.Cipher)}, nil
}

func (d *ipmi) String() string { return "ipmi://" + d.user + "@" + d.at.String() }

// session opens a session, runs fn in it and closes it.
func (d *ipmi) session(ctx context.Context, fn func(*client.Client) error) error {
	c, err := client.NewClient(d.at.Addr().String(), int(d.at.Port()), d.user, d.pass)
	if err != nil {
		return cloud.E(cloud.KindInvalid, "", d.String(), err)
	}
	// Power control needs the operator's privilege (IPMI 2.0, table G-1), no more.
	c.WithTimeout(ipmiAnswerMax).WithRetry(ipmiTries).WithMaxPrivilegeLevel(types.PrivilegeLevelOperator).WithCipherSuiteID(d.suite)
	if err := c.Connect(ctx); err != nil {
		return cloud.E(cloud.KindUnavailable, "connect", d.String(), err)
	}
	err = fn(c)
	if closing := c.Close(ctx); err == nil && closing != nil && ctx.Err() == nil {
		return nil // the answer is in hand; the BMC forgets the session by itself
	}
	if err != nil {
		return cloud.E(cloud.KindUnavailable, "", d.String(), err)
	}
	return nil
}

// State reads the chassis status (IPMI 2.0, section 28.2).
func (d *ipmi) State(ctx context.Context) (Power, error) {
	power := Unknown
	err := d.session(ctx, func(c *client.Client) error {
		status, err := c.GetChassisStatus(ctx)
		if err != nil {
			return err
		}
		switch {
		case status.PowerControlFault:
			return fmt.Errorf("power control fault: the host did not enter the state it was told to")
		case status.PowerIsOn:
			power = On
		default:
			power = Off
		}
		return nil
	})
	return power, err
}

// PowerOff is chassis control "power down" (IPMI 2.0, section 28.3).
func (d *ipmi) PowerOff(ctx context.Context) error {
	return d.control(ctx, chassis.ChassisControlPowerDown)
}

// PowerOn is chassis control "power up".
func (d *ipmi) PowerOn(ctx context.Context) error {
	return d.control(ctx, chassis.ChassisControlPowerUp)
}

func (d *ipmi) control(ctx context.Context, what chassis.ChassisControl) error {
	return d.session(ctx, func(c *client.Client) error {
		_, err := c.ChassisControl(ctx, what)
		return err
	})
}
