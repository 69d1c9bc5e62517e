package node

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"strings"
)

// ClusterKey is the 256-bit secret of a cluster. Whoever holds it may join.
type ClusterKey [32]byte

// ErrKey is returned for a text that is not a cluster key.
var ErrKey = errors.New("not a cluster key")

const keyPrefix = "gmk1-"

var keyText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewClusterKey draws a key.
func NewClusterKey() (k ClusterKey) {
	rand.Read(k[:]) //nolint:errcheck // crypto/rand.Read never fails
	return k
}

// String returns the key as people pass it on: gmk1- and base32 of the key and
// four bytes of checksum.
func (k ClusterKey) String() string {
	sum := keySum(k)
	return keyPrefix + keyText.EncodeToString(append(k[:], sum[:]...))
}

// ParseClusterKey reads what [ClusterKey.String] wrote. White space around it
// and upper case are forgiven, a wrong letter is not.
func ParseClusterKey(s string) (k ClusterKey, err error) {
	s = strings.ToLower(strings.TrimSpace(s))
	text, ok := strings.CutPrefix(s, keyPrefix)
	if !ok || len(text) != keyText.EncodedLen(len(k)+4) {
		return k, ErrKey
	}
	b, err := keyText.DecodeString(text)
	if err != nil || keyText.EncodeToString(b) != text {
		return k, ErrKey
	}
	copy(k[:], b)
	if sum := keySum(k); string(sum[:]) != string(b[len(k):]) {
		return ClusterKey{}, ErrKey
	}
	return k, nil
}

// keySum guards against typing errors, not against anybody.
func keySum(k ClusterKey) (sum [4]byte) {
	h := sha256.Sum256(append([]byte("gatemesh cluster key 1"), k[:]...))
	copy(sum[:], h[:])
	return sum
}
