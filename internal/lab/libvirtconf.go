package lab

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// libvirtdConf makes a daemon that listens on its unix socket and, by TLS alone, on the data network.
func libvirtdConf(hostUUID, dataAddr string) string {
	return strings.Join([]string{
		`listen_tls = 1`,
		`listen_tcp = 0`,
		`listen_addr = "` + dataAddr + `"`,
		`auth_unix_ro = "none"`,
		`auth_unix_rw = "none"`,
		`auth_tls = "none"`, // the client's certificate is the authentication
		`unix_sock_group = "root"`,
		`unix_sock_rw_perms = "0700"`,
		`host_uuid = "` + hostUUID + `"`, // equal ones make libvirt refuse a migration
		`log_outputs = "2:stderr"`,
		``,
	}, "\n")
}

// qemuConf turns off what needs an init system, cgroups, a second user or the machine's leave for it to catch page faults (post-copy), and has every migration encrypted and verified.
func qemuConf(dataAddr string) string {
	return strings.Join([]string{
		`user = "root"`,
		`group = "root"`,
		`security_driver = "none"`,
		`cgroup_controllers = [ ]`,
		`namespaces = [ ]`,
		`stdio_handler = "file"`, // no virtlogd
		`remember_owner = 0`,
		`migration_address = "` + dataAddr + `"`,
		`migration_host = "` + dataAddr + `"`,
		`default_tls_x509_cert_dir = "/etc/pki/qemu"`,
		`default_tls_x509_verify = 1`,
		`migrate_tls_x509_cert_dir = "/etc/pki/qemu"`,
		`migrate_tls_x509_verify = 1`,
		`nbd_tls_x509_cert_dir = "/etc/pki/qemu"`,
		`vnc_listen = "127.0.0.1"`,
		``,
	}, "\n")
}

// Debian's libvirtd does not start without its default user, though qemu.conf names another. The user comes with libvirt's service
// package, which a machine with a lab need not have. The numbers are the ones Debian reserves for it.
const (
	libvirtUser  = "libvirt-qemu:x:64055:64055:Libvirt Qemu:/var/lib/libvirt:/usr/sbin/nologin"
	libvirtGroup = "libvirt-qemu:x:64055:libvirt-qemu"
)

// qemuGroup is the number of the group that guests run in.
func qemuGroup() (int, error) {
	text, err := withEntry("/etc/group", libvirtGroup)
	if err != nil {
		return 0, err
	}
	name, _, _ := strings.Cut(libvirtGroup, ":")
	for line := range strings.Lines(text) {
		if entry := strings.Split(line, ":"); len(entry) > 2 && entry[0] == name {
			return strconv.Atoi(entry[2])
		}
	}
	return 0, fmt.Errorf("/etc/group: no group %s", name)
}

// withEntry returns the content of a passwd or group file, with entry added unless that name is there.
func withEntry(file, entry string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text := string(raw)
	name, _, _ := strings.Cut(entry, ":")
	if strings.HasPrefix(text, name+":") || strings.Contains(text, "\n"+name+":") {
		return text, nil
	}
	return strings.TrimRight(text, "\n") + "\n" + entry + "\n", nil
}

// serverCertificate is the file whose presence lets libvirtd start: without it, TLS cannot listen and libvirtd ends at once. Whoever
// installs the certificates writes it last.
const serverCertificate = "/etc/pki/libvirt/servercert.pem"

// writeLibvirt fills a compute node's configuration directories.
func (l *Lab) writeLibvirt(node string) error {
	for _, dir := range []string{
		"/etc/pki/CA", "/etc/pki/libvirt/private", "/etc/pki/qemu",
		"/etc/libvirt/qemu", "/var/lib/libvirt/images", "/var/lib/libvirt/qemu", "/var/log/libvirt/qemu",
	} {
		if err := os.MkdirAll(l.Path(node, dir), 0o755); err != nil {
			return err
		}
	}
	addr := l.DataAddr(node).String()
	uuid, err := l.hostUUID(node)
	if err != nil {
		return err
	}
	for file, text := range map[string]string{
		"/etc/libvirt/libvirtd.conf": libvirtdConf(uuid, addr),
		"/etc/libvirt/qemu.conf":     qemuConf(addr),
		"/etc/libvirt/libvirt.conf":  `uri_default = "qemu:///system"` + "\n",
	} {
		if err := os.WriteFile(l.Path(node, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hostUUID is the node's identity to libvirt; it survives power cycles, as the serial number of a real machine does.
func (l *Lab) hostUUID(node string) (string, error) {
	file := filepath.Join(nodeDir(l.Name, node), "host-uuid")
	if raw, err := os.ReadFile(file); err == nil {
		return strings.TrimSpace(string(raw)), nil
	}
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // RFC 4122 version 4
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	return uuid, os.WriteFile(file, []byte(uuid+"\n"), 0o644)
}
