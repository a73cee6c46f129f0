package cloud

import (
	"strconv"
	"strings"
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

func parseNonce(s string) (word string, number int64, ok bool) {
	word, text, _ := strings.Cut(s, " ")
	number, err := strconv.ParseInt(text, 10, 64)
	return word, number, err == nil && word != ""
}
