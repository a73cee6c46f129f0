// Package hostpki puts a host's certificate where libvirtd and QEMU look for theirs, so that migrations between hosts are encrypted and
// verified on both ends with the one identity that godwit's authority gave the host.
//
//	DIR/CA/cacert.pem                       whom to believe
//	DIR/libvirt/servercert.pem, clientcert.pem, private/serverkey.pem, private/clientkey.pem
//	DIR/qemu/ca-cert.pem, server-cert.pem, client-cert.pem, server-key.pem, client-key.pem
//	DIR/qemu/dh-params.pem                  a standard group, which spares QEMU the search for one in every migration
//
// Files are replaced one by one, each atomically, the libvirt server certificate last: a libvirtd that waits for it finds the rest in place. A
// reader that looks in between may see a new certificate with an old key; libvirtd reads them when it starts, QEMU at each migration, which then
// fails before anything was copied and may be repeated.
package hostpki

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// Identity are the files to install, PEM.
type Identity struct{ CA, Cert, Key string }

// qemuGroup is the group QEMU runs as on Debian. Where it is missing (a lab, where QEMU runs as root) files are root's alone.
const qemuGroup = "libvirt-qemu"

// Install copies the identity into dir, usually /etc/pki. It reports whether anything was new.
func Install(dir string, id Identity) (changed bool, err error) {
	var ca, cert, key []byte
	for _, part := range []struct {
		path string
		into *[]byte
	}{{id.CA, &ca}, {id.Cert, &cert}, {id.Key, &key}} {
		if *part.into, err = os.ReadFile(part.path); err != nil {
			return false, fmt.Errorf("install certificates: %w", err)
		}
	}
	group := -1
	if g, err := user.LookupGroup(qemuGroup); err == nil {
		group, _ = strconv.Atoi(g.Gid) // a number on every Unix
	}
	for _, f := range []struct {
		path    string
		data    []byte
		private bool
		group   int
	}{
		{"CA/cacert.pem", ca, false, -1},
		{"qemu/dh-params.pem", dhParams, false, -1},
		{"qemu/ca-cert.pem", ca, false, -1},
		{"qemu/server-cert.pem", cert, false, -1},
		{"qemu/client-cert.pem", cert, false, -1},
		{"qemu/server-key.pem", key, true, group},
		{"qemu/client-key.pem", key, true, group},
		{"libvirt/private/clientkey.pem", key, true, -1},
		{"libvirt/private/serverkey.pem", key, true, -1},
		{"libvirt/clientcert.pem", cert, false, -1},
		{"libvirt/servercert.pem", cert, false, -1},
	} {
		mode := os.FileMode(0o644)
		switch {
		case f.private && f.group >= 0:
			mode = 0o640
		case f.private:
			mode = 0o600
		}
		wrote, err := replace(filepath.Join(dir, f.path), f.data, mode, f.group)
		if err != nil {
			return changed, fmt.Errorf("install certificates: %w", err)
		}
		changed = changed || wrote
	}
	return changed, nil
}

// replace writes the file beside its place and moves it there, unless it is there already.
func replace(path string, data []byte, mode os.FileMode, group int) (wrote bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600 from the start
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if group >= 0 {
		err = errors.Join(err, f.Chown(-1, group))
	}
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return false, err
	}
	return true, os.Rename(f.Name(), path)
}
