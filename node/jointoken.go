package node

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"gatemesh/cluster"
)

// A join token is text: gmt1- and base32 of claims, their MAC and four bytes of checksum. The MAC is made with a key
// that is derived from the cluster key, so that any member can verify it and none has to keep it. It is the secret
// that is proven when the token is used; the claims are what names it then.
const (
	tokenPrefix = "gmt1-"
	tokenMAC    = sha256.Size
	tokenSum    = 4

	maxClaims     = 2 << 10 // bytes, encoded
	maxTokenText  = len(tokenPrefix) + (maxClaims+tokenMAC+tokenSum)*8/5 + 1
	maxTokenPlace = 8   // places in a token
	maxPlaceAddr  = 255 // bytes of host:port
	keyNameSize   = 8
)

// ErrToken is returned for a text that is not a join token, or not all of one.
var ErrToken = errors.New("not a join token, or not all of it")

// errClaims says that claims cannot be those of a join token.
var errClaims = errors.New("malformed claims of a join token")

// JoinToken lets one gateway or several join a cluster from anywhere, without its key.
type JoinToken struct {
	joinClaims
	encoded []byte // the claims, as they are proven
	secret  [tokenMAC]byte
}

// joinClaims is what a token says. Every field is bound by the MAC.
type joinClaims struct {
	Cluster []byte      `cbor:"1,keyasint"`           // 16 bytes
	ID      []byte      `cbor:"2,keyasint"`           // 16 bytes, a cluster.TokenID
	Key     []byte      `cbor:"3,keyasint"`           // names the cluster key that made the MAC, see keyName
	Expires int64       `cbor:"4,keyasint"`           // Unix seconds
	Uses    int         `cbor:"5,keyasint"`           // that it was made with
	Standby bool        `cbor:"6,keyasint,omitempty"` // who joins by it takes no devices while others can
	Host    string      `cbor:"7,keyasint,omitempty"` // prefix from which it may be used; "": from anywhere
	Places  []joinPlace `cbor:"8,keyasint"`           // the first is of the issuer
	For     []byte      `cbor:"9,keyasint,omitempty"` // 16 bytes, the cluster.Node that may use it; none: any
}

// joinPlace is where a member may be asked.
type joinPlace struct {
	_    struct{} `cbor:",toarray"`
	Node []byte   // 16 bytes, a cluster.Node: the fingerprint of its key
	Addr string   // host:port of its mesh
}

var claimsMode = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 64,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return m
}()

// parseClaims decodes and bounds claims, which may be anybody's. Fields of newer versions are ignored.
func parseClaims(b []byte) (c joinClaims, err error) {
	if len(b) > maxClaims || claimsMode.Unmarshal(b, &c) != nil {
		return joinClaims{}, errClaims
	}
	ok := len(c.Cluster) == 16 && len(c.ID) == len(cluster.TokenID{}) && len(c.Key) == keyNameSize &&
		c.Expires > 0 && c.Expires < 1<<38 && c.Uses >= 1 && c.Uses <= cluster.MaxUses &&
		len(c.Places) >= 1 && len(c.Places) <= maxTokenPlace
	if _, e := c.host(); e != nil || len(c.For) != 0 && len(c.For) != len(cluster.Node{}) {
		ok = false
	}
	for _, p := range c.Places {
		host, port, e := splitPort(p.Addr)
		ok = ok && len(p.Node) == len(cluster.Node{}) && len(p.Addr) <= maxPlaceAddr && e == nil && host != "" && port != 0 &&
			!strings.ContainsFunc(p.Addr, func(r rune) bool { return r <= ' ' || r > '~' })
	}
	if !ok {
		return joinClaims{}, errClaims
	}
	return c, nil
}

// host returns the prefix from which the token may be used; zero: from anywhere.
func (c *joinClaims) host() (netip.Prefix, error) {
	if c.Host == "" {
		return netip.Prefix{}, nil
	}
	return netip.ParsePrefix(c.Host)
}

func (c *joinClaims) issuer() cluster.Node { return cluster.Node(c.Places[0].Node) }
func (c *joinClaims) expires() time.Time   { return time.Unix(c.Expires, 0).UTC() }

// newJoinToken makes the token of claims under a cluster key.
func newJoinToken(key ClusterKey, c joinClaims) (JoinToken, error) {
	c.Key = keyName(key)
	b, err := cbor.Marshal(c)
	if err == nil {
		_, err = parseClaims(b)
	}
	if err != nil {
		return JoinToken{}, fmt.Errorf("make join token: %w", err)
	}
	return JoinToken{c, b, tokenSecret(key, b)}, nil
}

// tokenSecret returns the MAC of claims under a cluster key.
func tokenSecret(key ClusterKey, claims []byte) (mac [tokenMAC]byte) {
	h := hmac.New(sha256.New, derive(key, "gatemesh join token v1", sha256.Size))
	h.Write(claims)
	h.Sum(mac[:0])
	return mac
}

// keyName names a cluster key to those who do not know it. It does not help in guessing it.
func keyName(key ClusterKey) []byte { return derive(key, "gatemesh cluster key name v1", keyNameSize) }

func derive(key ClusterKey, label string, size int) []byte {
	b, err := hkdf.Key(sha256.New, key[:], nil, label, size)
	if err != nil {
		panic(err) // only for sizes beyond 255 hashes
	}
	return b
}

// String returns the token as people pass it on. It is a secret.
func (t JoinToken) String() string {
	b := append(append([]byte{}, t.encoded...), t.secret[:]...)
	sum := tokenChecksum(b)
	return tokenPrefix + keyText.EncodeToString(append(b, sum[:]...))
}

// IsJoinToken says whether a text begins as a join token does.
func IsJoinToken(s string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(s)), tokenPrefix)
}

// ParseJoinToken reads what [JoinToken.String] wrote. White space around it and upper case are forgiven, a wrong letter
// is not. Whether the token is good only a member knows.
func ParseJoinToken(s string) (t JoinToken, err error) {
	s = strings.TrimSpace(s)
	if len(s) > maxTokenText {
		return t, ErrToken
	}
	text, ok := strings.CutPrefix(strings.ToLower(s), tokenPrefix)
	b, err := keyText.DecodeString(text)
	n := len(b) - tokenMAC - tokenSum
	if !ok || err != nil || n < 1 || keyText.EncodeToString(b) != text {
		return t, ErrToken
	}
	if sum := tokenChecksum(b[:n+tokenMAC]); string(sum[:]) != string(b[n+tokenMAC:]) {
		return t, ErrToken
	}
	if t.joinClaims, err = parseClaims(b[:n]); err != nil {
		return JoinToken{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	t.encoded, t.secret = b[:n:n], [tokenMAC]byte(b[n:])
	return t, nil
}

// tokenChecksum guards against what is lost or mistyped, not against anybody.
func tokenChecksum(b []byte) (sum [tokenSum]byte) {
	h := sha256.Sum256(append([]byte("gatemesh join token 1"), b...))
	copy(sum[:], h[:])
	return sum
}
