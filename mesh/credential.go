package mesh

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Kinds of credentials.
const (
	CredentialKey   = "key"   // the cluster key; without an ID
	CredentialToken = "token" // a join token; its ID are its encoded claims
)

// Credential is what a newcomer joins with. Both sides prove that they know
// the secret.
type Credential struct {
	Kind   string   // at most 64 bytes; "" means CredentialKey
	ID     []byte   // says which of its kind, at most 4 KiB; it is sent
	Secret [32]byte // is proven, never sent
	// Member is what the SHA-256 of the member's key begins with, at least 16
	// bytes; anybody else is sent nothing. Nil: anybody.
	Member []byte
}

const (
	maxCredential = 4 << 10 // ID of a credential
	minPin        = 16      // bytes of a fingerprint
)

func (c Credential) withDefaults() (Credential, error) {
	if c.Kind == "" {
		c.Kind = CredentialKey
	}
	switch {
	case clip(c.Kind) != c.Kind:
		return c, fmt.Errorf("credential of kind %q: bad name", c.Kind)
	case len(c.ID) > maxCredential:
		return c, errors.New("name of the credential is too long")
	case c.Member != nil && (len(c.Member) < minPin || len(c.Member) > sha256.Size):
		return c, fmt.Errorf("fingerprint of %d bytes", len(c.Member))
	}
	return c, nil
}

// pinned says whether key is the member that is expected.
func (c Credential) pinned(key ed25519.PublicKey) bool {
	sum := sha256.Sum256(key)
	return c.Member == nil || string(sum[:len(c.Member)]) == string(c.Member)
}

// side is who makes a proof: neither can send back what it got.
type side string

const (
	newcomerSide side = "newcomer"
	memberSide   side = "member"
)

// prove returns the proof of a credential by one side, over this one
// connection: an HMAC-SHA256 of TLS's exporter (RFC 8446 section 7.5, RFC
// 9266), both node keys and the ID of the credential. Who sits between two
// connections has two exporters.
func (c Credential) prove(w *wire, by side, newcomer, member ed25519.PublicKey) ([]byte, error) {
	state := w.conn.ConnectionState()
	exporter, err := state.ExportKeyingMaterial("EXPORTER-gatemesh-join", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	label := "gatemesh join " + string(by) + " v1"
	if c.Kind != CredentialKey {
		label = "gatemesh join by " + c.Kind + " " + string(by) + " v1"
	}
	key, err := hkdf.Key(sha256.New, c.Secret[:], nil, label, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive proof key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(exporter)
	mac.Write(newcomer)
	mac.Write(member)
	mac.Write(c.ID) // the only part that has no fixed length, and the last
	return mac.Sum(nil), nil
}

// proven returns the credential among secrets whose proof is theirs.
func (c Credential) proven(w *wire, secrets [][32]byte, theirs []byte, newcomer, member ed25519.PublicKey) (
	Credential, bool, error,
) {
	for _, c.Secret = range secrets {
		expected, err := c.prove(w, newcomerSide, newcomer, member)
		if err != nil {
			return c, false, err
		}
		if hmac.Equal(theirs, expected) {
			return c, true, nil
		}
	}
	return c, false, nil
}
