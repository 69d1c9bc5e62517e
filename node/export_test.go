package node

import "gatemesh/mesh"

// Credential lets a test join by a token without being a gateway.
func (t JoinToken) Credential(member []byte) mesh.Credential { return t.credential(member) }
