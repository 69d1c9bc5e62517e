package node

import (
	"testing"

	"gatemesh/mesh"
)

// CheapPasswords lets passwords take little memory and time until the test ends.
func CheapPasswords(t *testing.T) {
	was := argonMemory
	argonMemory = 64
	t.Cleanup(func() { argonMemory = was })
}

// Credential lets a test join by a token without being a gateway.
func (t JoinToken) Credential(member []byte) mesh.Credential { return t.credential(member) }
