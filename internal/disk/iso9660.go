package disk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	isoSector       = 2048
	isoFirstVolume  = 16 // sectors 0 to 15 belong to the boot loader
	isoNameMax      = 64 // Joliet's bound
	isoDepthMax     = 7
	isoVolumes      = 3 // primary, Joliet, terminator
	isoFlagDir      = 2
	isoBytesMax     = 64 << 20 // a config drive is some kilobytes of text; user data is bounded by the API at 64 KiB
	posixDir        = 0o040555
	posixFile       = 0o100444
	isoJoliet3      = "%/E"
	rockRidge       = "RRIP_1991A"
	susEntryVersion = 1
)

// isoDate is the date of every file: 2000-01-01. Real dates would make each drive differ.
var isoDate = []byte{100, 1, 1, 0, 0, 0, 0}

// isoNode is a file or directory of the volume.
type isoNode struct {
	name     string
	dir      bool
	children []*isoNode // of a directory, sorted by name
	parent   *isoNode   // the root's is itself
	data     []byte     // of a file

	fileSector uint32    // where a file's data is
	extent     [2]uint32 // where a directory's records are, in each tree
	size       [2]uint32 // and how long they are
	number     [2]uint16 // a directory's number in each path table
}

// The two trees show the same files under the two kinds of names.
const (
	treePrimary = iota // ISO 9660 names, with Rock Ridge
	treeJoliet
	trees
)

// writeISO returns an ISO 9660 volume labelled as a config drive, with the given files (slash-separated path to data). Equal input gives equal bytes.
func writeISO(files map[string][]byte) ([]byte, error) {
	root, err := isoTree(files)
	if err != nil {
		return nil, err
	}
	w := isoWriter{root: root}
	w.layout()
	if w.sectors*isoSector > isoBytesMax {
		return nil, fmt.Errorf("volume %s: %d bytes exceed %d", configLabel, w.sectors*isoSector, isoBytesMax)
	}
	return w.image(), nil
}

func isoTree(files map[string][]byte) (*isoNode, error) {
	root := &isoNode{dir: true}
	root.parent = root
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		parts := strings.Split(path, "/")
		if len(parts) > isoDepthMax {
			return nil, fmt.Errorf("file %q is too deep", path)
		}
		at := root
		for i, part := range parts {
			if part == "" || part == "." || part == ".." || len(part) > isoNameMax {
				return nil, fmt.Errorf("file %q: name %q is empty, reserved or too long", path, part)
			}
			next, err := at.child(part, i < len(parts)-1)
			if err != nil {
				return nil, fmt.Errorf("file %q: %w", path, err)
			}
			at = next
		}
		at.data = files[path]
	}
	return root, root.sortChildren()
}

func (n *isoNode) child(name string, dir bool) (*isoNode, error) {
	for _, c := range n.children {
		if c.name == name {
			if !dir || !c.dir {
				return nil, fmt.Errorf("%q is both a file and a directory", name)
			}
			return c, nil
		}
	}
	c := &isoNode{name: name, dir: dir, parent: n}
	n.children = append(n.children, c)
	return c, nil
}

// sortChildren orders by primary identifier, as the standard wants, and refuses two names that the primary tree cannot tell apart.
func (n *isoNode) sortChildren() error {
	slices.SortFunc(n.children, func(a, b *isoNode) int { return cmp.Compare(a.primaryName(), b.primaryName()) })
	for i, c := range n.children {
		if i > 0 && n.children[i-1].primaryName() == c.primaryName() {
			return fmt.Errorf("names %q and %q are equal in ISO 9660", n.children[i-1].name, c.name)
		}
		if err := c.sortChildren(); err != nil {
			return err
		}
	}
	return nil
}

// primaryName maps to ISO 9660's alphabet: META_DATA.JSON;1. Rock Ridge keeps the real one.
func (n *isoNode) primaryName() string {
	const nameMax = 30
	upper := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		case r == '.' && !n.dir:
			return r
		}
		return '_'
	}, n.name)
	if n.dir {
		return upper[:min(len(upper), nameMax)]
	}
	stem, ext := upper, ""
	if dot := strings.LastIndexByte(upper, '.'); dot >= 0 {
		stem, ext = strings.ReplaceAll(upper[:dot], ".", "_"), upper[dot+1:]
	}
	ext = ext[:min(len(ext), 8)]
	return stem[:min(len(stem), nameMax-1-len(ext))] + "." + ext + ";1"
}

func (n *isoNode) identifier(tree int) []byte {
	if tree == treePrimary {
		return []byte(n.primaryName())
	}
	return ucs2(n.name)
}

func ucs2(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.BigEndian.AppendUint16(out, u)
	}
	return out
}

// isoWriter lays a tree out in sectors and writes it.
type isoWriter struct {
	root    *isoNode
	dirs    []*isoNode // breadth first: the path tables' order
	files   []*isoNode
	sectors uint32
	tables  [trees][2]uint32 // sectors of the path tables, little and big endian
	tableSz [trees]uint32
}

func sectorsOf(bytes uint32) uint32 { return (bytes + isoSector - 1) / isoSector }

func (w *isoWriter) layout() {
	w.dirs = []*isoNode{w.root}
	for i := 0; i < len(w.dirs); i++ {
		for _, c := range w.dirs[i].children {
			if c.dir {
				w.dirs = append(w.dirs, c)
			} else {
				w.files = append(w.files, c)
			}
		}
	}
	next := uint32(isoFirstVolume + isoVolumes)
	for tree := range trees {
		for i, d := range w.dirs {
			d.number[tree] = uint16(i + 1)
		}
		w.tableSz[tree] = uint32(len(w.pathTable(tree, binary.LittleEndian)))
		for i := range 2 {
			w.tables[tree][i] = next
			next += sectorsOf(w.tableSz[tree])
		}
		for _, d := range w.dirs {
			d.size[tree] = uint32(len(d.records(tree)))
			d.extent[tree] = next
			next += sectorsOf(d.size[tree])
		}
	}
	same := map[string]uint32{} // the tree repeats its documents for each version: store equal ones once
	for _, f := range w.files {
		at, known := same[string(f.data)]
		if !known {
			at = next
			same[string(f.data)] = at
			next += sectorsOf(uint32(len(f.data)))
		}
		f.fileSector = at
	}
	w.sectors = next
}

func (w *isoWriter) image() []byte {
	out := make([]byte, int(w.sectors)*isoSector)
	put := func(sector uint32, data []byte) { copy(out[int(sector)*isoSector:], data) }
	put(isoFirstVolume, w.volume(treePrimary))
	put(isoFirstVolume+1, w.volume(treeJoliet))
	put(isoFirstVolume+2, []byte("\xffCD001\x01"))
	for tree := range trees {
		put(w.tables[tree][0], w.pathTable(tree, binary.LittleEndian))
		put(w.tables[tree][1], w.pathTable(tree, binary.BigEndian))
		for _, d := range w.dirs {
			put(d.extent[tree], d.records(tree))
		}
	}
	for _, f := range w.files {
		put(f.fileSector, f.data)
	}
	return out
}

// volume is a volume descriptor (ECMA-119, 8.4 and 8.5).
func (w *isoWriter) volume(tree int) []byte {
	d := make([]byte, isoSector)
	text := func(at, length int, s string) {
		field := d[at : at+length]
		if tree == treeJoliet {
			for i := 0; i+1 < length; i += 2 {
				field[i+1] = ' '
			}
			copy(field, ucs2(s))
			return
		}
		for i := range field {
			field[i] = ' '
		}
		copy(field, s)
	}
	d[0] = 1
	if tree == treeJoliet {
		d[0] = 2
		copy(d[88:], isoJoliet3)
	}
	copy(d[1:], "CD001\x01")
	text(8, 32, "")
	text(40, 32, configLabel)
	copy(d[80:], both32(w.sectors))
	copy(d[120:], both16(1))
	copy(d[124:], both16(1))
	copy(d[128:], both16(isoSector))
	copy(d[132:], both32(w.tableSz[tree]))
	binary.LittleEndian.PutUint32(d[140:], w.tables[tree][0])
	binary.BigEndian.PutUint32(d[148:], w.tables[tree][1])
	copy(d[156:], w.root.record(tree, []byte{0}, nil))
	for _, f := range []struct{ at, length int }{{190, 128}, {318, 128}, {446, 128}, {574, 128}, {702, 37}, {739, 37}, {776, 37}} {
		text(f.at, f.length, "")
	}
	for _, at := range []int{813, 830, 847, 864} {
		copy(d[at:], "0000000000000000\x00") // not specified
	}
	d[881] = 1
	return d
}

func (w *isoWriter) pathTable(tree int, order interface {
	AppendUint16([]byte, uint16) []byte
	AppendUint32([]byte, uint32) []byte
}) []byte {
	var out []byte
	for _, d := range w.dirs {
		id := d.identifier(tree)
		if d == w.root {
			id = []byte{0}
		}
		out = append(out, byte(len(id)), 0)
		out = order.AppendUint32(out, d.extent[tree])
		out = order.AppendUint16(out, d.parent.number[tree])
		out = append(out, id...)
		if len(id)%2 == 1 {
			out = append(out, 0)
		}
	}
	return out
}

// records is a directory's content: itself, its parent, its children. No record crosses a sector.
func (n *isoNode) records(tree int) []byte {
	var out []byte
	add := func(rec []byte) {
		if room := isoSector - len(out)%isoSector; len(rec) > room {
			out = append(out, make([]byte, room)...)
		}
		out = append(out, rec...)
	}
	var first, second []byte
	if tree == treePrimary {
		second = posix(n.parent)
		first = posix(n)
		if n.parent == n {
			first = slices.Concat([]byte{'S', 'P', 7, susEntryVersion, 0xbe, 0xef, 0}, first,
				[]byte{'E', 'R', byte(8 + len(rockRidge)), susEntryVersion, byte(len(rockRidge)), 0, 0, 1}, []byte(rockRidge))
		}
	}
	add(n.record(tree, []byte{0}, first))
	add(n.parent.record(tree, []byte{1}, second))
	for _, c := range n.children {
		var use []byte
		if tree == treePrimary {
			use = slices.Concat(posix(c), []byte{'N', 'M', byte(5 + len(c.name)), susEntryVersion, 0}, []byte(c.name))
		}
		add(c.record(tree, c.identifier(tree), use))
	}
	if rest := len(out) % isoSector; rest > 0 {
		out = append(out, make([]byte, isoSector-rest)...)
	}
	return out
}

// record is a directory record (ECMA-119, 9.1) with Rock Ridge's entries in its system use area.
func (n *isoNode) record(tree int, id, use []byte) []byte {
	extent, size, flags := n.fileSector, uint32(len(n.data)), byte(0)
	if n.dir {
		extent, size, flags = n.extent[tree], n.size[tree], isoFlagDir
	}
	var b bytes.Buffer
	b.Write([]byte{0, 0})
	b.Write(both32(extent))
	b.Write(both32(size))
	b.Write(isoDate)
	b.Write([]byte{flags, 0, 0})
	b.Write(both16(1))
	b.WriteByte(byte(len(id)))
	b.Write(id)
	if len(id)%2 == 0 {
		b.WriteByte(0)
	}
	b.Write(use)
	if b.Len()%2 == 1 {
		b.WriteByte(0)
	}
	rec := b.Bytes()
	rec[0] = byte(len(rec))
	return rec
}

// posix is Rock Ridge's PX entry: mode, links, owner, group.
func posix(n *isoNode) []byte {
	mode, links := uint32(posixFile), uint32(1)
	if n.dir {
		mode, links = posixDir, 2
	}
	return slices.Concat([]byte{'P', 'X', 36, susEntryVersion}, both32(mode), both32(links), both32(0), both32(0))
}

func both32(v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, v), v)
}

func both16(v uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, v), v)
}
