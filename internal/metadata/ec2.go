package metadata

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// ec2Versions are the versions cloud-init's Ec2 data source tries.
func ec2Versions() []string {
	return []string{"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04", "latest"}
}

// ec2Tree returns the EC2 meta-data as nested maps; leaves are strings.
func ec2Tree(s *Server) map[string]any {
	local := ""
	for _, nic := range s.NICs {
		if len(nic.Addresses) > 0 && local == "" {
			local = nic.Addresses[0].Address
		}
	}
	tree := map[string]any{
		"ami-id":               ec2ID("ami", s.ImageID),
		"ami-launch-index":     fmt.Sprint(s.LaunchIndex),
		"ami-manifest-path":    "",
		"hostname":             s.Hostname,
		"instance-action":      "none",
		"instance-id":          ec2ID("i", s.UUID),
		"instance-type":        s.FlavorName,
		"local-hostname":       s.Hostname,
		"local-ipv4":           local,
		"placement":            map[string]any{"availability-zone": s.AvailabilityZone},
		"public-hostname":      s.Hostname,
		"public-ipv4":          "",
		"reservation-id":       s.ReservationID,
		"block-device-mapping": map[string]any{"ami": "vda", "root": "/dev/vda"},
	}
	if len(s.NICs) > 0 {
		tree["mac"] = s.NICs[0].MAC
	}
	if s.KeyName != "" {
		tree["public-keys"] = map[string]any{"0": map[string]any{"_name": "0=" + s.KeyName, "openssh-key": s.PublicKey}}
	}
	return tree
}

// ec2ID makes the short form of an id. Nova counts in a table; the checksum of the UUID is as stable and needs none.
func ec2ID(prefix, id string) string {
	return fmt.Sprintf("%s-%08x", prefix, crc32.ChecksumIEEE([]byte(id)))
}

// lookup finds a path ("public-keys/0/openssh-key") in a tree and renders it: a leaf as it is, a directory as a listing.
func lookup(tree map[string]any, path string) (string, bool) {
	var node any = tree
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if part == "" {
			continue
		}
		dir, ok := node.(map[string]any)
		if !ok {
			return "", false
		}
		if node, ok = dir[part]; !ok || strings.HasPrefix(part, "_") {
			return "", false
		}
	}
	if leaf, ok := node.(string); ok {
		return leaf, true
	}
	return list(node.(map[string]any)), true
}

// list renders a directory as EC2 does: names one a line, directories with a slash, keys as "0=name".
func list(dir map[string]any) string {
	var lines []string
	for name, v := range dir {
		sub, isDir := v.(map[string]any)
		switch {
		case strings.HasPrefix(name, "_"):
		case isDir && sub["_name"] != nil:
			lines = append(lines, sub["_name"].(string))
		case isDir:
			lines = append(lines, name+"/")
		default:
			lines = append(lines, name)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
