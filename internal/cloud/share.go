package cloud

import (
	"strconv"
	"strings"
	"time"
)

// SharedStorage is what a host says of the file system of the network that its disk directory lies on.
type SharedStorage struct {
	Kind      string `json:"kind"`   // "glusterfs", "nfs", "ceph" or the file system's name
	Source    string `json:"source"` // as mounted: "gluster-1:/vms"
	Directory string `json:"directory"`
	Volume    string `json:"volume,omitempty"` // GlusterFS: the volume's name
	Writable  bool   `json:"writable"`         // the last write was synced
	Error     string `json:"error,omitempty"`  // why it is not, or what could not be found out
	Quorum    bool   `json:"quorum"`           // every replica set may be written to
	// HealPending and SplitBrain count what is not the same on all bricks, once for each brick that knows of it.
	HealPending int     `json:"heal_pending"`
	SplitBrain  int     `json:"split_brain"`
	Bricks      []Brick `json:"bricks,omitempty"`
	// Dangers are sentences: settings of the volume under which writes that were acknowledged can be lost.
	Dangers []string `json:"dangers,omitempty"`
	// Nonce is what the host last wrote into its own probe file, "WORD NUMBER"; Seen is what it read in those of other hosts.
	Nonce string              `json:"nonce,omitempty"`
	Seen  map[HostName]string `json:"seen,omitempty"`
	// KeptFor is how long the host's agent had been writing and reading there when it reported this; 0 when it does not say.
	KeptFor time.Duration `json:"kept_for,omitempty"`
}

// Brick is one brick of a GlusterFS volume as one host sees it.
type Brick struct {
	Name        string `json:"name"`
	Online      bool   `json:"online"`
	HealPending int    `json:"heal_pending"`
	ReplicaSet  int    `json:"replica_set"`
}

// nonceLagMax is how many probes a reader may be behind: both sides report every few seconds, not at the same moments.
const nonceLagMax = 6

// Shares reports whether reader has lately read what writer, by its own report, wrote: both see the same directory. A file that was copied, or
// a directory that only looks alike, does not keep up.
func Shares(writer HostName, wrote, reader *SharedStorage) bool {
	if wrote == nil || reader == nil || wrote.Nonce == "" {
		return false
	}
	word, number, ok := parseNonce(wrote.Nonce)
	seenWord, seenNumber, seenOK := parseNonce(reader.Seen[writer])
	return ok && seenOK && word == seenWord && number-seenNumber <= nonceLagMax && seenNumber-number <= nonceLagMax
}

// NotLookedYet is the SharedStorage.Error of a host whose agent has not come to look at its directory.
const NotLookedYet = "not looked at yet"

// ProofDue is how long after its agent's start a host must have read what every other writes. Each writes and reads every ten seconds and tells it up to ten
// seconds later, and a look may take 25 s.
const ProofDue = time.Minute

// Young reports whether the host's agent has been there for so short a time that nothing follows from what it has not done yet.
func (s *SharedStorage) Young() bool { return s != nil && s.KeptFor > 0 && s.KeptFor < ProofDue }

func parseNonce(s string) (word string, number int64, ok bool) {
	word, text, _ := strings.Cut(s, " ")
	number, err := strconv.ParseInt(text, 10, 64)
	return word, number, err == nil && word != ""
}
