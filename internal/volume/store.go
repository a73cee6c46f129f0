package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/uring"
)

// The names in a store's directory; doc.go draws it.
const (
	lockName      = "lock"
	volumesName   = "volumes"
	metaName      = "meta"
	metaNextName  = "meta.next"
	dataName      = "data"
	revertName    = "data.revert"
	snapshotsName = "snapshots"
	probeOneName  = "probe.1"
	probeTwoName  = "probe.2"
)

// Options are what a Store is made of.
type Options struct {
	Dir  string // made if it is not there
	Name string // of the back end
	Kind string // "file" or KindGluster: for Facts, and the second must be mounted
	// Direct says whether data is opened with O_DIRECT for the data path. Copies read through the page cache, and write past it where
	// data may be so opened.
	Direct DirectIO
	// Loop, if not nil, does the reading, writing and syncing; it must outlive the Store. nil: ordinary system calls.
	Loop *uring.Loop
	Log  *slog.Logger // nil: slog.Default

	files fileSystem // of tests
}

// Store is one directory of volumes. Any goroutine may use it.
type Store struct {
	o      Options
	files  fileSystem
	log    *slog.Logger
	lock   io.Closer
	noLink string // why blocks cannot be shared; empty: they can
	noDio  string // why I/O is not direct; empty: it is
	life   context.Context
	end    context.CancelCauseFunc
	tasks  sync.WaitGroup // started by later

	deletions atomic.Int64
	refusals  atomic.Uint64 // of the data path, for want of room
	watch     func()        // see Watch

	mu      sync.Mutex
	volumes map[cloud.VolumeID]*volume
	closed  bool
}

// errStoreClosed is the cause of what ends because the Store is closed.
var errStoreClosed = errors.New("the volume store is closed")

// lockWait is how long Open waits for a predecessor that was killed: the kernel gives the lock up when the last of its requests has ended.
const (
	lockWait  = 10 * time.Second
	lockPause = 50 * time.Millisecond
)

// Open takes the directory, finds out what its file system can do, and recovers: it removes what operations that were cut short have left. A
// volume whose metadata or data cannot be relied on does not keep the others from being served; see Facts.Damaged. cloud.KindConflict: another
// process serves the directory.
func Open(ctx context.Context, o Options) (*Store, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("volume store: %w", err)
	}
	o.Dir = dir
	s := &Store{o: o, files: o.files, log: cmp.Or(o.Log, slog.Default()), volumes: map[cloud.VolumeID]*volume{}}
	if s.files == nil {
		s.files = osFiles{loop: o.Loop}
	}
	s.life, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	err = checkMount(o.Kind, o.Dir)
	if err == nil {
		err = s.open(ctx)
	}
	if err != nil {
		s.end(err)
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, cloud.E(kindOf(err), "open", "volume store "+dir, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.files.Mkdir(filepath.Join(s.o.Dir, volumesName)); err != nil {
		return err
	}
	for _, dir := range []string{s.o.Dir, filepath.Dir(s.o.Dir)} {
		if err := s.files.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := s.takeLock(ctx); err != nil {
		return err
	}
	if err := s.probe(); err != nil {
		return err
	}
	return s.recover(ctx)
}

func (s *Store) takeLock(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		s.lock, err = s.files.Lock(filepath.Join(s.o.Dir, lockName))
		if !errors.Is(err, errLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return cloud.E(cloud.KindConflict, "", "", err)
		case <-time.After(lockPause):
		}
	}
}

// probe finds out whether blocks can be shared and whether I/O can be direct, with two empty files. They stay: on a disk that is full they could not
// be made.
func (s *Store) probe() error {
	one, err := s.files.Open(filepath.Join(s.o.Dir, probeOneName), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	defer one.Close()
	two, err := s.files.Open(filepath.Join(s.o.Dir, probeTwoName), os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	defer two.Close()
	switch err := two.Clone(one); {
	case errors.Is(err, errNoReflink):
		s.noLink = err.Error()
		s.log.Warn("snapshots and clones are copied: this file system cannot share blocks", "backend", s.o.Name, "dir", s.o.Dir, "why", err)
	case err != nil:
		return err
	}
	return s.probeDirect(filepath.Join(s.o.Dir, probeOneName))
}

func (s *Store) probeDirect(path string) error {
	if s.o.Direct == DirectOff {
		s.noDio = "switched off"
		return nil
	}
	f, err := s.files.Open(path, os.O_RDWR|unix.O_DIRECT)
	if err == nil {
		return f.Close()
	}
	if s.o.Direct == DirectOn {
		return fmt.Errorf("direct I/O: %w", err)
	}
	s.noDio = err.Error()
	s.log.Warn("I/O goes through the page cache: this file system takes none that is direct", "backend", s.o.Name, "dir", s.o.Dir, "why", err)
	return nil
}

// Close lets nobody write any more, waits for the mutations under way until ctx ends, tells the connections to end, and gives the directory up. Close
// leases before or after.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.end(errStoreClosed)
	var errs []error
	for _, v := range s.all() {
		errs = append(errs, v.shutDown(ctx))
	}
	s.tasks.Wait()
	return errors.Join(append(errs, s.lock.Close())...)
}

// shutDown ends the volume's leases, whether or not the mutations under way have ended by then.
func (v *volume) shutDown(ctx context.Context) error {
	if err := v.take(ctx); err != nil {
		return err
	}
	defer v.give()
	err := v.hold(ctx, func(record) bool { return true })
	v.mu.Lock()
	v.ended = true
	v.mu.Unlock()
	v.settle()
	return err
}

// later runs f in a goroutine that Close waits for, or at once if there is no more later.
func (s *Store) later(f func()) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.tasks.Add(1)
	}
	s.mu.Unlock()
	if closed {
		f()
		return
	}
	go func() {
		defer s.tasks.Done()
		f()
	}()
}

// Name returns the back end's name.
func (s *Store) Name() string { return s.o.Name }

// Dir returns the back end's directory. Names in it other than those of the package comment are their makers'.
func (s *Store) Dir() string { return s.o.Dir }

// Reflink reports whether files of the back end's file system can share blocks.
func (s *Store) Reflink() bool { return s.noLink == "" }

// Facts describes the back end. It does not fail: what it cannot find out it says in Error.
func (s *Store) Facts() Facts {
	f := Facts{Name: s.o.Name, Kind: s.o.Kind, Reflink: s.noLink == "", ReflinkWhy: s.noLink, Direct: s.noDio == "", DirectWhy: s.noDio}
	var err error
	if f.TotalBytes, f.FreeBytes, err = s.files.Space(s.o.Dir); err != nil {
		f.Error = err.Error()
	}
	for _, v := range s.all() {
		f.Troubles = append(f.Troubles, v.troubles()...)
		v.mu.Lock()
		if v.damage != nil {
			f.Damaged = append(f.Damaged, v.id)
		}
		if v.meta.Phase == phaseReady || v.damage != nil {
			f.Volumes++
		}
		f.Attachments += len(v.meta.Ledger.Open)
		f.RequestsHeld += len(v.held)
		v.mu.Unlock()
	}
	slices.Sort(f.Damaged)
	orderTroubles(f.Troubles)
	return f
}

// List returns the volumes that are there, in order of their ids.
func (s *Store) List() []cloud.VolumeID {
	var ids []cloud.VolumeID
	for _, v := range s.all() {
		if m, err := v.truth(); err != nil || m.Phase == phaseReady {
			ids = append(ids, v.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Inspect returns the truth about a volume; Present is false if there is none. It does not wait for operations under way.
func (s *Store) Inspect(_ context.Context, id cloud.VolumeID) (State, error) {
	v := s.lookup(id)
	if v == nil {
		return State{ID: id, Backend: s.o.Name}, nil
	}
	m, err := v.truth()
	if err != nil {
		return State{}, err
	}
	return v.state(m)
}

// state describes the volume, whose metadata is m.
func (v *volume) state(m meta) (State, error) {
	s := v.store
	st := State{ID: v.id, Backend: s.o.Name, Generation: m.Generation, Epoch: m.Ledger.Epoch}
	if m.Phase != phaseReady {
		return st, nil
	}
	st.Present, st.Bytes, st.Limits, st.Snapshots = true, m.Bytes, m.Limits, m.Snapshots
	v.mu.Lock()
	for _, r := range m.Ledger.Open {
		st.Attachments = append(st.Attachments, v.attachmentLocked(r))
	}
	v.mu.Unlock()
	paths := []string{s.dataPath(v.id)}
	for _, snap := range m.Snapshots {
		paths = append(paths, s.snapshotPath(v.id, snap.ID))
	}
	for _, p := range paths {
		info, err := s.files.Stat(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // deleted between our two looks
			return State{}, v.fail("inspect", err)
		}
		st.AllocatedBytes += info.allocated
	}
	return st, nil
}

func (s *Store) dir(id cloud.VolumeID) string {
	return filepath.Join(s.o.Dir, volumesName, string(id))
}
func (s *Store) dataPath(id cloud.VolumeID) string { return filepath.Join(s.dir(id), dataName) }
func (s *Store) snapshotsDir(id cloud.VolumeID) string {
	return filepath.Join(s.dir(id), snapshotsName)
}
func (s *Store) snapshotPath(id cloud.VolumeID, snap cloud.SnapshotID) string {
	return filepath.Join(s.snapshotsDir(id), string(snap))
}

// lookup returns the volume, nil if it was never heard of.
func (s *Store) lookup(id cloud.VolumeID) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.volumes[id]
}

func (s *Store) all() []*volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.volumes))
}

// validID is what may be part of a path: ids are UUIDs, or what tests call things.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func checkID(what, id string) error {
	if !validID.MatchString(id) {
		return cloud.Errorf(cloud.KindInvalid, "%s id %q: letters, digits, - and _ only, 64 at most", what, id)
	}
	return nil
}

// volume returns the volume, making a memory of it if there is none.
func (s *Store) volume(id cloud.VolumeID) (*volume, error) {
	if err := checkID("volume", string(id)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, cloud.E(cloud.KindUnavailable, "", "volume "+string(id), errStoreClosed)
	}
	v := s.volumes[id]
	if v == nil {
		v = newVolume(s, id)
		s.volumes[id] = v
	}
	return v, nil
}

// fail says what failed for which volume, with the kind that its cause has.
func (v *volume) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return cloud.E(kindOf(err), op, "volume "+string(v.id), err)
}

// kindOf classes errors of files.
func kindOf(err error) cloud.Kind {
	var known *cloud.Error
	switch {
	case errors.As(err, &known):
		return known.Kind
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return cloud.KindExhausted
	case errors.Is(err, unix.EFBIG):
		return cloud.KindInvalid
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return cloud.KindCancelled
	case errors.Is(err, uring.ErrClosed), errors.Is(err, errStoreClosed), errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.EROFS):
		return cloud.KindUnavailable
	default:
		return cloud.KindInternal
	}
}
