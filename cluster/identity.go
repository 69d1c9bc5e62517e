package cluster

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
)

// Node names a gateway: the first 16 bytes of the SHA-256 of its Ed25519 public key.
type Node [16]byte

// NodeOf returns the node of a public key.
func NodeOf(key ed25519.PublicKey) Node {
	sum := sha256.Sum256(key)
	return Node(sum[:16])
}

// ParseNode reads 32 lower-case hex digits, as String writes them.
func ParseNode(s string) (Node, error) {
	var n Node
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(n) || hex.EncodeToString(b) != s {
		return Node{}, fmt.Errorf("node %q: want 32 lower-case hex digits", s)
	}
	return Node(b), nil
}

// String returns 32 hex digits.
func (n Node) String() string { return hex.EncodeToString(n[:]) }

// IsZero reports whether n names no gateway.
func (n Node) IsZero() bool { return n == Node{} }

// MarshalText implements encoding.TextMarshaler.
func (n Node) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Node) UnmarshalText(text []byte) error {
	v, err := ParseNode(string(text))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

// Key is a WireGuard public key.
type Key = [32]byte

// KeyString returns the key as WireGuard's tools write it: 44 characters of base64.
func KeyString(k Key) string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads what KeyString writes, and nothing else. It returns an error
// that wraps ErrInvalidKey for other text and for the points of low order, with
// which no handshake can succeed (RFC 7748, section 6.1).
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 || len(s) != 44 {
		return Key{}, fmt.Errorf("%w: want 44 characters of base64", ErrInvalidKey)
	}
	k := Key(b)
	if err := validKey(k); err != nil {
		return Key{}, err
	}
	return k, nil
}

// lowOrder are the u-coordinates below 2^255 of the points of low order, of the curve and its
// twist, little-endian: 0, 1, the two of order 8, p-1, p and p+1 (as libsodium has them).
var lowOrder = [...]Key{
	{},
	{0: 1},
	{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	},
	{
		0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
	},
	nearPrime(0xec), nearPrime(0xed), nearPrime(0xee),
}

// nearPrime returns 2^255 - 256 + low.
func nearPrime(low byte) (k Key) {
	for i := range k {
		k[i] = 0xff
	}
	k[0], k[31] = low, 0x7f
	return k
}

// validKey refuses points of low order: their product with any scalar that is a
// multiple of the cofactor, as every X25519 scalar is, is zero. No other point's is.
func validKey(k Key) error {
	k[31] &= 0x7f // X25519 does not look at it
	if slices.Contains(lowOrder[:], k) {
		return fmt.Errorf("%w: point of low order", ErrInvalidKey)
	}
	return nil
}
