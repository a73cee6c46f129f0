package compute

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// crowd puts n servers of ann's into the store, in transactions that stay below etcd's bound.
func crowd(w *site, n int) {
	const batch = 30
	var group cloud.SecurityGroup
	w.change(func(tx *store.Tx) (err error) {
		group, err = ipam.DefaultGroup(tx, annProject, noon)
		return err
	})
	for from := 0; from < n; from += batch {
		w.change(func(tx *store.Tx) error {
			flavor, err := store.Get(tx, tables.Flavors, "1")
			if err != nil {
				return err
			}
			for i := from; i < min(from+batch, n); i++ {
				id := serverID(i)
				port := cloud.PortID("b" + string(id[1:]))
				s := cloud.Server{
					ID: id, Project: annProject, User: "ann", Name: fmt.Sprintf("vm-%d", i), Hostname: fmt.Sprintf("vm-%d", i), Image: imageID, Flavor: flavor,
					Metadata: map[string]string{"role": "web", "tier": "front"}, Tags: []string{"blue"}, Ports: []cloud.PortID{port}, Host: hostNameOf(i%3 + 1),
					VMState: cloud.VMActive, Power: cloud.PowerRunning, Reservation: "r-00000001", KeyName: "laptop", Created: noon, Updated: noon, Launched: noon,
				}
				p := cloud.Port{
					ID: port, Network: networkID, Project: annProject, MAC: fmt.Sprintf("fa:16:3e:00:%02x:%02x", i>>8, i&255), DeviceID: string(id),
					FixedIPs: []cloud.FixedIP{{Subnet: subnetID, Address: fmt.Sprintf("10.1.%d.%d", i>>8, i&255)}}, SecurityGroups: []cloud.SecurityGroupID{group.ID},
				}
				if err := store.Put(tx, tables.Servers, id, s); err != nil {
					return err
				}
				if err := store.Put(tx, tables.Ports, port, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// BenchmarkServersDetail1000 is GET /servers/detail of a thousand servers through HTTP, as an administrator at the newest microversion.
func BenchmarkServersDetail1000(b *testing.B) {
	w := newSite(b)
	crowd(w, 1000)
	req, err := http.NewRequest("GET", w.url+"/compute/v2.1/servers/detail?all_tenants=1", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", "admin")
	req.Header.Set("X-OpenStack-Nova-API-Version", "2.95")
	b.ReportAllocs()
	var size int64
	for b.Loop() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		if size, err = io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			b.Fatal(err, resp.Status)
		}
		_ = resp.Body.Close()
	}
	b.SetBytes(size)
}
