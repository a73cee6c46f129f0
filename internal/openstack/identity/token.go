package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// claims are what a token says, by the names Keystone's JWS provider uses. Times are microseconds as well as JWT's seconds, because a
// password may be changed and a token asked for within one second.
type claims struct {
	User      cloud.UserID    `json:"sub"`
	Issued    int64           `json:"iat"` // seconds
	Expires   int64           `json:"exp"` // seconds
	IssuedUS  int64           `json:"godwit_issued_us"`
	ExpiresUS int64           `json:"godwit_expires_us"`
	Methods   []string        `json:"openstack_methods"`
	AuditIDs  []string        `json:"openstack_audit_ids"` // own id, then the id of the token it was first made from
	Project   cloud.ProjectID `json:"openstack_project_id,omitempty"`
	Domain    cloud.DomainID  `json:"openstack_domain_id,omitempty"`
	System    string          `json:"openstack_system,omitempty"` // "all"
	AppCred   string          `json:"openstack_app_cred_id,omitempty"`

	key string // id of the key that signed it
}

func (c *claims) issued() time.Time  { return time.UnixMicro(c.IssuedUS).UTC() }
func (c *claims) expires() time.Time { return time.UnixMicro(c.ExpiresUS).UTC() }

// auditID is the token's own id, under which it is revoked.
func (c *claims) auditID() string { return c.AuditIDs[0] }

// The methods of jwt.Claims. Expiry is checked by session, also for tokens whose signature is remembered.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(c.expires()), nil
}
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)  { return nil, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }
func (c *claims) GetIssuer() (string, error)              { return "", nil }
func (c *claims) GetSubject() (string, error)             { return string(c.User), nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)  { return nil, nil }

// newAuditID returns 16 random bytes in Keystone's form.
func newAuditID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// sign makes the token of the claims, whose times must be set.
func (s *Service) sign(ctx context.Context, c *claims) (string, error) {
	c.Issued, c.Expires = c.IssuedUS/1e6, c.ExpiresUS/1e6
	id, key, err := s.keys.signing(ctx, c.issued())
	if err != nil {
		return "", err
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	t.Header["kid"] = id
	return t.SignedString(key)
}

// tokenBytesMax bounds what is looked at at all. Our tokens are some 600 bytes.
const tokenBytesMax = 4096

var errToken = cloud.Errorf(cloud.KindUnauthenticated, "token is not valid")

// verify returns the claims of a token with a good signature by an existing key. It checks nothing else: see session.
func (s *Service) verify(token string) (*claims, error) {
	if len(token) > tokenBytesMax {
		return nil, errToken
	}
	hash := sha256.Sum256([]byte(token))
	if c := s.verified.get(hash); c != nil {
		if !s.keys.exists(c.key) {
			return nil, errToken
		}
		return c, nil
	}
	c := &claims{}
	parsed, err := jwt.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		key, ok := s.keys.public(id)
		if !ok {
			return nil, errToken
		}
		c.key = id
		return key, nil
	}, jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}))
	if err != nil || !parsed.Valid || len(c.AuditIDs) == 0 || c.User == "" {
		return nil, errToken
	}
	s.verified.put(hash, c)
	return c, nil
}

// verifiedMax bounds the remembered signatures: some 4,000 tokens in use at once at about 0.5 KB each.
const verifiedMax = 4096

// verified remembers tokens whose signature was good, by hash. Two generations of half the size approximate least-recently-used: a hit in the
// old one is moved to the new one, and when the new one is full the old one is dropped.
type verified struct {
	mu   sync.Mutex
	half int
	now  map[[32]byte]*claims
	old  map[[32]byte]*claims
}

func newVerified(max int) *verified {
	return &verified{half: max / 2, now: map[[32]byte]*claims{}}
}

func (v *verified) get(hash [32]byte) *claims {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c := v.now[hash]; c != nil {
		return c
	}
	c := v.old[hash]
	if c != nil {
		v.putLocked(hash, c)
	}
	return c
}

func (v *verified) put(hash [32]byte, c *claims) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.putLocked(hash, c)
}

func (v *verified) putLocked(hash [32]byte, c *claims) {
	if len(v.now) >= v.half {
		v.old, v.now = v.now, make(map[[32]byte]*claims, v.half)
	}
	v.now[hash] = c
}

// size returns how many tokens are remembered.
func (v *verified) size() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.now) + len(v.old)
}
