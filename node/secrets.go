package node

import (
	"errors"
	"fmt"
	"slices"

	"gatemesh/mesh"
)

// secrets is [mesh.Config.Secrets]. What it refuses is told to whoever asks.
func (n *Node) secrets(kind string, id []byte) ([][32]byte, error) {
	switch kind {
	case mesh.CredentialKey:
		return n.clusterKeys(), nil
	case mesh.CredentialToken:
		return n.tokenSecrets(id)
	}
	return nil, &mesh.RefusedError{Reason: fmt.Sprintf("this gateway knows no way to join by %.20q", kind)}
}

// tokenSecrets returns the secret of a token by its claims, which nobody has vouched for yet.
func (n *Node) tokenSecrets(claims []byte) ([][32]byte, error) {
	c, err := parseClaims(claims)
	if err != nil {
		return nil, &mesh.RefusedError{Reason: "the join token is garbled", Hint: anotherToken}
	}
	p := n.live.Load()
	if p == nil {
		return nil, errors.New("still starting")
	}
	if string(c.Cluster) != string(p.facts.cluster[:]) {
		return nil, &mesh.RefusedError{Reason: "the join token is of another cluster", Hint: anotherToken}
	}
	var out [][32]byte
	for _, k := range n.clusterKeys() {
		if slices.Equal(keyName(k), c.Key) {
			out = append(out, tokenSecret(k, claims))
		}
	}
	if out == nil {
		return nil, &mesh.RefusedError{
			Reason: "the join token was made under a cluster key that has been replaced",
			Hint:   anotherToken,
		}
	}
	return out, nil
}
