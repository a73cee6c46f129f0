package hostagent

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/gluster"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// A disk directory on a file system of the network. The agent looks at it every now and then for the facts, and anew before a server starts or moves: then
// nothing that can be known may be known too late.
//
// A call to such a file system cannot be given up: it ends when the file system's own patience does. So every look runs in a goroutine of its own, one at a
// time, and whoever waits for it has a patience of his own.

const (
	// sharedPeriod is how often a shared directory is looked at: as often as facts are sent.
	sharedPeriod = factsPeriod
	// sharedPatience is how long a check before a start or a move waits: longer than a client needs to give a dead brick up with the 5 to 20 s that
	// virtual machines want (network.ping-timeout).
	sharedPatience = 25 * time.Second
	// settingsPeriod is how often a volume's settings are asked for.
	settingsPeriod = 30 * time.Second
	// probeDir is below the shared directory: a file for each host, to see whether writes get through.
	probeDir = ".godwit/probes"
	// probesMax and probeBytesMax bound what is read of other hosts' files: a directory that is shared is one that others write to.
	probesMax     = 1000
	probeBytesMax = 128
)

// Share is the file system that a shared disk directory lies on. Calls may hang.
type Share interface {
	// Mount returns what the directory lies on.
	Mount() (disk.Mount, error)
	// Write puts a text into the host's own probe file and returns when it is durable. Seen reads the probe files of all hosts.
	Write(host cloud.HostName, text string) error
	Seen() (map[string]string, error)
	// Health looks at a GlusterFS volume; heal also asks what waits to be healed.
	Health(ctx context.Context, heal bool) (gluster.Health, error)
	// Dangers names settings of a GlusterFS volume that can lose writes, and why it might not be up to date.
	Dangers(ctx context.Context) ([]string, error)
	// SetsOf and IDOf are as in package gluster.
	SetsOf(file string) ([]string, error)
	IDOf(file string) (string, error)
}

// directory is the Share of the machine.
type directory struct{ path string }

func (d directory) Mount() (disk.Mount, error) { return disk.MountOf(d.path) }

func (d directory) Write(host cloud.HostName, text string) error {
	dir := filepath.Join(d.path, probeDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, string(host)), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text + "\n"); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (d directory) Seen() (map[string]string, error) {
	dir := filepath.Join(d.path, probeDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]string{}
	for _, e := range entries[:min(len(entries), probesMax)] {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // of a host that is just going
		}
		text := make([]byte, probeBytesMax)
		n, _ := f.Read(text) // a file that is being rewritten is empty for a moment, and is read again soon
		f.Close()
		seen[e.Name()] = strings.TrimSpace(string(text[:n]))
	}
	return seen, nil
}

func (d directory) Health(ctx context.Context, heal bool) (gluster.Health, error) {
	return gluster.Look(ctx, d.path, heal)
}

func (d directory) Dangers(ctx context.Context) ([]string, error) {
	return gluster.Dangers(ctx, d.path)
}

func (d directory) SetsOf(file string) ([]string, error) { return gluster.SetsOf(file) }
func (d directory) IDOf(file string) (string, error)     { return gluster.IDOf(file) }

// sharing is what the agent knows of its shared directory.
type sharing struct {
	share Share
	host  cloud.HostName
	store *disk.Store
	mount disk.Mount // as it was when the agent began
	word  string     // of this start of the agent, random
	round int64      // of the last probe; the look's in progress
	began time.Time  // when it was opened
	rules settings   // the look's in progress

	mu      sync.Mutex
	looking chan struct{} // closed when the look in progress ends; nil when there is none; guarded by mu
	last    sight         // guarded by mu
}

// settings is what was last found of a GlusterFS volume's settings.
type settings struct {
	at      time.Time
	dangers []string
	err     error // why they may not be those in force
}

// sight is what a look saw.
type sight struct {
	at     time.Time
	took   time.Duration
	err    error // why nothing can be written, or read
	health gluster.Health
	rules  settings
	nonce  string            // written; empty when that failed
	probes map[string]string // what hosts wrote
}

// newSharing returns nil when the directory is not on a file system of the network.
func newSharing(o Options) (*sharing, error) {
	share := o.Share
	if share == nil {
		share = directory{o.Disk.Instances()}
	}
	m, err := share.Mount()
	switch {
	case err != nil:
		return nil, err
	case o.DiskMount != "" && m.Type != o.DiskMount:
		return nil, cloud.Errorf(cloud.KindUnavailable, "%s is to be a mount of type %s; it lies on %s (%s)", o.Disk.Instances(), o.DiskMount, m.Point, m.Type)
	case !m.Remote() && !o.DiskShared:
		return nil, nil
	}
	s := &sharing{share: share, host: o.Name, store: o.Disk, mount: m, word: rand.Text(), began: time.Now()}
	return s, s.present() // it may have been mounted since the store was opened on what lay below
}

func (s *sharing) isGluster() bool { return s.mount.Type == gluster.MountType }

// look sees how the directory is, and waits for that until ctx ends. Of two who ask at once the second waits for the first's look to end and then has its own:
// what began before it asked could be from before what it asks about.
func (s *sharing) look(ctx context.Context) (sight, error) {
	for {
		s.mu.Lock()
		before := s.looking
		if before == nil {
			break // with the lock held
		}
		s.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return sight{}, s.silent(ctx)
		}
	}
	done := make(chan struct{})
	s.looking = done
	s.mu.Unlock()
	result := make(chan sight, 1)
	go func() { // not waited for by Run: what hangs in the kernel cannot be ended, and it touches nothing but its own result
		seen := s.see()
		s.mu.Lock()
		s.last, s.looking = seen, nil
		s.mu.Unlock()
		close(done)
		result <- seen
	}()
	select {
	case seen := <-result:
		return seen, nil
	case <-ctx.Done():
		return sight{}, s.silent(ctx)
	}
}

func (s *sharing) silent(ctx context.Context) error {
	return cloud.Errorf(cloud.KindUnavailable, "the shared directory %s (%s) does not answer: %w", s.mount.Point, s.mount.Source, context.Cause(ctx))
}

// see is a look, made by whoever may hang.
func (s *sharing) see() sight {
	seen := sight{at: time.Now()}
	seen.err = s.present()
	if s.isGluster() {
		ctx, cancel := context.WithTimeout(context.Background(), sharedPatience)
		health, err := s.share.Health(ctx, true)
		if err == nil && seen.at.Sub(s.rules.at) >= settingsPeriod {
			s.rules.at = seen.at
			s.rules.dangers, s.rules.err = s.share.Dangers(ctx)
		}
		cancel()
		seen.health, seen.rules = health, s.rules
		if seen.err == nil {
			seen.err = err
		}
	}
	if seen.err == nil {
		s.round++
		nonce := fmt.Sprintf("%s %d", s.word, s.round)
		if seen.err = s.share.Write(s.host, nonce); seen.err == nil {
			seen.nonce = nonce
			seen.probes, seen.err = s.share.Seen()
		}
	}
	seen.took = time.Since(seen.at)
	return seen
}

// present reports whether the directory is the one that the agent opened.
func (s *sharing) present() error {
	m, err := s.share.Mount()
	if err != nil {
		return err
	}
	if m.Type != s.mount.Type {
		return cloud.Errorf(cloud.KindUnavailable, "%s is not mounted: the directory lies on %s (%s)", s.mount.Source, m.Point, m.Type)
	}
	return s.store.Recognise()
}

// facts are what was last seen, on the wire. Nil when there has been no look.
func (s *sharing) facts() *hostpb.SharedStorage {
	s.mu.Lock()
	seen, looking := s.last, s.looking != nil
	s.mu.Unlock()
	out := &hostpb.SharedStorage{
		Kind: kindOfMount(s.mount.Type), Source: s.mount.Source, Directory: s.mount.Point, KeptFor: durationpb.New(max(time.Since(s.began), 1)), // 0 is an agent that says nothing
	}
	if seen.at.IsZero() {
		out.Error = cloud.NotLookedYet
		return out
	}
	out.Nonce, out.Seen = seen.nonce, maps.Clone(seen.probes)
	delete(out.Seen, string(s.host))
	out.Volume, out.Writable, out.Quorum = seen.health.Volume, seen.err == nil, seen.err == nil
	if seen.err != nil {
		out.Error = seen.err.Error()
	}
	if age := time.Since(seen.at.Add(seen.took)); looking && age > sharedPeriod+sharedPatience {
		out.Writable, out.Error = false, fmt.Sprintf("no answer for %s", age.Round(time.Second))
	}
	if !s.isGluster() {
		return out
	}
	out.Quorum = seen.health.Volume != "" && seen.health.Quorum()
	pending, split := seen.health.Pending()
	out.HealPending, out.SplitBrain = int64(pending), int64(split)
	for _, b := range seen.health.Bricks {
		out.Bricks = append(out.Bricks, &hostpb.Brick{Name: b.Name, Online: b.Online, HealPending: int64(b.Heal), ReplicaSet: int64(b.Set)})
	}
	out.Dangers = seen.rules.dangers
	if seen.health.HealError != "" && out.Error == "" {
		out.Error = seen.health.HealError
	}
	if seen.rules.err != nil && out.Error == "" {
		out.Error = seen.rules.err.Error()
	}
	return out
}

func kindOfMount(kind string) string {
	if kind == gluster.MountType {
		return "glusterfs"
	}
	return strings.TrimPrefix(strings.TrimSuffix(kind, "4"), "fuse.") // nfs4 is nfs
}

// keepShared looks at the directory every now and then, and says so when something changed.
func (a *Agent) keepShared() {
	if a.shared == nil {
		return
	}
	var told *hostpb.SharedStorage
	for {
		ctx, cancel := context.WithTimeout(a.life, sharedPatience)
		_, err := a.shared.look(ctx)
		cancel()
		if err != nil && a.life.Err() == nil {
			a.log.Warn("shared directory", "error", err)
		}
		now := a.shared.facts()
		state := proto.CloneOf(now)
		state.Nonce, state.Seen, state.KeptFor = "", nil, nil // these always change, and go with the next facts
		if !proto.Equal(state, told) {
			told = state
			a.ringFacts()
		}
		if !a.pause(sharedPeriod, nil) {
			return
		}
	}
}

// CheckDisks says what speaks against starting or moving a server, as far as its files are concerned.
func (a *Agent) CheckDisks(ctx context.Context, req *hostpb.CheckDisksRequest) (*hostpb.CheckDisksReply, error) {
	if a.shared == nil {
		return &hostpb.CheckDisksReply{}, nil
	}
	files, err := a.o.Disk.Files(cloud.ServerID(req.GetSpec().GetServerId()))
	if err != nil {
		return nil, err
	}
	return &hostpb.CheckDisksReply{Problems: a.shared.objections(ctx, files, true).all()}, nil
}

// A client that died in the middle of writes leaves its disks to be healed: every server of a host that was lost, for one. The healer looks for such
// every cluster.heal-timeout; a start waits for it this long, and longer outages are the caller's to bridge.
const (
	healPatience = 30 * time.Second
	healPeriod   = time.Second // between two looks; one asks every brick
)

// checkShared refuses, with the reasons, what must not begin on the shared directory as it is now. A start waits for disks to be healed first.
func (v *vm) checkShared(ctx context.Context, moving bool) error {
	if v.a.shared == nil {
		return nil
	}
	files, err := v.a.o.Disk.Files(v.id)
	if err != nil {
		return err
	}
	o := v.a.shared.objections(ctx, files, moving)
	if !moving && o.willPass() {
		v.log.Info("waiting for disks to be healed", "disks", o.healing)
		o = v.a.shared.awaitHealed(ctx, files)
	}
	if problems := o.all(); len(problems) > 0 {
		return cloud.Errorf(cloud.KindUnavailable, "shared storage: %s", strings.Join(problems, "; "))
	}
	return nil
}

// objections are what speaks against using a server's files now, as sentences.
type objections struct {
	lasting []string
	healing []string // ends by itself
}

func (o objections) all() []string  { return slices.Concat(o.lasting, o.healing) }
func (o objections) willPass() bool { return len(o.lasting) == 0 && len(o.healing) > 0 }

// awaitHealed returns what speaks against a start when nothing waits to be healed any more, when something else came up, or after healPatience.
func (s *sharing) awaitHealed(ctx context.Context, files disk.Files) objections {
	enough := time.After(healPatience)
	tick := time.NewTicker(healPeriod)
	defer tick.Stop()
	o := s.objections(ctx, files, false)
	for o.willPass() {
		select {
		case <-tick.C:
			o = s.objections(ctx, files, false)
		case <-enough:
			return o
		case <-ctx.Done():
			return o
		}
	}
	return o
}

// objections looks at the directory.
//
// What waits to be healed is refused while its pair is whole, because that ends by itself, and always before a move, which can wait. With a brick away a start goes ahead:
// every disk that was written since waits to be healed then, and refusing them all would make one lost brick an outage of every server that is down. The
// file system reads such a disk from the brick that has it whole.
func (s *sharing) objections(ctx context.Context, files disk.Files, moving bool) (o objections) {
	ctx, cancel := context.WithTimeout(ctx, sharedPatience)
	defer cancel()
	seen, err := s.look(ctx)
	if err != nil {
		return objections{lasting: []string{err.Error()}}
	}
	if !s.isGluster() {
		if seen.err != nil {
			o.lasting = append(o.lasting, seen.err.Error())
		}
		return o
	}
	sets, ids := s.places(ctx, files)
	for i, set := range seen.health.Sets {
		if !set.Quorum && (len(sets) == 0 || slices.Contains(sets, set.Name)) {
			o.lasting = append(o.lasting, fmt.Sprintf("replica set %s of volume %s has no quorum (%s): nothing can be written there", set.Name, seen.health.Volume, away(&seen.health, i)))
		}
	}
	if len(o.lasting) == 0 && seen.err != nil {
		o.lasting = append(o.lasting, seen.err.Error())
	}
	o.unhealed(&seen.health, files, ids, moving)
	return o
}

// places returns the replica sets that hold a server's files, and the names that bricks have for those. Of a server that has no files here yet it
// returns none: it may come to lie anywhere.
func (s *sharing) places(ctx context.Context, files disk.Files) (sets, ids []string) {
	type place struct{ sets, ids []string }
	found := make(chan place, 1)
	go func() { // as in look
		var p place
		for _, file := range []string{files.Root, files.Config, files.Dir} {
			if on, err := s.share.SetsOf(file); err == nil {
				p.sets = append(p.sets, on...)
			}
			if id, err := s.share.IDOf(file); err == nil {
				p.ids = append(p.ids, id)
			}
		}
		found <- p
	}()
	select {
	case p := <-found:
		return p.sets, p.ids
	case <-ctx.Done():
		return nil, nil
	}
}

// away names the bricks of a set that are not reached.
func away(h *gluster.Health, set int) string {
	var names []string
	for _, b := range h.Bricks {
		if b.Set == set && !b.Online {
			names = append(names, b.Name)
		}
	}
	if len(names) == 0 {
		return "its bricks are there again just now"
	}
	return "away: " + strings.Join(names, ", ")
}

// unhealed adds what speaks against a server whose files are not the same on all bricks.
func (o *objections) unhealed(h *gluster.Health, files disk.Files, ids []string, moving bool) {
	dir := "/" + filepath.Base(files.Dir)
	for _, e := range h.Heal {
		itsOwn := strings.HasSuffix(e.Path, dir) || strings.Contains(e.Path, dir+"/") || slices.Contains(ids, e.Path)
		if !itsOwn {
			continue
		}
		set := slices.IndexFunc(h.Bricks, func(b gluster.Brick) bool { return b.Name == e.Brick })
		switch {
		case e.Split:
			o.lasting = append(o.lasting, fmt.Sprintf("%s is in split-brain on %s: decide with `gluster volume heal %s split-brain`", e.Path, e.Brick, h.Volume))
		case moving || set < 0 || h.Whole(h.Bricks[set].Set):
			o.healing = append(o.healing, fmt.Sprintf("%s waits to be healed on %s", e.Path, e.Brick))
		}
	}
	slices.Sort(o.healing)
	o.healing = slices.Compact(o.healing)
}

// sharedAnswers reports why a guest that stopped on an error of its disk need not be told to go on yet. What waits to be healed does not concern a guest
// that runs.
func (v *vm) sharedAnswers(ctx context.Context) error {
	if v.a.shared == nil {
		return nil
	}
	seen, err := v.a.shared.look(ctx)
	if err != nil {
		return err
	}
	if !v.a.shared.isGluster() {
		return seen.err
	}
	files, err := v.a.o.Disk.Files(v.id)
	if err != nil {
		return err
	}
	sets, _ := v.a.shared.places(ctx, files)
	for i, set := range seen.health.Sets {
		if !set.Quorum && slices.Contains(sets, set.Name) {
			return cloud.Errorf(cloud.KindUnavailable, "replica set %s has no quorum (%s)", set.Name, away(&seen.health, i))
		}
	}
	return nil
}
