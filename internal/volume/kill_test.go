package volume

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/uring"
)

// victimEnv makes the test binary a victim: it works in the directory named until it is killed.
const victimEnv = "GODWIT_VOLUME_VICTIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		if err := (&victim{}).work(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const (
	victimBlock  = 4096
	victimBlocks = 16
	volVictim    = cloud.VolumeID("victim")
	volComesGoes = cloud.VolumeID("comes-and-goes")
)

// victim does things to volumes and says so: "try X" before, "did X" after.
type victim struct {
	s     *Store
	lease *Lease
	n     uint64 // of the thing being done; never repeats
}

func (v *victim) do(what string, f func() error) error {
	fmt.Println("try", what)
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Println("did", what)
	return nil
}

func (v *victim) work(dir string) error {
	ctx := context.Background()
	loop, err := uring.NewLoop(uring.Options{})
	if err != nil {
		loop = nil // then with threads
	}
	if v.s, err = Open(ctx, Options{Dir: dir, Loop: loop, Log: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	if _, err := v.s.Create(ctx, v.call(volVictim), Spec{Bytes: victimBlock * victimBlocks}); err != nil {
		return err
	}
	st, err := v.s.Inspect(ctx, volVictim)
	if err != nil {
		return err
	}
	v.n = uint64(st.Epoch) << 32 // greater than at any time before: each life begins with a new epoch
	for ; ; v.n++ {
		if err := v.step(ctx); err != nil {
			return err
		}
	}
}

func (v *victim) call(id cloud.VolumeID) Call { return Call{Volume: id} }

func (v *victim) step(ctx context.Context) error {
	switch turn := v.n % 12; {
	case v.lease == nil || turn == 5:
		return v.reattach(ctx)
	case turn == 7:
		snap := cloud.SnapshotID(fmt.Sprint("s", v.n))
		return v.do(fmt.Sprint("snapshot ", snap), func() error { return discard(v.s.Snapshot(ctx, v.call(volVictim), snap)) })
	case turn == 9:
		return v.do("make", func() error {
			return discard(v.s.Create(ctx, v.call(volComesGoes), Spec{Bytes: mib, Source: Source{Volume: volVictim}}))
		})
	case turn == 11:
		return v.do("delete", func() error { return v.s.Delete(ctx, v.call(volComesGoes)) })
	default:
		block := v.n * 7 % victimBlocks
		return v.do(fmt.Sprint("flush ", block, " ", v.n), func() error { return v.write(int64(block)) })
	}
}

// reattach makes a new attachment the writer and closes the one before the last.
func (v *victim) reattach(ctx context.Context) error {
	id := cloud.AttachmentID(fmt.Sprint("a", v.n))
	var epoch int64
	fmt.Println("try attach", id)
	a, err := v.s.OpenAttachment(ctx, v.call(volVictim), Request{Attachment: id, Host: "h"})
	if err != nil {
		return err
	}
	epoch = a.Epoch
	fmt.Println("did attach", id, epoch)
	if v.lease != nil {
		v.lease.Close()
	}
	v.lease, err = v.s.Admit(Visit{Volume: volVictim, Attachment: id})
	return err
}

func (v *victim) write(block int64) error {
	p := uring.Aligned(victimBlock, victimBlock)
	binary.BigEndian.PutUint64(p, v.n)
	if verdict := v.lease.Begin(); verdict != Go {
		return fmt.Errorf("not the writer: verdict %d", verdict)
	}
	defer v.lease.End()
	if _, err := v.lease.File().WriteAt(p, block*victimBlock); err != nil {
		return err
	}
	return v.lease.File().Sync()
}

// witness is what the victim was heard to say.
type witness struct {
	blocks   [victimBlocks]uint64
	snaps    map[cloud.SnapshotID][victimBlocks]uint64
	epoch    int64
	made     bool
	trying   string // what was begun and not said to be done
	attached int
}

func (w *witness) hear(line string) {
	verb, what, _ := strings.Cut(line, " ")
	if verb == "try" {
		w.trying = what
		return
	}
	w.trying = ""
	word, rest, _ := strings.Cut(what, " ")
	switch word {
	case "flush":
		var block int
		var n uint64
		fmt.Sscan(rest, &block, &n)
		w.blocks[block] = n
	case "snapshot":
		w.snaps[cloud.SnapshotID(rest)] = w.blocks
	case "attach":
		var id string
		fmt.Sscan(rest, &id, &w.epoch)
		w.attached++
	case "make":
		w.made = true
	case "delete":
		w.made = false
	}
}

// run lets a victim live until it has said so many lines.
func (w *witness) run(t *testing.T, dir string, lines int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	heard := 0
	for in.Scan() {
		w.hear(in.Text())
		if heard++; heard == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait() // it was killed
	if heard < lines {
		t.Fatalf("the victim ended by itself after %d lines: %s", heard, stderr.Bytes())
	}
}

// check opens what the victim has left and compares it with what was heard.
func (w *witness) check(t *testing.T, dir string) {
	t.Helper()
	s := must(Open(context.Background(), Options{Dir: dir, Direct: DirectOff, Log: slog.New(slog.DiscardHandler)}))(t)
	defer func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if f := s.Facts(); len(f.Damaged) > 0 {
		t.Fatalf("damaged: %v", f.Damaged)
	}
	st := must(s.Inspect(context.Background(), volVictim))(t)
	now := contents(t, s, volVictim, "")
	for i, least := range w.blocks {
		if got := binary.BigEndian.Uint64(now[i*victimBlock:]); got < least {
			t.Fatalf("block %d says %d, but %d was flushed", i, got, least)
		} else {
			w.blocks[i] = got
		}
	}
	for snap, want := range w.snaps {
		kept := contents(t, s, volVictim, snap)
		for i, n := range want {
			if got := binary.BigEndian.Uint64(kept[i*victimBlock:]); got < n {
				t.Fatalf("snapshot %s block %d says %d, but it was %d", snap, i, got, n)
			}
		}
	}
	if st.Epoch < w.epoch {
		t.Fatalf("epoch %d, but %d was given out", st.Epoch, w.epoch)
	}
	writers := 0
	for _, a := range st.Attachments {
		if a.Role == RoleWriter {
			writers++
		}
		if a.Role == RoleWriter && a.Epoch < w.epoch {
			t.Fatalf("epoch %d writes again, after %d", a.Epoch, w.epoch)
		}
	}
	if writers != 1 {
		t.Fatalf("%d writers: %+v", writers, st.Attachments)
	}
	present := must(s.Inspect(context.Background(), volComesGoes))(t).Present
	if present != w.made && w.trying != "make" && w.trying != "delete" {
		t.Fatalf("the volume that comes and goes is there: %v, heard: %v", present, w.made)
	}
	w.made = present
	onlyWhatBelongs(t, s)
}

// onlyWhatBelongs fails the test if a volume's directory has files that nothing speaks of.
func onlyWhatBelongs(t *testing.T, s *Store) {
	t.Helper()
	for _, v := range s.all() {
		names := must(s.files.List(s.dir(v.id)))(t)
		for _, name := range names {
			if v.meta.Phase != phaseReady && name != metaName && name != metaNextName || strings.HasPrefix(name, readPrefix) || name == revertName {
				t.Errorf("left: %s/%s", v.id, name)
			}
		}
		if v.meta.Phase != phaseReady || len(v.meta.Snapshots) == 0 {
			continue
		}
		if snaps := must(s.files.List(s.snapshotsDir(v.id)))(t); len(snaps) != len(v.meta.Snapshots) {
			t.Errorf("%d snapshot files for %d snapshots", len(snaps), len(v.meta.Snapshots))
		}
	}
}

func TestAServerThatIsKilledKeepsItsWord(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(mounted(t, kind, xfsBytes), "store")
			w := &witness{snaps: map[cloud.SnapshotID][victimBlocks]uint64{}}
			r := rand.New(rand.NewPCG(3, 5))
			const lives = 8
			for range lives {
				w.run(t, dir, 4+r.IntN(120))
				w.check(t, dir)
			}
			if w.attached < lives || len(w.snaps) == 0 || w.blocks == [victimBlocks]uint64{} {
				t.Fatalf("the victims did too little: %+v", w)
			}
		})
	}
}
