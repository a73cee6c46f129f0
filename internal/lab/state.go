package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// State is what lab.json holds: all that is needed to find, use and remove a lab.
type State struct {
	// Name is unique on the machine.
	Name string `json:"name"`
	// Net is N in 198.18.N.0/24 and 198.19.N.0/24.
	Net int `json:"net"`
	// Hosts is the number of compute nodes.
	Hosts int `json:"hosts"`
	// Storage is the number of storage nodes.
	Storage int `json:"storage,omitempty"`
	// Gluster is the number of GlusterFS nodes.
	Gluster int `json:"gluster,omitempty"`
	// Shared labs have one directory of server disks for all compute nodes.
	Shared bool `json:"shared,omitempty"`
	// Bare labs have no controller and no agents.
	Bare bool `json:"bare"`
	// APIPort is the loopback port of the server's API, 0 in a bare lab.
	APIPort int `json:"api_port,omitempty"`
	// Owner is the process a tethered lab belongs to; zero when the lab outlives its maker.
	Owner process `json:"owner,omitzero"`
	// Created is when the lab was made.
	Created time.Time `json:"created"`
}

// ErrExists and ErrNoLab report that a name is, or is not, in use.
var (
	ErrExists = errors.New("lab exists")
	ErrNoLab  = errors.New("no such lab")
)

// withLock runs f while no other process makes or removes labs. The lock is on /run itself, so it leaves nothing behind.
func withLock(f func() error) error {
	dir, err := os.Open("/run")
	if err != nil {
		return fmt.Errorf("lab lock: %w", err)
	}
	defer dir.Close()
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lab lock: %w", err)
	}
	return f() // closing the directory unlocks
}

// Names lists the labs that exist on this machine, whole or in part.
func Names() ([]string, error) {
	var names []string
	for _, root := range []string{runRoot, dataRoot} {
		entries, err := os.ReadDir(root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("labs: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// readState loads lab.json. Its absence is ErrNoLab, also when other remains of the lab exist.
func readState(name string) (State, error) {
	var st State
	raw, err := os.ReadFile(stateFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return st, fmt.Errorf("lab %s: %w", name, ErrNoLab)
	}
	if err != nil {
		return st, fmt.Errorf("lab %s: %w", name, err)
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		return st, fmt.Errorf("lab %s: %s: %w", name, stateFile(name), err)
	}
	return st, nil
}

func writeState(st State) error { return writeJSON(stateFile(st.Name), st) }

// writeJSON replaces a file whole, so that a reader never sees half of it.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// reserve takes the lab's name and network and writes its state. Call with the lock held.
func reserve(st *State) error {
	names, err := Names()
	if err != nil {
		return err
	}
	if slices.Contains(names, st.Name) {
		return fmt.Errorf("lab %s: %w", st.Name, ErrExists)
	}
	used := map[int]bool{}
	for _, n := range names {
		if other, err := readState(n); err == nil {
			used[other.Net] = true
		}
	}
	for used[st.Net] {
		st.Net++
	}
	if st.Net > netMax {
		return fmt.Errorf("lab %s: all %d networks are in use", st.Name, netMax+1)
	}
	for _, dir := range []string{runDir(st.Name), dataDir(st.Name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("lab %s: %w", st.Name, err)
		}
	}
	return errors.Join(writeState(*st), makeMountPoints())
}

// madeFile lists the mount points that labs made on this machine, one JSON list. The last lab to go removes them.
var madeFile = filepath.Join(runRoot, "mountpoints.json")

func makeMountPoints() error {
	made := madeMountPoints()
	for _, dir := range mountPoints {
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		// Listed before it is made: a crash in between must not leave an unlisted directory.
		made = append(made, dir)
		if err := writeJSON(madeFile, made); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func madeMountPoints() []string {
	var made []string
	if raw, err := os.ReadFile(madeFile); err == nil {
		json.Unmarshal(raw, &made) // unreadable counts as none: empty directories stay, nothing worse
	}
	return made
}

// release removes the lab's directories and, with the last lab, what labs share. Call with the lock held and all nodes dead.
func release(name string) error {
	if err := errors.Join(os.RemoveAll(dataDir(name)), os.RemoveAll(runDir(name))); err != nil {
		return fmt.Errorf("lab %s: %w", name, err)
	}
	names, err := Names()
	if err != nil || len(names) > 0 {
		return err
	}
	for _, dir := range madeMountPoints() {
		os.Remove(dir) // fails, rightly, when somebody put something there
	}
	return errors.Join(os.RemoveAll(runRoot), removeIfEmpty(dataRoot))
}

func removeIfEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
