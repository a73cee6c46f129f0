package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/operator"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// quickHealing and watchfulAgent keep the tests short. The agent's patience is still longer than a guest on a busy machine is away.
var (
	quickHealing  = map[string]any{"heal_backoff": "1s"}
	watchfulAgent = map[string]any{"guest_silence_max": "10s", "guest_disk_error_after": "6s"}
)

// healMax bounds a test of guests that fail: half a dozen boots, and what agents wait for.
const healMax = 6 * time.Minute

// TestAGuestThatKeepsFailingIsRestartedThenStartedElsewhereThenLeftToAPerson: QEMU is killed, the kernel panics, the watchdog expires, the guest agent falls
// silent. Three times the guest is restarted where it is, with a growing pause, the fourth time on another host; nothing it was told to be on its disk is lost, and
// everything is told. After the fifth it is left alone. In a drill each of the four goes the whole way too.
func TestAGuestThatKeepsFailingIsRestartedThenStartedElsewhereThenLeftToAPerson(t *testing.T) {
	for _, c := range courses(t) {
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

// A course is what befalls one guest.
type course struct {
	name     string
	failures []failure // as many as there are attempts
}

func courses(t *testing.T) []course {
	all := failures(t)
	out := []course{{"all", all}}
	if drill {
		for _, f := range all {
			out = append(out, course{f.word, slices.Repeat([]failure{f}, len(all))})
		}
	}
	return out
}

func (c course) run(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), healMax)
	defer cancel()
	g := bootWatched(t, "patient", here)
	told := listen(ctx, t, g.id)
	var events, words []string
	for i, f := range c.failures {
		t.Run(f.word, func(t *testing.T) { g.failsAndComesBack(ctx, t, f) })
		status := "restarting"
		if i == len(c.failures)-1 {
			status = "moving"
		}
		events, words = append(events, f.word+" "+status, f.word+" healed"), append(words, f.word+" on host "+here)
	}
	if at := g.host(t); at == here {
		t.Errorf("after four failures it is on %s still", at)
	}
	leavesNothing(ctx, t, here, g.id)
	g.whole(t)
	g.story(t, append(words, "attempt 3: it is restarted", "attempt 4: it is started on another host than "+here, "restarts: 3, starts elsewhere: 1")...)
	g.pausesGrow(t, time.Second)
	if actions := stock(t, "nova", "instance-action-list", g.id); strings.Count(actions, "reboot") != 3 || strings.Count(actions, "evacuate") != 1 {
		t.Errorf("instance actions:\n%s", actions)
	}
	killQEMU(ctx, t, g.host(t), g.id)
	g.givenUp(ctx, t, "it failed again after 3 restarts on its host and 1 starts elsewhere")
	told.has(ctx, t, append(events, "crashed gave-up")...)
	if listed := stock(t, "openstack", "notification", "list", "-f", "value", "-c", "payload"); strings.Count(listed, g.id) != len(c.failures)+1 {
		t.Errorf("notifications, want %d of server %s:\n%s", len(c.failures)+1, g.id, listed)
	}
}

// TestAGuestThatNeedsNoHelpIsLeftAlone: QEMU is killed of one whose owner wants no healing; another shuts itself down; the watchdog of a third has reset it, as its
// flavor says.
func TestAGuestThatNeedsNoHelpIsLeftAlone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), healMax)
	defer cancel()
	stock(t, "openstack", "flavor", "create", "self-help", "--vcpus", "1", "--ram", "256", "--disk", "1", "--property", "hw:watchdog_action=reset")
	later(t, "openstack", "flavor", "delete", "self-help")
	guests := bootAll(t, guestOptions{name: "proud", host: there}, guestOptions{name: "tired", host: there})
	proud, tired := guests[0], guests[1]
	stock(t, "nova", "meta", "proud", "set", "godwit:recovery=off")
	killQEMU(ctx, t, there, proud.id)
	if err := tired.talk.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	brisk := boot(t, guestOptions{name: "brisk", host: there, flavor: "self-help"})
	before := brisk.status(t)
	if err := brisk.talk.ArmWatchdog(ctx); err != nil {
		t.Fatal(err)
	}
	brisk.comesBack(ctx, t, before.BootID)
	brisk.story(t, "its watchdog device has already done what its owner asked for", "restarts: 0, starts elsewhere: 0")
	for _, g := range guests {
		if _, err := cloud.WaitStatus(ctx, g.id, "SHUTOFF"); err != nil {
			t.Fatal(err)
		}
	}
	proud.story(t, "it is not to be healed: godwit:recovery=off", "crashed on host "+there)
	if listed := stock(t, "openstack", "notification", "list", "-f", "value", "-c", "payload"); strings.Contains(listed, tired.id) || strings.Count(listed, proud.id) != 1 {
		t.Errorf("notifications, want one of %s and none of %s:\n%s", proud.id, tired.id, listed)
	}
}

// A failure of a guest, and how it is made.
type failure struct {
	word string // for it, in what is told
	make func(ctx context.Context, g *running) error
}

func failures(t *testing.T) []failure {
	return []failure{
		{"crashed", func(ctx context.Context, g *running) error { killQEMU(ctx, t, g.host(t), g.id); return nil }},
		{"panicked", func(ctx context.Context, g *running) error { return g.talk.Panic(ctx) }},
		{"watchdog", func(ctx context.Context, g *running) error { return g.talk.ArmWatchdog(ctx) }},
		{"silent", func(ctx context.Context, g *running) error {
			// It is missed only when it was heard: the second ping comes when the first's answer has been noted.
			err := labcloud.Until(ctx, "two pings of the agent", func() (bool, error) {
				s, err := g.talk.Status(ctx)
				return s.AgentPings >= 2, err
			})
			if err != nil {
				return err
			}
			return g.talk.SilenceAgent(ctx)
		}},
	}
}

// bootWatched boots a guest from a volume, with a watchdog that pauses it and a guest agent.
func bootWatched(t *testing.T, name, host string) *running {
	t.Helper()
	ctx := t.Context()
	file, err := guest.Image(ctx)
	if err != nil {
		t.Fatal(err)
	}
	image, err := cloud.UploadImage(ctx, name+"-image", file)
	if err != nil {
		t.Fatal(err)
	}
	later(t, "openstack", "image", "delete", image)
	stock(t, "openstack", "image", "set", "--property", "hw_watchdog_action=pause", "--property", "hw_qemu_guest_agent=yes", image)
	return boot(t, guestOptions{name: name, host: host, volume: volumeOf(t, name+"-root", image)})
}

// failsAndComesBack has the guest fail and waits until it answers from another boot, with every record it had been told is on its disk.
func (g *running) failsAndComesBack(ctx context.Context, t *testing.T, f failure) {
	t.Helper()
	before := g.status(t)
	last, err := g.talk.Sync(ctx)
	if err == nil {
		err = f.make(ctx, g)
	}
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	g.comesBack(ctx, t, before.BootID)
	t.Logf("%s: answers %.1f s later", f.word, time.Since(began).Seconds())
	if r, err := g.talk.Verify(ctx); err != nil || !r.OK || r.Last < last {
		t.Errorf("disk log %+v %v; record %d was acknowledged before", r, err, last)
	}
}

// comesBack waits until the guest answers from another boot.
func (g *running) comesBack(ctx context.Context, t *testing.T, bootID string) {
	t.Helper()
	const answerMax = 5 * time.Second
	err := labcloud.Until(ctx, "guest comes back", func() (bool, error) {
		s, err := cloud.Server(ctx, g.id)
		if err != nil || s.Status != "ACTIVE" {
			return false, err
		}
		short, cancel := context.WithTimeout(ctx, answerMax)
		defer cancel()
		talk, err := cloud.Talk(short, s)
		if err != nil {
			return false, nil //nolint:nilerr // it has not started yet
		}
		if now, err := talk.Status(short); err != nil || now.BootID == bootID {
			return false, talk.Close()
		}
		g.talk.Close()
		g.talk = talk
		return true, nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, console(g.id))
	}
}

// story checks what `godwit why` says of the server.
func (g *running) story(t *testing.T, want ...string) {
	t.Helper()
	text := stock(t, godwit, "why", "--all", g.id)
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("godwit why does not say %q:\n%s", w, text)
		}
	}
}

// pausesGrow checks that after each attempt nothing was done for twice as long as after the one before.
func (g *running) pausesGrow(t *testing.T, first time.Duration) {
	t.Helper()
	life, err := serverLife(t.Context(), g.id)
	if err != nil || life.Healing == nil {
		t.Fatalf("life %+v, %v", life, err)
	}
	tries := life.Healing.Tries
	for i, pause := 1, first; i < len(tries); i, pause = i+1, 2*pause {
		if was := tries[i].At.Sub(tries[i-1].Ended); was < pause {
			t.Errorf("attempt %d came %v after the end of the one before, want at least %v", i+1, was, pause)
		}
	}
}

// healings are the events of a server's healing, as "failure status".
type healings struct {
	mu   sync.Mutex
	seen []string // guarded by mu
}

// listen collects them until the test ends.
func listen(ctx context.Context, t *testing.T, id string) *healings {
	t.Helper()
	resp, err := cloud.Events(ctx, "server="+id)
	if err != nil {
		t.Fatal(err)
	}
	h := &healings{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.read(resp)
	}()
	t.Cleanup(func() {
		resp.Close()
		<-done
	})
	return h
}

func (h *healings) read(from io.Reader) {
	lines := bufio.NewScanner(from)
	event := ""
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || event != "healing" {
			continue
		}
		var told struct {
			Failure string `json:"failure"`
			Status  string `json:"status"`
		}
		if err := json.Unmarshal([]byte(data), &told); err != nil {
			told.Failure = err.Error()
		}
		h.mu.Lock()
		h.seen = append(h.seen, told.Failure+" "+told.Status)
		h.mu.Unlock()
	}
}

// has waits until these were told, in this order: events come a moment after what they tell of can be asked for.
func (h *healings) has(ctx context.Context, t *testing.T, want ...string) {
	t.Helper()
	missing := ""
	err := labcloud.Until(ctx, "the events", func() (bool, error) {
		missing = h.lacks(want)
		return missing == "", nil
	})
	if err != nil {
		t.Errorf("%v: the event %q is missing in %q", err, missing, h.seen)
	}
}

// lacks is the first of these that was not told in this order.
func (h *healings) lacks(want []string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	rest := h.seen
	for _, w := range want {
		at := slices.Index(rest, w)
		if at < 0 {
			return w
		}
		rest = rest[at+1:]
	}
	return ""
}

// TestAGuestWhoseDiskFailsIsTriedHereAndElsewhereAndThenLeftToAPerson: the file system below its volume reports errors, so it stands still on the first; a restart
// does not help, nor does another host, and nothing more is tried.
func TestAGuestWhoseDiskFailsIsTriedHereAndElsewhereAndThenLeftToAPerson(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g := bootOnSpoiledDisk(ctx, t, "spoiled", there)
	g.givenUp(ctx, t, "it failed again after 1 restarts on its host and 1 starts elsewhere")
	g.story(t, "io-error on host "+there, "attempt 1: it is restarted on host "+there, "it was restarted", "attempt 2: it is started on another host than "+there)
}

// spoiler puts a volume's data on a file system of its own, in a file on the node's disk; the volume must not be in use. It is ext4, which fails reads and writes when
// it is told to, and not the questions for a file's size.
const spoiler = `set -e
data=$(echo "$1"/*/volumes/"$2"/data); file="$1/spoiler"; dir="$1/spoiled"
truncate -s 2G "$file"; mkfs.ext4 -q "$file"; mkdir "$dir"; mount -o loop "$file" "$dir"
cp --sparse=always "$data" "$dir/data"; mount --bind "$dir/data" "$data"`

// breaker has every request to that file system fail.
const breaker = `xfs_io -x -c shutdown "$1/spoiled"`

// unspoiler gives the volume the data back that it had before spoiler.
const unspoiler = `umount -l "$1"/*/volumes/"$2"/data; umount -l "$1/spoiled"; rmdir "$1/spoiled"; rm -f "$1/spoiler"`

// bootOnSpoiledDisk boots a guest from a volume, and then has everything fail that is asked of the disk below it, as a kernel does with a dead disk.
func bootOnSpoiledDisk(ctx context.Context, t *testing.T, name, host string) *running {
	t.Helper()
	volume := bootable(t, name+"-root")
	if _, err := on(ctx, storage, "sh", "-c", spoiler, "sh", disk, volume); err != nil {
		t.Fatal(err)
	}
	g := boot(t, guestOptions{name: name, host: host, volume: volume})
	t.Cleanup(func() { // before the server is deleted
		if _, err := on(context.Background(), storage, "sh", "-c", unspoiler, "sh", disk, volume); err != nil {
			t.Error(err)
		}
	})
	if _, err := on(ctx, storage, "sh", "-c", breaker, "sh", disk, volume); err != nil {
		t.Fatal(err)
	}
	return g
}

// givenUp waits until a person is asked about the guest, for the given reason, and `godwit why` says so.
func (g *running) givenUp(ctx context.Context, t *testing.T, reason string) {
	t.Helper()
	var last operator.ServerLife
	err := labcloud.Until(ctx, "a person is asked", func() (bool, error) {
		var err error
		last, err = serverLife(ctx, g.id)
		return last.Healing != nil && last.Healing.Status == "gave-up", err
	})
	if err != nil {
		t.Errorf("%v: %+v", err, last)
	}
	g.story(t, "its guest: gave-up, "+reason)
}

// toldOfNoRoom waits until a person is told that the guest stands still for want of room, and checks that nothing is done about it.
func (g *running) toldOfNoRoom(ctx context.Context, t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last operator.ServerLife
	err := labcloud.Until(ctx, "want of room is told", func() (bool, error) {
		var err error
		last, err = serverLife(ctx, g.id)
		return last.Healing != nil, err
	})
	if h := last.Healing; err != nil || h.Failure != "no-space" || h.Status != "left" || len(h.Tries) != 0 {
		t.Errorf("%v: healing %+v", err, h)
	}
}

// serverLife asks the operator API what befell a server.
func serverLife(ctx context.Context, id string) (operator.ServerLife, error) {
	var out struct {
		Life operator.ServerLife `json:"life"`
	}
	return out.Life, cloud.Operator(ctx, http.MethodGet, "servers/"+id+"/life", nil, &out)
}
