package metadata

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func sample() *Server {
	return &Server{
		UUID: "7f3c9a52-0000-4000-8000-000000000001", Name: "web 1", Hostname: "web-1", ProjectID: "p1", ReservationID: "r-abc",
		AvailabilityZone: "nova", FlavorName: "m1.tiny", ImageID: "img", KeyName: "k", PublicKey: "ssh-ed25519 AAAA x", LaunchIndex: 2,
		Meta: map[string]string{"b": "2", "a": "1"}, UserData: []byte("#!/bin/sh\n"),
		NICs: []NIC{
			{PortID: "0123456789abcdef", MAC: "fa:16:3e:00:00:01", NetworkID: "n1", MTU: 1450,
				Addresses: []Address{{SubnetID: "s1", Address: "10.0.0.5", Prefix: 24, Gateway: "10.0.0.1", DNS: []string{"9.9.9.9"}, DHCP: true}}},
			{PortID: "fedcba9876543210", MAC: "fa:16:3e:00:00:02", NetworkID: "n2", MTU: 1450,
				Addresses: []Address{{Address: "10.1.0.5", Prefix: 20, Gateway: "10.1.0.1", DNS: []string{"9.9.9.9"}, Routes: []Route{{"10.9.0.0/16", "10.1.0.9"}}}}},
		},
	}
}

func TestFilesAreAFunctionOfTheServerAlone(t *testing.T) {
	a, b := Files(sample()), Files(sample())
	if !slices.Equal(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b))) {
		t.Fatal("different files")
	}
	for name := range a {
		if !bytes.Equal(a[name], b[name]) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}

func TestMetaDataHasWhatCloudInitReads(t *testing.T) {
	var doc struct {
		UUID, Name, Hostname string
		LaunchIndex          int               `json:"launch_index"`
		Zone                 string            `json:"availability_zone"`
		Project              string            `json:"project_id"`
		Keys                 map[string]string `json:"public_keys"`
		Meta                 map[string]string
		AdminPass            *string `json:"admin_pass"`
	}
	if err := json.Unmarshal(Files(sample())["openstack/latest/meta_data.json"], &doc); err != nil {
		t.Fatal(err)
	}
	if doc.UUID != sample().UUID || doc.Hostname != "web-1" || doc.Name != "web 1" || doc.LaunchIndex != 2 || doc.Zone != "nova" ||
		doc.Project != "p1" || doc.Keys["k"] != "ssh-ed25519 AAAA x" || doc.Meta["a"] != "1" || doc.AdminPass != nil {
		t.Errorf("got %+v", doc)
	}
}

func TestNetworkDataDescribesDHCPAndStaticNetworks(t *testing.T) {
	var doc struct {
		Links []struct {
			ID   string
			Type string
			MTU  int
			MAC  string `json:"ethernet_mac_address"`
		}
		Networks []struct {
			ID, Type, Link, Netmask string
			IP                      string `json:"ip_address"`
			Routes                  []struct{ Network, Netmask, Gateway string }
		}
		Services []struct{ Type, Address string }
	}
	if err := json.Unmarshal(Files(sample())["openstack/2018-08-27/network_data.json"], &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Links) != 2 || doc.Links[0].ID != "gwt0123456789a" || doc.Links[0].MAC != "fa:16:3e:00:00:01" || doc.Links[0].MTU != 1450 {
		t.Errorf("links: %+v", doc.Links)
	}
	if len(doc.Networks) != 2 || doc.Networks[0].Type != "ipv4_dhcp" || doc.Networks[0].IP != "" {
		t.Fatalf("networks: %+v", doc.Networks)
	}
	static := doc.Networks[1]
	if static.Type != "ipv4" || static.IP != "10.1.0.5" || static.Netmask != "255.255.240.0" || len(static.Routes) != 2 || static.Routes[1].Network != "10.9.0.0" {
		t.Errorf("static network: %+v", static)
	}
	if len(doc.Services) != 1 {
		t.Errorf("a DNS server that two subnets share must be listed once: %+v", doc.Services)
	}
}

func TestNoUserDataMeansNoFile(t *testing.T) {
	s := sample()
	s.UserData = nil
	for name := range Files(s) {
		if strings.HasSuffix(name, "user_data") || strings.HasSuffix(name, "user-data") {
			t.Errorf("%s exists", name)
		}
	}
}

func TestHTTPPathsAsCloudInitAsksThem(t *testing.T) {
	for _, c := range []struct {
		path string
		code int
		want string // a part of the body
	}{
		{"/", 200, "2009-04-04"},
		{"/openstack", 200, "2018-08-27"},
		{"/openstack/", 200, "latest"},
		{"/openstack/latest", 200, "meta_data.json"},
		{"/openstack/latest/meta_data.json", 200, `"hostname":"web-1"`},
		{"/openstack/2018-08-27/user_data", 200, "#!/bin/sh"},
		{"/openstack/2018-08-27/vendor_data.json", 200, "{}"},
		{"/openstack/2018-08-27/vendor_data2.json", 200, "{}"},
		{"/openstack/2018-08-27/network_data.json", 200, "links"},
		{"/openstack/1999-01-01/meta_data.json", 404, ""},
		{"/openstack/latest/password", 404, ""},
		{"/latest/", 200, "meta-data/"},
		{"/latest/meta-data/", 200, "public-keys/"},
		{"/latest/meta-data/instance-id", 200, "i-"},
		{"/2009-04-04/meta-data/local-ipv4", 200, "10.0.0.5"},
		{"/latest/meta-data/public-keys/", 200, "0=k"},
		{"/latest/meta-data/public-keys/0/", 200, "openssh-key"},
		{"/latest/meta-data/public-keys/0/openssh-key", 200, "ssh-ed25519"},
		{"/latest/meta-data/public-keys/0/_name", 404, ""},
		{"/latest/meta-data/placement/availability-zone", 200, "nova"},
		{"/latest/meta-data/nothing/here", 404, ""},
		{"/latest/meta-data/hostname/deeper", 404, ""},
		{"/latest/user-data", 200, "#!/bin/sh"},
		{"/latest/../openstack/latest/user_data", 200, "#!/bin/sh"},
		{"/etc/passwd", 404, ""},
	} {
		rec := httptest.NewRecorder()
		Serve(rec, &http.Request{Method: http.MethodGet, URL: mustURL(c.path)}, sample())
		if rec.Code != c.code || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("GET %s: %d %q, want %d with %q", c.path, rec.Code, rec.Body, c.code, c.want)
		}
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	rec := httptest.NewRecorder()
	Serve(rec, &http.Request{Method: http.MethodPut, URL: mustURL("/latest/api/token")}, sample())
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") == "" {
		t.Errorf("PUT: %d", rec.Code)
	}
}

func mustURL(path string) *url.URL { return &url.URL{Path: path} }
