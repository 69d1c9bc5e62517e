package node

import (
	"fmt"

	"gatemesh/mesh"
)

// secrets is [mesh.Config.Secrets].
func (n *Node) secrets(kind string, _ []byte) ([][32]byte, error) {
	if kind != mesh.CredentialKey {
		return nil, &mesh.RefusedError{Reason: fmt.Sprintf("this gateway knows no way to join by %.20q", kind)}
	}
	return n.clusterKeys(), nil
}
