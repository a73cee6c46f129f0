//go:build drill

// Package sharedmoves moves a guest with its power off between hosts that have one directory of server disks. It brings up a lab of its own, so it is a drill.
package sharedmoves

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

const (
	allMax = 10 * time.Minute
	here   = "compute-1"
	there  = "compute-2"
)

// world is a cloud of hosts with one directory, and a guest.
type world struct {
	*testing.T
	*labcloud.Fixture
	id   string
	talk *guest.Client
	last uint64 // the last record that was acknowledged
}

// stock runs a stock client.
func (w *world) stock(ctx context.Context, argv ...string) {
	w.Helper()
	if out, err := w.Client(ctx, argv...); err != nil {
		w.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

// arrives waits for a status on a host, with nothing under way, and checks that what was acknowledged is on the disk and that the guest runs once.
func (w *world) arrives(ctx context.Context, status, host string) {
	w.Helper()
	var s *servers.Server
	err := labcloud.Until(ctx, status+" on "+host, func() (ok bool, err error) {
		s, err = w.Server(ctx, w.id)
		if err == nil && s.Status == "ERROR" {
			err = fmt.Errorf("%s", s.Fault.Message)
		}
		return err == nil && s.Status == status && s.TaskState == "" && s.Host == host, err
	})
	if err != nil {
		w.Fatalf("%v: it is %s/%s on %q", err, s.Status, s.TaskState, s.Host)
	}
	if w.talk != nil {
		w.talk.Close()
	}
	if w.talk, err = w.Talk(ctx, s); err != nil {
		w.Fatal(err)
	}
	if r, err := w.talk.Verify(ctx); err != nil || !r.OK || r.Last < w.last {
		w.Errorf("%s on %s: the disk log is %+v %v, record %d was acknowledged", status, host, r, err, w.last)
	}
	for _, node := range []string{here, there} {
		out, _ := w.Lab.Output(ctx, node, "virsh", "-q", "list", "--state-running", "--uuid") // an error shows as no guest
		if runs := strings.Contains(out, w.id); runs != (node == host) {
			w.Errorf("%s on %s: on %s it runs: %v", status, host, node, runs)
		}
	}
	w.Logf("%s on %s: record %d, %s", status, host, w.last, w.files(ctx, host))
	if w.files(ctx, here) == "" || w.files(ctx, here) != w.files(ctx, there) {
		w.Errorf("%s on %s: %s has %q, %s has %q", status, host, here, w.files(ctx, here), there, w.files(ctx, there))
	}
}

// files are those of the guest's disk directory, as a host sees them.
func (w *world) files(ctx context.Context, node string) string {
	out, _ := w.Lab.Output(ctx, node, "ls", lab.ShareInside+"/"+w.id) // an error is that there is none
	return strings.Join(strings.Fields(out), " ")
}

func (w *world) sync(ctx context.Context) {
	w.Helper()
	var err error
	if w.last, err = w.talk.Sync(ctx); err != nil {
		w.Fatal(err)
	}
}

// TestAServerInASharedDirectoryMovesWithItsPowerOff: nothing is copied, nothing that the server needs is removed, by a confirmation as little as by a revert,
// and what was written on the target is there after the revert. When it is shelved, and when it is deleted, the directory goes.
func TestAServerInASharedDirectoryMovesWithItsPowerOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), allMax)
	defer cancel()
	w := &world{T: t, Fixture: labcloud.BringUp(ctx, t, labcloud.Options{Name: "shared", Hosts: 2, Shared: true})}
	s, err := w.BootGuest(ctx, "sharer", here, map[string]string{"log": "20ms"})
	if err != nil {
		t.Fatal(err)
	}
	w.id = s.ID
	w.arrives(ctx, "ACTIVE", here)

	w.sync(ctx)
	w.stock(ctx, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", there, "sharer")
	w.arrives(ctx, "VERIFY_RESIZE", there)
	w.sync(ctx)
	w.stock(ctx, "nova", "resize-revert", "sharer")
	w.arrives(ctx, "ACTIVE", here)

	w.sync(ctx)
	if _, err := w.Flavor(ctx, "shared-large", 2, 192, 2); err != nil {
		t.Fatal(err)
	}
	w.stock(ctx, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", there, "sharer")
	w.arrives(ctx, "VERIFY_RESIZE", there)
	w.stock(ctx, "nova", "resize-confirm", "sharer")
	w.arrives(ctx, "ACTIVE", there)
	w.sync(ctx)
	w.stock(ctx, "openstack", "server", "resize", "--flavor", "shared-large", "sharer")
	w.arrives(ctx, "VERIFY_RESIZE", here)
	w.stock(ctx, "openstack", "server", "resize", "confirm", "sharer")
	w.arrives(ctx, "ACTIVE", here)

	w.sync(ctx)
	w.stock(ctx, "openstack", "server", "shelve", "sharer")
	if _, err := w.WaitStatus(ctx, w.id, "SHELVED_OFFLOADED"); err != nil {
		t.Fatal(err)
	}
	if left := w.files(ctx, here) + w.files(ctx, there); left != "" {
		t.Errorf("a shelved server keeps %s", left)
	}
	w.stock(ctx, "openstack", "server", "unshelve", "sharer")
	back, err := w.WaitStatus(ctx, w.id, "ACTIVE")
	if err != nil {
		t.Fatal(err)
	}
	w.arrives(ctx, "ACTIVE", back.Host)

	w.stock(ctx, "openstack", "server", "delete", "--wait", "sharer")
	if left := w.files(ctx, here) + w.files(ctx, there); left != "" {
		t.Errorf("a deleted server keeps %s", left)
	}
}
