package gluster

import (
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

var replicateName = regexp.MustCompile(`<REPLICATE:([^>]+)>`)

// attrMax bounds a virtual attribute: names of hosts and paths of a set's bricks.
const attrMax = 64 << 10

// SetsOf returns the names of the replica sets that a file lies on: one, unless the volume is sharded or the file is a directory.
func SetsOf(file string) ([]string, error) {
	text, err := attribute(file, "trusted.glusterfs.pathinfo")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range replicateName.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names, nil
}

// IDOf returns the name by which bricks know a file whatever its path: "<gfid:...>", as in Entry.Path.
func IDOf(file string) (string, error) {
	text, err := attribute(file, "glusterfs.gfid.string")
	return "<gfid:" + text + ">", err
}

func attribute(file, name string) (string, error) {
	buf := make([]byte, attrMax)
	n, err := unix.Getxattr(file, name, buf)
	if err != nil {
		return "", cloud.E(cloud.KindUnavailable, name, file, err)
	}
	return strings.TrimRight(string(buf[:n]), "\x00"), nil
}
