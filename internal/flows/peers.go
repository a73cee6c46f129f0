package flows

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/peerdisk"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// imagePeersMax bounds the hosts that are named as having an image: a host that tried so many in vain asks the image service.
const imagePeersMax = 8

// ImagePeers returns hosts, other than to, that are connected and have the image, the first of them first and then in an order of the asking host's own, so
// that many that ask at once do not all ask the same.
func ImagePeers(v store.View, sha512 string, to, first cloud.HostName) []*hostpb.DiskSource {
	var found []*cloud.HostReport
	for _, r := range store.All(v, tables.HostReports) {
		_, up := store.Lookup(v, tables.HostSessions, r.Host)
		if up && r.Host != to && r.PeerPort > 0 && sha512 != "" && slices.Contains(r.Images, sha512) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *cloud.HostReport) int {
		if (a.Host == first) != (b.Host == first) {
			return map[bool]int{true: -1, false: 1}[a.Host == first]
		}
		return cmp.Or(cmp.Compare(turn(to, a.Host), turn(to, b.Host)), cmp.Compare(a.Host, b.Host))
	})
	var out []*hostpb.DiskSource
	for _, r := range found[:min(len(found), imagePeersMax)] {
		out = append(out, &hostpb.DiskSource{Host: string(r.Host), Address: r.MigrationAddress, Port: int64(r.PeerPort), Export: peerdisk.ImageExport(sha512), TlsHostname: string(r.Host)})
	}
	return out
}

// turn is where a host stands in another's order.
func turn(of, host cloud.HostName) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(of + "\x00" + host)) // never fails
	return h.Sum64()
}

// namePeers tells a host where else than at the image service it finds the base image of a server's disk: first at the host that the server comes from.
func (f *Flows) namePeers(spec *hostpb.ServerSpec, to, first cloud.HostName) {
	if root := spec.GetRoot(); root != nil {
		root.ImagePeers = ImagePeers(f.Records.View(), root.GetImageSha512(), to, first)
	}
}

// hostOf returns the host of the run's server, empty when it has none.
func (f *Flows) hostOf(r *run) cloud.HostName {
	s, err := f.server(r)
	if err != nil {
		return ""
	}
	return s.Host
}
