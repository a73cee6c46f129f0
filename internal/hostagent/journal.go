package hostagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Role is what a server is to this host.
type Role string

// The roles.
const (
	RoleNone      Role = ""          // never heard of
	RoleResident  Role = "resident"  // it lives here
	RoleIncoming  Role = "incoming"  // it is to be received; nothing of it may run here before libvirt says so
	RoleDeparting Role = "departing" // a migration to elsewhere was begun and has not ended
	RoleDeparted  Role = "departed"  // it runs elsewhere; what is left here waits for Discard
	RoleGone      Role = "gone"      // nothing is left but the memory of its generation
)

// record is what a host remembers of one server across crashes. Its encoding is a file format: fields are only added.
type record struct {
	Server     cloud.ServerID  `json:"server"`
	Generation int64           `json:"generation"` // greatest accepted
	Role       Role            `json:"role"`
	Started    int64           `json:"started,omitempty"` // see claim; notStarted, or 0 in journals of before
	Spec       json.RawMessage `json:"spec,omitempty"`    // hostpb.ServerSpec as protobuf JSON, without the password
	Move       *moveRecord     `json:"move,omitempty"`    // the last migration that left or tried to
	Frozen     bool            `json:"frozen,omitempty"`  // its CPUs were stopped for a copy of its disk
	Updated    time.Time       `json:"updated"`
	Failure    failureRecord   `json:"failure,omitzero"`
	GuestAgent bool            `json:"guest_agent,omitempty"` // Spec's, read with every ping
}

// moveRecord is an outgoing migration.
type moveRecord struct {
	ID        cloud.MigrationID `json:"id"`
	Target    cloud.HostName    `json:"target"`
	CopyDisks bool              `json:"copy_disks"`
	SharedDir bool              `json:"shared_dir"` // source and target keep the server's files in the same directory
	PostCopy  bool              `json:"post_copy"`
	Abort     bool              `json:"abort"`     // asked for
	Suspended bool              `json:"suspended"` // we paused the guest to let the copy finish
	Departed  bool              `json:"departed"`  // libvirt said that it left: proof, whatever else is lost
	Switching bool              `json:"switching"` // we asked for post-copy
	Split     bool              `json:"split"`     // post-copy began: its CPUs ran on the target, which fetches its memory from here
	// Outcome: 0 until known; unknown means that this host cannot tell.
	Outcome hostpb.MigrateOutcome `json:"outcome"`
	Error   string                `json:"error,omitempty"`
	Stats   cloud.MigrationStats  `json:"stats"`
	Began   time.Time             `json:"began"`
}

// left reports whether the server runs elsewhere for all this host knows.
func (m *moveRecord) left() bool {
	return m != nil && m.Outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED
}

// stayed reports whether the migration is known to have left the server here.
func (m *moveRecord) stayed() bool {
	return m != nil && (m.Outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED || m.Outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED)
}

// broke reports whether the migration is known to have broken off in post-copy.
func (m *moveRecord) broke() bool {
	return m != nil && m.Outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN
}

// decided reports whether this host will say nothing else about the migration.
func (m *moveRecord) decided() bool { return m.left() || m.stayed() || m.broke() }

// end writes down how the migration ended, and what that makes of the server here.
func (r *record) end(outcome hostpb.MigrateOutcome, reason string) {
	r.Move.Outcome, r.Move.Error = outcome, reason
	switch {
	case r.Move.left(), r.Move.broke(): // broken: what is left here must never run
		r.Role = RoleDeparted
	case r.Move.stayed():
		r.Role = RoleResident
	}
}

// notStarted is the record.Started of a server that was only made ready here.
const notStarted = -1

// settle makes the server this host's own, by the newest decision: its CPUs are to run here.
func (r *record) settle() { r.Role, r.Started = RoleResident, r.Generation }

// claim returns the generation by which this host holds the server's disk against other hosts of a shared directory, and whether it does at all.
//
// It is that of the decision that made its CPUs run here, and not the newest one: a host that is asked to let the server go, by a stop or a migration, is asked
// by the same decision that the next host then starts or adopts it by. Holding the disk by that one, it would take it from the host that it goes to.
func (r *record) claim() (generation int64, ok bool) {
	switch {
	case r.Role != RoleResident || r.Started == notStarted:
		return 0, false
	case r.Started == 0:
		return r.Generation, true
	}
	return r.Started, true
}

// setSpec stores a spec without its password.
func (r *record) setSpec(spec *hostpb.ServerSpec) error {
	if spec == nil {
		return nil
	}
	kept := proto.CloneOf(spec)
	kept.AdminPass = ""
	raw, err := protojson.Marshal(kept)
	if err != nil {
		return fmt.Errorf("server %s: spec: %w", r.Server, err)
	}
	r.Spec, r.GuestAgent = raw, spec.GetGuestAgent()
	return nil
}

// spec returns the stored spec, nil when there is none.
func (r *record) spec() (*hostpb.ServerSpec, error) {
	if len(r.Spec) == 0 {
		return nil, nil
	}
	spec := new(hostpb.ServerSpec)
	// A newer agent may have written fields that this one does not know.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.Spec, spec); err != nil {
		return nil, fmt.Errorf("server %s: stored spec: %w", r.Server, err)
	}
	return spec, nil
}

const (
	journalSuffix = ".json"
	epochFile     = "epoch"
	// A record of a server that is gone keeps older decisions about it out. No decision is carried out a week late; the bound on their
	// number keeps a host that boots and deletes all day from scanning ever more files at its start.
	goneAgeMax   = 7 * 24 * time.Hour
	goneCountMax = 4096
)

// journal is the directory of records, one file for each server. Files are replaced whole and durably. Calls for one server are
// serialised by its loop.
type journal struct{ dir string }

// openJournal makes the directory and removes what a crash left half written.
func openJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	temps, err := filepath.Glob(filepath.Join(dir, "*"+tempSuffix))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	for _, temp := range temps {
		if err := os.Remove(temp); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	return &journal{dir}, nil
}

// nextEpoch returns a number greater than at any earlier call, also after a crash.
func (j *journal) nextEpoch() (int64, error) {
	file := filepath.Join(j.dir, epochFile)
	var epoch int64
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &epoch)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return 0, fmt.Errorf("journal: epoch: %w", err)
	}
	epoch++
	if err := writeDurably(file, fmt.Appendf(nil, "%d\n", epoch), 0o600); err != nil {
		return 0, fmt.Errorf("journal: epoch: %w", err)
	}
	return epoch, nil
}

func (j *journal) path(id cloud.ServerID) (string, error) {
	u, err := uuid.Parse(string(id))
	if err != nil || u.String() != string(id) {
		return "", cloud.Errorf(cloud.KindInvalid, "server id %q is no UUID", id)
	}
	return filepath.Join(j.dir, string(id)+journalSuffix), nil
}

// load returns the record of a server, one of RoleNone when there is none.
func (j *journal) load(id cloud.ServerID) (record, error) {
	path, err := j.path(id)
	if err != nil {
		return record{}, err
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{Server: id}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("journal: %w", err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return record{}, fmt.Errorf("journal: %s: %w", path, err)
	}
	if r.Server != id {
		return record{}, fmt.Errorf("journal: %s: is about server %s", path, r.Server)
	}
	return r, nil
}

// save makes r durable.
func (j *journal) save(r record) error {
	path, err := j.path(r.Server)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := writeDurably(path, raw, 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// all returns every record, and drops those of servers that are gone for too long or are too many.
func (j *journal) all(now time.Time) ([]record, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var kept, gone []record
	for _, e := range entries {
		id, isRecord := strings.CutSuffix(e.Name(), journalSuffix)
		if !isRecord {
			continue
		}
		r, err := j.load(cloud.ServerID(id))
		if err != nil {
			return nil, err
		}
		if r.Role == RoleGone {
			gone = append(gone, r)
		} else {
			kept = append(kept, r)
		}
	}
	slices.SortFunc(gone, func(a, b record) int { return b.Updated.Compare(a.Updated) })
	for i, r := range gone {
		if i < goneCountMax && now.Sub(r.Updated) < goneAgeMax {
			continue
		}
		path, err := j.path(r.Server)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return nil, fmt.Errorf("journal: forget: %w", err)
		}
	}
	return kept, nil
}

const tempSuffix = ".new"

// writeDurably gives a file its content as a whole: after a crash it has the old content or the new.
func writeDurably(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+tempSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // the umask, or an older file's mode
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
