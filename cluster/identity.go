package cluster

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
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

// validKey refuses points of low order: their product with any scalar that is a
// multiple of the cofactor, as every X25519 scalar is, is zero.
func validKey(k Key) error {
	public, err := ecdh.X25519().NewPublicKey(k[:])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidKey, err)
	}
	scalar := [32]byte{31: 64}
	private, err := ecdh.X25519().NewPrivateKey(scalar[:])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidKey, err)
	}
	if _, err := private.ECDH(public); err != nil {
		return fmt.Errorf("%w: point of low order", ErrInvalidKey)
	}
	return nil
}
