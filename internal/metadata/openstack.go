package metadata

import (
	"encoding/json"
	"fmt"
	"net"
)

// Versions are the releases of OpenStack's tree that are served, oldest first; clients ask for the newest they know.
// Every version serves the newest content: the formats only ever grew.
func Versions() []string {
	return []string{"2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "2020-10-14", "latest"}
}

// The names of the documents in each version's directory.
const (
	fileMeta    = "meta_data.json"
	fileUser    = "user_data"
	fileVendor  = "vendor_data.json"
	fileVendor2 = "vendor_data2.json"
	fileNetwork = "network_data.json"
)

// Files returns a config drive's content: path (slashes, not rooted) to bytes. The volume must carry the label "config-2".
func Files(s *Server) map[string][]byte {
	files := map[string][]byte{}
	docs := documents(s)
	for _, v := range Versions() {
		for name, data := range docs {
			files["openstack/"+v+"/"+name] = data
		}
	}
	for _, v := range []string{"2009-04-04", "latest"} {
		files["ec2/"+v+"/meta-data.json"] = encode(ec2Tree(s))
		if s.UserData != nil {
			files["ec2/"+v+"/user-data"] = s.UserData
		}
	}
	return files
}

// documents returns one version directory's files.
func documents(s *Server) map[string][]byte {
	docs := map[string][]byte{
		fileMeta:    encode(metaData(s)),
		fileVendor:  []byte("{}"),
		fileVendor2: []byte("{}"),
		fileNetwork: encode(networkData(s)),
	}
	if s.UserData != nil {
		docs[fileUser] = s.UserData
	}
	return docs
}

// encode never fails: it is given maps, slices, strings and numbers only.
func encode(v any) []byte {
	data, err := json.Marshal(v) // sorts map keys
	if err != nil {
		panic(fmt.Sprintf("metadata: encode: %v", err))
	}
	return data
}

func metaData(s *Server) map[string]any {
	doc := map[string]any{
		"uuid": s.UUID, "name": s.Name, "hostname": s.Hostname, "launch_index": s.LaunchIndex,
		"availability_zone": s.AvailabilityZone, "project_id": s.ProjectID,
		"devices": []any{}, "dedicated_cpus": []any{},
	}
	if len(s.Meta) > 0 {
		doc["meta"] = s.Meta
	}
	if s.AdminPass != "" {
		doc["admin_pass"] = s.AdminPass
	}
	if s.KeyName != "" {
		kind := s.KeyType
		if kind == "" {
			kind = "ssh"
		}
		doc["public_keys"] = map[string]string{s.KeyName: s.PublicKey}
		doc["keys"] = []any{map[string]string{"name": s.KeyName, "type": kind, "data": s.PublicKey}}
	}
	return doc
}

// networkData follows Nova's network_data.json: links, networks on them, and the services (DNS) of all.
func networkData(s *Server) map[string]any {
	links, networks, services := []any{}, []any{}, []any{}
	seen := map[string]bool{}
	for _, nic := range s.NICs {
		link := LinkName(nic.PortID)
		links = append(links, map[string]any{
			"id": link, "vif_id": nic.PortID, "type": "bridge", "mtu": nic.MTU, "ethernet_mac_address": nic.MAC,
		})
		for _, a := range nic.Addresses {
			networks = append(networks, networkOf(nic, a, link, len(networks)))
			for _, dns := range a.DNS {
				if !seen[dns] {
					seen[dns] = true
					services = append(services, map[string]string{"type": "dns", "address": dns})
				}
			}
		}
	}
	return map[string]any{"links": links, "networks": networks, "services": services}
}

func networkOf(nic NIC, a Address, link string, index int) map[string]any {
	doc := map[string]any{"id": fmt.Sprintf("network%d", index), "link": link, "network_id": nic.NetworkID}
	if a.DHCP {
		doc["type"] = "ipv4_dhcp"
		return doc
	}
	doc["type"] = "ipv4"
	doc["ip_address"] = a.Address
	doc["netmask"] = net.IP(net.CIDRMask(int(a.Prefix), 32)).String()
	routes := []any{}
	if a.Gateway != "" {
		doc["gateway"] = a.Gateway
		routes = append(routes, map[string]string{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": a.Gateway})
	}
	for _, r := range a.Routes {
		if _, dst, err := net.ParseCIDR(r.Destination); err == nil {
			routes = append(routes, map[string]string{"network": dst.IP.String(), "netmask": net.IP(dst.Mask).String(), "gateway": r.NextHop})
		}
	}
	doc["routes"] = routes
	dns := []any{}
	for _, server := range a.DNS {
		dns = append(dns, map[string]string{"type": "dns", "address": server})
	}
	doc["services"] = dns
	return doc
}

// linkNameMax keeps the name within a Linux interface name.
const linkNameMax = 11

// LinkName returns the name of a port's link: "gwt" and the first 11 characters of the port's id. It is the tap's name on the host too.
func LinkName(portID string) string {
	return "gwt" + portID[:min(linkNameMax, len(portID))]
}
