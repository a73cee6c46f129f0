package kvm

import (
	"context"
	"strings"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Notice says what seems to have happened to a domain since its notices were last read. It is a set.
type Notice uint16

// The notices.
const (
	// Changed: its state may have changed. Set with every other notice.
	Changed Notice = 1 << iota
	// Resumed: its CPUs began to run, by boot, migration or un-pause.
	Resumed
	// Arrived: its CPUs began to run here after a migration from another host.
	Arrived
	// Departed: it stopped here because it runs on another host now.
	Departed
	// Stopped: it ended here, for whatever reason but migration.
	Stopped
	// Rebooted: the guest was reset.
	Rebooted
	// DiskFailed: a disk returned an error.
	DiskFailed
	// PostCopied: its CPUs stopped here because post-copy lets them run on another host, which fetches the rest of the memory from here.
	PostCopied
	// DeviceGone: the guest let go of a device, and QEMU has closed it.
	DeviceGone
	// DeviceKept: the guest refused to let go of a device.
	DeviceKept
	// Panicked: the guest's kernel said that it cannot go on. The domain ends with it.
	Panicked
	// WatchdogFired: the guest did not feed its watchdog device, which did what its definition says.
	WatchdogFired
	// DiskFull: there was no room for what the guest wrote. Set with DiskFailed.
	DiskFull
)

var noticeNames = []string{"changed", "resumed", "arrived", "departed", "stopped", "rebooted", "disk-failed", "post-copied", "device-gone", "device-kept",
	"panicked", "watchdog-fired", "disk-full"}

// Has reports whether all of want are in n.
func (n Notice) Has(want Notice) bool { return n&want == want }

// String lists the notices, for logs.
func (n Notice) String() string {
	var names []string
	for i, name := range noticeNames {
		if n.Has(1 << i) {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Batch is all that is new since the last one was read.
type Batch struct {
	// Resync: the connection is new, so anything may have happened to any domain, known ones that are gone included.
	Resync  bool
	Domains map[cloud.ServerID]Notice
}

// mailbox merges notices until they are read. It holds at most one entry per domain.
type mailbox struct {
	bell chan struct{} // capacity 1: there is something to read

	mu   sync.Mutex
	next Batch // guarded by mu
}

func newMailbox() *mailbox {
	return &mailbox{bell: make(chan struct{}, 1), next: Batch{Domains: map[cloud.ServerID]Notice{}}}
}

func (m *mailbox) put(id cloud.ServerID, n Notice) {
	m.mu.Lock()
	m.next.Domains[id] |= n
	m.mu.Unlock()
	m.ring()
}

func (m *mailbox) resync() {
	m.mu.Lock()
	m.next.Resync = true
	m.mu.Unlock()
	m.ring()
}

func (m *mailbox) ring() {
	select {
	case m.bell <- struct{}{}:
	default:
	}
}

func (m *mailbox) take(ctx context.Context) (Batch, error) {
	select {
	case <-m.bell:
	case <-ctx.Done():
		return Batch{}, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.next
	m.next = Batch{Domains: map[cloud.ServerID]Notice{}}
	return b, nil
}

// Notices waits until something has happened and returns it. One reader at a time. It fails only when ctx ends.
func (c *Conn) Notices(ctx context.Context) (Batch, error) { return c.mail.take(ctx) }

// streams are the goroutines that carry a session's events to the mailbox.
type streams struct{ wg *sync.WaitGroup }

func (s streams) wait() { s.wg.Wait() }

// subscribed are the events a session asks for.
var subscribed = []libvirt.DomainEventID{
	libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDReboot, libvirt.DomainEventIDIoErrorReason,
	libvirt.DomainEventIDDeviceRemoved, libvirt.DomainEventIDDeviceRemovalFailed, libvirt.DomainEventIDWatchdog,
}

// subscribe starts a carrier for each subscribed event. They end when the link does.
func (c *Conn) subscribe(ctx context.Context, l *link) (streams, error) {
	s := streams{wg: &sync.WaitGroup{}}
	// The streams end with the link, not with ctx: the client answers a cancelled stream by a call on a link that we are closing.
	life := context.WithoutCancel(ctx)
	for _, id := range subscribed {
		ch, err := l.rpc.SubscribeEvents(life, id, nil)
		if err != nil {
			return s, err
		}
		s.wg.Go(func() {
			for ev := range ch {
				c.carry(ev)
			}
		})
	}
	return s, nil
}

// carry puts one event into the mailbox.
func (c *Conn) carry(event any) {
	switch ev := event.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		c.note(ev.Msg.Dom, lifecycleNotice(ev.Msg.Event, ev.Msg.Detail))
	case *libvirt.DomainEventCallbackRebootMsg:
		c.note(ev.Msg.Dom, Changed|Rebooted)
	case *libvirt.DomainEventCallbackIOErrorReasonMsg:
		c.log.Error("disk error", "domain", ev.Msg.Dom.Name, "disk", ev.Msg.DevAlias, "path", ev.Msg.SrcPath, "reason", ev.Msg.Reason)
		c.note(ev.Msg.Dom, diskNotice(ev.Msg.Reason))
	case *libvirt.DomainEventCallbackDeviceRemovedMsg:
		c.note(ev.Msg.Dom, Changed|DeviceGone)
	case *libvirt.DomainEventCallbackDeviceRemovalFailedMsg:
		c.log.Warn("guest keeps a device", "domain", ev.Dom.Name, "device", ev.DevAlias)
		c.note(ev.Dom, Changed|DeviceKept)
	case *libvirt.DomainEventCallbackWatchdogMsg:
		c.log.Warn("guest's watchdog fired", "domain", ev.Msg.Dom.Name, "action", libvirt.DomainEventWatchdogAction(ev.Msg.Action))
		c.note(ev.Msg.Dom, Changed|WatchdogFired)
	}
}

// noSpace is the only reason for a disk error that QEMU tells.
const noSpace = "enospc"

func diskNotice(reason string) Notice {
	if reason == noSpace {
		return Changed | DiskFailed | DiskFull
	}
	return Changed | DiskFailed
}

func (c *Conn) note(d libvirt.Domain, n Notice) {
	if ours(d.Name) {
		c.mail.put(idOf(d), n)
	}
}

// lifecycleNotice translates libvirt's lifecycle events.
func lifecycleNotice(event, detail int32) Notice {
	switch libvirt.DomainEventType(event) {
	case libvirt.DomainEventStarted:
		return Changed // a received domain "starts" paused; Resumed tells when its CPUs run
	case libvirt.DomainEventResumed:
		switch libvirt.DomainEventResumedDetailType(detail) {
		case libvirt.DomainEventResumedMigrated, libvirt.DomainEventResumedPostcopy:
			return Changed | Resumed | Arrived
		}
		return Changed | Resumed
	case libvirt.DomainEventSuspended:
		switch libvirt.DomainEventSuspendedDetailType(detail) {
		case libvirt.DomainEventSuspendedPostcopy, libvirt.DomainEventSuspendedPostcopyFailed:
			return Changed | PostCopied
		}
	case libvirt.DomainEventStopped:
		if libvirt.DomainEventStoppedDetailType(detail) == libvirt.DomainEventStoppedMigrated {
			return Changed | Departed
		}
		return Changed | Stopped
	case libvirt.DomainEventCrashed:
		if libvirt.DomainEventCrashedDetailType(detail) == libvirt.DomainEventCrashedPanicked {
			return Changed | Stopped | Panicked
		}
		return Changed | Stopped
	}
	return Changed
}

func idOf(d libvirt.Domain) cloud.ServerID { return cloud.ServerID(uuid.UUID(d.UUID).String()) }
