// Package sharedlease keeps hosts' signs of life, and who may use which server's disk, in files on a directory that the hosts share.
//
//	.godwit/hosts/HOST     rewritten every second by the host's agent: it lives, and it reaches the storage
//	.godwit/disks/SERVER   who runs the server: host and generation; rewritten every second by the host that does
//
// # Time
//
// Nobody compares clocks. A reader remembers when it first saw the present content of a file, by its own monotonic clock, so what it says is at most one
// look late; a file that it has never seen before counts as new. So a reader must look regularly ([Directory.Refresh]), and one that has just begun believes every
// host to live for a while, which is the safe side.
//
// # Taking a disk
//
// A greater generation wins, as everywhere: that of the decision by which a host started or adopted the server, not of the newest one that it heard of, which may
// be the one that gives the server to another host. Hold writes the caller's claim unless the file names a greater generation, or the same one and another host: then the
// caller has lost the disk and must stop the server at once. There is no lock: of two hosts that write at once with different generations the lesser learns it at
// its next Hold, a second later. What makes that second harmless is that the greater one starts only after package recovery's wait, or after a proof.
//
// Calls may hang for as long as the file system does; the caller makes them in a goroutine of its own and minds the time.
package sharedlease

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// ErrLost says that a server's disk belongs to a later decision.
var ErrLost = errors.New("the server's disk belongs to another host or a later decision")

// Directory is one host's access to the leases of a shared directory. It is safe for concurrent use.
type Directory struct {
	root string
	host cloud.HostName
	now  func() time.Time

	mu    sync.Mutex
	seq   int64                    // of this host's own lease; guarded by mu
	seen  map[cloud.HostName]sight // guarded by mu
	epoch int64
}

// sight is a lease as it was last seen to change.
type sight struct {
	content string
	at      time.Time
}

// Open returns the leases below a shared directory, for one host whose agent started for the epoch-th time. It does no I/O.
func Open(root string, host cloud.HostName, epoch int64) *Directory {
	return &Directory{root: filepath.Join(root, ".godwit"), host: host, now: time.Now, seen: map[cloud.HostName]sight{}, epoch: epoch}
}

// Renew rewrites this host's lease and returns when that is durable.
func (d *Directory) Renew() error {
	d.mu.Lock()
	d.seq++
	seq := d.seq
	d.mu.Unlock()
	return d.write(filepath.Join("hosts", string(d.host)), fmt.Sprintf("%d %d\n", d.epoch, seq))
}

// Refresh looks at all hosts' leases.
func (d *Directory) Refresh() error {
	entries, err := os.ReadDir(filepath.Join(d.root, "hosts"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == temporary {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(d.root, "hosts", e.Name()))
		if err != nil {
			continue // replaced at this moment, or unreadable: not seen to change
		}
		d.note(cloud.HostName(e.Name()), string(raw))
	}
	return nil
}

func (d *Directory) note(host cloud.HostName, content string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[host].content != content {
		d.seen[host] = sight{content, d.now()}
	}
}

// Look returns how long ago the host's lease was last seen to change, and whether it has one. It does no I/O.
func (d *Directory) Look(host cloud.HostName) (since time.Duration, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.seen[host]
	return d.now().Sub(s.at), ok
}

// claim is the content of a disk's lease.
type claim struct {
	Host       cloud.HostName `json:"host"`
	Generation int64          `json:"generation"`
}

// Hold says that this host runs the server by that generation. It returns ErrLost when a later decision gave it to somebody else.
func (d *Directory) Hold(server cloud.ServerID, generation int64) error {
	name := filepath.Join("disks", string(server))
	held, err := d.holder(name)
	if err != nil {
		return err
	}
	if held.Generation > generation || held.Generation == generation && held.Host != "" && held.Host != d.host {
		return fmt.Errorf("server %s, generation %d: host %s holds generation %d: %w", server, generation, held.Host, held.Generation, ErrLost)
	}
	if held == (claim{d.host, generation}) {
		return nil // the host's lease says that it lives; writing this one every second would say no more
	}
	raw, err := json.Marshal(claim{d.host, generation})
	if err != nil {
		return err
	}
	return d.write(name, string(raw)+"\n")
}

func (d *Directory) holder(name string) (claim, error) {
	var c claim
	raw, err := os.ReadFile(filepath.Join(d.root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, cloud.Errorf(cloud.KindInternal, "lease %s is damaged: %w", name, err)
	}
	return c, nil
}

// Forget removes the lease of a server that is no more, unless a later decision holds it.
func (d *Directory) Forget(server cloud.ServerID, generation int64) error {
	name := filepath.Join("disks", string(server))
	held, err := d.holder(name)
	if err != nil || held.Generation > generation {
		return err
	}
	if err := os.Remove(filepath.Join(d.root, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const temporary = ".tmp"

// write replaces a file whole: readers see the old content or the new one.
func (d *Directory) write(name, content string) error {
	path := filepath.Join(d.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	part := path + "." + string(d.host) + temporary
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}
