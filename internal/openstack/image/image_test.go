package image

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

type obj = map[string]any

// testCloud is the image service with a real identity service, store and listener.
type testCloud struct {
	*testing.T
	store   *store.Store
	service *Service
	dir     string
	server  *httptest.Server
	made    identity.Bootstrapped
}

// byName authenticates "USER:PROJECT:ROLE" as just that, so that a test reads who acts. All else goes to the real service.
type byName struct{ real openstack.Authenticator }

func (b byName) Authenticate(ctx context.Context, token string) (*openstack.Caller, error) {
	parts := strings.Split(token, ":")
	if len(parts) != 3 {
		return b.real.Authenticate(ctx, token)
	}
	return &openstack.Caller{User: cloud.UserID(parts[0]), Project: cloud.ProjectID(parts[1]), Roles: openstack.ExpandRoles(parts[2:])}, nil
}

const (
	ann   = "ann:shop:member"
	bob   = "bob:bank:member"
	eve   = "eve:shop:reader"
	admin = "root:ops:admin"
)

func newCloud(t *testing.T, o Options) *testCloud {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &testCloud{T: t, store: s, dir: t.TempDir()}
	files, err := OpenFiles(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	o.Logger = quiet
	c.service = New(s, files, o)
	who := identity.New(s, identity.Options{Logger: quiet})
	api := openstack.New(openstack.Options{Auth: byName{who}, Logger: quiet})
	api.Mount(who, c.service)
	c.server = httptest.NewServer(api)
	t.Cleanup(c.server.Close)
	c.made, err = identity.Bootstrap(t.Context(), s, identity.BootstrapOptions{PublicURL: c.server.URL, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *testCloud) do(method, path, who string, body io.Reader, header ...string) *http.Response {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, c.server.URL+"/image"+path, body)
	if err != nil {
		c.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", who)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.server.Client().Do(req)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { resp.Body.Close() })
	return resp
}

// want makes a request with a JSON body, insists on the status and returns the decoded answer.
func (c *testCloud) want(code int, method, path, who string, body any, header ...string) obj {
	c.Helper()
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		var err error
		if data, err = json.Marshal(b); err != nil {
			c.Fatal(err)
		}
	}
	resp := c.do(method, path, who, bytes.NewReader(data), header...)
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	if resp.StatusCode != code {
		c.Fatalf("%s %s as %s: got %d %s, want %d", method, path, who, resp.StatusCode, text, code)
	}
	var out obj
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			c.Fatalf("%s: %v", text, err)
		}
	}
	return out
}

func (c *testCloud) create(who string, body obj) string {
	c.Helper()
	if body["disk_format"] == nil {
		body["disk_format"], body["container_format"] = "raw", "bare"
	}
	return c.want(201, "POST", "/v2/images", who, body)["id"].(string)
}

const octets = "application/octet-stream"

func (c *testCloud) put(code int, id, who string, data []byte) obj {
	c.Helper()
	return c.want(code, "PUT", "/v2/images/"+id+"/file", who, string(data), "Content-Type", octets)
}

func (c *testCloud) status(id string) string {
	c.Helper()
	i, ok := store.Lookup(c.store, tables.Images, id)
	if !ok {
		return "none"
	}
	return string(i.Status)
}

func randomBytes(n int) []byte {
	out := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(out)
	return out
}

func (c *testCloud) patch(code int, id, who string, ops ...obj) obj {
	c.Helper()
	return c.want(code, "PATCH", "/v2/images/"+id, who, ops, "Content-Type", patchV21)
}

func (c *testCloud) files() []string {
	c.Helper()
	var out []string
	if err := filepath.WalkDir(c.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, filepath.Base(path))
		}
		return err
	}); err != nil {
		c.Fatal(err)
	}
	return out
}

func TestUploadedDataComesBackWithItsChecksums(t *testing.T) {
	c := newCloud(t, Options{})
	// Around the piece size, where the held-back last piece is empty, whole or partial.
	for _, size := range []int{1, 511, 512, 513, pieceBytes - 1, pieceBytes, pieceBytes + 1, 3 * pieceBytes, 5*pieceBytes + 77} {
		data := randomBytes(size)
		id := c.create(ann, obj{"name": "disk"})
		if code := c.do("GET", "/v2/images/"+id+"/file", ann, nil).StatusCode; code != 204 {
			t.Errorf("data of a queued image: %d", code)
		}
		c.put(204, id, ann, data)
		i := c.want(200, "GET", "/v2/images/"+id, ann, nil)
		sum5, sum512 := md5.Sum(data), sha512.Sum512(data)
		if i["status"] != "active" || i["size"] != float64(size) || i["virtual_size"] != float64(size) || i["checksum"] != hex.EncodeToString(sum5[:]) ||
			i["os_hash_algo"] != "sha512" || i["os_hash_value"] != hex.EncodeToString(sum512[:]) {
			t.Errorf("%d bytes: %v", size, i)
		}
		resp := c.do("GET", "/v2/images/"+id+"/file", ann, nil)
		back, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(back, data) || resp.Header.Get("Content-Md5") != i["checksum"] || resp.ContentLength != int64(size) {
			t.Errorf("%d bytes came back as %d: %v", size, len(back), err)
		}
		if size > 500 {
			resp = c.do("GET", "/v2/images/"+id+"/file", ann, nil, "Range", "bytes=100-299")
			part, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 206 || !bytes.Equal(part, data[100:300]) {
				t.Errorf("range: %d, %d bytes, %v", resp.StatusCode, len(part), err)
			}
		}
		c.put(409, id, ann, data)
		from, err := c.service.files.Open(t.Context(), cloud.ImageID(id), int64(size)/2)
		if err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(from)
		from.Close()
		if err != nil || !bytes.Equal(rest, data[size/2:]) {
			t.Errorf("a host got %d bytes from offset %d: %v", len(rest), size/2, err)
		}
	}
}

func TestHostsCannotOpenWhatIsNoImage(t *testing.T) {
	c := newCloud(t, Options{})
	for _, id := range []string{"", ".", "..", "../x", "/etc/passwd", ".uploads", strings.ToUpper(uuid.NewString()), uuid.NewString()} {
		if f, err := c.service.files.Open(t.Context(), cloud.ImageID(id), 0); !cloud.Is(err, cloud.KindNotFound) {
			t.Errorf("%q: %v %v", id, f, err)
		}
	}
	id := c.create(ann, obj{})
	c.put(204, id, ann, []byte("data"))
	for _, offset := range []int64{-1, 5} {
		if _, err := c.service.files.Open(t.Context(), cloud.ImageID(id), offset); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
}

func TestDamagedDataNeverLooksWhole(t *testing.T) {
	c := newCloud(t, Options{})
	for _, size := range []int{100, 2*pieceBytes + 5} {
		id := c.create(ann, obj{})
		c.put(204, id, ann, randomBytes(size))
		f, err := os.OpenFile(filepath.Join(c.dir, id), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("rot"), int64(size)/2); err != nil {
			t.Fatal(err)
		}
		f.Close()
		resp := c.do("GET", "/v2/images/"+id+"/file", ann, nil)
		back, err := io.ReadAll(resp.Body)
		if resp.StatusCode == 200 && err == nil {
			t.Errorf("%d bytes: %d damaged bytes came back as if they were right", size, len(back))
		}
		if resp.StatusCode != 200 && (resp.StatusCode != 500 || resp.Header.Get("Content-Type") != "application/json") {
			t.Errorf("%d bytes: %d %v %s", size, resp.StatusCode, resp.Header, back)
		}
		if err := os.Truncate(filepath.Join(c.dir, id), int64(size)-1); err != nil {
			t.Fatal(err)
		}
		if code := c.do("GET", "/v2/images/"+id+"/file", ann, nil).StatusCode; code != 500 {
			t.Errorf("a file cut short: %d", code)
		}
	}
}

// brokenBody sends some data and then fails, as a client that dies does.
type brokenBody struct{ left int }

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the client died")
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

func TestInterruptedUploadLeavesAQueuedImageAndNoFile(t *testing.T) {
	c := newCloud(t, Options{})
	for _, length := range []int64{-1, 1 << 30} {
		for _, sent := range []int{0, 100, 3 * pieceBytes} {
			id := c.create(ann, obj{})
			req, err := http.NewRequest("PUT", c.server.URL+"/image/v2/images/"+id+"/file", &brokenBody{sent})
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			req.Header.Set("X-Auth-Token", ann)
			req.Header.Set("Content-Type", octets)
			if resp, err := c.server.Client().Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode < 400 {
					t.Errorf("length %d, %d sent: %d", length, sent, resp.StatusCode)
				}
			}
			c.putWhenFree(id, ann, []byte("second try"))
			c.want(204, "DELETE", "/v2/images/"+id, ann, nil)
		}
	}
	if left := c.files(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// putWhenFree uploads as soon as the image takes data: the client of a broken upload is gone before the server has noticed.
func (c *testCloud) putWhenFree(id, who string, data []byte) {
	c.Helper()
	for range c.store.Watch(c.Context(), tables.Images) {
		resp := c.do("PUT", "/v2/images/"+id+"/file", who, bytes.NewReader(data), "Content-Type", octets)
		switch resp.StatusCode {
		case http.StatusNoContent:
			return
		case http.StatusConflict: // the broken upload still has it
		default:
			c.Fatalf("upload: %s", resp.Status)
		}
	}
	c.Fatalf("image %s is never free: it is %s", id, c.status(id))
}

// waitStatus waits until the image has the status, following the store's changes.
func (c *testCloud) waitStatus(id, status string) {
	c.Helper()
	for range c.store.Watch(c.Context(), tables.Images) {
		if c.status(id) == status {
			return
		}
	}
	c.Fatalf("image %s is %s, not %s", id, c.status(id), status)
}

func TestOnlyWhatTheFormatSaysIsTaken(t *testing.T) {
	c := newCloud(t, Options{})
	qcow2 := validQCOW2()
	vmdk := append([]byte("KDMV"), make([]byte, 600)...)
	for _, k := range []struct {
		format string
		data   []byte
		code   int
	}{
		{"qcow2", qcow2, 204}, {"raw", make([]byte, 4096), 204},
		{"qcow2", make([]byte, 4096), 400}, {"raw", qcow2, 400}, {"raw", vmdk, 400}, {"raw", nil, 400}, {"qcow2", []byte("QF"), 400},
		{"qcow2", qcow2[:len(qcow2)/2], 400},
	} {
		id := c.create(ann, obj{"disk_format": k.format, "container_format": "bare"})
		out := c.put(k.code, id, ann, k.data)
		if k.code == 204 {
			continue
		}
		if !strings.HasPrefix(out["message"].(string), "Invalid image data: ") || out["code"] != "400 Bad Request" || c.status(id) != "queued" {
			t.Errorf("%s: %v, image is %s", k.format, out, c.status(id))
		}
	}
	if i := c.want(200, "GET", "/v2/images?disk_format=qcow2&status=active", ann, nil)["images"].([]any)[0].(obj); i["virtual_size"] != float64(1<<30) {
		t.Errorf("virtual size %v", i["virtual_size"])
	}
	c.want(400, "POST", "/v2/images", ann, obj{"disk_format": "vmdk", "container_format": "bare"})
	id := c.want(201, "POST", "/v2/images", ann, obj{"name": "no formats"})["id"].(string)
	c.put(400, id, ann, []byte("x"))
	c.want(415, "PUT", "/v2/images/"+id+"/file", ann, "x", "Content-Type", "application/json")
}

func TestUploadsAreBounded(t *testing.T) {
	c := newCloud(t, Options{ImageBytesMax: 1 << 20})
	id := c.create(ann, obj{})
	out := c.put(413, id, ann, make([]byte, 1<<20+1))
	if out["message"] != "Denying attempt to upload image larger than 1048576 bytes." {
		t.Errorf("%v", out)
	}
	// Without a length the bound is met while reading.
	resp := c.do("PUT", "/v2/images/"+id+"/file", ann, struct{ io.Reader }{bytes.NewReader(make([]byte, 1<<20+1))}, "Content-Type", octets)
	if resp.StatusCode != 413 || c.status(id) != "queued" || len(c.files()) > 0 {
		t.Errorf("chunked: %d, image %s, files %v", resp.StatusCode, c.status(id), c.files())
	}
	c.put(204, id, ann, make([]byte, 1<<20))
}

func TestSecondUploadAtOnceIsRefused(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{})
	body, feed := io.Pipe()
	done := make(chan int, 1)
	go func() {
		resp := c.do("PUT", "/v2/images/"+id+"/file", ann, body, "Content-Type", octets)
		done <- resp.StatusCode
	}()
	if _, err := feed.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	c.waitStatus(id, "saving")
	c.put(409, id, ann, []byte("second"))
	// Upkeep must not take a living upload for a dead one.
	c.service.maintain(t.Context())
	if c.status(id) != "saving" {
		t.Errorf("upkeep made it %s", c.status(id))
	}
	feed.Close()
	if code := <-done; code != 204 || c.status(id) != "active" {
		t.Errorf("first upload: %d, image is %s", code, c.status(id))
	}
}

func TestImageDeletedDuringItsUploadIsGone(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{})
	body, feed := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- c.do("PUT", "/v2/images/"+id+"/file", ann, body, "Content-Type", octets).StatusCode
	}()
	if _, err := feed.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	c.waitStatus(id, "saving")
	c.want(204, "DELETE", "/v2/images/"+id, ann, nil)
	feed.Close()
	if code := <-done; code != 410 {
		t.Errorf("upload: %d", code)
	}
	if left := c.files(); len(left) > 0 || c.status(id) != "none" {
		t.Errorf("image is %s, files %v", c.status(id), left)
	}
}

func TestDeadUploadIsQueuedAgain(t *testing.T) {
	c := newCloud(t, Options{})
	for name, leave := range map[string]func(u *upload) error{
		"while writing": func(u *upload) error { _, err := u.Write([]byte("partial")); return err },
		"after keep":    func(u *upload) error { return u.keep() },
		"before any": func(u *upload) error {
			u.discard()
			return nil
		},
	} {
		id := c.create(ann, obj{})
		if _, err := c.store.UpdateVisible(t.Context(), func(tx *store.Tx) error {
			i, err := store.Get(tx, tables.Images, id)
			if err != nil {
				return err
			}
			i.Status = cloud.ImageSaving
			return store.Put(tx, tables.Images, id, i)
		}); err != nil {
			t.Fatal(err)
		}
		u, err := c.service.files.begin(cloud.ImageID(id))
		if err != nil {
			t.Fatal(err)
		}
		if err := leave(u); err != nil {
			t.Fatal(err)
		}
		u.close() // the lock goes with the process
		c.service.maintain(t.Context())
		if c.status(id) != "queued" || len(c.files()) > 0 {
			t.Errorf("%s: image is %s, files %v", name, c.status(id), c.files())
		}
	}
}

func TestDataOfDeletedImageStaysWhileAServerNeedsIt(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{})
	c.put(204, id, ann, []byte("base"))
	put := func(change func(tx *store.Tx) error) {
		t.Helper()
		if _, err := c.store.UpdateVisible(t.Context(), change); err != nil {
			t.Fatal(err)
		}
	}
	put(func(tx *store.Tx) error {
		return store.Put(tx, tables.Servers, "s1", cloud.Server{ID: "s1", Image: cloud.ImageID(id)})
	})
	c.want(204, "DELETE", "/v2/images/"+id, ann, nil)
	for _, path := range []string{"", "/file", "/members"} {
		c.want(404, "GET", "/v2/images/"+id+path, admin, nil)
	}
	c.patch(404, id, admin, obj{"op": "replace", "path": "/name", "value": "x"})
	c.want(404, "DELETE", "/v2/images/"+id, admin, nil)
	c.put(404, id, admin, []byte("x"))
	if n := len(c.want(200, "GET", "/v2/images?visibility=all", admin, nil)["images"].([]any)); n != 0 {
		t.Errorf("%d images are listed", n)
	}
	c.service.maintain(t.Context())
	f, err := c.service.files.Open(t.Context(), cloud.ImageID(id), 0)
	if err != nil {
		t.Fatalf("a server's base is gone: %v", err)
	}
	defer f.Close()
	put(func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, "s1") })
	c.service.maintain(t.Context())
	if c.status(id) != "none" || len(c.files()) > 0 {
		t.Errorf("image is %s, files %v", c.status(id), c.files())
	}
	// A reader that had it open still reads.
	if data, err := io.ReadAll(f); err != nil || string(data) != "base" {
		t.Errorf("%q %v", data, err)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{"name": "private", "visibility": "private"})
	rename := []obj{{"op": "replace", "path": "/name", "value": "mine"}}
	c.want(404, "GET", "/v2/images/"+id, bob, nil)
	c.patch(404, id, bob, rename...)
	c.want(404, "DELETE", "/v2/images/"+id, bob, nil)
	c.put(404, id, bob, []byte("x"))
	c.want(200, "GET", "/v2/images/"+id, eve, nil)
	c.patch(403, id, eve, rename...)
	c.want(403, "POST", "/v2/images", eve, obj{"name": "x"})
	c.want(403, "POST", "/v2/images", ann, obj{"name": "x", "visibility": "public"})
	c.want(403, "POST", "/v2/images", ann, obj{"name": "x", "owner": "bank"})
	c.want(403, "POST", "/v2/images", ann, obj{"name": "x", "status": "active"})
	c.want(403, "POST", "/v2/images/"+id+"/actions/deactivate", ann, nil)
	c.want(401, "GET", "/v2/images", "nobody", nil)
	out := c.patch(403, id, ann, obj{"op": "replace", "path": "/visibility", "value": "public"})
	if out["message"] != "You are not authorized to complete publicize_image action." {
		t.Errorf("%v", out)
	}
	c.patch(200, id, admin, obj{"op": "replace", "path": "/visibility", "value": "public"})
	c.want(200, "GET", "/v2/images/"+id, bob, nil)
	out = c.patch(403, id, bob, rename...)
	if out["message"] != "You are not authorized to complete modify_image action." || out["title"] != "Forbidden" {
		t.Errorf("%v", out)
	}
	c.patch(200, id, ann, obj{"op": "replace", "path": "/protected", "value": true})
	c.want(403, "DELETE", "/v2/images/"+id, ann, nil)
	c.patch(200, id, ann, obj{"op": "replace", "path": "/protected", "value": false})

	c.put(204, id, ann, []byte("data"))
	c.want(204, "POST", "/v2/images/"+id+"/actions/deactivate", admin, nil)
	c.want(403, "GET", "/v2/images/"+id+"/file", ann, nil)
	if code := c.do("GET", "/v2/images/"+id+"/file", admin, nil).StatusCode; code != 200 {
		t.Errorf("administrator reads a deactivated image: %d", code)
	}
	c.want(204, "POST", "/v2/images/"+id+"/actions/reactivate", admin, nil)
	if code := c.do("HEAD", "/v2/images/"+id+"/file", ann, nil).StatusCode; code != 200 {
		t.Errorf("HEAD of a reactivated image: %d", code)
	}
	c.want(204, "DELETE", "/v2/images/"+id, ann, nil)
}

func TestSharing(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{"name": "shared"})
	path := "/v2/images/" + id + "/members"
	listed := func(who, query string) int {
		return len(c.want(200, "GET", "/v2/images?"+query, who, nil)["images"].([]any))
	}
	c.want(404, "GET", "/v2/images/"+id, bob, nil)
	c.want(400, "POST", path, ann, obj{"member": ""})
	if m := c.want(200, "POST", path, ann, obj{"member": "bank"}); m["status"] != "pending" || m["member_id"] != "bank" || m["image_id"] != id {
		t.Errorf("%v", m)
	}
	c.want(409, "POST", path, ann, obj{"member": "bank"})
	c.want(200, "GET", "/v2/images/"+id, bob, nil)
	if listed(bob, "") != 0 || listed(bob, "member_status=pending") != 1 || listed(bob, "member_status=all&visibility=shared") != 1 {
		t.Error("a pending image must be listed only when asked for")
	}
	c.want(403, "PUT", path+"/bank", ann, obj{"status": "accepted"})
	c.want(400, "PUT", path+"/bank", bob, obj{"status": "maybe"})
	c.want(404, "PUT", path+"/shop", bob, obj{"status": "accepted"})
	c.want(200, "PUT", path+"/bank", bob, obj{"status": "accepted"})
	if listed(bob, "") != 1 {
		t.Error("an accepted image is not listed")
	}
	c.want(403, "POST", path, bob, obj{"member": "other"})
	c.want(200, "POST", path, ann, obj{"member": "other"})
	if n := len(c.want(200, "GET", path, bob, nil)["members"].([]any)); n != 1 {
		t.Errorf("a member sees %d members", n)
	}
	if n := len(c.want(200, "GET", path, ann, nil)["members"].([]any)); n != 2 {
		t.Errorf("the owner sees %d members", n)
	}
	c.want(404, "GET", path+"/other", bob, nil)
	c.want(403, "DELETE", path+"/bank", bob, nil)
	c.want(204, "DELETE", path+"/bank", ann, nil)
	c.want(404, "DELETE", path+"/bank", ann, nil)
	c.want(404, "GET", "/v2/images/"+id, bob, nil)
	c.patch(200, id, ann, obj{"op": "replace", "path": "/visibility", "value": "community"})
	c.want(200, "GET", "/v2/images/"+id, bob, nil)
	if listed(bob, "") != 0 || listed(bob, "visibility=community") != 1 {
		t.Error("a community image must be listed only when asked for")
	}
	c.want(403, "POST", path, ann, obj{"member": "bank"})
}

func TestPatch(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{"name": "a", "os_type": "linux", "tags": []string{"x"}})
	out := c.patch(200, id, ann,
		obj{"op": "replace", "path": "/name", "value": "b"}, obj{"op": "add", "path": "/hw_disk_bus", "value": "virtio"},
		obj{"op": "remove", "path": "/os_type"}, obj{"op": "replace", "path": "/tags", "value": []string{"y", "z", "y"}},
		obj{"op": "add", "path": "/tags/-", "value": "w"}, obj{"op": "replace", "path": "/min_ram", "value": 64},
		obj{"op": "add", "path": "/a~1b~0c", "value": "odd"}, obj{"op": "replace", "path": "/os_hidden", "value": true})
	if out["name"] != "b" || out["hw_disk_bus"] != "virtio" || out["os_type"] != nil || fmt.Sprint(out["tags"]) != "[w y z]" || out["min_ram"] != 64.0 ||
		out["a/b~c"] != "odd" || out["os_hidden"] != true {
		t.Errorf("%v", out)
	}
	for _, k := range []struct {
		code int
		op   obj
	}{
		{403, obj{"op": "replace", "path": "/status", "value": "active"}},
		{403, obj{"op": "replace", "path": "/id", "value": "x"}},
		{403, obj{"op": "replace", "path": "/checksum", "value": "x"}},
		{403, obj{"op": "add", "path": "/os_glance_x", "value": "x"}},
		{403, obj{"op": "add", "path": "/location", "value": "x"}},
		{403, obj{"op": "remove", "path": "/name"}},
		{403, obj{"op": "replace", "path": "/owner", "value": "bank"}},
		{403, obj{"op": "add", "path": "/a/b", "value": "x"}},
		{409, obj{"op": "remove", "path": "/nothing"}},
		{409, obj{"op": "replace", "path": "/nothing", "value": "x"}},
		{400, obj{"op": "replace", "path": "/min_ram", "value": "64"}},
		{400, obj{"op": "replace", "path": "/min_ram", "value": -1}},
		{400, obj{"op": "replace", "path": "/min_disk", "value": 1 << 40}},
		{400, obj{"op": "replace", "path": "/protected", "value": "yes"}},
		{400, obj{"op": "replace", "path": "/visibility", "value": "secret"}},
		{400, obj{"op": "replace", "path": "/disk_format", "value": "vmdk"}},
		{400, obj{"op": "add", "path": "/x", "value": 5}},
		{400, obj{"op": "move", "path": "/x"}},
		{400, obj{"op": "add", "path": "/x"}},
		{400, obj{"op": "add", "path": "x", "value": "y"}},
		{400, obj{"op": "add", "path": "/a~2", "value": "y"}},
		{400, obj{"path": "/x", "value": "y"}},
	} {
		c.patch(k.code, id, ann, obj{"op": "replace", "path": "/name", "value": "half"}, k.op)
	}
	if i := c.want(200, "GET", "/v2/images/"+id, ann, nil); i["name"] != "b" {
		t.Error("a refused patch was applied in part")
	}
	c.want(200, "PATCH", "/v2/images/"+id, ann, []obj{{"replace": "/name", "value": "old style"}}, "Content-Type", patchV20)
	c.want(415, "PATCH", "/v2/images/"+id, ann, obj{}, "Content-Type", "application/json")
	c.want(400, "PATCH", "/v2/images/"+id, ann, "{", "Content-Type", patchV21)
	c.want(400, "PATCH", "/v2/images/"+id, ann, "{}", "Content-Type", patchV21)
	c.want(413, "PATCH", "/v2/images/"+id, ann, strings.Repeat(" ", 10<<20), "Content-Type", patchV21)
	c.put(204, id, ann, []byte("data"))
	c.patch(403, id, ann, obj{"op": "replace", "path": "/disk_format", "value": "qcow2"})
}

func TestBadCreations(t *testing.T) {
	c := newCloud(t, Options{})
	id := c.create(ann, obj{"name": "a"})
	c.want(409, "POST", "/v2/images", ann, obj{"id": id})
	for body, message := range map[string]string{
		`{"id":"x"}`:           "Invalid image id format",
		`{"name":5}`:           "Provided object does not match schema 'image': 5 is not of type 'string', 'null' in name",
		`{"size_hint":5}`:      "Provided object does not match schema 'image': 5 is not of type 'string' in size_hint",
		`{"min_disk":-1}`:      "Provided object does not match schema 'image': -1 is less than the minimum of 0 in min_disk",
		`[]`:                   "Provided object does not match schema 'image': [] is not of type 'object'",
		`{"name":"a","name":1`: "property 'name' is given twice",
	} {
		if out := c.want(400, "POST", "/v2/images", ann, body); out["message"] != message {
			t.Errorf("%s: %v", body, out["message"])
		}
	}
	many := obj{}
	for n := range propertiesMax + 1 {
		many[fmt.Sprintf("p%d", n)] = "v"
	}
	c.want(413, "POST", "/v2/images", ann, many)
	c.want(413, "POST", "/v2/images", ann, strings.Repeat(" ", 10<<20))
}

func TestListFiltersSortsAndPages(t *testing.T) {
	c := newCloud(t, Options{})
	for n := range 30 {
		body := obj{"name": fmt.Sprintf("img-%02d", n), "group": fmt.Sprint(n % 3), "min_ram": n}
		if n%2 == 0 {
			body["tags"] = []string{"even", fmt.Sprintf("t%d", n)}
		}
		c.create(ann, body)
	}
	names := func(query string) string {
		t.Helper()
		var out []string
		for path := "/v2/images?" + query; path != ""; {
			page := c.want(200, "GET", path, ann, nil)
			for _, i := range page["images"].([]any) {
				out = append(out, strings.TrimPrefix(i.(obj)["name"].(string), "img-"))
			}
			path, _ = page["next"].(string)
		}
		return strings.Join(out, " ")
	}
	all := names("")
	if got := strings.Fields(all); len(got) != 30 || got[0] != "29" || got[29] != "00" {
		t.Errorf("newest first: %s", all)
	}
	if one := names("limit=1"); one != all {
		t.Errorf("pages of one: %s", one)
	}
	for query, want := range map[string]string{
		"sort=name:asc&min_ram=7":                             "07",
		"sort_key=name&sort_dir=asc&limit=7&tag=even&group=0": "00 06 12 18 24",
		"sort=disk_format:desc,name:asc&tag=even&limit=2":     "00 02 04 06 08 10 12 14 16 18 20 22 24 26 28",
		"name=img-05":                                "05",
		`name=in:img-05,"img-07"&sort=name:asc`:      "05 07",
		"name=nothing":                               "",
		"status=active":                              "",
		"tag=even&tag=t4":                            "04",
		"os_hidden=true":                             "",
		"created_at=gt:2999-01-01T00:00:00Z":         "",
		"created_at=lt:2999-01-01T00:00:00Z&limit=9": all,
		"owner=bank":                                 "",
		"visibility=private":                         "",
		"size_min=1":                                 "",
		"protected=false&visibility=shared":          all,
	} {
		if got := names(query); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	for _, bad := range []string{"limit=x", "limit=-1", "marker=nope", "sort_key=color", "sort=name:up", "visibility=secret", "protected=maybe", "size_min=a",
		"created_at=gt:noon", "member_status=odd", `name=in:"open`, "sort=name&sort_key=id"} {
		c.want(400, "GET", "/v2/images?"+bad, ann, nil)
	}
	if page := c.want(200, "GET", "/v2/images?limit=5&name=img-05", ann, nil); page["first"] != "/v2/images?limit=5&name=img-05" || page["next"] != nil {
		t.Errorf("%v", page)
	}
}

func TestInformationForClients(t *testing.T) {
	c := newCloud(t, Options{})
	if v := c.want(300, "GET", "", "", nil)["versions"].([]any)[0].(obj); v["status"] != "CURRENT" {
		t.Errorf("%v", v)
	}
	c.want(200, "GET", "/versions", "", nil)
	for name, property := range map[string]string{"image": "visibility", "images": "images", "member": "member_id", "members": "members"} {
		s := c.want(200, "GET", "/v2/schemas/"+name, ann, nil)
		if s["name"] != name || s["properties"].(obj)[property] == nil {
			t.Errorf("schema %s: %v", name, s)
		}
	}
	id := c.create(ann, obj{})
	for name := range c.want(200, "GET", "/v2/images/"+id, ann, nil) {
		if imageProperties()[name] == nil {
			t.Errorf("property %s is shown but not in the schema", name)
		}
	}
	c.want(200, "GET", "/v2/info/import", ann, nil)
	c.want(404, "GET", "/v2/info/stores", ann, nil)
	c.want(400, "POST", "/v2/images/"+id+"/import", ann, obj{"method": obj{"name": "web-download"}})
	c.want(404, "PUT", "/v2/images/"+id+"/stage", ann, nil)
	c.want(200, "GET", "/v2/tasks", admin, nil)
	c.want(204, "PUT", "/v2/images/"+id+"/tags/blue", ann, nil)
	c.want(404, "DELETE", "/v2/images/"+id+"/tags/red", ann, nil)
	c.want(204, "DELETE", "/v2/images/"+id+"/tags/blue", ann, nil)
}

// validQCOW2 is the beginning of a 1 GiB image with 64 KiB clusters, as qemu-img lays it out.
func validQCOW2() []byte {
	b := make([]byte, 0x30000+8*2)
	copy(b, qcow2Magic)
	be := binary.BigEndian
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 1<<30)
	be.PutUint32(b[36:], 2)
	be.PutUint64(b[40:], 0x30000)
	be.PutUint64(b[48:], 0x10000)
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 112)
	return b
}

func TestQCOW2ThatNeedsAnotherFileOrIsBrokenIsRefused(t *testing.T) {
	if size, err := inspectQCOW2(bytes.NewReader(validQCOW2()), int64(len(validQCOW2()))); err != nil || size != 1<<30 {
		t.Fatalf("%d %v", size, err)
	}
	be := binary.BigEndian
	for name, spoil := range map[string]func(b []byte){
		"backing file":        func(b []byte) { be.PutUint64(b[8:], 200); be.PutUint32(b[16:], 11) },
		"backing length":      func(b []byte) { be.PutUint32(b[16:], 11) },
		"data file bit":       func(b []byte) { be.PutUint64(b[72:], qcow2DataFile) },
		"data file extension": func(b []byte) { be.PutUint32(b[112:], extensionDataFile) },
		"data file behind another extension": func(b []byte) {
			be.PutUint32(b[112:], 0x6803f857)
			be.PutUint32(b[116:], 5)
			be.PutUint32(b[128:], extensionDataFile)
		},
		"corrupt":              func(b []byte) { be.PutUint64(b[72:], qcow2Corrupt) },
		"dirty":                func(b []byte) { be.PutUint64(b[72:], qcow2Dirty) },
		"unknown feature":      func(b []byte) { be.PutUint64(b[72:], 1<<40) },
		"encrypted":            func(b []byte) { be.PutUint32(b[32:], 2) },
		"version 1":            func(b []byte) { be.PutUint32(b[4:], 1) },
		"version 4":            func(b []byte) { be.PutUint32(b[4:], 4) },
		"no size":              func(b []byte) { be.PutUint64(b[24:], 0) },
		"absurd size":          func(b []byte) { be.PutUint64(b[24:], 1<<63) },
		"size beyond L1":       func(b []byte) { be.PutUint64(b[24:], 2<<30) },
		"tiny clusters":        func(b []byte) { be.PutUint32(b[20:], 8) },
		"giant clusters":       func(b []byte) { be.PutUint32(b[20:], 22) },
		"L1 in the header":     func(b []byte) { be.PutUint64(b[40:], 0) },
		"L1 unaligned":         func(b []byte) { be.PutUint64(b[40:], 0x10001) },
		"L1 behind the end":    func(b []byte) { be.PutUint64(b[40:], 0x40000) },
		"L1 far away":          func(b []byte) { be.PutUint64(b[40:], 0xffffffffffff0000) },
		"L1 giant":             func(b []byte) { be.PutUint32(b[36:], 1<<31) },
		"no refcounts":         func(b []byte) { be.PutUint32(b[56:], 0) },
		"refcounts behind end": func(b []byte) { be.PutUint64(b[48:], 0x40000) },
		"refcount order":       func(b []byte) { be.PutUint32(b[96:], 7) },
		"header length":        func(b []byte) { be.PutUint32(b[100:], 1<<20) },
		"short header":         func(b []byte) { be.PutUint32(b[100:], 72) },
		"extension too long":   func(b []byte) { be.PutUint32(b[112:], 1); be.PutUint32(b[116:], 1<<30) },
	} {
		b := validQCOW2()
		spoil(b)
		if size, err := inspectQCOW2(bytes.NewReader(b), int64(len(b))); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: %d %v", name, size, err)
		}
	}
}

func FuzzInspectQCOW2NeverAcceptsWhatNeedsAnotherFile(f *testing.F) {
	f.Add(validQCOW2()[:200], int64(1<<20))
	f.Add([]byte(qcow2Magic), int64(4))
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		if size < int64(len(head)) {
			size = int64(len(head))
		}
		virtual, err := inspectQCOW2(bytes.NewReader(head), size)
		if err != nil {
			return
		}
		if virtual <= 0 || virtual > virtualBytesMax {
			t.Fatalf("virtual size %d", virtual)
		}
		if slices.ContainsFunc(head[8:20], func(b byte) bool { return b != 0 }) {
			t.Fatal("accepted a backing file")
		}
		if binary.BigEndian.Uint32(head[4:]) == 3 && head[79]&qcow2DataFile != 0 {
			t.Fatal("accepted a data file")
		}
	})
}

func FuzzParsePatchYieldsOnlyWhatApplyKnows(f *testing.F) {
	f.Add([]byte(`[{"op":"replace","path":"/name","value":"x"}]`), true)
	f.Add([]byte(`[{"add":"/a~1b","value":"x"},{"remove":"/tags"}]`), false)
	f.Add([]byte(`[{"op":"add","path":"/tags/-","value":"x"}]`), true)
	f.Add([]byte(`[{"op":"replace","path":"/min_ram","value":1e3}]`), true)
	f.Fuzz(func(t *testing.T, data []byte, newer bool) {
		mediaType := patchV20
		if newer {
			mediaType = patchV21
		}
		ops, err := parsePatch(mediaType, data)
		if err != nil {
			if cloud.Is(err, cloud.KindInternal) {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		c := &openstack.Caller{Project: "p", Roles: []string{"member"}}
		i := &cloud.Image{ID: "i", Owner: "p", Visibility: visibilityShared, Status: cloud.ImageQueued}
		for n := range ops {
			if err := ops[n].apply(c, i); err != nil {
				if cloud.Is(err, cloud.KindInternal) {
					t.Fatalf("%q: %v", data, err)
				}
				return
			}
		}
		if i.ID != "i" || i.Owner != "p" || i.Visibility == visibilityPublic || i.Status != cloud.ImageQueued || len(i.Properties) > propertiesMax || len(i.Tags) > tagsMax {
			t.Fatalf("%q made %+v", data, i)
		}
	})
}
