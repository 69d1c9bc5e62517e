package labtest

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

// NewKey returns a new key pair, as wg(8) writes them.
func NewKey() (private, public string) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("labtest: make key: " + err.Error()) // there is no random source
	}
	return base64.StdEncoding.EncodeToString(k.Bytes()), base64.StdEncoding.EncodeToString(k.PublicKey().Bytes())
}

// Public returns the public key of the configuration's private one.
func (c Config) Public() (key [32]byte, err error) {
	b, err := base64.StdEncoding.DecodeString(c.PrivateKey)
	if err != nil {
		return key, fmt.Errorf("decode private key: %w", err)
	}
	k, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		return key, fmt.Errorf("read private key: %w", err)
	}
	return [32]byte(k.PublicKey().Bytes()), nil
}

// PublicKey returns the key of the configuration's first peer, the cluster.
func (c Config) PublicKey() (key [32]byte, err error) {
	b, err := base64.StdEncoding.DecodeString(c.Peers[0].PublicKey)
	if err != nil || len(b) != len(key) {
		return key, fmt.Errorf("decode public key of %d bytes: %w", len(b), err)
	}
	return [32]byte(b), nil
}
