package mesh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
)

// ID names a member: the first 16 bytes of the SHA-256 of its Ed25519 public
// key.
type ID [16]byte

// IDOf returns the ID of the holder of key.
func IDOf(key ed25519.PublicKey) ID {
	sum := sha256.Sum256(key)
	return ID(sum[:16])
}

// String returns 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Compare orders IDs as bytes; the result is that of [bytes.Compare].
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// parseID is the inverse of String. It takes no other form.
func parseID(s string) (ID, bool) {
	var id ID
	if len(s) != hex.EncodedLen(len(id)) {
		return ID{}, false
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return ID{}, false
	}
	return id, true
}
