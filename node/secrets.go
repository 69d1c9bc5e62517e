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
		keys, err := n.clusterKeys()
		return keys, n.untold(err)
	case mesh.CredentialToken:
		return n.tokenSecrets(id)
	}
	return nil, &mesh.RefusedError{Reason: fmt.Sprintf("this gateway knows no way to join by %.20q", kind)}
}

// untold says to a newcomer that there is nothing it could prove.
func (n *Node) untold(err error) error {
	if err == nil {
		return nil
	}
	n.strangers.Warn("nobody can join", "err", err)
	return &mesh.RefusedError{Reason: "no cluster key holds at this gateway", Hint: "try again in a minute"}
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
	keys, err := n.clusterKeys()
	if err != nil {
		return nil, n.untold(err)
	}
	for _, k := range keys {
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
