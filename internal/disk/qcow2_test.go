package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// qemuImg runs the real tool in a temporary directory.
func qemuImg(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("qemu-img", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// qemuIO runs one command on a qcow2 disk with the real tool.
func qemuIO(t testing.TB, disk, command string) {
	t.Helper()
	if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", command, disk).CombinedOutput(); err != nil {
		t.Fatalf("qemu-io %s: %v: %s", command, err, out)
	}
}

func TestHeaderAgreesWithQEMU(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "raw", "base.raw", "3M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "plain", "5M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old", "5M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "extended", "5M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "overlay", "7M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "data_file=elsewhere,data_file_raw=on", "external", "5M")
	encrypted(t, filepath.Join(dir, "plain"), filepath.Join(dir, "secret"))
	for name, want := range map[string]Header{
		"plain":    {Version: 3, VirtualBytes: 5 << 20},
		"old":      {Version: 2, VirtualBytes: 5 << 20},
		"extended": {Version: 3, VirtualBytes: 5 << 20, Incompatible: qcow2ExtendedL2},
		"overlay":  {Version: 3, VirtualBytes: 7 << 20, Backing: "base.raw"},
		"external": {Version: 3, VirtualBytes: 5 << 20, ExternalData: true, Incompatible: qcow2ExternalData},
		"secret":   {Version: 3, VirtualBytes: 5 << 20, Encrypted: true},
	} {
		got, err := headerOf(filepath.Join(dir, name))
		if err != nil || got != want {
			t.Errorf("%s: read %+v, %v; want %+v", name, got, err, want)
		}
		_, err = checkBase(filepath.Join(dir, name), FormatQCOW2)
		if safe := want.Backing == "" && !want.ExternalData && !want.Encrypted; (err == nil) != safe {
			t.Errorf("%s: as a base: %v", name, err)
		}
	}
	if _, err := headerOf(filepath.Join(dir, "base.raw")); !errors.Is(err, errNotQCOW2) {
		t.Errorf("raw file: %v", err)
	}
}

// encrypted copies an image and marks it as encrypted by LUKS. (qemu-img measures the CPU to make a real one and fails on a busy machine.)
func encrypted(t *testing.T, from, to string) {
	t.Helper()
	const cryptMethodAt, cryptLUKS = 32, 2
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(raw[cryptMethodAt:], cryptLUKS)
	if err := os.WriteFile(to, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDataFileNamedOnlyInTheExtensionIsFound(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "data_file=elsewhere", "external", "5M")
	raw, err := os.ReadFile(filepath.Join(dir, "external"))
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(raw[72:], 0) // deny it in the feature bits
	if h, err := ReadHeader(bytes.NewReader(raw)); err != nil || !h.ExternalData {
		t.Errorf("read %+v, %v", h, err)
	}
}

func FuzzReadHeader(f *testing.F) {
	dir := f.TempDir()
	qemuImg(f, dir, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", "-u", "overlay", "7M")
	raw, err := os.ReadFile(filepath.Join(dir, "overlay"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:1024])
	f.Add(raw[:72])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadHeader(bytes.NewReader(data))
		if err != nil {
			return
		}
		if h.VirtualBytes <= 0 || h.VirtualBytes > qcow2BytesMax || len(h.Backing) > qcow2BackingMax {
			t.Errorf("accepted %+v", h)
		}
	})
}
