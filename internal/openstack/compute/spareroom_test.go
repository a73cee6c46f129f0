package compute

import (
	"strconv"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/spare"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// judging has the site judge spare room for the loss of one host.
func judging(refuse bool) func(*Options) {
	return func(o *Options) {
		p := placement.DefaultPolicy()
		o.Spare, o.SpareRefuse = spare.Policy{Placement: p, Hosts: 1, Automatic: true}, refuse
	}
}

// fill puts one server on each host that takes ramMiB of it and would be recovered.
func (w *site) fill(ramMiB int) {
	w.Helper()
	for i := 1; i <= 3; i++ {
		s := w.addServer(i, hostNameOf(i), func(s *cloud.Server) {
			s.Flavor.RAMMiB = ramMiB
			s.Devices = []cloud.BlockDevice{{Volume: "root"}}
		})
		usage := cloud.Usage{Host: s.Host}
		placement.Claim(&usage, nil, cloud.Claim{Server: s.ID, Resources: s.Resources()})
		put(w, tables.Usages, s.Host, usage)
	}
}

// bootVolatile asks for a server that is made anew when its host dies, in as many copies.
func bootVolatile(flavor string, count int) m {
	return m{"server": m{"name": "new", "imageRef": imageID, "flavorRef": flavor, "min_count": count,
		"metadata": m{"godwit:recovery_rebuild": "on"}, "networks": []m{{"uuid": networkID}}}}
}

// TestWhoTakesTheLastSpareRoomIsWarned: each host has 7680 MiB to promise. Three servers of 3072 MiB survive the loss of any host; a fourth, on any of them, does
// not. The request is done all the same, and says so: to an administrator with the hosts' names, to others without.
func TestWhoTakesTheLastSpareRoomIsWarned(t *testing.T) {
	w := newSite(t, judging(false))
	w.fill(3072)
	if got := w.want(202, "ann", 1, "POST", "/servers", bootVolatile("1", 1)).header.Values("Warning"); len(got) != 0 {
		t.Errorf("a small server: warned of %q", got)
	}
	for who, want := range map[string]string{"ann": `299 godwit "the cloud has no spare room for the servers of hosts that die"`, "admin": "would find no room elsewhere"} {
		body := bootVolatile("4", 1) // 8 GiB do not fit at all: that is placement's refusal to make, and nothing is left behind
		if got := w.want(202, who, 1, "POST", "/servers", body).header.Get("Warning"); got != "" {
			t.Errorf("a server that no host takes, asked for by %s: warned of %q", who, got)
		}
		if got := w.want(202, who, 1, "POST", "/servers", bootVolatile("3", 2)).header.Get("Warning"); !strings.Contains(got, want) {
			t.Errorf("two of 4 GiB each, asked for by %s: warned of %q, want %q", who, got, want)
		}
	}
	s := w.server(serverID(1))
	w.ballast(700) // 3908 MiB are left on each
	move := moveBody(56, "compute-2", "auto")
	if got := w.want(202, "admin", 56, "POST", "/servers/"+string(s.ID)+"/action", move).header.Get("Warning"); got != "" {
		t.Errorf("a move, after which all is as before: warned of %q", got)
	}
	w.ballast(1000)
	grow := m{"resize": m{"flavorRef": "3"}}
	if got := w.want(202, "admin", 1, "POST", "/servers/"+string(serverID(2))+"/action", grow).header.Get("Warning"); !strings.Contains(got, "would find no room elsewhere") {
		t.Errorf("a resize to 4 GiB: warned of %q", got)
	}
	if got := w.want(202, "admin", 56, "POST", "/servers/"+string(serverID(3))+"/action", move).header.Get("Warning"); !strings.Contains(got, "would find no room elsewhere") {
		t.Errorf("a move in a fleet that is short: warned of %q", got)
	}
}

// ballast claims more of every host, for nobody.
func (w *site) ballast(ramMiB int) {
	w.Helper()
	w.change(func(tx *store.Tx) error {
		for i := 1; i <= 3; i++ {
			usage, err := store.Get(tx, tables.Usages, hostNameOf(i))
			if err != nil {
				return err
			}
			placement.Claim(&usage, nil, cloud.Claim{Server: cloud.ServerID("ballast-" + strconv.Itoa(ramMiB)), Resources: cloud.Resources{RAMMiB: ramMiB}})
			if err := store.Put(tx, tables.Usages, usage.Host, usage); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestWhatTakesTheLastSpareRoomIsRefusedWhenThatIsWanted, and only what makes it worse: a fleet that is short already takes what changes nothing about that.
func TestWhatTakesTheLastSpareRoomIsRefusedWhenThatIsWanted(t *testing.T) {
	w := newSite(t, judging(true))
	w.fill(3072)
	w.refused(403, "After this request the cloud has no spare room for the servers of hosts that die.", "ann", 1, "POST", "/servers", bootVolatile("3", 3))
	if left := len(store.All(w.store, tables.Servers)); left != 3 {
		t.Errorf("%d servers after a refused request", left)
	}
	w.want(202, "ann", 1, "POST", "/servers", bootVolatile("1", 1))
	w.fill(5000) // short now
	for i := 1; i <= 3; i++ {
		if got := w.want(202, "admin", 1, "POST", "/servers", bootVolatile("1", 1)).header.Get("Warning"); got == "" {
			t.Error("a fleet that is short: not warned")
		}
	}
}
