package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// The two back ends of the scenario.
const (
	dirOne = "/d/one"
	dirTwo = "/d/two"
)

// step is something that a caller was told had been done, once the effects up to end were there.
type step struct {
	name       string
	begin, end int    // effects before it and after it
	after      string // what describe says afterwards
	deletes    cloud.VolumeID
}

// dataEvent is what happened to a volume's content: all of it was set for good, or some bytes were written and not flushed.
type dataEvent struct {
	volume     cloud.VolumeID
	begin, end int
	durable    bool
	off        int
	data       []byte
}

// scenario runs operations against stores on recorded files, and remembers what callers were told when.
type scenario struct {
	t        testing.TB
	files    *memFiles
	one, two *Store
	steps    []step
	data     []dataEvent
	may      map[string][]byteSet // of allowed
}

func openBoth(files *memFiles) (one, two *Store, err error) {
	open := func(dir, name string) (*Store, error) {
		return Open(context.Background(), Options{Dir: dir, Name: name, Direct: DirectOff, Log: slog.New(slog.DiscardHandler), files: files})
	}
	if one, err = open(dirOne, "one"); err != nil {
		return nil, nil, err
	}
	if two, err = open(dirTwo, "two"); err != nil {
		return nil, nil, err
	}
	return one, two, Settle(context.Background(), one, two)
}

// describe is everything that must survive but the content of volumes that are being written.
func describe(t testing.TB, stores ...*Store) string {
	t.Helper()
	var b strings.Builder
	for _, s := range stores {
		for _, id := range s.List() {
			st, err := s.Inspect(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s/%s bytes %d generation %d epoch %d limits %v", s.Name(), id, st.Bytes, st.Generation, st.Epoch, st.Limits)
			for _, a := range st.Attachments {
				fmt.Fprintf(&b, " %s@%s:%d %v", a.ID, a.Host, a.Epoch, a.Role)
			}
			for _, snap := range st.Snapshots {
				fmt.Fprintf(&b, " %s=%x", snap.ID, bytes.TrimRight(contents(t, s, id, snap.ID), "\x00"))
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// litter returns the paths that belong to no volume.
func litter(files *memFiles, stores ...*Store) []string {
	var out []string
	for _, s := range stores {
		want := map[string]bool{volumesName: true, probeOneName: true, probeTwoName: true}
		for _, v := range s.all() {
			m, _ := v.truth()
			dir := volumesName + "/" + string(v.id)
			want[dir], want[dir+"/"+metaName], want[dir+"/"+metaNextName] = true, true, true
			if m.Phase != phaseReady {
				continue
			}
			want[dir+"/"+dataName], want[dir+"/"+snapshotsName] = true, true
			for _, snap := range m.Snapshots {
				want[dir+"/"+snapshotsName+"/"+string(snap.ID)] = true
			}
		}
		for _, p := range files.paths(s.o.Dir) {
			if !want[p] {
				out = append(out, s.Name()+"/"+p)
			}
		}
	}
	return out
}

func (sc *scenario) do(name string, f func() error) {
	sc.t.Helper()
	begin := sc.files.count()
	err := f()
	if errors.Is(err, unix.ENOSPC) {
		if known := new(cloud.Error); errors.As(err, &known) { // a flush is the file's own
			wantKind(sc.t, err, cloud.KindExhausted)
		}
		err = f()
	}
	if err != nil {
		sc.t.Fatalf("%s: %v", name, err)
	}
	end := sc.files.count()
	sc.steps = append(sc.steps, step{name: name, begin: begin, end: end, after: describe(sc.t, sc.one, sc.two)})
	if l := litter(sc.files, sc.one, sc.two); len(l) > 0 && sc.files.fault == nil {
		sc.t.Fatalf("%s leaves %v", name, l)
	}
}

// set is do for an operation after which a volume's content is known and durable.
func (sc *scenario) set(name string, s *Store, id cloud.VolumeID, f func() error) {
	sc.t.Helper()
	sc.do(name, f)
	last := sc.steps[len(sc.steps)-1]
	sc.data = append(sc.data, dataEvent{volume: id, begin: last.begin, end: last.end, durable: true, data: contents(sc.t, s, id, "")})
}

func (sc *scenario) write(l *Lease, id cloud.VolumeID, off int, data string) {
	sc.t.Helper()
	ready := make(chan error, 1)
	for v := l.Begin(); v != Go; v = l.Begin() {
		if v == Refused {
			sc.t.Fatalf("write refused: %v", l.Refusal())
		}
		l.Await(func(err error) { ready <- err })
		if err := <-ready; errors.Is(err, unix.ENOSPC) {
		} else if err != nil {
			sc.t.Fatal(err)
		}
	}
	defer l.End()
	begin := sc.files.count()
	_, err := l.File().WriteAt([]byte(data), int64(off))
	if errors.Is(err, unix.ENOSPC) {
		_, err = l.File().WriteAt([]byte(data), int64(off))
	}
	if err != nil {
		sc.t.Fatal(err)
	}
	sc.data = append(sc.data, dataEvent{volume: id, begin: begin, end: sc.files.count(), off: off, data: []byte(data)})
}

func (sc *scenario) flush(l *Lease, s *Store, id cloud.VolumeID) {
	sc.t.Helper()
	sc.set("flush", s, id, l.File().Sync)
}

func (sc *scenario) admit(s *Store, id cloud.VolumeID, a cloud.AttachmentID) *Lease {
	sc.t.Helper()
	return must(s.Admit(Visit{Volume: id, Attachment: a}))(sc.t)
}

func discard[T any](_ T, err error) error { return err }

// run is the life of a few volumes: every operation of the package, most of them with something at stake.
func (sc *scenario) run() {
	ctx, s := context.Background(), sc.one
	c := func(id string, g int64) Call { return Call{Volume: cloud.VolumeID(id), Generation: g} }
	sc.set("create A", s, "A", func() error { return discard(s.Create(ctx, c("A", 1), Spec{Bytes: 4096})) })
	sc.do("attach a1", func() error {
		return discard(s.OpenAttachment(ctx, c("A", 2), Request{Attachment: "a1", Host: "h1"}))
	})
	a1 := sc.admit(s, "A", "a1")
	sc.write(a1, "A", 0, "first words, to be flushed")
	sc.flush(a1, s, "A")
	sc.write(a1, "A", 1024, "words that nobody flushed")
	sc.do("snapshot s1", func() error { return discard(s.Snapshot(ctx, c("A", 3), "s1")) })
	sc.do("attach a2 to stand by", func() error {
		return discard(s.OpenAttachment(ctx, c("A", 4), Request{Attachment: "a2", Host: "h2", Handover: true}))
	})
	sc.write(a1, "A", 512, "the older writer's last")
	a2 := sc.admit(s, "A", "a2")
	sc.do("a2 writes first", func() error { sc.write(a2, "A", 2048, "the newer writer's first"); return nil })
	sc.flush(a2, s, "A")
	sc.do("extend A", func() error { return discard(s.Extend(ctx, c("A", 5), 8192)) })
	sc.do("limit A", func() error { return discard(s.SetLimits(ctx, c("A", 6), Limits{IOPS: 100})) })
	a1.Close()
	sc.do("detach a1", func() error { return discard(s.CloseAttachment(ctx, c("A", 7), "a1")) })
	sc.set("create B from s1", s, "B", func() error {
		return discard(s.Create(ctx, c("B", 1), Spec{Bytes: 8192, Source: Source{Volume: "A", Snapshot: "s1"}}))
	})
	sc.set("create C from an image", s, "C", func() error {
		return discard(s.Create(ctx, c("C", 1), Spec{Bytes: 4096, Source: Source{Raw: strings.NewReader("image")}}))
	})
	sc.set("create D from A", s, "D", func() error {
		return discard(s.Create(ctx, c("D", 1), Spec{Bytes: 8192, Source: Source{Volume: "A"}}))
	})
	sc.do("attach a3, a2 is cut off", func() error {
		return discard(s.OpenAttachment(ctx, c("A", 8), Request{Attachment: "a3", Host: "h3"}))
	})
	a2.Close()
	sc.do("detach a2", func() error { return discard(s.CloseAttachment(ctx, c("A", 9), "a2")) })
	sc.do("detach a3", func() error { return discard(s.CloseAttachment(ctx, c("A", 10), "a3")) })
	sc.set("revert A to s1", s, "A", func() error { return discard(s.Revert(ctx, c("A", 11), "s1")) })
	sc.do("snapshot s2", func() error { return discard(s.Snapshot(ctx, c("A", 12), "s2")) })
	sc.do("delete s1", func() error { return s.DeleteSnapshot(ctx, c("A", 13), "s1") })
	sc.do("fail to create E", func() error {
		_, err := s.Create(ctx, c("E", 1), Spec{Bytes: 4096, Source: Source{Raw: io.MultiReader(strings.NewReader("half"), broken{})}})
		if !errors.Is(err, errBroken) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	sc.do("delete B", func() error { return s.Delete(ctx, c("B", 2)) })
	sc.steps[len(sc.steps)-1].deletes = "B"
	sc.do("delete F, never heard of", func() error { return s.Delete(ctx, c("F", 5)) })
	sc.steps[len(sc.steps)-1].deletes = "F"
	sc.set("move A", sc.two, "A", func() error { return discard(s.Move(ctx, c("A", 14), sc.two)) })
	sc.set("move A back", s, "A", func() error { return discard(sc.two.Move(ctx, c("A", 15), s)) })
}

var errBroken = errors.New("the image stream broke off")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// byteSet is a set of bytes.
type byteSet [4]uint64

func (s *byteSet) add(b byte)      { s[b/64] |= 1 << (b % 64) }
func (s *byteSet) has(b byte) bool { return s[b/64]&(1<<(b%64)) != 0 }

// allowed returns for each byte of the volume what it may be after a cut. It depends on nothing but the two, and the same is asked often.
func (sc *scenario) allowed(id cloud.VolumeID, cut int) []byteSet {
	key := fmt.Sprint(id, " ", cut)
	if have, ok := sc.may[key]; ok {
		return have
	}
	var out []byteSet
	for _, e := range sc.data {
		if e.volume != id || e.begin >= cut {
			continue
		}
		for len(out) < e.off+len(e.data) {
			out = append(out, byteSet{1}) // zero: nobody wrote there
		}
		for i, b := range e.data {
			if e.durable && e.end <= cut {
				out[e.off+i] = byteSet{}
			}
			out[e.off+i].add(b)
		}
	}
	if sc.may == nil {
		sc.may = map[string][]byteSet{}
	}
	sc.may[key] = out
	return out
}

// judge compares what recovery made of a cut with what callers had been told.
func (sc *scenario) judge(files *memFiles, cut int) error {
	one, two, err := openBoth(files)
	if err != nil {
		return err
	}
	defer one.Close(context.Background())
	defer two.Close(context.Background())
	if d := slices.Concat(one.Facts().Damaged, two.Facts().Damaged); len(d) > 0 {
		_, err := one.Inspect(context.Background(), d[0])
		return fmt.Errorf("damaged: %v: %w", d, err)
	}
	if l := litter(files, one, two); len(l) > 0 {
		return fmt.Errorf("not swept away: %v", l)
	}
	if err := sc.judgeFacts(describe(sc.t, one, two), cut); err != nil {
		return err
	}
	for _, st := range sc.steps {
		if st.deletes == "" || st.end > cut {
			continue
		}
		if v := one.lookup(st.deletes); v == nil || v.meta.Phase != phaseGone || v.meta.Generation == 0 {
			return fmt.Errorf("%s is forgotten, a late request could bring it back", st.deletes)
		}
	}
	for _, s := range []*Store{one, two} {
		for _, id := range s.List() {
			may := sc.allowed(id, cut)
			for i, b := range contents(sc.t, s, id, "") {
				if i < len(may) && !may[i].has(b) {
					return fmt.Errorf("volume %s byte %d is %q, which is neither flushed nor written since", id, i, b)
				}
				if i >= len(may) && b != 0 {
					return fmt.Errorf("volume %s byte %d is %q, nobody wrote there", id, i, b)
				}
			}
		}
	}
	return nil
}

// judgeFacts checks that the truth is what the last finished step left, or what the one under way was to make.
func (sc *scenario) judgeFacts(got string, cut int) error {
	may := []string{""}
	for _, st := range sc.steps {
		switch {
		case st.end <= cut:
			may = []string{st.after}
		case st.begin < cut:
			may = append(may, st.after)
		}
	}
	if slices.Contains(may, got) {
		return nil
	}
	return fmt.Errorf("found\n%s\nwant one of\n%s", got, strings.Join(may, "\nor\n"))
}

// fates are the ways in which what was not durable may come out.
func fates(by []int, cut int, r *rand.Rand) []func(int) fate {
	all := func(f fate) func(int) fate { return func(int) fate { return f } }
	out := []func(int) fate{all(lost), all(kept), all(torn)}
	for _, one := range volatile(by, cut) {
		out = append(out,
			func(i int) fate { return map[bool]fate{true: kept, false: lost}[i == one] },
			func(i int) fate { return map[bool]fate{true: lost, false: kept}[i == one] })
	}
	for range 4 {
		seed := r.Uint64()
		out = append(out, func(i int) fate { return fate(rand.New(rand.NewPCG(seed, uint64(i))).IntN(3)) })
	}
	return out
}

func TestWhateverAPowerCutLosesNoAcknowledgedWordIsLost(t *testing.T) {
	for _, reflink := range []bool{true, false} {
		t.Run(fmt.Sprintf("reflink=%v", reflink), func(t *testing.T) {
			sc := recordScenario(t, reflink)
			by := settled(sc.files.effects)
			r := rand.New(rand.NewPCG(1, 2))
			cases := 0
			for cut := range len(sc.files.effects) + 1 {
				for n, choose := range fates(by, cut, r) {
					cases++
					left := afterCut(newTree(), sc.files.effects, by, cut, choose)
					if err := sc.judge(newMemFiles(left, reflink), cut); err != nil {
						t.Fatalf("cut after effect %d of %d (%v), fate %d: %v", cut, len(sc.files.effects), sc.last(cut), n, err)
					}
				}
			}
			t.Logf("%d effects, %d cuts", len(sc.files.effects), cases)
		})
	}
}

func TestRecoveryThatIsCutShortIsRecoveredFrom(t *testing.T) {
	sc := recordScenario(t, true)
	by := settled(sc.files.effects)
	const stride = 5 // each cut would be minutes
	for cut := 0; cut <= len(sc.files.effects); cut += stride {
		left := afterCut(newTree(), sc.files.effects, by, cut, func(int) fate { return kept })
		first := newMemFiles(left, true)
		if err := sc.judge(first, cut); err != nil {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		again := settled(first.effects)
		for cut2 := range len(first.effects) + 1 {
			for _, f := range []fate{lost, kept} {
				left := afterCut(left, first.effects, again, cut2, func(int) fate { return f })
				if err := sc.judge(newMemFiles(left, true), cut); err != nil {
					t.Fatalf("cut after %d (%v), recovery cut after %d, fate %d: %v", cut, sc.last(cut), cut2, f, err)
				}
			}
		}
	}
}

func TestAnOperationThatFindsTheDiskFullMayBeTriedAgain(t *testing.T) {
	want := recordScenario(t, false)
	last := want.steps[len(want.steps)-1].after
	quiet := 0
	for n := 0; quiet < 2; n++ {
		files := newMemFiles(newTree(), false)
		one, two, err := openBoth(files)
		if err != nil {
			t.Fatal(err)
		}
		from := files.count()
		done := false
		files.fault = func(at int, e effect) error {
			if done || at < from+n {
				return nil
			}
			done = true
			return unix.ENOSPC
		}
		sc := &scenario{t: t, files: files, one: one, two: two}
		sc.run()
		if !done {
			quiet++
		}
		if got := describe(t, one, two); got != last {
			t.Fatalf("effect %d failed once; in the end\n%s\nwant\n%s", n, got, last)
		}
		files.fault = nil
		if err := sc.judge(files, len(files.effects)); err != nil {
			t.Fatalf("effect %d failed once; after a restart: %v", n, err)
		}
	}
}

// recordScenario runs the scenario.
func recordScenario(t testing.TB, reflink bool) *scenario {
	t.Helper()
	files := newMemFiles(newTree(), reflink)
	one, two, err := openBoth(files)
	if err != nil {
		t.Fatal(err)
	}
	sc := &scenario{t: t, files: files, one: one, two: two}
	sc.run()
	return sc
}

// last names the step that a cut falls into, and the last effect before it.
func (sc *scenario) last(cut int) string {
	name := "before all"
	for _, st := range sc.steps {
		if st.begin < cut {
			name = st.name
		}
	}
	if cut == 0 {
		return name
	}
	return fmt.Sprintf("%s, last %v", name, sc.files.effects[cut-1])
}
