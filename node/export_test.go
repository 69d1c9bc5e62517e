package node

import "testing"

// CheapPasswords lets passwords take little memory and time until the test ends.
func CheapPasswords(t *testing.T) {
	was := argonMemory
	argonMemory = 64
	t.Cleanup(func() { argonMemory = was })
}
