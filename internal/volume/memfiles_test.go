package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// effectKind is what an effect does to files.
type effectKind string

const (
	doLink     effectKind = "link" // a name for a new file or directory, in dir
	doUnlink   effectKind = "unlink"
	doRename   effectKind = "rename"
	doExchange effectKind = "exchange"
	doWrite    effectKind = "write"
	doTruncate effectKind = "truncate"
	doSync     effectKind = "sync"
	doSyncDir  effectKind = "syncdir"
)

// effect is one thing that was done to files.
type effect struct {
	kind  effectKind
	path  string // of names: what is linked, unlinked, renamed; of syncdir: the directory
	to    string // of rename
	inode int    // of the file; 0: a directory
	off   int64
	data  []byte // of write
	size  int64  // of truncate
}

// String describes the effect in one line.
func (e effect) String() string {
	return fmt.Sprintf("%s %s %s inode %d off %d len %d size %d", e.kind, e.path, e.to, e.inode, e.off, len(e.data), e.size)
}

// isSync says that the effect only makes others durable.
func (e effect) isSync() bool { return e.kind == doSync || e.kind == doSyncDir }

// covers says that the effect makes an earlier one durable.
func (e effect) covers(old effect) bool {
	switch old.kind {
	case doWrite, doTruncate:
		return e.kind == doSync && e.inode == old.inode
	case doLink, doUnlink, doRename, doExchange:
		return e.kind == doSyncDir && e.path == path.Dir(old.path)
	default:
		return true
	}
}

// tree is what is in a file system.
type tree struct {
	names   map[string]int // path to inode; 0: a directory
	content map[int][]byte
}

func newTree() *tree { return &tree{names: map[string]int{"/": 0, "/d": 0}, content: map[int][]byte{}} }

func (t *tree) clone() *tree {
	c := &tree{names: maps.Clone(t.names), content: map[int][]byte{}}
	for i, b := range t.content {
		c.content[i] = bytes.Clone(b)
	}
	return c
}

func (t *tree) apply(e effect) {
	switch e.kind {
	case doLink:
		t.names[e.path] = e.inode
		if _, ok := t.content[e.inode]; !ok && e.inode != 0 {
			t.content[e.inode] = nil
		}
	case doUnlink:
		t.unlink(e.path)
	case doRename:
		t.unlink(e.path)
		t.names[e.to] = e.inode
	case doExchange: // on disk, two names for two files that are there
		if one, ok := t.names[e.path]; ok {
			t.names[e.path], t.names[e.to] = t.names[e.to], one
		}
	case doWrite:
		b := t.content[e.inode]
		if need := int(e.off) + len(e.data); len(b) < need {
			b = append(b, make([]byte, need-len(b))...)
		}
		copy(b[e.off:], e.data)
		t.content[e.inode] = b
	case doTruncate:
		b := t.content[e.inode]
		if int64(len(b)) < e.size {
			b = append(b, make([]byte, e.size-int64(len(b)))...)
		}
		t.content[e.inode] = slices.Clip(b[:e.size])
	case doSync, doSyncDir:
	}
}

// unlink removes a name and all below it.
func (t *tree) unlink(p string) {
	delete(t.names, p)
	for name := range t.names {
		if strings.HasPrefix(name, p+"/") {
			delete(t.names, name)
		}
	}
}

// prune removes names whose directory did not survive.
func (t *tree) prune() {
	for name := range t.names {
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			if _, ok := t.names[dir]; !ok {
				delete(t.names, name)
				break
			}
		}
	}
}

// fate is what a power cut does to an effect that was not made durable.
type fate int

const (
	kept fate = iota
	lost
	torn // of a write, the first half is kept
)

// settled returns for each effect the index of the first later one that makes it durable, or a number beyond all.
func settled(effects []effect) []int {
	out := make([]int, len(effects))
	for i, e := range effects {
		out[i] = len(effects)
		if e.isSync() {
			out[i] = i
		} else if by := slices.IndexFunc(effects[i+1:], func(s effect) bool { return s.covers(e) }); by >= 0 {
			out[i] = i + 1 + by
		}
	}
	return out
}

// afterCut is what is on disk when the power fails after the first cut effects. choose is asked for those that are not durable by then.
func afterCut(start *tree, effects []effect, by []int, cut int, choose func(i int) fate) *tree {
	t := start.clone()
	for i, e := range effects[:cut] {
		f := kept
		if by[i] >= cut {
			f = choose(i)
		}
		if f == lost {
			continue
		}
		if f == torn && e.kind == doWrite {
			e.data = e.data[:len(e.data)/2]
		}
		t.apply(e)
	}
	t.prune()
	return t
}

// volatile returns which of the first cut effects are not durable by then.
func volatile(by []int, cut int) []int {
	var out []int
	for i := range cut {
		if by[i] >= cut {
			out = append(out, i)
		}
	}
	return out
}

// memFiles is a fileSystem in memory that records its effects.
type memFiles struct {
	reflink bool

	mu      sync.Mutex
	live    *tree
	effects []effect
	nextID  int
	// fault, if not nil, is asked before each effect; an error is what the caller gets instead of it.
	fault func(n int, e effect) error
}

func newMemFiles(from *tree, reflink bool) *memFiles {
	m := &memFiles{reflink: reflink, live: from.clone(), nextID: 1}
	for inode := range from.content {
		m.nextID = max(m.nextID, inode+1)
	}
	return m
}

func (m *memFiles) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.effects)
}

func (m *memFiles) do(e effect) error {
	if m.fault != nil {
		if err := m.fault(len(m.effects), e); err != nil {
			return &os.PathError{Op: string(e.kind), Path: e.path, Err: err}
		}
	}
	m.effects = append(m.effects, e)
	m.live.apply(e)
	return nil
}

func (m *memFiles) Mkdir(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mkdir(p)
}

func (m *memFiles) mkdir(p string) error {
	if _, ok := m.live.names[p]; ok {
		return nil
	}
	if err := m.mkdir(path.Dir(p)); err != nil {
		return err
	}
	return m.do(effect{kind: doLink, path: p})
}

func notThere(op, p string) error { return &os.PathError{Op: op, Path: p, Err: fs.ErrNotExist} }

func (m *memFiles) Open(p string, flags int) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	inode, ok := m.live.names[p]
	if !ok {
		if _, dir := m.live.names[path.Dir(p)]; !dir || flags&os.O_CREATE == 0 {
			return nil, notThere("open", p)
		}
		inode = m.nextID
		m.nextID++
		if err := m.do(effect{kind: doLink, path: p, inode: inode}); err != nil {
			return nil, err
		}
	} else if flags&os.O_TRUNC != 0 {
		if err := m.do(effect{kind: doTruncate, path: p, inode: inode}); err != nil {
			return nil, err
		}
	}
	return &memFile{m: m, inode: inode, path: p}, nil
}

func (m *memFiles) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	inode, ok := m.live.names[from]
	if !ok {
		return notThere("rename", from)
	}
	return m.do(effect{kind: doRename, path: from, to: to, inode: inode})
}

// Exchange implements fileSystem: file systems that share blocks can, the others cannot; there are such and such.
func (m *memFiles) Exchange(one, two string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.reflink {
		return errNoExchange
	}
	for _, p := range []string{one, two} {
		if _, ok := m.live.names[p]; !ok {
			return notThere("exchange", p)
		}
	}
	return m.do(effect{kind: doExchange, path: one, to: two, inode: m.live.names[one]})
}

func (m *memFiles) Remove(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	inode, ok := m.live.names[p]
	if !ok {
		return notThere("remove", p)
	}
	if names := m.list(p); inode == 0 && len(names) > 0 {
		return &os.PathError{Op: "remove", Path: p, Err: errors.New("directory not empty")}
	}
	return m.do(effect{kind: doUnlink, path: p, inode: inode})
}

func (m *memFiles) list(p string) []string {
	var out []string
	for name := range m.live.names {
		if path.Dir(name) == p && name != "/" {
			out = append(out, path.Base(name))
		}
	}
	slices.Sort(out)
	return out
}

func (m *memFiles) List(p string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.live.names[p]; !ok {
		return nil, notThere("list", p)
	}
	return m.list(p), nil
}

func (m *memFiles) Stat(p string) (fileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	inode, ok := m.live.names[p]
	if !ok {
		return fileInfo{}, notThere("stat", p)
	}
	n := int64(len(m.live.content[inode]))
	return fileInfo{bytes: n, allocated: n, dir: inode == 0}, nil
}

func (m *memFiles) SyncDir(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.do(effect{kind: doSyncDir, path: p})
}

func (m *memFiles) Space(string) (total, free int64, err error) { return 1 << 40, 1 << 39, nil }

func (m *memFiles) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// paths returns all names below a directory, sorted.
func (m *memFiles) paths(below string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name := range m.live.names {
		if strings.HasPrefix(name, below+"/") {
			out = append(out, strings.TrimPrefix(name, below+"/"))
		}
	}
	slices.Sort(out)
	return out
}

// memFile is a file of memFiles.
type memFile struct {
	m     *memFiles
	inode int
	path  string
}

func (f *memFile) FD() int    { return -1 }
func (f *memFile) Align() int { return 1 }

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	b := f.m.live.content[f.inode]
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) change(e effect) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	e.inode, e.path = f.inode, f.path
	return f.m.do(e)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.change(effect{kind: doWrite, off: off, data: bytes.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memFile) Sync() error               { return f.change(effect{kind: doSync}) }
func (f *memFile) Truncate(size int64) error { return f.change(effect{kind: doTruncate, size: size}) }
func (f *memFile) Close() error              { return nil }

func (f *memFile) Punch(off, length int64) error {
	return f.change(effect{kind: doWrite, off: off, data: make([]byte, length)})
}

func (f *memFile) Zero(off, length int64) error { return f.Punch(off, length) }

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.m.live.content[f.inode])), nil
}

func (f *memFile) NextData(off int64) (start, end int64, err error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	b := f.m.live.content[f.inode]
	const grain = sectorBytes
	isData := func(at int64) bool {
		s := b[at:min(at+grain, int64(len(b)))]
		return !bytes.Equal(s, zeros[:len(s)])
	}
	start = off
	for start < int64(len(b)) && !isData(start) {
		start = start/grain*grain + grain
	}
	if start >= int64(len(b)) {
		return 0, 0, io.EOF
	}
	for end = start; end < int64(len(b)) && isData(end); {
		end = end/grain*grain + grain
	}
	return start, min(end, int64(len(b))), nil
}

func (f *memFile) Clone(from file) error {
	src, ok := from.(*memFile)
	if !ok || !f.m.reflink || src.m != f.m {
		return errNoReflink
	}
	f.m.mu.Lock()
	data := bytes.Clone(f.m.live.content[src.inode])
	f.m.mu.Unlock()
	return f.change(effect{kind: doWrite, data: data})
}

func TestTheRecorderLosesExactlyWhatWasNotSynced(t *testing.T) {
	m := newMemFiles(newTree(), true)
	f := must(m.Open("/d/x", os.O_CREATE))(t)
	f.WriteAt([]byte("durable"), 0)
	f.Sync()
	m.SyncDir("/d")
	f.WriteAt([]byte("volatil"), 0)
	m.Rename("/d/x", "/d/y")
	by := settled(m.effects)
	after := func(cut int, f fate) string {
		got := afterCut(newTree(), m.effects, by, cut, func(int) fate { return f })
		inode := got.names["/d/x"] + got.names["/d/y"]
		return fmt.Sprint(got.names, " ", string(got.content[inode]))
	}
	for _, c := range []struct {
		cut  int
		fate fate
		want string
	}{
		{6, lost, "map[/:0 /d:0 /d/x:1] durable"},
		{6, kept, "map[/:0 /d:0 /d/y:1] volatil"},
		{6, torn, "map[/:0 /d:0 /d/y:1] volable"},
		{3, lost, "map[/:0 /d:0] "},
	} {
		if have := after(c.cut, c.fate); have != c.want {
			t.Errorf("cut after %d: %s, want %s", c.cut, have, c.want)
		}
	}
}
