package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// qemuImg runs qemu-img, which scripts/install-deps.sh installs.
func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

func TestAQCOW2ImageBecomesARawSparseFile(t *testing.T) {
	dir := t.TempDir()
	raw, content := image(t, dir, 8<<20)
	packed, to := filepath.Join(dir, "image.qcow2"), filepath.Join(dir, "to")
	qemuImg(t, "convert", "-c", "-O", "qcow2", raw, packed)
	if n := must(ConvertQCOW2(context.Background(), packed, to, 16<<20))(t); n != 8<<20 {
		t.Errorf("it says %d bytes", n)
	}
	if got := must(os.ReadFile(to))(t); !bytes.Equal(got, content) {
		t.Fatal("the file is not what the image was")
	}
	if info := must((osFiles{}).Stat(to))(t); info.allocated > 2<<20 {
		t.Errorf("about 800 kB of data take %d bytes", info.allocated)
	}
}

func TestImagesThatAreNotFitToBeUsedAreRefused(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := openStore(t, Options{Dir: filepath.Join(dir, "store")})
	file := func(name string) string { return filepath.Join(dir, name) }
	qemuImg(t, "create", "-q", "-f", "qcow2", file("good"), "1M")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", file("backing"))
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+file("elsewhere"), file("datafile"), "1M")
	qemuImg(t, "create", "-q", "-f", "qcow2", file("large"), "1G")
	good := must(os.ReadFile(file("good")))(t)
	write := func(name string, raw []byte) {
		if err := os.WriteFile(file(name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("raw", bytes.Repeat([]byte("x"), 4096))
	write("empty", nil)
	version := bytes.Clone(good)
	binary.BigEndian.PutUint32(version[4:], 9)
	write("version", version)
	corrupt := bytes.Clone(good)
	corrupt[79] |= 2 // the incompatible feature "corrupt"
	write("corrupt", corrupt)
	tables := bytes.Clone(good)
	binary.BigEndian.PutUint32(tables[36:], 1<<31) // entries in the first level of its tables
	write("tables", tables)
	for name, word := range map[string]string{"backing": "backing file", "datafile": "in another file", "large": "does not fit", "raw": "not in qcow2",
		"empty": "not in qcow2", "version": "version 9", "corrupt": "corrupt", "tables": "qemu-img"} {
		_, err := ConvertQCOW2(ctx, file(name), file("to"), mib)
		if !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %q does not say %q", name, err, word)
		}
	}
	_, err := s.Create(ctx, call(1), Spec{Bytes: mib, Source: Source{Path: file("absent")}})
	if err == nil {
		t.Fatal("made from a file that is not there")
	}
	_, err = s.Create(ctx, call(1), Spec{Bytes: 512, Source: Source{Path: file("raw")}})
	wantKind(t, err, cloud.KindInvalid)
	_, err = s.Create(ctx, call(1), Spec{Bytes: 512, Source: Source{Raw: strings.NewReader(strings.Repeat("x", 513))}})
	wantKind(t, err, cloud.KindInvalid)
}

func TestAConversionEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := runLimited(ctx, nil, "qemu-img", "info", "/dev/null")
	wantKind(t, err, cloud.KindCancelled)
}

func TestAProgramThatWantsTooMuchIsEnded(t *testing.T) {
	_, err := runLimited(context.Background(), []string{"--fsize=4096"}, "dd", "if=/dev/zero", "of="+filepath.Join(t.TempDir(), "out"), "bs=64k", "count=1")
	wantKind(t, err, cloud.KindInvalid)
}

// Whatever a header says, looking at it ends with a verdict, and what passes sends nobody to other files.
func FuzzCheckQCOW2(f *testing.F) {
	good := make([]byte, imageHeadBytes)
	binary.BigEndian.PutUint32(good, qcow2Magic)
	binary.BigEndian.PutUint32(good[4:], 3)
	f.Add(good)
	f.Add(good[:10])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, header []byte) {
		err := checkQCOW2(header)
		if err != nil {
			wantKind(t, err, cloud.KindInvalid)
			return
		}
		if len(header) < 8 || binary.BigEndian.Uint32(header) != qcow2Magic {
			t.Fatal("what is no qcow2 file passes")
		}
		if len(header) >= 16 && binary.BigEndian.Uint64(header[8:]) != 0 {
			t.Fatal("a backing file passes")
		}
		if header[7] == 3 && len(header) >= imageHeadBytes && header[79]&incompatibleDataFile != 0 {
			t.Fatal("a data file passes")
		}
	})
}
