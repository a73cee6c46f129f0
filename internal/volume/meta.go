package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// phase is where a volume's directory stands; doc.go has the table.
type phase string

const (
	phaseMaking phase = "making"
	phaseReady  phase = "ready"
	phaseGone   phase = "gone"
)

// meta is what is true of a volume. Its encoding is a file format: fields are only added, and metaVersion grows when an older godwit must not
// touch what a newer one wrote.
type meta struct {
	ID         cloud.VolumeID `json:"id"`
	Phase      phase          `json:"phase"`
	Generation int64          `json:"generation"` // greatest accepted
	Bytes      int64          `json:"bytes"`
	Limits     Limits         `json:"limits"`
	Ledger     ledger         `json:"ledger"`
	Snapshots  []Snapshot     `json:"snapshots,omitempty"`
	Moves      int64          `json:"moves,omitempty"` // between back ends; see Settle
	Updated    time.Time      `json:"updated"`
}

const (
	metaVersion = 1
	// metaBytesMax bounds what is read: attachments and snapshots are bounded, and a file larger than this is not one of ours.
	metaBytesMax = 4 << 20
	// metaGrain is what the file's length is filled up to a multiple of, so that a change that adds little needs no more space.
	metaGrain = 4 << 10
)

const headFormat = "godwit volume %4d sha256 %64x\n"

// headBytes is the length of the first line.
var headBytes = len(fmt.Sprintf(headFormat, 0, [sha256.Size]byte{}))

// encode returns the file: a line with the body's checksum, then the body.
func (m meta) encode() ([]byte, error) {
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("volume %s: metadata: %w", m.ID, err)
	}
	if missing := (len(body) + headBytes) % metaGrain; missing > 0 {
		body = append(body, bytes.Repeat([]byte("\n"), metaGrain-missing)...)
	}
	head := fmt.Sprintf(headFormat, metaVersion, sha256.Sum256(body))
	return append([]byte(head), body...), nil
}

// decodeMeta checks and reads a file that encode made.
func decodeMeta(id cloud.VolumeID, raw []byte) (meta, error) {
	head, body, _ := bytes.Cut(raw, []byte("\n"))
	var version int
	var sum []byte
	if _, err := fmt.Sscanf(string(head), "godwit volume %d sha256 %x", &version, &sum); err != nil {
		return meta{}, fmt.Errorf("its first line is not that of a volume's metadata: %w", err)
	}
	if version > metaVersion {
		return meta{}, fmt.Errorf("it is of version %d, written by a newer godwit; this one knows %d", version, metaVersion)
	}
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		return meta{}, fmt.Errorf("its checksum does not match")
	}
	var m meta
	if err := json.Unmarshal(body, &m); err != nil {
		return meta{}, err
	}
	if m.ID != id {
		return meta{}, fmt.Errorf("it is of volume %q", m.ID)
	}
	return m, nil
}
