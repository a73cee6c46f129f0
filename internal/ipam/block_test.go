package ipam

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func drawBlock(t *rapid.T) netip.Prefix {
	bits := rapid.IntRange(8, 30).Draw(t, "bits")
	return netip.PrefixFrom(address(rapid.Uint32().Draw(t, "base")), bits).Masked()
}

func TestDefaultPoolsAreValidAndLeaveOutOnlyTheGateway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		block := drawBlock(t)
		all := hosts(block)
		gateway := address(rapid.Uint32Range(all.first, all.last).Draw(t, "gateway")).String()
		if rapid.Bool().Draw(t, "none") {
			gateway = ""
		}
		pools := DefaultPools(block, gateway)
		if err := CheckPools(block, gateway, pools); err != nil {
			t.Fatal(err)
		}
		spans, err := spansOf(pools)
		if err != nil {
			t.Fatal(err)
		}
		want := all.size()
		if gateway != "" {
			want--
		}
		if total(spans) != want {
			t.Fatalf("%s: pools hold %d of %d addresses", block, total(spans), want)
		}
	})
}

func TestPositionInvertsNth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		block := drawBlock(t)
		spans, _ := spansOf(DefaultPools(block, FirstHost(block).String()))
		i := rapid.Uint64Range(0, total(spans)-1).Draw(t, "i")
		a := nth(spans, i)
		if j, ok := position(spans, a); !ok || i != j || !Usable(block, a) {
			t.Fatalf("position %d is %s, whose position is %d", i, a, j)
		}
	})
}

func TestKthFreeAgreesWithCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := rapid.SliceOfNDistinct(rapid.Uint64Range(0, 40), 0, 30, rapid.ID).Draw(t, "taken")
		k := rapid.Uint64Range(0, 10).Draw(t, "k")
		var want, seen uint64
		for ; ; want++ {
			if slices.Contains(taken, want) {
				continue
			}
			if seen == k {
				break
			}
			seen++
		}
		if got := kthFree(slices.Clone(taken), k); got != want {
			t.Fatalf("free number %d with %v taken: got %d, want %d", k, taken, got, want)
		}
	})
}

func TestWrongPoolsAreRefusedByName(t *testing.T) {
	block := netip.MustParsePrefix("10.0.0.0/24")
	cases := map[string][]cloud.AddressRange{
		"reversed":    {{Start: "10.0.0.9", End: "10.0.0.5"}},
		"outside":     {{Start: "10.0.0.9", End: "10.0.1.5"}},
		"network":     {{Start: "10.0.0.0", End: "10.0.0.5"}},
		"broadcast":   {{Start: "10.0.0.200", End: "10.0.0.255"}},
		"gateway":     {{Start: "10.0.0.1", End: "10.0.0.5"}},
		"overlapping": {{Start: "10.0.0.5", End: "10.0.0.9"}, {Start: "10.0.0.9", End: "10.0.0.12"}},
		"no address":  {{Start: "ten", End: "10.0.0.9"}},
	}
	for name, pools := range cases {
		if err := CheckPools(block, "10.0.0.1", pools); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := CheckPools(block, "10.0.0.1", []cloud.AddressRange{{Start: "10.0.0.5", End: "10.0.0.9"}, {Start: "10.0.0.10", End: "10.0.0.10"}}); err != nil {
		t.Error(err)
	}
}

func TestSmallBlocksHaveNoNetworkAndBroadcastAddress(t *testing.T) {
	for block, want := range map[string]uint64{"10.0.0.0/30": 2, "10.0.0.0/31": 2, "10.0.0.7/32": 1} {
		prefix, err := ParseCIDR(block)
		if err != nil || hosts(prefix).size() != want {
			t.Errorf("%s has %d usable addresses, want %d (%v)", block, hosts(prefix).size(), want, err)
		}
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("fa:16:3e:00:00:01")
	f.Add("FA-16-3E-00-00-01")
	f.Add("00:00:00:00:00:00")
	f.Fuzz(func(t *testing.T, s string) {
		mac, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(mac); err != nil || again != mac || len(mac) != 17 {
			t.Errorf("%q reads as %q, which reads as %q (%v)", s, mac, again, err)
		}
	})
}

func FuzzParseCIDR(f *testing.F) {
	f.Add("10.0.0.7/24")
	f.Add("::/0")
	f.Fuzz(func(t *testing.T, s string) {
		block, err := ParseCIDR(s)
		if err != nil {
			return
		}
		if again, err := ParseCIDR(block.String()); err != nil || again != block {
			t.Errorf("%q reads as %s, which reads as %s (%v)", s, block, again, err)
		}
	})
}
