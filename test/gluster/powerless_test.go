package gluster

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// What is done to a guest with its power off never copies its disk, because both hosts have it, and never removes it, because one of them always needs it: Nova
// has lost disks in this way (its bug 2080436). So the disk has to be the same file, by its inode, whatever was done, until the server is shelved or deleted.

// restedMax bounds what stops and boots a guest once.
const restedMax = 3 * time.Minute

// powerless is a guest that is moved with its power off.
type powerless struct {
	*testing.T
	*labcloud.Fixture
	id    string
	talk  *guest.Client
	last  uint64 // the last record that was acknowledged
	inode string // of the disk
}

// movesWithItsPowerOff has the guest moved to the other host and back by a revert. A drill goes on with all else that is done to a guest that is off, and has
// agents killed in the middle of the clean-up of either side. The guest ends where it began. It returns the connection to the guest, which is a new one.
func movesWithItsPowerOff(ctx context.Context, t *testing.T, f *labcloud.Fixture, talk *guest.Client, s *servers.Server) *guest.Client {
	t.Helper()
	w := &powerless{T: t, Fixture: f, id: s.ID, talk: talk}
	p := placeOf(ctx, t, f, s)
	w.inode = w.inodeOf(ctx, p.from)

	w.sync(ctx)
	w.stock(ctx, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", p.to, w.id)
	w.rests(ctx, "VERIFY_RESIZE", p.to)
	w.sync(ctx)
	w.stock(ctx, "nova", "resize-revert", w.id)
	w.rests(ctx, "ACTIVE", p.from)
	if os.Getenv("GODWIT_DRILL") != "" {
		w.isResized(ctx, p)
		w.losesAgents(ctx, p)
		w.becomesAnImage(ctx, p)
		w.isShelved(ctx, p)
		w.isRebuilt(ctx, p)
	}
	return w.talk
}

func (w *powerless) stock(ctx context.Context, argv ...string) {
	w.Helper()
	stock(ctx, w.T, w.Fixture, argv...)
}

// sync has a record written, which must be there from now on.
func (w *powerless) sync(ctx context.Context) {
	w.Helper()
	var err error
	if w.last, err = w.talk.Sync(ctx); err != nil {
		w.Fatal(err)
	}
}

func (w *powerless) inodeOf(ctx context.Context, host string) string {
	w.Helper()
	out, err := w.Lab.Output(ctx, host, "stat", "-c", "%i", file(w.id))
	if err != nil {
		w.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// files are those of the guest's directory as a host sees them.
func (w *powerless) files(ctx context.Context, host string) string {
	out, _ := w.Lab.Output(ctx, host, "ls", lab.ShareInside+"/"+w.id) // an error is that there is none
	return strings.Join(strings.Fields(out), " ")
}

// rests waits for a status on a host with nothing under way; then the guest runs there and nowhere else, both hosts see the same disk, which is the one it always
// had, and all that was acknowledged is on it.
func (w *powerless) rests(ctx context.Context, status, host string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(ctx, restedMax)
	defer cancel()
	var s *servers.Server
	err := labcloud.Until(ctx, status+" on "+host, func() (ok bool, err error) {
		s, err = w.Server(ctx, w.id)
		return err == nil && s.Status == status && s.TaskState == "" && s.Host == host, err
	})
	if err != nil {
		w.Fatalf("%v: it is %s/%s on %q: %s", err, s.Status, s.TaskState, s.Host, s.Fault.Message)
	}
	w.talk.Close()
	w.talk = answers(ctx, w.T, w.Fixture, s)
	if r, err := w.talk.Verify(ctx); err != nil || !r.OK || r.Last < w.last {
		w.Errorf("%s on %s: the disk log is %+v, %v; record %d was acknowledged", status, host, r, err, w.last)
	}
	for _, node := range []string{here, there} {
		if runs := strings.HasPrefix(state(ctx, w.Fixture, node, w.id), "running"); runs != (node == host) {
			w.Errorf("%s on %s: it runs on %s: %v", status, host, node, runs)
		}
		if inode := w.inodeOf(ctx, node); inode != w.inode {
			w.Errorf("%s on %s: on %s its disk is inode %s; it was %s", status, host, node, inode, w.inode)
		}
	}
	if here, there := w.files(ctx, here), w.files(ctx, there); here != there || !slices.Contains(strings.Fields(here), "owner") {
		w.Errorf("%s on %s: the hosts see %q and %q", status, host, here, there)
	}
}

// isResized: to another flavor, confirmed, and back.
func (w *powerless) isResized(ctx context.Context, p place) {
	w.Helper()
	if _, err := w.Flavor(ctx, "larger", 2, 192, 2); err != nil {
		w.Fatal(err)
	}
	w.sync(ctx)
	w.stock(ctx, "openstack", "server", "resize", "--flavor", "larger", w.id)
	w.rests(ctx, "VERIFY_RESIZE", p.to)
	w.sync(ctx)
	w.stock(ctx, "openstack", "server", "resize", "confirm", w.id)
	w.rests(ctx, "ACTIVE", p.to)
	w.stock(ctx, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", p.from, w.id)
	w.rests(ctx, "VERIFY_RESIZE", p.from)
	w.stock(ctx, "nova", "resize-confirm", w.id)
	w.rests(ctx, "ACTIVE", p.from)
}

// losesAgents kills the agent that cleans up as soon as a confirmation or a revert was asked, and the agent that starts the guest.
func (w *powerless) losesAgents(ctx context.Context, p place) {
	w.Helper()
	for _, host := range []string{p.from, p.to} {
		w.sync(ctx)
		w.stock(ctx, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", p.to, w.id)
		w.rests(ctx, "VERIFY_RESIZE", p.to)
		w.sync(ctx)
		w.stock(ctx, "nova", "resize-revert", w.id)
		w.kill(ctx, host)
		w.rests(ctx, "ACTIVE", p.from)
	}
	for range 2 { // there and back
		now := placeOf(ctx, w.T, w.Fixture, &servers.Server{ID: w.id})
		w.sync(ctx)
		w.stock(ctx, "nova", "--os-compute-api-version", "2.56", "migrate", "--host", now.to, w.id)
		w.rests(ctx, "VERIFY_RESIZE", now.to)
		w.stock(ctx, "nova", "resize-confirm", w.id)
		w.kill(ctx, now.from)
		w.rests(ctx, "ACTIVE", now.to)
	}
}

func (w *powerless) kill(ctx context.Context, host string) {
	w.Helper()
	if err := w.Lab.KillUnit(ctx, host, lab.UnitAgent); err != nil {
		w.Fatal(err)
	}
}

// becomesAnImage: while it runs, and its disk stays what it was.
func (w *powerless) becomesAnImage(ctx context.Context, p place) {
	w.Helper()
	w.stock(ctx, "openstack", "server", "image", "create", "--wait", "--name", "powerless-image", w.id)
	w.rests(ctx, "ACTIVE", p.from)
	w.stock(ctx, "openstack", "image", "delete", "powerless-image")
}

// isShelved: its disk is an image then and leaves the directory; when it is back, it has another disk with all that was on the first.
func (w *powerless) isShelved(ctx context.Context, p place) {
	w.Helper()
	w.sync(ctx)
	w.stock(ctx, "openstack", "server", "shelve", w.id)
	if _, err := w.WaitStatus(ctx, w.id, "SHELVED_OFFLOADED"); err != nil {
		w.Fatal(err)
	}
	if left := w.files(ctx, here) + w.files(ctx, there); left != "" {
		w.Errorf("a shelved server keeps %s", left)
	}
	w.stock(ctx, "nova", "unshelve", w.id)
	s, err := w.WaitStatus(ctx, w.id, "ACTIVE")
	if err != nil {
		w.Fatal(err)
	}
	w.inode = w.inodeOf(ctx, s.Host)
	w.rests(ctx, "ACTIVE", s.Host)
	if s.Host != p.from { // placement chose
		w.stock(ctx, "nova", "live-migration", w.id, p.from)
		w.rests(ctx, "ACTIVE", p.from)
	}
}

// isRebuilt: from its image, so that its log begins anew on a disk that is new.
func (w *powerless) isRebuilt(ctx context.Context, p place) {
	w.Helper()
	w.sync(ctx)
	w.stock(ctx, "openstack", "server", "rebuild", "--wait", "--image", w.ImageID, w.id)
	w.last, w.inode = 0, w.inodeOf(ctx, p.from)
	w.rests(ctx, "ACTIVE", p.from)
}
