package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

// isoFiles is an independent reader: it walks one tree by its directory records and returns path to data.
func isoFiles(t interface{ Fatalf(string, ...any) }, image []byte, descriptor int) map[string][]byte {
	vd := image[descriptor*2048:]
	if string(vd[1:6]) != "CD001" {
		t.Fatalf("descriptor %d has no signature", descriptor)
	}
	files := map[string][]byte{}
	var walk func(prefix string, extent, size uint32)
	walk = func(prefix string, extent, size uint32) {
		dir := image[extent*2048 : extent*2048+size]
		for at := 0; at < len(dir); {
			n := int(dir[at])
			if n == 0 {
				at = (at/2048 + 1) * 2048
				continue
			}
			rec := dir[at : at+n]
			at += n
			if at > 0 && (at-1)/2048 != (at-n)/2048 {
				t.Fatalf("record of %q crosses a sector", prefix)
			}
			le, be := binary.LittleEndian.Uint32(rec[2:]), binary.BigEndian.Uint32(rec[6:])
			if le != be {
				t.Fatalf("extent %d differs from %d", le, be)
			}
			length := binary.LittleEndian.Uint32(rec[10:])
			id := rec[33 : 33+int(rec[32])]
			if len(id) == 1 && id[0] <= 1 {
				continue
			}
			name := prefix + recordName(rec, id, descriptor == 17)
			if rec[25]&2 != 0 {
				walk(name+"/", le, length)
			} else {
				files[name] = image[le*2048 : le*2048+length]
			}
		}
	}
	root := vd[156:190]
	walk("", binary.LittleEndian.Uint32(root[2:]), binary.LittleEndian.Uint32(root[10:]))
	return files
}

// recordName is a Joliet name, or the Rock Ridge name in a primary record's system use area.
func recordName(rec, id []byte, joliet bool) string {
	if joliet {
		units := make([]uint16, len(id)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(id[2*i:])
		}
		return string(utf16.Decode(units))
	}
	use := rec[33+len(id)+(len(id)+1)%2:]
	for len(use) > 4 {
		if string(use[:2]) == "NM" {
			return string(use[5:use[2]])
		}
		use = use[use[2]:]
	}
	return string(id)
}

func TestConfigVolumeHoldsTheFilesUnderBothKindsOfNames(t *testing.T) {
	files := map[string][]byte{
		"openstack/latest/meta_data.json":       []byte(`{"uuid": "x"}`),
		"openstack/latest/user_data":            bytes.Repeat([]byte("#!"), 3000),
		"openstack/2018-08-27/meta_data.json":   []byte(`{"uuid": "x"}`),
		"openstack/latest/network_data.json":    []byte("{}"),
		"openstack/latest/empty":                nil,
		"ec2/latest/meta-data.json":             []byte("{}"),
		"openstack/content/0000":                []byte("payload"),
		strings.Repeat("d/", 6) + "deep":        []byte("deep"),
		"openstack/latest/a.name.with.dots.txt": []byte("dots"),
	}
	for i := range 60 { // more records than one sector holds
		files[fmt.Sprintf("many/file-number-%02d.json", i)] = []byte{byte(i)}
	}
	image, err := writeISO(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, descriptor := range []int{16, 17} {
		got := isoFiles(t, image, descriptor)
		if !maps.EqualFunc(got, files, bytes.Equal) {
			t.Errorf("descriptor %d: files %v, want %v", descriptor, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(files)))
		}
	}
	if label := strings.TrimRight(string(image[16*2048+40:][:32]), " "); label != configLabel {
		t.Errorf("label %q", label)
	}
}

func TestConfigVolumeIsAFunctionOfItsFiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z][a-z0-9_.-]{0,20}(/[a-z][a-z0-9_.-]{0,20}){0,3}`)
		files := rapid.MapOf(name, rapid.SliceOfN(rapid.Byte(), 0, 5000)).Draw(t, "files")
		first, err := writeISO(files)
		if err != nil {
			return // names that ISO 9660 cannot tell apart, or a file that is also a directory
		}
		again, err := writeISO(maps.Clone(files))
		if err != nil || !bytes.Equal(first, again) {
			t.Fatalf("the same files gave other bytes (%v)", err)
		}
		if got := isoFiles(t, first, 16); !maps.EqualFunc(got, files, bytes.Equal) {
			t.Fatalf("files came back as %v", got)
		}
	})
}

func TestConfigVolumeRefusesPathsThatLeadElsewhere(t *testing.T) {
	for _, path := range []string{"../x", "/x", "a//b", "a/.", strings.Repeat("x", 65), strings.Repeat("d/", 7) + "f"} {
		if _, err := writeISO(map[string][]byte{path: nil}); err == nil {
			t.Errorf("path %q was accepted", path)
		}
	}
	if _, err := writeISO(map[string][]byte{"a": nil, "a/b": nil}); err == nil {
		t.Error("a file that is a directory too was accepted")
	}
}
