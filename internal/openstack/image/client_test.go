package image

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	gopher "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/members"
	"go.yaml.in/yaml/v3"
)

// adminPassword reads what Bootstrap wrote.
func (c *testCloud) adminPassword() string {
	c.Helper()
	data, err := os.ReadFile(c.made.Clouds)
	if err != nil {
		c.Fatal(err)
	}
	var y struct {
		Clouds map[string]struct {
			Auth struct {
				Password string `yaml:"password"`
			} `yaml:"auth"`
		} `yaml:"clouds"`
	}
	if err := yaml.Unmarshal(data, &y); err != nil {
		c.Fatal(err)
	}
	return y.Clouds["godwit"].Auth.Password
}

func TestGophercloudManagesImages(t *testing.T) {
	c := newCloud(t, Options{})
	ctx := t.Context()
	provider, err := gopher.AuthenticatedClient(ctx, gophercloud.AuthOptions{IdentityEndpoint: c.server.URL + "/identity", Username: "admin",
		Password: c.adminPassword(), DomainName: "Default", TenantName: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := gopher.NewImageV2(provider, gophercloud.EndpointOpts{Region: "RegionOne"})
	if err != nil {
		t.Fatal(err)
	}
	public := images.ImageVisibilityPublic
	made, err := images.Create(ctx, client, images.CreateOpts{Name: "one", DiskFormat: "raw", ContainerFormat: "bare", Visibility: &public, Tags: []string{"a"},
		Properties: map[string]string{"hw_disk_bus": "virtio"}}).Extract()
	if err != nil || made.Status != images.ImageStatusQueued || made.Properties["hw_disk_bus"] != "virtio" {
		t.Fatalf("%+v %v", made, err)
	}
	data := randomBytes(300_000)
	if err := imagedata.Upload(ctx, client, made.ID, bytes.NewReader(data)).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	down, err := imagedata.Download(ctx, client, made.ID).Extract()
	if err != nil {
		t.Fatal(err)
	}
	back, err := io.ReadAll(down)
	if err != nil || !bytes.Equal(back, data) {
		t.Fatalf("%d bytes: %v", len(back), err)
	}
	changed, err := images.Update(ctx, client, made.ID, images.UpdateOpts{images.ReplaceImageName{NewName: "two"}, images.ReplaceImageTags{NewTags: []string{"b"}},
		images.UpdateImageProperty{Op: images.AddOp, Name: "os_distro", Value: "debian"}, images.UpdateVisibility{Visibility: images.ImageVisibilityShared}}).Extract()
	if err != nil || changed.Name != "two" || changed.SizeBytes != int64(len(data)) || changed.Properties["os_distro"] != "debian" {
		t.Fatalf("%+v %v", changed, err)
	}
	if m, err := members.Create(ctx, client, made.ID, "someone").Extract(); err != nil || m.Status != "pending" {
		t.Errorf("%+v %v", m, err)
	}
	for range 3 {
		if _, err := images.Create(ctx, client, images.CreateOpts{Name: "more"}).Extract(); err != nil {
			t.Fatal(err)
		}
	}
	pages, err := images.List(client, images.ListOpts{Limit: 1}).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := images.ExtractImages(pages); err != nil || len(all) != 4 || all[3].Name != "two" {
		t.Errorf("pages of one gave %d images: %v", len(all), err)
	}
	if err := images.Delete(ctx, client, made.ID).ExtractErr(); err != nil {
		t.Error(err)
	}
	if _, err := images.Get(ctx, client, made.ID).Extract(); !gophercloud.ResponseCodeIs(err, 404) {
		t.Errorf("a deleted image: %v", err)
	}
}

// cli runs the stock client with the credentials Bootstrap wrote.
func (c *testCloud) cli(args ...string) (string, error) {
	c.Helper()
	cmd := exec.CommandContext(c.Context(), "/bin/sh", append([]string{"-c", `. "$0" && exec openstack "$@"`, c.made.Openrc}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.TempDir(), "LC_ALL=C.UTF-8"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

// ok is cli that must succeed; with JSON output it returns what was shown.
func (c *testCloud) ok(args ...string) any {
	c.Helper()
	out, err := c.cli(args...)
	if err != nil {
		c.Fatalf("openstack %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	var v any
	_ = json.Unmarshal([]byte(out), &v) // not all commands show something
	return v
}

func TestStockClientManagesImages(t *testing.T) {
	if _, err := exec.LookPath("openstack"); err != nil {
		t.Fatalf("the stock client is part of this test: scripts/install-lab-deps.sh installs it (package python3-openstackclient): %v", err)
	}
	c := newCloud(t, Options{})
	dir := t.TempDir()
	source, saved := filepath.Join(dir, "source"), filepath.Join(dir, "saved")
	data := randomBytes(3<<20 + 17)
	if err := os.WriteFile(source, data, 0o600); err != nil {
		t.Fatal(err)
	}
	made := c.ok("image", "create", "--file", source, "--disk-format", "raw", "--container-format", "bare", "--property", "os_distro=debian",
		"--min-ram", "64", "--public", "disk", "-f", "json").(obj)
	if made["status"] != "active" && made["status"] != "queued" { // the client may show the record from before its upload
		t.Errorf("image create: %v", made)
	}
	if shown := c.ok("image", "show", "disk", "-f", "json").(obj); shown["status"] != "active" || shown["size"] != float64(len(data)) || shown["min_ram"] != 64.0 ||
		shown["properties"].(obj)["os_distro"] != "debian" || shown["visibility"] != "public" {
		t.Errorf("image show: %v", shown)
	}
	c.ok("image", "save", "--file", saved, "disk")
	if back, err := os.ReadFile(saved); err != nil || !bytes.Equal(back, data) {
		t.Errorf("image save: %d bytes, %v", len(back), err)
	}
	c.ok("image", "set", "--name", "plate", "--property", "hw_disk_bus=virtio", "--tag", "blue", "--shared", "--protected", "disk")
	c.ok("image", "unset", "--property", "os_distro", "plate")
	shown := c.ok("image", "show", "plate", "-f", "json").(obj)
	if p := shown["properties"].(obj); p["os_distro"] != nil || p["hw_disk_bus"] != "virtio" || shown["protected"] != true || shown["visibility"] != "shared" {
		t.Errorf("image show: %v", shown)
	}
	if out, err := c.cli("image", "delete", "plate"); err == nil || !strings.Contains(out, "is protected and cannot be deleted") {
		t.Errorf("delete of a protected image: %v %s", err, out)
	}
	c.ok("image", "unset", "--tag", "blue", "plate")
	c.ok("image", "set", "--unprotected", "plate")
	c.ok("image", "add", "project", "plate", "service")
	if list := c.ok("image", "member", "list", "plate", "-f", "json").([]any); len(list) != 1 || list[0].(obj)["Status"] != "pending" {
		t.Errorf("image member list: %v", list)
	}
	c.ok("image", "remove", "project", "plate", "service")
	if list := c.ok("image", "list", "--long", "-f", "json").([]any); len(list) != 1 || list[0].(obj)["Name"] != "plate" {
		t.Errorf("image list: %v", list)
	}
	c.ok("image", "set", "--deactivate", "plate")
	c.ok("image", "set", "--activate", "plate")
	c.ok("image", "delete", "plate")
	if list := c.ok("image", "list", "-f", "json").([]any); len(list) != 0 || len(c.files()) != 0 {
		t.Errorf("left: %v, files %v", list, c.files())
	}
	if out, err := c.cli("image", "show", "plate"); err == nil || !strings.Contains(out, "No Image found for plate") {
		t.Errorf("show of what is gone: %v %s", err, out)
	}
}

func TestQCOW2MadeByQEMUIsTakenAndMeasured(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatalf("qemu-img is part of this test: scripts/install-lab-deps.sh installs it (package qemu-utils): %v", err)
	}
	c := newCloud(t, Options{})
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
		}
	}
	base := filepath.Join(dir, "base")
	run("create", "-f", "qcow2", base, "64M")
	for name, k := range map[string]struct {
		args []string
		code int
	}{
		"plain":       {nil, 204},
		"version 2":   {[]string{"-o", "compat=0.10"}, 204},
		"zstd":        {[]string{"-o", "compression_type=zstd"}, 204},
		"extended L2": {[]string{"-o", "extended_l2=on,cluster_size=128k"}, 204},
		"small":       {[]string{"-o", "cluster_size=512"}, 204},
		"allocated":   {[]string{"-o", "preallocation=metadata"}, 204},
		"backing":     {[]string{"-b", base, "-F", "qcow2"}, 400},
		"data file":   {[]string{"-o", "data_file=" + filepath.Join(dir, "data") + ",data_file_raw=on"}, 400},
	} {
		path := filepath.Join(dir, "image")
		os.Remove(path)
		run(append(append([]string{"create", "-f", "qcow2"}, k.args...), path, "64M")...)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		id := c.create(ann, obj{"name": name, "disk_format": "qcow2", "container_format": "bare"})
		out := c.put(k.code, id, ann, data)
		if i := c.want(200, "GET", "/v2/images/"+id, ann, nil); k.code == 204 && i["virtual_size"] != float64(64<<20) {
			t.Errorf("%s: %v %v", name, i, out)
		}
	}
}
