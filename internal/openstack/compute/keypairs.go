package compute

import (
	"cmp"
	"crypto/ed25519"
	"crypto/md5" //nolint:gosec // the fingerprint's format, not a defence
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // as above
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var keypairRoutes = []route{
	{pattern: "GET /os-keypairs", query: keypairListQuery, handle: (*call).listKeypairs},
	{pattern: "POST /os-keypairs", handle: (*call).createKeypair},
	{pattern: "GET /os-keypairs/{name}", query: keypairQuery, handle: (*call).showKeypair},
	{pattern: "DELETE /os-keypairs/{name}", query: keypairQuery, handle: (*call).deleteKeypair},
}

var keypairQuery = querySchema{strict: 75, parameters: []parameter{{name: "user_id", since: 10}}}

var keypairListQuery = querySchema{strict: 75, parameters: append(paging(35, false), parameter{name: "user_id", since: 10})}

// The types of keypairs.
const (
	keypairSSH  = "ssh"
	keypairX509 = "x509"
)

// keypairUser returns whose keypairs are meant: the caller's, or from 2.10 on for administrators anybody's.
func (c *call) keypairUser(asked, rule string) (cloud.UserID, error) {
	user := cloud.UserID(asked)
	if user == "" || user == c.r.Caller.User {
		return c.r.Caller.User, nil
	}
	return user, c.mayAdmin("os-keypairs:" + rule)
}

func (c *call) findKeypair(rule string) (*cloud.Keypair, error) {
	user, err := c.keypairUser(c.query.get("user_id"), rule)
	if err != nil {
		return nil, err
	}
	k, ok := store.Lookup(c.view, tables.Keypairs, tables.KeypairKey(user, c.path("name")))
	if !ok {
		return nil, notFound("Keypair %s not found for user %s", c.path("name"), user)
	}
	return k, nil
}

func (c *call) keypairView(k *cloud.Keypair) object {
	out := object{"name": k.Name, "public_key": k.PublicKey, "fingerprint": k.Fingerprint}
	if c.since(2) {
		out["type"] = k.Type
	}
	return out
}

func (c *call) listKeypairs() error {
	user, err := c.keypairUser(c.query.get("user_id"), "index")
	if err != nil {
		return err
	}
	all := store.By(c.view, tables.Keypairs, tables.ByUser, user)
	slices.SortFunc(all, func(a, b *cloud.Keypair) int { return cmp.Compare(a.Name, b.Name) })
	some, more := all, false
	if c.since(35) {
		page, err := c.page()
		if err != nil {
			return err
		}
		if some, more, err = openstack.Slice(all, page, func(k *cloud.Keypair) string { return k.Name }); err != nil {
			return invalid("Marker %s could not be found.", page.Marker)
		}
	}
	views := make([]object, len(some))
	for i, k := range some {
		views[i] = object{"keypair": c.keypairView(k)}
	}
	out := object{"keypairs": views}
	if more {
		out["keypairs_links"] = c.nextLinks("/os-keypairs", some[len(some)-1].Name)
	}
	return c.ok(out)
}

func (c *call) showKeypair() error {
	k, err := c.findKeypair("show")
	if err != nil {
		return err
	}
	out := c.keypairView(k)
	out["user_id"], out["id"], out["created_at"] = k.User, k.Number, openstack.TimeMicros(k.Created)
	out["deleted"], out["deleted_at"], out["updated_at"] = false, nil, nil
	return c.ok(object{"keypair": out})
}

// keypairBody is the body of POST /os-keypairs.
type keypairBody struct {
	Keypair struct {
		Name      displayName `json:"name" api:"required"`
		Type      string      `json:"type" api:"since=2.2;enum=ssh|x509"`
		PublicKey *string     `json:"public_key"`
		User      string      `json:"user_id" api:"since=2.10"`
	} `json:"keypair" api:"required"`
}

const keypairChars = "_- 0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// readKeypair reads and checks the body by the rules of the microversion.
func (c *call) readKeypair() (*keypairBody, error) {
	o, err := c.r.Object(c.w)
	if err != nil {
		return nil, err
	}
	body := &keypairBody{}
	if err := openstack.Bind(o, body, c.r.Version); err != nil {
		return nil, err
	}
	chars := keypairChars
	if c.since(92) {
		chars = "@." + keypairChars
	}
	if strings.IndexFunc(string(body.Keypair.Name), func(r rune) bool { return !strings.ContainsRune(chars, r) }) >= 0 {
		return nil, badName("Only expected characters: [" + chars + "]")
	}
	if body.Keypair.PublicKey == nil && c.since(92) {
		inner, _ := o.Get("keypair")
		return nil, &openstack.InputError{Path: []string{"keypair"}, Value: inner, Reason: "'public_key' is a required property"}
	}
	if body.Keypair.Type == "" {
		body.Keypair.Type = keypairSSH
	}
	return body, nil
}

func (c *call) createKeypair() error {
	body, err := c.readKeypair()
	if err != nil {
		return err
	}
	asked := &body.Keypair
	user, err := c.keypairUser(asked.User, "create")
	if err != nil {
		return err
	}
	k := cloud.Keypair{Name: strings.TrimSpace(string(asked.Name)), User: user, Type: asked.Type, Created: c.now()}
	private := ""
	switch {
	case asked.PublicKey != nil:
		k.PublicKey = *asked.PublicKey
	case k.Type != keypairSSH:
		return invalid("Keypair data is invalid: keys of type %s are not generated, give a public_key", k.Type)
	default:
		if k.PublicKey, private, err = generateKey(k.Name); err != nil {
			return err
		}
	}
	if k.Fingerprint, err = fingerprint(k.Type, k.PublicKey); err != nil {
		return err
	}
	if err := c.addKeypair(&k); err != nil {
		return err
	}
	out := c.keypairView(&k)
	out["user_id"] = k.User
	if private != "" {
		out["private_key"] = private
	}
	status := http.StatusCreated
	if !c.since(2) {
		status = http.StatusOK
	}
	return c.reply(status, object{"keypair": out})
}

func (c *call) addKeypair(k *cloud.Keypair) error {
	key := tables.KeypairKey(k.User, k.Name)
	return c.update(func(tx *store.Tx) error {
		all, err := store.PeekList(tx, tables.Keypairs, tables.KeypairKey(k.User, ""))
		if err != nil {
			return err
		}
		if exceeds(len(all)+1, c.quota(c.r.Caller.Project).KeyPairs) {
			return overQuota("Quota exceeded, too many key pairs.")
		}
		if slices.ContainsFunc(all, func(o *cloud.Keypair) bool { return o.Name == k.Name }) {
			return conflict("Key pair '%s' already exists.", k.Name)
		}
		if k.Number, err = tables.Next(tx, tables.CountKeypairs); err != nil {
			return err
		}
		return store.Create(tx, tables.Keypairs, key, *k)
	})
}

func (c *call) deleteKeypair() error {
	k, err := c.findKeypair("delete")
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error { return store.Delete(tx, tables.Keypairs, tables.KeypairKey(k.User, k.Name)) })
	if err != nil {
		return err
	}
	if !c.since(2) {
		return c.status(http.StatusAccepted)
	}
	return openstack.NoContent(c.w)
}

// generateKey makes an Ed25519 key pair: the public key as sshd reads it, the private key as ssh does.
func generateKey(comment string) (public, private string, err error) {
	pub, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("generate keypair: %w", err)
	}
	sshKey, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", "", fmt.Errorf("generate keypair: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(secret, comment)
	if err != nil {
		return "", "", fmt.Errorf("generate keypair: %w", err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshKey)))
	return line + " Generated-by-godwit", string(pem.EncodeToMemory(block)), nil
}

// fingerprint returns a public key's fingerprint in the form users compare, or a refusal when it is no key.
func fingerprint(kind, public string) (string, error) {
	refused := invalid("Keypair data is invalid: failed to generate fingerprint")
	if kind == keypairX509 {
		block, _ := pem.Decode([]byte(public))
		if block == nil {
			return "", refused
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", refused
		}
		sum := sha1.Sum(block.Bytes) //nolint:gosec // Nova's fingerprint of certificates
		return colons(sum[:]), nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return "", refused
	}
	sum := md5.Sum(key.Marshal()) //nolint:gosec // Nova's fingerprint of SSH keys
	return colons(sum[:]), nil
}

func colons(sum []byte) string {
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02x", b)
	}
	return strings.Join(parts, ":")
}
