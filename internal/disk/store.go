package disk

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Image formats.
const (
	FormatQCOW2 = "qcow2"
	FormatRaw   = "raw"
)

const (
	imagesDir    = "images"
	instancesDir = "instances"
	sharedIDFile = "shared-id"
	holderFile   = "host-id" // directly in DIR, which is never shared
	ownerFile    = "owner"   // in a server's directory
	tempSuffix   = ".new"    // files being made; removed at Open
)

// Fetch opens an image's data from an offset (bytes). A failure of kind unavailable is worth another attempt.
type Fetch func(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error)

// Options are what a Store needs. Dir and Fetch are required.
type Options struct {
	Dir     string
	Fetch   Fetch
	QEMUImg string       // path of qemu-img; found in PATH if empty
	Logger  *slog.Logger // nil: slog.Default
}

// Store is a host's disks. Its methods may be called at once for different servers; for one server the caller takes turns.
type Store struct {
	dir     string
	qemuImg string
	fetch   Fetch
	log     *slog.Logger
	engine  Engine
	shared  string
	holder  string // this store's own identity, in owner files
	lock    *os.File

	mu      sync.Mutex
	fetches map[string]*fetching // by SHA-512; guarded by mu

	fetchTurns chan struct{} // what fetches under way hold
}

// Open makes the directories, removes what a crash left half made, and finds out what the file system can do. Only one process at a time may
// hold a directory's images; a second Open fails with KindConflict. Close releases it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.QEMUImg == "" {
		o.QEMUImg = "qemu-img"
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("disk store: %w", err)
	}
	s := &Store{dir: dir, qemuImg: o.QEMUImg, fetch: o.Fetch, log: o.Logger, fetches: map[string]*fetching{}, fetchTurns: make(chan struct{}, fetchesMax)}
	// QEMU may run as another user: it must be able to pass through, and to read bases.
	for _, d := range []string{s.dir, s.path(imagesDir), s.path(instancesDir)} {
		if err := passable(d); err != nil {
			return nil, fmt.Errorf("disk store: %w", err)
		}
	}
	if err := s.acquire(); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("disk store %s: %w", s.dir, err)
	}
	return s, nil
}

// passable makes the directory, and lets everybody pass through who knows what is in it. Others may have made it first, for secrets of theirs below it.
func passable(dir string) error {
	const pass = 0o711
	if err := os.MkdirAll(dir, pass); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&pass == pass {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|pass)
}

// acquire takes a lock that the kernel drops when the process ends.
func (s *Store) acquire() error {
	f, err := os.OpenFile(s.path(".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("disk store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return cloud.Errorf(cloud.KindConflict, "disk store %s: in use by another process: %w", s.dir, err)
	}
	s.lock = f
	return nil
}

func (s *Store) prepare(ctx context.Context) error {
	var err error
	if s.shared, err = identity(s.path(instancesDir, sharedIDFile)); err != nil {
		return err
	}
	if s.holder, err = identity(s.path(holderFile)); err != nil {
		return err
	}
	if err := s.sweepTemps(); err != nil {
		return err
	}
	s.engine, err = s.probeEngine(ctx)
	return err
}

// Recognise reports, as KindUnavailable, that the directory of servers' disks is not the one that was opened: it answers nothing, or is not mounted any
// more. On a network file system the call may hang for as long as that file system is patient.
func (s *Store) Recognise() error {
	raw, err := os.ReadFile(s.path(instancesDir, sharedIDFile))
	if err != nil {
		return cloud.E(cloud.KindUnavailable, "disk store", s.path(instancesDir), err)
	}
	if id := strings.TrimSpace(string(raw)); id != s.shared {
		return cloud.Errorf(cloud.KindUnavailable, "disk store %s: this is directory %s, not %s: what was mounted here is gone", s.path(instancesDir), id, s.shared)
	}
	return nil
}

// Instances is the directory of servers' disks.
func (s *Store) Instances() string { return s.path(instancesDir) }

// Close releases the directory.
func (s *Store) Close() { s.lock.Close() }

// Engine returns how QEMU should do I/O on this file system.
func (s *Store) Engine() Engine { return s.engine }

// SharedID returns the identity of the instances directory: hosts that report the same one have the same directory.
func (s *Store) SharedID() string { return s.shared }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// identity reads a random identity from a file, making it first if need be. Of two hosts that make it at once, one wins and both read that.
func identity(file string) (string, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		var id [identityBytes]byte
		rand.Read(id[:])
		text := hex.EncodeToString(id[:])
		temp := file + "-" + text
		if err := writeDurably(temp, []byte(text+"\n"), 0o644); err != nil {
			return "", err
		}
		defer os.Remove(temp)
		if err := os.Link(temp, file); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(raw))
	if len(id) != 2*identityBytes {
		return "", fmt.Errorf("%s: %q is no identity", file, id)
	}
	return id, nil
}

const identityBytes = 16

// anyServer matches the directory of any server, and nothing else that may lie in a directory that is shared.
const anyServer = "????????-????-????-????-????????????"

// mine reports whether a server's directory is known to be this host's.
func (s *Store) mine(name string) bool {
	holder, _, err := s.ownerOf(cloud.ServerID(name))
	return err == nil && holder == s.holder
}

// sweepTemps removes files that were being made when the last process ended. Partly fetched images stay: their data is verified later.
func (s *Store) sweepTemps() error {
	for _, pattern := range []string{s.path(imagesDir, "*"+tempSuffix), s.path(instancesDir, anyServer, "*"+tempSuffix)} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if filepath.Dir(name) != s.path(imagesDir) && !s.mine(filepath.Base(filepath.Dir(name))) {
				continue // another host is just making it
			}
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Files are the paths of one server's files. They are the same on every host whose store has the same Dir.
type Files struct {
	Dir      string
	Root     string // qcow2
	Config   string // raw
	Console  string
	past     string
	rootless string // says that there is to be no root disk
}

// Files returns a server's paths, or KindInvalid for an id that is no canonical UUID and could lead elsewhere.
func (s *Store) Files(id cloud.ServerID) (Files, error) {
	u, err := uuid.Parse(string(id))
	if err != nil || u.String() != string(id) {
		return Files{}, cloud.Errorf(cloud.KindInvalid, "server id %q is no UUID", id)
	}
	dir := s.path(instancesDir, string(id))
	return Files{Dir: dir, Root: filepath.Join(dir, "disk"), Config: filepath.Join(dir, "disk.config"),
		Console: filepath.Join(dir, "console.log"), past: filepath.Join(dir, "console.past"), rootless: filepath.Join(dir, "rootless")}, nil
}

// Present reports whether the server has a root disk here, or what it needs without one.
func (s *Store) Present(id cloud.ServerID) bool {
	f, err := s.Files(id)
	if err != nil {
		return false
	}
	for _, file := range []string{f.Root, f.rootless} {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return false
}

// Remove deletes the server's directory and all in it, and nothing else, whatever links lie in it. No directory is success.
func (s *Store) Remove(id cloud.ServerID) error {
	if _, err := s.Files(id); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.path(instancesDir))
	if err != nil {
		return fmt.Errorf("server %s: remove disks: %w", id, err)
	}
	defer root.Close()
	if err := root.RemoveAll(string(id)); err != nil {
		return fmt.Errorf("server %s: remove disks: %w", id, err)
	}
	return syncDir(s.path(instancesDir))
}

// Space returns the size of the file system that holds disks and how much of it is free for root, in bytes.
func (s *Store) Space() (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.path(instancesDir), &st); err != nil {
		return 0, 0, fmt.Errorf("disk store %s: %w", s.dir, err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bfree) * st.Bsize, nil
}

// Usage returns the bytes a server's files occupy (holes do not count). No files is 0.
func (s *Store) Usage(id cloud.ServerID) (int64, error) {
	f, err := s.Files(id)
	if err != nil {
		return 0, err
	}
	var sum int64
	err = filepath.WalkDir(f.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		const statBlock = 512 // of st_blocks, whatever the file system's own block
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * statBlock
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return sum, err
}
