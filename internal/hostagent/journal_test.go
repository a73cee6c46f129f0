package hostagent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

func newJournal(t *testing.T) *journal {
	t.Helper()
	j, err := openJournal(filepath.Join(t.TempDir(), "servers"))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestRecordsSurviveAndPasswordsDoNot(t *testing.T) {
	j := newJournal(t)
	r := record{Server: cloud.ServerID(uuid.NewString()), Generation: 4, Started: 3, Role: RoleDeparting, Move: &moveRecord{ID: "m", CopyDisks: true}}
	if err := r.setSpec(&hostpb.ServerSpec{ServerId: string(r.Server), Name: "web", AdminPass: "secret"}); err != nil {
		t.Fatal(err)
	}
	if err := j.save(r); err != nil {
		t.Fatal(err)
	}
	got, err := j.load(r.Server)
	if err != nil || got.Generation != 4 || got.Started != 3 || got.Role != RoleDeparting || got.Move.ID != "m" || !got.Move.CopyDisks {
		t.Fatalf("loaded %+v, %v", got, err)
	}
	spec, err := got.spec()
	if err != nil || spec.GetName() != "web" || spec.GetAdminPass() != "" {
		t.Errorf("spec %v, %v", spec, err)
	}
}

func TestARecordOfAnOlderAgentHoldsItsDiskByTheNewestDecision(t *testing.T) {
	for _, c := range []struct {
		r    record
		want int64
	}{
		{record{Generation: 4, Role: RoleResident}, 4},
		{record{Generation: 4, Role: RoleResident, Started: 3}, 3},
		{record{Generation: 4, Role: RoleResident, Started: notStarted}, 0},
		{record{Generation: 4, Role: RoleDeparting, Started: 3}, 0},
	} {
		if got, ok := c.r.claim(); got != c.want || ok != (c.want > 0) {
			t.Errorf("%+v: holds by %d, %v", c.r, got, ok)
		}
	}
}

func TestServersNeverHeardOfAreNoError(t *testing.T) {
	j := newJournal(t)
	id := cloud.ServerID(uuid.NewString())
	if r, err := j.load(id); err != nil || r.Role != RoleNone || r.Server != id {
		t.Errorf("loaded %+v, %v", r, err)
	}
	for _, bad := range []cloud.ServerID{"", "../epoch", "x"} {
		if _, err := j.load(bad); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("load %q: %v", bad, err)
		}
	}
}

func TestTheGoneAreForgottenInTime(t *testing.T) {
	j := newJournal(t)
	now := time.Now()
	save := func(role Role, age time.Duration) cloud.ServerID {
		id := cloud.ServerID(uuid.NewString())
		if err := j.save(record{Server: id, Role: role, Generation: 9, Updated: now.Add(-age)}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	young, old, resident := save(RoleGone, time.Hour), save(RoleGone, goneAgeMax+time.Hour), save(RoleResident, 10*goneAgeMax)
	kept, err := j.all(now)
	if err != nil || len(kept) != 1 || kept[0].Server != resident {
		t.Fatalf("kept %+v, %v", kept, err)
	}
	for id, want := range map[cloud.ServerID]int64{young: 9, old: 0, resident: 9} {
		if r, err := j.load(id); err != nil || r.Generation != want {
			t.Errorf("server %s: generation %d, %v; want %d", id, r.Generation, err, want)
		}
	}
}

func TestEpochsGrowAndHalfWrittenFilesGo(t *testing.T) {
	j := newJournal(t)
	var last int64
	for range 3 {
		if err := os.WriteFile(filepath.Join(j.dir, "x"+tempSuffix), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := openJournal(j.dir)
		if err != nil {
			t.Fatal(err)
		}
		epoch, err := again.nextEpoch()
		if err != nil || epoch <= last {
			t.Errorf("epoch %d after %d, %v", epoch, last, err)
		}
		last = epoch
	}
	if kept, err := j.all(time.Now()); err != nil || len(kept) != 0 {
		t.Errorf("read %+v, %v", kept, err)
	}
}

func TestMachineFiguresAreRead(t *testing.T) {
	if load, err := parseLoad("0.74 0.34 0.17 2/345 6789\n"); err != nil || len(load) != 3 || load[0] != 0.74 || load[2] != 0.17 {
		t.Errorf("load %v, %v", load, err)
	}
	if mib, err := parseAvailable("MemTotal:  10 kB\nMemAvailable:   2048000 kB\n"); err != nil || mib != 2000 {
		t.Errorf("available %d, %v", mib, err)
	}
	for _, bad := range []string{"", "x y z", "1.0 2.0"} {
		if _, err := parseLoad(bad); err == nil {
			t.Errorf("load %q was accepted", bad)
		}
	}
	if _, err := parseAvailable("MemTotal: 1 kB\n"); err == nil {
		t.Error("memory without MemAvailable was accepted")
	}
	load, uptime, free, err := machine()
	if err != nil || len(load) != 3 || uptime <= 0 || free <= 0 {
		t.Errorf("this machine: %v, %d, %d, %v", load, uptime, free, err)
	}
}
