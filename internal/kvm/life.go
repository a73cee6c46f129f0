package kvm

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Define writes the domain's persistent definition, replacing an older one; a running domain keeps running as it is.
func (c *Conn) Define(ctx context.Context, d Domain) error {
	text, err := d.XML()
	if err != nil {
		return err
	}
	return c.quick(ctx, "define", d.ID, func(l *libvirt.Libvirt) error {
		_, err := l.DomainDefineXMLFlags(text, 0)
		return err
	})
}

// Start boots a defined domain and returns when its CPUs run. A domain that has a process already is KindConflict.
func (c *Conn) Start(ctx context.Context, id cloud.ServerID) error {
	return c.slow(ctx, "start", id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err == nil {
			_, err = l.DomainCreateWithFlags(d, 0)
		}
		return err
	})
}

// PressPower asks the guest by ACPI to shut down. The guest may ignore it; the Stopped notice tells when it has not.
func (c *Conn) PressPower(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "shutdown", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainShutdownFlags(d, libvirt.DomainShutdownAcpiPowerBtn)
	})
}

// PressReboot asks the guest by ACPI to restart. The guest may ignore it; the Rebooted notice tells when it has not.
func (c *Conn) PressReboot(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "reboot", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainReboot(d, libvirt.DomainRebootAcpiPowerBtn)
	})
}

// Reset pulls the guest's reset line.
func (c *Conn) Reset(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "reset", id, func(l *libvirt.Libvirt, d libvirt.Domain) error { return l.DomainReset(d, 0) })
}

// Suspend stops the domain's CPUs, Resume lets them run on. Both are KindConflict when there is no process.
func (c *Conn) Suspend(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "suspend", id, func(l *libvirt.Libvirt, d libvirt.Domain) error { return l.DomainSuspend(d) })
}

// Resume lets a suspended domain's CPUs run on.
func (c *Conn) Resume(ctx context.Context, id cloud.ServerID) error {
	return c.onDomain(ctx, "resume", id, func(l *libvirt.Libvirt, d libvirt.Domain) error { return l.DomainResume(d) })
}

// Destroy ends the domain's process at once, as cutting its power would. No domain or no process is success.
func (c *Conn) Destroy(ctx context.Context, id cloud.ServerID) error {
	err := c.slow(ctx, "destroy", id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err == nil {
			err = l.DomainDestroyFlags(d, libvirt.DomainDestroyDefault)
		}
		return err
	})
	if cloud.Is(err, cloud.KindNotFound) || cloud.Is(err, cloud.KindConflict) {
		return nil
	}
	return err
}

// Undefine removes the domain's definition. No domain, or one without a definition, is success.
func (c *Conn) Undefine(ctx context.Context, id cloud.ServerID) error {
	const flags = libvirt.DomainUndefineManagedSave | libvirt.DomainUndefineSnapshotsMetadata | libvirt.DomainUndefineNvram
	err := c.onDomain(ctx, "undefine", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainUndefineFlags(d, flags)
	})
	if cloud.Is(err, cloud.KindNotFound) || cloud.Is(err, cloud.KindConflict) { // conflict: "cannot undefine transient domain"
		return nil
	}
	return err
}

// Describe reads what the domain is made of, as it runs now or, without a process, as it is defined.
func (c *Conn) Describe(ctx context.Context, id cloud.ServerID) (Description, error) {
	var text string
	err := c.onDomain(ctx, "describe", id, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		var err error
		text, err = l.DomainGetXMLDesc(d, 0)
		return err
	})
	if err != nil {
		return Description{}, err
	}
	desc, err := parseDescription([]byte(text))
	return desc, wrap("describe", id, err)
}

func (c *Conn) onDomain(ctx context.Context, op string, id cloud.ServerID, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	return c.quick(ctx, op, id, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		return f(l, d)
	})
}
