package mesh

import (
	"fmt"
	"slices"
)

// SetGossipKeys replaces the keys of what serf sends, which wrap it and prove
// nothing: the first is sent under, all are accepted. There is at least one.
// One goroutine at a time may call it.
func (m *Mesh) SetGossipKeys(keys [][32]byte) error {
	for _, k := range keys {
		if err := m.keyring.AddKey(k[:]); err != nil {
			return fmt.Errorf("install gossip key: %w", err)
		}
	}
	// RemoveKey shifts what GetKeys gave to memberlist's readers, but not where
	// the key is the last one. UseKey makes a key the first.
	for _, k := range slices.Backward(keys) {
		if err := m.keyring.UseKey(k[:]); err != nil {
			return fmt.Errorf("use gossip key: %w", err)
		}
	}
	for _, old := range slices.Backward(m.keyring.GetKeys()[len(keys):]) {
		if err := m.keyring.RemoveKey(old); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	return nil
}
