package gluster

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// volfile is a client's of a 2 x 2 volume, as GlusterFS 10.3 writes it, without most options.
const volfile = `volume vms-client-0
    type protocol/client
    option volume-id 3b2a9fc8-d780-4966-b661-8a9a4e2582c7
    option remote-host gluster-1
    option remote-subvolume /bricks/vms
end-volume

volume vms-client-1
    type protocol/client
    option remote-host gluster-2
    option remote-subvolume /bricks/vms
end-volume

volume vms-replicate-0
    type cluster/replicate
    option afr-pending-xattr vms-client-0,vms-client-1
    subvolumes vms-client-0 vms-client-1
end-volume

volume vms-client-2
    type protocol/client
    option remote-host gluster-3
    option remote-subvolume /bricks/vms
end-volume

volume vms-client-3
    type protocol/client
    option remote-host gluster-4
    option remote-subvolume /bricks/vms
end-volume

volume vms-replicate-1
    type cluster/replicate
    subvolumes vms-client-2 vms-client-3
end-volume

volume vms-dht
    type cluster/distribute
    subvolumes vms-replicate-0 vms-replicate-1
end-volume

volume vms
    type debug/io-stats
    subvolumes vms-dht
end-volume
`

func TestAVolfileTellsBricksPairsAndName(t *testing.T) {
	h, err := parseVolfile(volfile)
	if err != nil {
		t.Fatal(err)
	}
	want := []Brick{{Name: "gluster-1:/bricks/vms"}, {Name: "gluster-2:/bricks/vms"}, {Name: "gluster-3:/bricks/vms", Set: 1}, {Name: "gluster-4:/bricks/vms", Set: 1}}
	if h.Volume != "vms" || !slices.Equal(h.Bricks, want) || len(h.Sets) != 2 || h.Sets[1].Name != "vms-replicate-1" {
		t.Errorf("%+v", h)
	}
	if _, err := parseVolfile("volume x\n type cluster/distribute\nend-volume\n"); err == nil {
		t.Error("a file without bricks is taken for a volume")
	}
}

func TestAPairWithItsFirstBrickAloneHasQuorumAndIsNotWhole(t *testing.T) {
	h, err := parseVolfile(volfile)
	if err != nil {
		t.Fatal(err)
	}
	h.seen(0, parsePrivate("[cluster/replicate.vms-replicate-0]\nchild_count = 2\nchild_up[0] = 1\nhalo_child_up[0] = 0\nchild_up[1] = 0\nquorum-type = auto\nup = 1\n"))
	h.seen(1, parsePrivate("child_up[0] = 0\nchild_up[1] = 1\nquorum-type = auto\nup = 0\n"))
	if !h.Sets[0].Quorum || h.Whole(0) || h.Sets[1].Quorum || h.Quorum() {
		t.Errorf("%+v", h.Sets)
	}
	if !h.Bricks[0].Online || h.Bricks[1].Online || h.Bricks[2].Online || !h.Bricks[3].Online {
		t.Errorf("%+v", h.Bricks)
	}
}

func TestAHealReportNamesFilesAndWhatIsSplit(t *testing.T) {
	const report = `Brick gluster-1:/bricks/vms
/0d1f8f0a-1111-4222-8333-444455556666/disk 
<gfid:b53c2961-48c4-47fc-97fa-3b8975605853> - Is in split-brain

Status: Connected
Number of entries: 2

Brick gluster-2:/bricks/vms
Status: Transport endpoint is not connected
Number of entries: -

`
	got := parseHeal(report)
	want := []Entry{
		{Brick: "gluster-1:/bricks/vms", Path: "/0d1f8f0a-1111-4222-8333-444455556666/disk"},
		{Brick: "gluster-1:/bricks/vms", Path: "<gfid:b53c2961-48c4-47fc-97fa-3b8975605853>", Split: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	h := Health{Heal: got}
	if pending, split := h.Pending(); pending != 1 || split != 1 {
		t.Errorf("%d pending, %d split", pending, split)
	}
}

func TestSettingsThatCanLoseAcknowledgedWritesAreNamed(t *testing.T) {
	safe := map[string]string{"eager-lock": "enable", "post-op-delay-secs": "0", "quorum-type": "auto"}
	with := func(key, value string) map[string]string {
		o := maps.Clone(safe)
		o[key] = value
		return o
	}
	fixed := with("quorum-type", "fixed")
	for _, tt := range []struct {
		name    string
		options map[string]string
		bricks  int
		want    []string
	}{
		{"as the guide has it", safe, 2, nil},
		{"GlusterFS's own", nil, 2, []string{"post-op-delay-secs", "quorum-type"}},
		{"the blame a second late", with("post-op-delay-secs", "1"), 2, []string{"post-op-delay-secs"}},
		{"no eager locks", map[string]string{"eager-lock": "off", "quorum-type": "auto"}, 2, nil},
		{"a quorum of one", fixed, 2, []string{"quorum-type"}},
		{"three bricks", with("quorum-type", "none"), 3, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := replicaDangers("vms-replicate-0", tt.bricks, tt.options)
			if len(got) != len(tt.want) {
				t.Fatalf("%q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) || !strings.HasPrefix(got[i], "vms-replicate-0: ") {
					t.Errorf("%q does not speak of %s", got[i], tt.want[i])
				}
			}
		})
	}
	h, err := parseVolfile(strings.Replace(volfile, "type cluster/distribute", "type features/shard", 1))
	if err != nil || !slices.ContainsFunc(h.dangers, func(d string) bool { return strings.Contains(d, "features.shard off") }) {
		t.Errorf("a sharded volume: %q, %v", h.dangers, err)
	}
}
