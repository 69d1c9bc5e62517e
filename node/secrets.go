package node

import (
	"fmt"

	"gatemesh/mesh"
)

// clusterKeys returns the keys that a newcomer may prove now, the newest
// first; none if the store cannot be read.
func (n *Node) clusterKeys() [][32]byte {
	b, ok, err := n.store.Setting(setKey)
	if err != nil || !ok || len(b) != len(ClusterKey{}) {
		n.log.Error("read cluster key", "set", ok, "err", err)
		return nil
	}
	return [][32]byte{[32]byte(b)}
}

// secrets is [mesh.Config.Secrets].
func (n *Node) secrets(kind string, _ []byte) ([][32]byte, error) {
	if kind != mesh.CredentialKey {
		return nil, &mesh.RefusedError{Reason: fmt.Sprintf("this gateway knows no way to join by %.20q", kind)}
	}
	return n.clusterKeys(), nil
}
