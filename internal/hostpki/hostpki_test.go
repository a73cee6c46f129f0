package hostpki

import (
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

func identity(t *testing.T, text string) Identity {
	t.Helper()
	dir := t.TempDir()
	id := Identity{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	for path, data := range map[string]string{id.CA: "ca " + text, id.Cert: "cert " + text, id.Key: "key " + text} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

func TestInstallReplacesEveryFileOnceAndKeepsKeysPrivate(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"old", "new"} {
		id := identity(t, text)
		if changed, err := Install(dir, id); err != nil || !changed {
			t.Fatalf("install %s: changed %v, %v", text, changed, err)
		}
		if changed, err := Install(dir, id); err != nil || changed {
			t.Fatalf("install %s again: changed %v, %v", text, changed, err)
		}
	}
	for path, want := range map[string]string{
		"CA/cacert.pem": "ca new", "libvirt/servercert.pem": "cert new", "libvirt/private/serverkey.pem": "key new", "qemu/client-key.pem": "key new",
	} {
		raw, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || string(raw) != want {
			t.Errorf("%s: %q, %v", path, raw, err)
		}
	}
	for _, path := range []string{"libvirt/private/serverkey.pem", "libvirt/private/clientkey.pem", "qemu/server-key.pem"} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm()&0o007 != 0 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", "*.pem.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestInstallFailsBeforeItTouchesAnythingWhenTheIdentityIsIncomplete(t *testing.T) {
	dir := t.TempDir()
	id := identity(t, "x")
	id.Key = filepath.Join(dir, "absent")
	if _, err := Install(dir, id); err == nil {
		t.Error("no error")
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("made %v", entries)
	}
}

func TestInstallSparesQEMUTheSearchForASafePrime(t *testing.T) {
	dir := t.TempDir()
	if _, err := Install(dir, identity(t, "x")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "qemu", "dh-params.pem")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("QEMU's own user may not read it: %v, %v", info.Mode(), err)
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "DH PARAMETERS" || len(rest) > 0 {
		t.Fatalf("not what QEMU reads: %s", raw)
	}
	var group struct{ P, G *big.Int }
	if _, err := asn1.Unmarshal(block.Bytes, &group); err != nil {
		t.Fatal(err)
	}
	half := new(big.Int).Rsh(group.P, 1)
	if group.P.BitLen() != 3072 || group.G.Int64() != 2 || !group.P.ProbablyPrime(1) || !half.ProbablyPrime(1) {
		t.Errorf("no safe prime of 3072 bits with generator 2: %v", group)
	}
}
