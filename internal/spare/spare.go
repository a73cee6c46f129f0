package spare

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/recovery"
)

// Policy says what is judged.
type Policy struct {
	Placement placement.Policy
	Hosts     int  // that die at once; 0: nothing is judged
	Automatic bool // servers that do not say are recovered
}

// HostsMax bounds Policy.Hosts: a fleet that plans for more losses at once than this has other worries.
const HostsMax = 16

// namedMax bounds the servers without room that a judgement names; it counts all.
const namedMax = 20

// Judge returns whether the servers of the largest hosts could be started elsewhere. servers are all that the fleet has; those on hosts that the snapshot does
// not show to be up are not considered: they are being recovered, or waited for. With Policy.Hosts 0 the judgement is empty, and not Short.
func Judge(p Policy, snap *cloud.Snapshot, servers []*cloud.Server) cloud.SpareRoom {
	out := cloud.SpareRoom{Hosts: p.Hosts}
	if p.Hosts <= 0 {
		return out
	}
	f := survey(p, snap, servers)
	for i, lost := range f.losses() {
		if got := f.lose(lost); i == 0 || worse(got, out) {
			out = got
		}
	}
	out.Hosts = p.Hosts
	return out
}

// worse reports whether a leaves more without room than b.
func worse(a, b cloud.SpareRoom) bool {
	return cmp.Or(cmp.Compare(a.Homeless, b.Homeless), cmp.Compare(a.Missing.RAMMiB, b.Missing.RAMMiB), cmp.Compare(a.Missing.VCPUs, b.Missing.VCPUs)) > 0
}

// Worse reports whether after leaves more servers without room than before did. A change that leaves as much, in a fleet that is short already, is no worse.
func Worse(before, after cloud.SpareRoom) bool { return worse(after, before) }

// fleet is what Judge works on.
type fleet struct {
	Policy
	snap   *cloud.Snapshot
	guests map[cloud.HostName][]guest // recoverable, by host that is up
	size   map[cloud.HostName]cloud.Resources
}

// guest is one server that would be recovered.
type guest struct {
	record *cloud.Server
	shared bool // its disk is in a directory that other hosts have too
}

func survey(p Policy, snap *cloud.Snapshot, servers []*cloud.Server) *fleet {
	f := &fleet{Policy: p, snap: snap, guests: map[cloud.HostName][]guest{}, size: map[cloud.HostName]cloud.Resources{}}
	directories := map[string]int{}
	hosts := map[cloud.HostName]*cloud.HostView{}
	for i := range snap.Hosts {
		h := &snap.Hosts[i]
		directories[h.Report.SharedDiskID]++
		if h.Up {
			hosts[h.Host.Name] = h
		}
	}
	for _, s := range servers {
		h := hosts[s.Host]
		if h == nil || !lasting(s.VMState) {
			continue
		}
		shared := h.Report.SharedDiskID != "" && directories[h.Report.SharedDiskID] > 1
		if recovery.Unwanted(s, shared, p.Automatic) != "" {
			continue
		}
		f.guests[s.Host] = append(f.guests[s.Host], guest{s, shared && s.RootDevice() == nil})
		f.size[s.Host] = plus(f.size[s.Host], s.Resources())
	}
	return f
}

// lasting reports whether a server in this state is recovered, or will be in such a state soon.
func lasting(s cloud.VMState) bool {
	switch s {
	case cloud.VMActive, cloud.VMStopped, cloud.VMError, cloud.VMBuilding, cloud.VMPaused, cloud.VMResized:
		return true
	case cloud.VMDeleted, cloud.VMShelved, cloud.VMOffloaded:
	}
	return false
}

// losses returns the sets of hosts to be taken away: the largest of all, then the largest of each zone.
func (f *fleet) losses() [][]cloud.HostName {
	var up []*cloud.HostView
	zones := map[string][]*cloud.HostView{}
	for i := range f.snap.Hosts {
		if h := &f.snap.Hosts[i]; h.Up {
			up = append(up, h)
			zones[h.Zone] = append(zones[h.Zone], h)
		}
	}
	out := [][]cloud.HostName{f.largest(up)}
	if len(zones) > 1 {
		for _, zone := range slices.Sorted(maps.Keys(zones)) {
			out = append(out, f.largest(zones[zone]))
		}
	}
	return out
}

// largest returns the k hosts whose recoverable servers claim most.
func (f *fleet) largest(hosts []*cloud.HostView) []cloud.HostName {
	names := make([]cloud.HostName, len(hosts))
	for i, h := range hosts {
		names[i] = h.Host.Name
	}
	slices.SortFunc(names, func(a, b cloud.HostName) int {
		x, y := f.size[a], f.size[b]
		return cmp.Or(cmp.Compare(y.RAMMiB, x.RAMMiB), cmp.Compare(y.VCPUs, x.VCPUs), cmp.Compare(y.DiskGiB, x.DiskGiB), cmp.Compare(a, b))
	})
	return names[:min(len(names), f.Hosts)]
}

// lose takes the hosts away and places their servers on the rest.
func (f *fleet) lose(lost []cloud.HostName) cloud.SpareRoom {
	out := cloud.SpareRoom{Lost: lost}
	rest := *f.snap
	rest.Hosts, rest.Groups = slices.Clone(f.snap.Hosts), maps.Clone(f.snap.Groups)
	var queue []guest
	for i := range rest.Hosts {
		if h := &rest.Hosts[i]; slices.Contains(lost, h.Host.Name) {
			h.Up = false
			queue = append(queue, f.guests[h.Host.Name]...)
		}
	}
	slices.SortFunc(queue, func(a, b guest) int { return recovery.Compare(a.record, b.record) })
	out.Servers = len(queue)
	for _, g := range queue {
		host, why := settle(f.Placement, &rest, g)
		if host != "" {
			continue
		}
		out.Homeless++
		out.Missing = plus(out.Missing, g.record.Resources())
		if len(out.Named) < namedMax {
			out.Named = append(out.Named, cloud.SpareServer{Server: g.record.ID, Host: g.record.Host, Reason: why})
		}
	}
	return out
}

// settle places one server as an evacuation would and takes its room; no host, with the reason, when none has it.
func settle(p placement.Policy, rest *cloud.Snapshot, g guest) (cloud.HostName, string) {
	m := cloud.Migration{Type: cloud.TypeEvacuation, Asked: cloud.MigrateAuto}
	if g.shared {
		m.Asked = cloud.MigrateShared
	}
	request := placement.ForMigration(g.record, &m)
	request.SourceDead = true
	verdicts := placement.Rank(p, rest, request)
	if len(verdicts) == 0 || !verdicts[0].Fits {
		return "", refusal(verdicts, rest)
	}
	claim(rest, verdicts[0].Host, g.record)
	return verdicts[0].Host, ""
}

// refusal says why nobody took the server, in the words of the last host that lives: those that are down say only that they are.
func refusal(verdicts []cloud.Verdict, rest *cloud.Snapshot) string {
	for i := range verdicts {
		v := &verdicts[i]
		if view(rest, v.Host).Up && len(v.Reasons) > 0 {
			return string(v.Host) + ": " + v.Reasons[0]
		}
	}
	return "no other host is up"
}

// claim notes in the snapshot, whose hosts and groups are the caller's own, that the server takes room on the host.
func claim(snap *cloud.Snapshot, host cloud.HostName, s *cloud.Server) {
	h := view(snap, host)
	h.Usage.Host = host
	c := cloud.Claim{Server: s.ID, Resources: s.Resources()}
	group, ok := snap.Groups[s.Group]
	if !ok {
		placement.Claim(&h.Usage, nil, c)
		return
	}
	placement.Claim(&h.Usage, &group, c)
	snap.Groups[s.Group] = group
}

// view finds a host of the snapshot, which has it.
func view(snap *cloud.Snapshot, name cloud.HostName) *cloud.HostView {
	i, found := slices.BinarySearchFunc(snap.Hosts, name, func(h cloud.HostView, n cloud.HostName) int { return cmp.Compare(h.Host.Name, n) })
	if !found {
		return &cloud.HostView{}
	}
	return &snap.Hosts[i]
}

func plus(a, b cloud.Resources) cloud.Resources {
	return cloud.Resources{VCPUs: a.VCPUs + b.VCPUs, RAMMiB: a.RAMMiB + b.RAMMiB, DiskGiB: a.DiskGiB + b.DiskGiB}
}

// A Change is what somebody asks for.
type Change struct {
	Server *cloud.Server // as it will be: a new one, or one with its new flavor
	From   cloud.HostName
	// To is where it goes; empty: where placement puts it.
	To cloud.HostName
}

// With returns the snapshot and the servers as they would be after the changes. A change that finds no room is left out: it fails by itself. The arguments
// stay as they are.
func With(p Policy, snap *cloud.Snapshot, servers []*cloud.Server, changes []Change) (*cloud.Snapshot, []*cloud.Server) {
	out := *snap
	out.Hosts, out.Groups = slices.Clone(snap.Hosts), maps.Clone(snap.Groups)
	servers = slices.Clone(servers)
	for _, c := range changes {
		to := cmp.Or(c.To, destination(p, &out, c))
		if to == "" {
			continue
		}
		moved := *c.Server
		moved.Host = to
		if moved.VMState == cloud.VMBuilding {
			moved.VMState = cloud.VMActive
		}
		if c.From != "" && c.From != to {
			group, ok := out.Groups[moved.Group]
			if placement.Release(&view(&out, c.From).Usage, &group, moved.ID); ok {
				out.Groups[moved.Group] = group
			}
		}
		claim(&out, to, &moved)
		servers = slices.DeleteFunc(servers, func(s *cloud.Server) bool { return s.ID == moved.ID })
		servers = append(servers, &moved)
	}
	return &out, servers
}

// destination is where placement would put the server; empty: nowhere.
func destination(p Policy, snap *cloud.Snapshot, c Change) cloud.HostName {
	request := placement.ForServer(c.Server)
	if c.From != "" {
		request = placement.ForMigration(c.Server, &cloud.Migration{Asked: cloud.MigrateAuto})
	}
	if verdicts := placement.Rank(p.Placement, snap, request); len(verdicts) > 0 && verdicts[0].Fits {
		return verdicts[0].Host
	}
	return ""
}

// Same reports whether two judgements say the same, whenever they were made.
func Same(a, b cloud.SpareRoom) bool {
	a.Since, b.Since = time.Time{}, time.Time{}
	return a.Hosts == b.Hosts && a.Servers == b.Servers && a.Homeless == b.Homeless && a.Missing == b.Missing && slices.Equal(a.Lost, b.Lost) && slices.Equal(a.Named, b.Named)
}
