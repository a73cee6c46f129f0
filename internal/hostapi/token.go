package hostapi

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	tokenPrefix      = "godwit-join:"
	tokenSecretBytes = 32
)

// JoinToken lets a new host enrol: the secret admits it, the fingerprint tells it which server to believe.
// Its text is "godwit-join:SECRET:FINGERPRINT", the secret in unpadded URL-safe base64, the fingerprint the CA certificate's
// SHA-256 in hexadecimal. Whoever holds it can add hosts: keep it in files of mode 0600.
type JoinToken struct {
	Secret      [tokenSecretBytes]byte
	Fingerprint Fingerprint
}

// NewJoinToken makes a token with a fresh random secret for the given authority.
func NewJoinToken(ca Fingerprint) JoinToken {
	t := JoinToken{Fingerprint: ca}
	_, _ = rand.Read(t.Secret[:]) // never fails since Go 1.24: the process ends instead
	return t
}

// String returns the token's text, secret included.
func (t JoinToken) String() string {
	return tokenPrefix + t.secretText() + ":" + t.Fingerprint.String()
}

func (t JoinToken) secretText() string { return base64.RawURLEncoding.EncodeToString(t.Secret[:]) }

// ParseJoinToken reads a token's text; surrounding white space is ignored. Errors are KindInvalid and do not repeat the text.
func ParseJoinToken(text string) (JoinToken, error) {
	var t JoinToken
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	if !ok {
		return t, badToken("it does not begin with " + tokenPrefix)
	}
	secret, print, ok := strings.Cut(rest, ":")
	if !ok {
		return t, badToken("the CA fingerprint is missing")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if err != nil || len(raw) != tokenSecretBytes || strings.ContainsAny(secret, "\r\n") {
		return t, badToken("the secret is not 32 bytes of base64")
	}
	sum, err := hex.DecodeString(print)
	if err != nil || len(sum) != len(t.Fingerprint) || print != strings.ToLower(print) {
		return t, badToken("the fingerprint is not 64 lower-case hexadecimal digits")
	}
	copy(t.Secret[:], raw)
	copy(t.Fingerprint[:], sum)
	return t, nil
}

func badToken(why string) error { return cloud.Errorf(cloud.KindInvalid, "join token: %s", why) }

// Admits reports, in constant time, whether text is this token's secret as an agent presents it in Enroll.
func (t JoinToken) Admits(text string) bool {
	return subtle.ConstantTimeCompare([]byte(t.secretText()), []byte(text)) == 1
}
